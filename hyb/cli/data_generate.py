"""data generate: questions and answers that a teacher model writes about texts or a taxonomy."""

from __future__ import annotations

from typing import Annotated

import typer

from hyb.cli.session import Session, command


@command
def data_generate(
    s: Session,
    source: Annotated[
        str, typer.Argument(metavar="PATH", help="A taxonomy, or a file or folder of .md, .txt, .rst, .pdf.")
    ],
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="NAME|URL", help="A model being served, or an OpenAI-compatible URL.")
    ],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What to call it in the store.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="A model of the teacher's server.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", help="Pairs to ask for, a passage or skill.", show_default=False)
    ] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", help="Requests at once.", show_default=False)] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Have the teacher check each answer, too.")] = False,
    prompts: Annotated[
        str | None, typer.Option("--prompts", metavar="DIR", help="Prompts in place of hyb's own.")
    ] = None,
    holdout: Annotated[
        str | None, typer.Option("--holdout", metavar="SHARE|PATH", help="The part to hold out, 0 to 1, or a file.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of all that is random.", show_default=False)] = None,
) -> None:
    """Have a teacher model write questions and answers about documents, and keep those that the documents bear out.

    What was answered once is not asked again, so a run that was killed goes on. The key of a teacher elsewhere is in
    the file that HYB_TEACHER_KEY_FILE names, or in HYB_API_KEY. Its stats.json says what was dropped and why.

    Example: hyb data generate docs/ --teacher http://127.0.0.1:8000/v1 --count 5 --name handbook
    """
    from hyb.cli.chain import Chain, path_text, share, slug

    wanted = {"teacher": teacher, "model": model, "count": count, "parallel": parallel, "verify": verify or None}
    Chain(s).add(
        name or slug(source), stage="data", source=path_text(source), holdout=share(holdout), seed=seed,
        prompts=path_text(prompts) if prompts else None,
        generate={k: v for k, v in wanted.items() if v is not None},
    ).run()  # fmt: skip
