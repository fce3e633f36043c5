"""Podman: finding it, giving it images of the store, building, running. Nothing else of hyb talks to it.

podman-py where Podman's socket is there, else the `podman` and `skopeo` programs; right for Podman 4.3 and 5.
Two things always go by the programs when these work on the same storage as the socket, because the API costs more:
a big image (`images.load` wants a tar and writes it twice more) and a build (the API wants its context as a tar, too).
podman-py can be silent about failures, so what it should have done is looked at afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import engine, layout
from hyb.artifact import Artifact
from hyb.containers import Container, Ended, api_arguments, argv, needs_program
from hyb.errors import Exit, HybError
from hyb.formats import sealed, tar
from hyb.podman_errors import SOCKET_OFF, explained
from hyb.store import Store

PODMAN = ("podman", "--remote=false")
"""The program on this machine's own storage: with CONTAINER_HOST set, plain `podman` is a client of that socket."""


@dataclass(frozen=True)
class PodmanInfo:
    """The Podman of this machine. `socket`: its URL or "". `local`: the program works on the same storage.

    `ids`: how many user ids a rootless Podman has, its own among them; 0 for root's, which has all. `limits`: it can
    limit memory and processes. `selinux`: files need labels.
    """

    version: str
    socket: str
    rootless: bool
    local: bool
    graph_root: str
    ids: int = 0
    limits: bool = True
    selinux: bool = False

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        found = re.findall(r"\d+", self.version)[:2]
        return (int(found[0]), int(found[1])) if len(found) == 2 else (0, 0)


def socket_url(environ: Mapping[str, str]) -> str:
    """Where Podman's API is: CONTAINER_HOST as it is (empty: nowhere), else the first usual socket, else ""."""
    if (given := environ.get("CONTAINER_HOST")) is not None:
        return given
    runtime = environ.get("XDG_RUNTIME_DIR")
    places = [f"{runtime}/podman/podman.sock"] if runtime else []
    if os.getuid() == 0:  # another user's rootful socket has another storage, and is not ours to use
        places.append("/run/podman/podman.sock")
    return next((f"unix://{p}" for p in places if _is_socket(p)), "")


def available() -> PodmanInfo:
    """What there is. Raises HybError: exit 3 when there is no Podman, or CONTAINER_HOST names a dead socket."""
    url = socket_url(os.environ)
    program, program_error = _tried(_program_info)
    service, service_error = _tried(lambda: _service_info(url)) if url else (None, None)
    if service_error and (os.environ.get("CONTAINER_HOST") or not program):
        raise service_error  # else: a socket file that a service left behind, and the program does
    found = service or program
    if found is None:
        raise program_error or engine.missing("podman")
    return PodmanInfo(
        version=str(found["version"]["Version"]),
        socket=url if service else "",
        rootless=bool(found["host"]["security"]["rootless"]),
        local=program is not None and program["store"]["graphRoot"] == found["store"]["graphRoot"],
        graph_root=str(found["store"]["graphRoot"]),
        ids=sum(int(m["size"]) for m in (found["host"].get("idMappings") or {}).get("uidmap") or ()),
        limits={"memory", "pids"} <= set(found["host"].get("cgroupControllers") or ()),
        selinux=bool(found["host"]["security"].get("selinuxEnabled")),
    )


def require(info: PodmanInfo, release: tuple[int, int], what: str) -> None:
    """Raise HybError (exit 3) when Podman is older than `what` needs, or is a socket alone."""
    if info.release < release:
        wanted = ".".join(map(str, release))
        raise HybError(f"{what} needs Podman {wanted} or newer; here is {info.version}", hint="install a newer Podman")
    if not info.local:
        raise HybError(
            f"{what} needs the `podman` program on this machine, and here is only a socket",
            hint=engine.INSTALL["podman"] + ", or unset `CONTAINER_HOST`",
        )


def deliver(store: Store, image: Artifact, name: str) -> str:
    """Give Podman an image of the store under `name` (`localhost/` and `:latest` are added where absent).

    Returns the image's full name. Nothing is written when Podman has it. Raises HybError as `load_image` does.
    """
    if image.kind != "image":
        raise HybError(f"`{name}` is a {image.kind}, not an image", hint="`hyb pack` makes an image of a model")
    full = full_name(name)
    load_image(store, image, full)
    return full


def full_name(name: str) -> str:
    """`lab/bot` → `localhost/lab/bot:latest`: Podman never asks a registry for such a name."""
    first, _, rest = name.partition("/")
    hosted = name if rest and ("." in first or ":" in first or first == "localhost") else f"localhost/{name}"
    return hosted if ":" in hosted.rpartition("/")[2] else f"{hosted}:latest"


def load_image(store: Store, image: Artifact, name: str, info: PodmanInfo | None = None) -> str:
    """Put an image into Podman's storage under a full name; layers that are there are not written again.

    Returns the image's id (64 hex digits: the digest of its config). Raises HybError: exit 3 for what the user can
    mend (no Podman, full disk), exit 5 when Podman fails, exit 4 when it ends up with another image.
    """
    if sealed.is_sealed(image):
        raise HybError(
            f"`{name}` is a sealed image, and here is no key to open it",
            hint="where the key is: `skopeo copy --decryption-key KEY.pem oci:STORE:NAME containers-storage:NAME`",
            code=Exit.CHECK,
        )
    info = info or available()
    wanted = str(image.manifest["config"]["digest"]).removeprefix("sha256:")
    if image_id(name, info) == wanted:
        return wanted
    for file in image.files:
        store.check(file.blob)
    if not info.local:
        _load_over_api(store, image, name, info)
    else:
        with layout.shown(store, image, name) as folder:
            if engine.which("skopeo"):
                _call(["skopeo", "copy", "--quiet", f"oci:{folder}:{name}", f"containers-storage:{name}"])
            else:
                _pull_layout(folder, name)
    if (found := image_id(name, info)) != wanted:
        raise HybError(f"Podman has `{found or 'nothing'}` as `{name}`, not `{wanted}`", code=Exit.CHECK)
    return wanted


def image_id(name: str, info: PodmanInfo) -> str:
    """The id of an image that Podman has, or ""."""
    if info.socket:
        from podman.errors import ImageNotFound

        with _client(info) as client:
            try:
                return str(client.images.get(name).id).removeprefix("sha256:")
            except ImageNotFound:
                return ""
    done = engine.run([*PODMAN, "image", "inspect", "--format", "{{.Id}}", name], check=False, timeout=60)
    return done.stdout.decode().strip().removeprefix("sha256:") if done.returncode == 0 else ""


def image_exists(name: str, info: PodmanInfo | None = None) -> bool:
    """True when Podman has the image."""
    return bool(image_id(name, info or available()))


def build(
    containerfile: Path,
    context: Path,
    name: str,
    *,
    build_args: Mapping[str, str] | None = None,
    network: str = "none",
    fresh: bool = False,
    info: PodmanInfo | None = None,
) -> str:
    """Build an image from the files in `context` and return its id; nothing is pulled. `fresh`: no step from a cache.

    File times are set to zero, so that a rebuild of the same files gives the same layers where the steps allow it.
    Raises HybError: exit 5 with the end of what the build said.
    """
    info = info or available()
    if not info.local:
        raise HybError(
            "an image is built by the `podman` program, and here is only a socket",
            hint=engine.INSTALL["podman"] + "; or build where Podman runs and copy the image",
        )
    command = [*PODMAN, "build", "--quiet", "--timestamp=0", f"--network={network}", "--pull=never"]
    command += ["--no-cache"] if fresh else []
    command += ["--file", str(containerfile), "--tag", name]
    command += [f"--build-arg={key}={value}" for key, value in (build_args or {}).items()]
    return _call([*command, str(context)]).stdout.decode().strip().splitlines()[-1]


def run_container(container: Container, info: PodmanInfo | None = None) -> Ended:
    """Start a container; wait for its end unless it is detached. A non-zero status is a result, not an error.

    Raises HybError when it can't be started (exit 3 or 5).
    """
    info = info or available()
    if info.socket and not needs_program(container):
        return _run_over_api(container, info)
    if info.socket:
        require(info, (4, 3), "such a container")
    done = _call([*PODMAN, *argv(container)], check=False)
    if done.returncode == 125 or (container.detach and done.returncode):  # Podman's own failure, not the program's
        raise explained(done.stderr.decode(errors="replace"), "podman run")
    identity = done.stdout.decode().strip() if container.detach else ""
    return Ended(done.returncode, b"" if container.detach else done.stdout, done.stderr, identity)


def remove_container(name: str, info: PodmanInfo | None = None) -> None:
    """Stop a container at once and remove it; nothing happens when there is none."""
    info = info or available()
    if not info.socket:
        _call([*PODMAN, "rm", "--force", "--ignore", "--time=0", name])
        return
    from podman.errors import APIError, NotFound

    with _client(info) as client, contextlib.suppress(NotFound):
        found = client.containers.get(name)
        with contextlib.suppress(APIError):  # it has ended by itself
            found.kill()
        found.remove(force=True)


def containers(labels: Mapping[str, str], info: PodmanInfo | None = None) -> list[str]:
    """Ids of the containers, running or not, that bear all these labels."""
    info = info or available()
    if not info.local:
        with _client(info) as client:
            wanted = [f"{k}={v}" for k, v in labels.items()]
            return [str(c.id) for c in client.containers.list(all=True, filters={"label": wanted})]
    filters = [f"--filter=label={k}={v}" for k, v in labels.items()]
    return _call([*PODMAN, "ps", "--all", "--quiet", "--no-trunc", *filters]).stdout.decode().split()


def remove_image(name: str, info: PodmanInfo | None = None) -> None:
    """Take a name away from an image, and the image when it was its last; nothing happens when there is none."""
    info = info or available()
    if not image_id(name, info):
        return
    if info.socket:
        with _client(info) as client:
            client.images.remove(name)
    else:
        _call([*PODMAN, "rmi", name])


# -- inside --------------------------------------------------------------------------------------------------------


def _call(command: Sequence[str], *, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    done = engine.run(command, check=False, cwd=cwd)
    if check and done.returncode:
        verb = next((word for word in command[1:] if not word.startswith("-")), "")
        raise explained((done.stderr or done.stdout).decode(errors="replace"), f"{command[0]} {verb}")
    return done


def _tried(ask: Callable[[], dict[str, Any] | None]) -> tuple[dict[str, Any] | None, HybError | None]:
    try:
        return ask(), None
    except HybError as error:
        return None, error


def _program_info() -> dict[str, Any] | None:
    """What the program on this machine says of itself; None when there is none, or only a remote client."""
    if not engine.which("podman"):
        return None
    done = engine.run([*PODMAN, "info", "--format", "json"], check=False, timeout=60)
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    said = done.stderr.decode(errors="replace")
    if "unknown flag: --remote" in said:
        return None
    raise explained(said, "podman info")


def _service_info(url: str) -> dict[str, Any]:
    with _client(PodmanInfo("", url, False, False, "")) as client:
        return dict(client.info())


@contextlib.contextmanager
def _client(info: PodmanInfo) -> Iterator[Any]:
    """podman-py on the socket; its errors as ours."""
    import requests
    from podman import PodmanClient
    from podman.errors import APIError, NotFound, PodmanError

    if info.socket.startswith("unix://"):
        _knock(info.socket)
    try:
        with PodmanClient(base_url=info.socket) as client:
            yield client
    except NotFound:
        raise
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _dead(info.socket) from error
    except (APIError, PodmanError) as error:
        raise explained(str(error), "podman") from error


def _knock(url: str) -> None:
    """Raise HybError when nobody listens on a unix socket; podman-py would leave a socket open then."""
    with socket.socket(socket.AF_UNIX) as knocking:
        try:
            knocking.connect(url.removeprefix("unix://"))
        except OSError as error:
            raise _dead(url) from error


def _dead(url: str) -> HybError:
    return HybError(f"Podman's socket `{url}` does not answer", hint=SOCKET_OFF)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except OSError:
        return False


def _pull_layout(folder: Path, name: str) -> None:
    """Without skopeo: Podman 4 names what it pulls from a layout after the folder, so it gets its name afterwards.

    The path is a relative one, since a path such as `/home/Ann/x_` makes no image name, and Podman refuses it.
    """
    pulled = _call([*PODMAN, "pull", "--quiet", f"oci:{folder.name}:{name}"], cwd=folder.parent)
    identity = pulled.stdout.decode().split()[-1]
    _call([*PODMAN, "tag", identity, name])
    names = _call([*PODMAN, "image", "inspect", "--format", "{{json .RepoTags}}", identity]).stdout
    for other in json.loads(names):
        if other.rpartition(":")[0].endswith(f"/{folder.name}"):
            _call([*PODMAN, "untag", identity, other])


def _load_over_api(store: Store, image: Artifact, name: str, info: PodmanInfo) -> None:
    """The image as a tar stream, made while it is sent: no temporary file on our side."""
    with _client(info) as client:
        response = client.api.post(
            "/images/load",
            data=tar.chunks(layout.archive(store, image, name)),
            headers={"Content-Type": "application/x-tar"},
        )
        response.raise_for_status()


def _run_over_api(container: Container, info: PodmanInfo) -> Ended:
    from podman.errors import NotFound

    with _client(info) as client:
        try:
            made = client.containers.create(**api_arguments(container))
        except NotFound as error:
            raise explained(f"no such image: {container.image}", "podman run") from error
        try:
            made.start()
            if container.detach:
                return Ended(0, b"", b"", str(made.id))
            status = int(made.wait())
            stdout = b"".join(made.logs(stdout=True, stderr=False, stream=True))
            stderr = b"".join(made.logs(stdout=False, stderr=True, stream=True))
        except BaseException:
            made.remove(force=True)
            raise
        if container.remove:
            made.remove(force=True)
        return Ended(status, stdout, stderr, str(made.id))
