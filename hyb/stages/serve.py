"""serve: a model or its image → the documents that make a service of it, for Podman, Compose, Kubernetes or KServe.

Nothing is started here (`hyb serve` does that, see `hyb.serving`), and no host is asked anything: the same input
gives the same documents. The API key is named, never written.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hyb.artifact import Artifact, File, short
from hyb.errors import HybError
from hyb.formats import sealed
from hyb.render import compose, decryption, kserve, kube, kubernetes, quadlet
from hyb.render.names import label_problem
from hyb.render.service_guide import guide
from hyb.render.unit import GPU, ServiceUnit, for_podman, pinned, reference_mistake
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, StagePlan, StageSpec
from hyb.store import Store

SUMMARY = "a service from a model or its image: units for Podman, Compose, Kubernetes, KServe"
REVISION = 2
TARGETS = ("quadlet", "kube", "compose", "kubernetes", "kserve")
PODMAN = ("quadlet", "kube", "compose")
BOTH = ("quadlet", "kubernetes")
RUNTIME = "localhost/hyb-serve-cpu:latest"
BYTES_A_TOKEN = 128 << 10  # of key-value cache: on the safe side for models of a few billion parameters
FIXED = 512 << 20  # bytes: Python, the server, its buffers and its cache of prompts
FIXED_GPU = 16 << 30  # bytes: CUDA's libraries, vLLM's buffers in host memory
STEP = 256 << 20  # memory limits are whole multiples of this
SLOW = 20_000_000  # bytes/s: a poor disk, for the time that loading may take
PATIENCE = 60  # seconds beside that

SOCKET_TARGETS = {"quadlet", "compose"}  # where a folder of the host can be the way in

_RUNTIME = re.compile(r"/?[A-Za-z0-9_-][A-Za-z0-9_./-]*")

Target = Literal["quadlet", "kube", "compose", "kubernetes", "kserve"]


class Spec(StageSpec):
    """What a person wrote for a serve stage."""

    stage: Literal["serve"] = "serve"
    image: Annotated[str, Ref("image", "model")]
    """The image with the model; or a model that lies as an OCI artifact in the registry named by `model_image`."""
    target: Target | Literal["both"] | list[Target] = "both"
    """Which documents: `quadlet`, `kube` (`podman kube play`), `compose`, `kubernetes`, `kserve`, a list of these;
    `both` is `quadlet` and `kubernetes`."""
    name: str = ""
    """The service's name and the model's id in the API, an RFC 1123 label; default: the input stage's name."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port on the host, and of the Kubernetes Service."""
    tls: bool = False
    """Speak TLS; certificate and key come from the secret NAME-tls."""
    host: str = "127.0.0.1"
    """Address that the host publishes the port on: loopback, or with `tls` any."""
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
    runtime: str = ""
    """Podman's OCI runtime, a name (`krun`, `runsc`) or a whole path."""
    model_volume: Literal["image", "copy"] = "image"
    """Kubernetes: the model's image as a volume; or copied by an init container, for clusters before Kubernetes 1.36 or
    OpenShift 4.20. A copy needs a model image with a `base:` that has `cp`."""
    pids: int = Field(default=256, ge=16)
    """Most processes and threads; not on Kubernetes, where the node says."""
    gpus: int = Field(default=0, ge=0, le=64)
    """GPUs on Kubernetes; for Podman, any number gives the container `gpu_device`."""
    gpu_device: str = Field(default=f"{GPU}=all", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9_.-]+=[A-Za-z0-9_.:-]+$")
    """CDI name of the GPU."""
    userns: Literal["", "auto"] = ""
    """`auto`: a user namespace of the container's own."""
    keys: bool = False
    """Take hashed keys with limits (`hyb key`) from a second secret, NAME-keys."""
    unix_socket: bool = False
    """No port and no network: listen on a socket in a folder of the host; `quadlet` and `compose` only."""
    canary: dict[str, Annotated[int, Field(ge=0, le=100)]] = Field(default_factory=dict)
    """Adapter of the image → percent of the service's requests that it answers."""
    podman: Literal["4.4", "5.0"] = "4.4"
    """The oldest Podman that must take the Quadlet unit."""

    @field_validator("name", "runtime_class")
    @classmethod
    def _is_a_label(cls, name: str) -> str:
        if name and (mistake := label_problem(name)):
            raise ValueError(mistake)
        return name

    @field_validator("host")
    @classmethod
    def _is_loopback(cls, host: str, info: ValidationInfo) -> str:
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            raise ValueError(f"`{host}` is no IP address") from None
        if not loopback and not info.data.get("tls"):
            raise ValueError(
                f"`{host}` is no loopback address; reach the port from elsewhere through a link, or set `tls: true`"
            )
        return host

    @field_validator("runtime")
    @classmethod
    def _is_a_runtime(cls, runtime: str) -> str:
        if runtime and not _RUNTIME.fullmatch(runtime):
            raise ValueError(f"`{runtime}` is no OCI runtime: a name like `runsc`, or a whole path without blanks")
        return runtime

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
            raise ValueError(f"name at least one target: {', '.join(f'`{t}`' for t in TARGETS)}")
        return target

    @model_validator(mode="after")
    def _fits_together(self) -> Spec:
        if self.unix_socket and (others := [t for t in targets(self) if t not in SOCKET_TARGETS]):
            raise ValueError(f"`unix_socket` is for `quadlet` and `compose`, not for {', '.join(others)}")
        if sum(self.canary.values()) > 100:
            raise ValueError(f"`canary` gives away {sum(self.canary.values())} percent of the requests")
        return self


def targets(spec: Spec) -> tuple[str, ...]:
    """The targets, once each, in a fixed order."""
    asked = BOTH if spec.target == "both" else (spec.target,) if isinstance(spec.target, str) else spec.target
    return tuple(t for t in TARGETS if t in asked)


def service_name(spec: Spec) -> str:
    """The service's name. Raises HybError when the input's name can't be one."""
    name = spec.name or spec.image.rpartition("/")[2]
    if mistake := label_problem(name):
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
        opens=(f"when applied: {'a socket' if spec.unix_socket else f'{spec.host} port {spec.port}'}{limit}",),
        disk=16 << 10,
        memory=16 << 20,
        seconds=0.1,
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Write the documents.

    Raises HybError for a model that is no GGUF, or that lies in no image and no registry, and for settings that a
    target can't have.
    """
    given, store = inputs[spec.image], context.store
    unit = describe(spec, given, store)
    texts = {"APPLY.md": guide(unit, targets(spec))}
    for target in targets(spec):
        texts |= documents(spec, unit, target)
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


def documents(spec: Spec, unit: ServiceUnit, target: str) -> dict[str, str]:
    """Path → text of one target's documents."""
    if target in PODMAN:
        unit = for_podman(unit)
    if target == "quadlet":
        return {f"quadlet/{unit.name}.container": quadlet.container(unit, spec.podman)}
    if target == "kube":
        return {f"kube/{unit.name}.yaml": kubernetes.dump(kube.documents(unit))}
    if target == "compose":
        return {f"compose/{unit.name}.yaml": compose.dump(unit)}
    node = decryption.files(unit.name) if unit.sealed_to else {}
    if target == "kubernetes":
        return {f"kubernetes/{unit.name}.yaml": kubernetes.dump(kubernetes.documents(unit)), **node}
    return node | {
        f"kserve/{unit.name}-isvc.yaml": kubernetes.dump(kserve.inference_service(unit)),
        f"kserve/{unit.name}-llm.yaml": kubernetes.dump(kserve.llm_inference_service(unit)),
    }


def describe(spec: Spec, given: Artifact, store: Store) -> ServiceUnit:
    """The service as plain data. Raises HybError, see `run`."""
    model = _model(given, store)
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
    copies = spec.model_volume == "copy"
    # An image on a base with a server is runtime and model in one. One that is copied from only needs `cp` in its base.
    own = bool(given.meta.get("runnable")) and not copies
    where = spec.model_image or f"localhost/{given.meta.get('name') or service_name(spec)}"
    image = pinned(where, given.digest)
    adapters = tuple(a["name"] for a in given.meta.get("adapters", ()))
    unit = ServiceUnit(
        name=service_name(spec),
        runtime_image=image if own else spec.runtime_image,
        model_image="" if own else image,
        model_digest=model.digest,
        host=spec.host,
        port=spec.port,
        context=_context(spec, model),
        parallel=spec.parallel,
        memory=estimate(spec, given.size),
        pids=spec.pids,
        startup=PATIENCE + model.size // SLOW,
        artifact=given.kind == "model",
        replicas=spec.replicas,
        runtime_class=spec.runtime_class,
        runtime=spec.runtime,
        adapters=adapters,
        canary=spec.canary,
        keys=spec.keys,
        tls=spec.tls,
        gpus=spec.gpus,
        gpu_device=spec.gpu_device,
        userns=spec.userns,
        unix_socket=spec.unix_socket,
        copy=copies,
        model_size=given.size,
        sealed_to=sealed.recipients(given),
    )
    if mistakes := _misfits(spec, given, unit):
        raise HybError("; ".join(text for text, _ in mistakes), hint="; ".join(hint for _, hint in mistakes))
    return unit


def _model(given: Artifact, store: Store) -> Artifact:
    """The model of an image; a sealed one brings what is known of it, for its model need not be here."""
    if given.kind != "image":
        return given
    digest = str(given.meta["model"])
    return sealed.parts(given)[digest] if sealed.is_sealed(given) else store.artifact(digest)


def _misfits(spec: Spec, given: Artifact, unit: ServiceUnit) -> list[tuple[str, str]]:
    """(what can't work, what to do) of a spec with this input."""
    found: list[tuple[str, str]] = []
    chosen = set(targets(spec))
    if unknown := sorted(set(spec.canary) - set(unit.adapters)):
        has = ", ".join(unit.adapters) or "none"
        found.append((f"`canary` names {', '.join(unknown)}; adapters of `{spec.image}`: {has}", "pack it with it"))
    if unit.copy and not given.meta.get("base"):
        found.append((f"nothing in `{spec.image}` can copy its model", "pack it with a `base:` that has `cp`"))
    if unit.userns and unit.model_image and chosen & {"quadlet", "kube", "compose"}:
        found.append(
            (
                "Podman can't mount an image in a user namespace of the container's own",
                "pack with a `base:` that serves",
            )
        )
    if "kserve" in chosen and not unit.model_image:
        found.append(("KServe mounts a model's image, and here the runtime holds the model", "pack it without `base:`"))
    if "kserve" in chosen and unit.adapters:
        found.append(("KServe mounts an image's `/models` alone, not its adapters", "use the target `kubernetes`"))
    if "compose" in chosen and unit.artifact:
        found.append(("Compose mounts no OCI artifact", "put a `pack` stage before it"))
    if "kube" in chosen and unit.artifact:
        found.append(("a volume of `podman kube play` is no OCI artifact", "put a `pack` stage before it"))
    return found


def estimate(spec: Spec, size: int) -> int:
    """Bytes of memory for a model of `size` bytes, rounded up; what was written, when something was."""
    if spec.memory:
        return spec.memory << 20
    fixed = FIXED_GPU if spec.gpus else FIXED
    return -(-(size + fixed + spec.context * spec.parallel * BYTES_A_TOKEN) // STEP) * STEP


def _context(spec: Spec, model: Artifact) -> int:
    """No more than the model was made for."""
    limit = model.meta.get("context")
    return min(spec.context, limit) if isinstance(limit, int) and limit > 0 else spec.context
