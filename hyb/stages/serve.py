"""serve: a model or its image → the documents that make a service of it: a Quadlet unit, Kubernetes manifests.

Nothing is started here (`hyb serve` does that, see `hyb.serving`), and no host is asked anything: the same input
gives the same documents. The API key is named, never written.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hyb.artifact import Artifact, File, short
from hyb.errors import HybError
from hyb.render import kubernetes, quadlet
from hyb.render.unit import CONTAINER_PORT, ServiceUnit, label_mistake, pinned, reference_mistake
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, StagePlan, StageSpec
from hyb.store import Store

SUMMARY = "a service from a model or its image: a Quadlet unit, Kubernetes manifests"
REVISION = 1
TARGETS = ("quadlet", "kubernetes")
RUNTIME = "localhost/hyb-serve-cpu:latest"
BYTES_A_TOKEN = 128 << 10  # of key-value cache: on the safe side for models of a few billion parameters
FIXED = 512 << 20  # bytes: Python, the server, its buffers and its cache of prompts
STEP = 256 << 20  # memory limits are whole multiples of this
SLOW = 20_000_000  # bytes/s: a poor disk, for the time that loading may take
PATIENCE = 60  # seconds beside that

Target = Literal["quadlet", "kubernetes"]


class Spec(StageSpec):
    """What a person wrote for a serve stage."""

    stage: Literal["serve"] = "serve"
    image: Annotated[str, Ref("image", "model")]
    """The image with the model; or a model that lies as an OCI artifact in the registry named by `model_image`."""
    target: Target | Literal["both"] | list[Target] = "both"
    """Which documents: `quadlet`, `kubernetes`, a list of these, or `both`."""
    name: str = ""
    """The service's name and the model's id in the API, an RFC 1123 label; default: the input stage's name."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port on the host, and of the Kubernetes Service."""
    host: str = "127.0.0.1"
    """Loopback address that the host publishes the port on."""
    runtime_image: str = RUNTIME
    """The image that serves; best by digest."""
    model_image: str = ""
    """Where the model's image lies, `registry.example.com/lab/bot`; default: `localhost/` and its name. The digest is
    added."""
    context: int = Field(default=4096, ge=256)
    """Tokens of prompt and answer together, a request."""
    parallel: int = Field(default=4, ge=1, le=256)
    """Requests answered at the same time."""
    memory: int = Field(default=0, ge=0)
    """Limit in MiB; 0: estimated from the model, the context and `parallel`."""
    replicas: int = Field(default=1, ge=0, le=1000)
    """Pods, on Kubernetes."""
    runtime_class: str = ""
    """Kubernetes' RuntimeClass."""

    @field_validator("name", "runtime_class")
    @classmethod
    def _is_a_label(cls, name: str) -> str:
        if name and (mistake := label_mistake(name)):
            raise ValueError(mistake)
        return name

    @field_validator("host")
    @classmethod
    def _is_loopback(cls, host: str) -> str:
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(f"`{host}` is no loopback address; the port is reached from elsewhere through a link")
        return host

    @field_validator("runtime_image", "model_image")
    @classmethod
    def _is_a_reference(cls, reference: str) -> str:
        if reference and (mistake := reference_mistake(reference)):
            raise ValueError(mistake)
        return reference

    @field_validator("target")
    @classmethod
    def _is_not_empty(cls, target: Any) -> Any:
        if target == []:
            raise ValueError("name at least one target: `quadlet`, `kubernetes`")
        return target


def targets(spec: Spec) -> tuple[str, ...]:
    """The targets, once each, in a fixed order."""
    asked = TARGETS if spec.target == "both" else (spec.target,) if isinstance(spec.target, str) else spec.target
    return tuple(t for t in TARGETS if t in asked)


def service_name(spec: Spec) -> str:
    """The service's name. Raises HybError when the input's name can't be one."""
    name = spec.name or spec.image.rpartition("/")[2]
    if mistake := label_mistake(name):
        raise HybError(f"the service would be called {mistake}", hint="set `name:`")
    return name


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What will be written, and what the documents will open."""
    name, given = service_name(spec), inputs.get(spec.image)
    memory = estimate(spec, given.size) if given else None
    limit = f", at most {memory >> 20} MiB" if memory else ""
    return StagePlan(
        makes=f"service `{name}`: {', '.join(targets(spec))}",
        reads=(f"{given.kind if given else 'image'} `{spec.image}`",),
        opens=(f"when applied: {spec.host} port {spec.port}{limit}",),
        disk=16 << 10,
        memory=16 << 20,
        seconds=0.1,
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Write the documents.

    Raises HybError for a model that is no GGUF, or that lies in no image and no registry.
    """
    given, store = inputs[spec.image], context.store
    unit = describe(spec, given, store)
    texts = {"APPLY.md": how_to(unit, targets(spec))}
    if "quadlet" in targets(spec):
        texts[f"quadlet/{unit.name}.container"] = quadlet.container(unit)
    if "kubernetes" in targets(spec):
        texts[f"kubernetes/{unit.name}.yaml"] = kubernetes.dump(unit)
    files = [File(path, store.add_bytes(text.encode())) for path, text in texts.items()]
    meta = {
        "name": unit.name,
        "port": unit.port,
        "host": unit.host,
        "model_name": unit.name,
        "model": unit.model_digest,
        "secret": unit.secret,
        "targets": list(targets(spec)),
    }
    return store.add_artifact("service", files, meta=meta, needs=(given.digest,))


def describe(spec: Spec, given: Artifact, store: Store) -> ServiceUnit:
    """The service as plain data. Raises HybError, see `run`."""
    model = store.artifact(str(given.meta["model"])) if given.kind == "image" else given
    if model.meta.get("format") != "gguf" and spec.runtime_image == RUNTIME:
        raise HybError(
            f"`{RUNTIME}` serves GGUF; model `{short(model.digest)}` is {model.meta.get('format') or 'something else'}",
            hint="put an `export` stage with `format: gguf` before it, or name another `runtime_image:`",
        )
    if given.kind == "model" and not spec.model_image:
        raise HybError(
            f"`{spec.image}` is a model, and no container can mount it from hyb's store",
            hint="put a `pack` stage between them; or, when it was pushed to a registry, set `model_image:`",
        )
    own = bool(given.meta.get("runnable"))  # the image has a base with a server: it is runtime and model in one
    where = spec.model_image or f"localhost/{given.meta.get('name') or service_name(spec)}"
    image = pinned(where, given.digest)
    return ServiceUnit(
        name=service_name(spec),
        runtime_image=image if own else spec.runtime_image,
        model_image="" if own else image,
        model_digest=model.digest,
        host=spec.host,
        port=spec.port,
        context=_context(spec, model),
        parallel=spec.parallel,
        memory=estimate(spec, model.size),
        startup=PATIENCE + model.size // SLOW,
        artifact=given.kind == "model",
        replicas=spec.replicas,
        runtime_class=spec.runtime_class,
    )


def estimate(spec: Spec, size: int) -> int:
    """Bytes of memory for a model of `size` bytes, rounded up; what was written, when something was."""
    if spec.memory:
        return spec.memory << 20
    return -(-(size + FIXED + spec.context * spec.parallel * BYTES_A_TOKEN) // STEP) * STEP


def how_to(unit: ServiceUnit, chosen: tuple[str, ...]) -> str:
    """APPLY.md: the commands that make the service run. KEYFILE is a file that hyb, or you, made."""
    parts = [
        f"# Apply `{unit.name}`\n\nThe API key is in none of these files. Make one once (mode 0600), and keep it:\n\n"
        f"    (umask 077; printf 'hyb_sk_%s' \"$(openssl rand -hex 32)\" > KEYFILE)\n"
    ]
    if "quadlet" in chosen:
        parts.append(
            "## Podman, by systemd\n\n"
            f"Both images must be in Podman's storage: `{unit.runtime_image}`"
            + (f" and\n`{unit.model_image}`" if unit.model_image else "")
            + ". Nothing is pulled at a start.\n\n"
            f"    podman secret create {unit.secret} KEYFILE\n"
            f"    install -Dm644 quadlet/{unit.name}.container -t ~/.config/containers/systemd/\n"
            f"    systemctl --user daemon-reload\n    systemctl --user start {unit.name}\n"
            f"    curl http://{unit.host}:{unit.port}/health\n"
            + ("\nThe model is an OCI artifact: Podman 5.5 or newer mounts it.\n" if unit.artifact else "")
        )
    if "kubernetes" in chosen:
        parts.append(
            "## Kubernetes 1.33 or newer, OpenShift 4.20 or newer\n\n"
            "The cluster must be able to pull the images, and have image volumes (feature `ImageVolume`).\n\n"
            f"    kubectl create secret generic {unit.secret} --from-file={kubernetes.KEY}=KEYFILE\n"
            f"    kubectl apply -f kubernetes/{unit.name}.yaml\n"
            f"    kubectl rollout status deployment/{unit.name}\n\n"
            f"Only pods with the label `{kubernetes.CLIENT}: {unit.name}` reach it, on port {unit.port} "
            f"(container port {CONTAINER_PORT}).\n"
        )
    return "\n".join(parts)


def _context(spec: Spec, model: Artifact) -> int:
    """No more than the model was made for."""
    limit = model.meta.get("context")
    return min(spec.context, limit) if isinstance(limit, int) and limit > 0 else spec.context
