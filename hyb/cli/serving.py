"""serve, ps, stop, ask, adapter: models that run on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command
from hyb.cli.signing import TrustOption, trusting

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.serving.service import Service

ACTIONS = ("list", "load", "drop", "weight")
ADAPTER_HELP = "An adapter to serve beside the model, by its name in the API. Repeatable."


@command
def serve(
    s: Session,
    model: Annotated[
        str, typer.Argument(metavar="NAME", help="A model, adapter or image: name, digest, or a source as oci://…")
    ],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The model's name in the API.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="NAME[=ARTIFACT]", help=ADAPTER_HELP)
    ] = None,
    canary: Annotated[
        list[str] | None,
        typer.Option("--canary", metavar="NAME=PERCENT", help="An adapter's share of the model's requests."),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="0 takes a free one; -1: none, with --unix-socket.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Another than loopback needs TLS.")] = "127.0.0.1",
    tls_cert: Annotated[str, typer.Option("--tls-cert", metavar="PEM", help="Certificate chain.")] = "",
    tls_key: Annotated[str, typer.Option("--tls-key", metavar="PEM", help="Its key.")] = "",
    unix_socket: Annotated[str, typer.Option("--unix-socket", metavar="PATH", help="Listen there, too.")] = "",
    engine: Annotated[
        str, typer.Option("--engine", metavar="auto|llama.cpp|transformers|vllm", help="What runs the model.")
    ] = "auto",
    context: Annotated[int, typer.Option("--context", help="Tokens a request; 0: what the model allows.")] = 0,
    parallel: Annotated[int, typer.Option("--parallel", help="Requests at once; 0: the engine's default.")] = 0,
    where: Annotated[str, typer.Option("--in", metavar="process|podman", help="Where the engine runs.")] = "process",
    runtime: Annotated[str, typer.Option("--runtime", metavar="NAME", help="OCI runtime, with --in podman.")] = "",
    gpu: Annotated[str, typer.Option("--gpu", metavar="all|N|CDI", help="GPU, with --in podman.")] = "",
    memory: Annotated[int, typer.Option("--memory", metavar="MIB", help="Limit, with --in podman; 0: estimated.")] = 0,
    runtime_image: Annotated[
        str, typer.Option("--runtime-image", metavar="IMAGE", help="The engine's image, with --in podman.")
    ] = "",
    decryption_key: Annotated[
        str, typer.Option("--decryption-key", metavar="PEM", help="Private key that a sealed image is opened with.")
    ] = "",
    memory_only: Annotated[
        bool, typer.Option("--memory-only", help="Open a sealed image into memory; no disk gets its plain weights.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Come back when it is ready; it goes on.")] = False,
    trust: TrustOption = None,
) -> None:
    """Serve a model with OpenAI's API and Ollama's: chats (streaming, too), models, adapters, metrics.

    It listens on loopback only and wants an API key, which is made once and kept in a file that only you can read.
    The command comes back, or says that it is ready, after the model has really answered.

    Example: hyb serve quickstart/gguf --detach
    """
    from hyb.cli.chain import slug
    from hyb.errors import Exit, HybError
    from hyb.formats.sealed import is_sealed
    from hyb.serving import contained, manager, sealed
    from hyb.serving.gateway.adapters import shares

    if where not in ("process", "podman"):
        raise HybError(f"`{where}` is no place to run an engine", hint="`process` or `podman`", code=Exit.USAGE)
    trusting(trust)
    artifact = _artifact(s, model)
    if artifact is None:  # a dry run of a source that would be pulled first
        return
    wanted = manager.Wanted(
        name=name or slug(model.partition("/")[0] if model in s.store.tags() else model), port=port, host=host,
        engine=engine, context=context, parallel=parallel, adapters=[_named(s, text) for text in adapter or ()],
        canary=shares(canary or ()), tls_cert=tls_cert, tls_key=tls_key, unix_socket=unix_socket, where=where,
        container=contained.Options(image=runtime_image, runtime=runtime, gpu=gpu, memory=memory << 20),
    )  # fmt: skip
    if wrong := sealed.misused(artifact, decryption_key, memory_only):
        raise wrong
    closed, key = is_sealed(artifact), Path(decryption_key).expanduser().absolute() if decryption_key else None
    if closed:
        sealed.check(artifact, wanted, key)
    if s.dry_run:
        manager.check(wanted)
        manager.trusted(s.store, artifact, wanted, os.environ, s.talk)
        choice = (
            sealed.choice(artifact, wanted) if closed else manager.choice_for(s.store, artifact, wanted, os.environ)
        )
        plan = {"engine": choice.engine, "why": choice.why, "host": host, "port": port, "where": where,
                "adapters": [n for n, _ in choice.adapters]}  # fmt: skip
        s.show(plan, f"{choice.engine}: {choice.why}")
        return
    if key:
        found = sealed.start(
            s.store, artifact, wanted, key, memory_only=memory_only, environ=os.environ, detach=detach, say=s.talk
        )
    else:
        found = manager.start(s.store, artifact, wanted, environ=os.environ, detach=detach, say=s.talk)
    s.show(found.as_dict(), f"{found.name} at {found.url}, the key is in {found.key_path}")
    if not detach:
        sys.stdout.flush()
        raise SystemExit(manager.wait(found))


def _artifact(s: Session, text: str) -> Artifact | None:
    """What to serve: an artifact of the store, or a source that is pulled into it first; None for a dry run of that."""
    from hyb.cli.chain import Chain, slug
    from hyb.errors import HybError

    try:
        return s.store.artifact(s.store.resolve(text))
    except HybError:
        if ":" not in text or text.startswith("sha256:"):
            raise
    return Chain(s).add(slug(text), stage="pull", source=text).run(show=False)


def _named(s: Session, text: str) -> tuple[str, Artifact]:
    """`NAME[=ARTIFACT]` → (name in the API, adapter)."""
    from hyb.cli.chain import slug

    name, _, artifact = text.partition("=")
    return name if artifact else slug(name), s.store.artifact(s.store.resolve(artifact or name))


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
    """Stop serving a model. Requests that run have ten seconds to end; new ones are not taken.

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
    from hyb.serving import client, endpoint

    address = endpoint.find(name, os.environ).address
    text = sys.stdin.read().strip() if question == "-" else question
    answer = client.ask(address, text, model=name, max_tokens=max_tokens, temperature=0.0)
    s.show({"model": name, "question": text, "answer": answer}, answer)


@command
def adapter(
    s: Session,
    action: Annotated[str, typer.Argument(metavar="list|load|drop|weight", help="What to do.")],
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="A served model, as `hyb ps` shows it.")],
    name: Annotated[str, typer.Argument(metavar="[NAME[=ARTIFACT]]", help="The adapter's name in the API.")] = "",
    percent: Annotated[
        float | None, typer.Argument(metavar="[PERCENT]", help="Its share of the model's requests.", show_default=False)
    ] = None,
) -> None:
    """List, load, drop and weigh the adapters of a model while it is being served. Requests go on.

    `load` takes an adapter of the store, made for the model that is served; `weight` sets how many percent of the
    requests for the model's own name it answers.

    Example: hyb adapter load quickstart support=quickstart/lora 10
    """
    from hyb.errors import Exit, HybError

    if action not in ACTIONS:
        raise HybError(f"`{action}` is none of {', '.join(ACTIONS)}", code=Exit.USAGE)
    if (not name and action != "list") or (percent is None and action == "weight"):
        wants = "NAME and PERCENT" if action == "weight" else "NAME"
        raise HybError(f"`hyb adapter {action}` needs {wants}", code=Exit.USAGE)
    found = _service(service)
    if s.dry_run and action != "list":
        s.show({"would": action, "service": service, "name": name}, f"would {action} {name} of {service}")
        return
    state = _change(s, found, action, name, percent)
    rows = [(a["name"], f"{a['weight']:g} %", a["digest"][7:19]) for a in state["adapters"]]
    s.show(state["adapters"], columns(rows, ("NAME", "SHARE", "DIGEST")) if rows else f"{service} has no adapter")


def _change(s: Session, found: Service, action: str, name: str, percent: float | None) -> dict[str, Any]:
    """Ask a service's owner's door; its state afterwards."""
    from hyb.serving import manager

    if action == "list":
        return manager.owner(found, "GET", "/state")
    if action == "drop":
        return manager.owner(found, "DELETE", f"/adapters/{name}")
    if action == "weight":
        return manager.owner(found, "PUT", f"/adapters/{name}/weight", {"weight": percent})
    return manager.load(s.store, found, *_named(s, name), percent or 0, say=s.talk)


def _service(name: str) -> Service:
    """The service of this name. Raises HybError."""
    from hyb.errors import HybError
    from hyb.serving import manager

    found = next((x for x in manager.ps(os.environ) if x.name == name), None)
    if found is None:
        raise HybError(
            f"`{name}` is not being served", hint=f"`hyb serve {name} --detach` serves it, `hyb ps` lists all"
        )
    return found
