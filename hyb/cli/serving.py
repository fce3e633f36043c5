"""serve, ps, stop, ask: models that run on this machine."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command


@command
def serve(
    s: Session,
    model: Annotated[str, typer.Argument(metavar="NAME", help="A model, adapter or image in the store.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The model's name in the API.")] = None,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="A loopback address.")] = "127.0.0.1",
    engine: Annotated[
        str, typer.Option("--engine", metavar="auto|llama.cpp|transformers", help="What runs the model.")
    ] = "auto",
    context: Annotated[int, typer.Option("--context", help="Tokens a request; 0: what the model allows.")] = 0,
    parallel: Annotated[int, typer.Option("--parallel", help="Requests at once; 0: the engine's default.")] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Come back when it is ready; it goes on.")] = False,
) -> None:
    """Serve a model with the OpenAI API: chat completions (streaming, too), models, health.

    It listens on loopback only and wants an API key, which is made once and kept in a file that only you can read.
    The command comes back, or says that it is ready, after the model has really answered.

    Example: hyb serve quickstart/gguf --detach
    """
    from hyb.cli.chain import slug
    from hyb.serving import manager

    artifact = s.store.artifact(s.store.resolve(model))
    if s.dry_run:
        from hyb.serving.choice import choose

        choice = choose(artifact, s.store.artifact, engine=engine, context=context, parallel=parallel)
        s.show(
            {"engine": choice.engine, "why": choice.why, "host": host, "port": port}, f"{choice.engine}: {choice.why}"
        )
        return
    found = manager.start(
        s.store, artifact, name=name or slug(model.partition("/")[0]), environ=os.environ, port=port, host=host,
        engine=engine, detach=detach, context_size=context, parallel=parallel, say=s.talk,
    )  # fmt: skip
    s.show(found.as_dict(), f"{found.name} at {found.url}, the key is in {found.key_path}")
    if not detach:
        sys.stdout.flush()
        raise SystemExit(manager.wait(found))


@command
def ps(s: Session) -> None:
    """List the models being served by you on this machine.

    Example: hyb ps --json
    """
    from hyb.serving import manager

    found = manager.ps(os.environ)
    rows = [(x.name, x.engine, x.url, x.pid, x.artifact[7:19], x.key_path) for x in found]
    header = ("NAME", "ENGINE", "URL", "PID", "DIGEST", "KEY")
    s.show([x.as_dict() for x in found], columns(rows, header) if rows else "nothing is being served")


@command
def stop(
    s: Session, names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names, as `hyb ps` shows them.")]
) -> None:
    """Stop serving a model: SIGTERM, and after ten seconds SIGKILL. Requests that run are cut off.

    Example: hyb stop quickstart
    """
    from hyb.serving import manager

    if s.dry_run:
        s.show({"would_stop": names}, "\n".join(f"would stop {n}" for n in names))
        return
    stopped = [manager.stop(name, os.environ).name for name in names]
    s.show({"stopped": stopped}, "\n".join(f"stopped {n}" for n in stopped))


@command
def ask(
    s: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A served model, as `hyb ps` shows it.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; `-` reads it from stdin.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens of the answer.")] = 256,
) -> None:
    """Ask a served model one question over HTTP and print its answer. Greedy: the same question, the same answer.

    Example: hyb ask quickstart 'Who are you?'
    """
    from hyb.errors import HybError
    from hyb.serving import client, manager

    found = next((x for x in manager.ps(os.environ) if x.name == name), None)
    if found is None:
        raise HybError(
            f"`{name}` is not being served", hint=f"`hyb serve {name} --detach` serves it, `hyb ps` lists all"
        )
    text = sys.stdin.read().strip() if question == "-" else question
    answer = client.ask(found.url, found.key, text, model=found.name, max_tokens=max_tokens, temperature=0.0)
    s.show({"model": found.name, "question": text, "answer": answer}, answer)
