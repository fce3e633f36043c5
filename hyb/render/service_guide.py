"""APPLY.md of a service: the commands that make it run. KEYFILE is a file that hyb, or you, made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hyb.render import compose, decryption, kube, kubernetes, quadlet
from hyb.render.unit import CONTAINER_PORT, ServiceUnit, for_podman


def guide(unit: ServiceUnit, chosen: tuple[str, ...]) -> str:
    """The text; a section for each target."""
    head = (
        f"# Apply `{unit.name}`\n\nThe API key is in none of these files. Make one once (mode 0600), and keep it:\n\n"
        f"    (umask 077; printf 'hyb_sk_%s' \"$(openssl rand -hex 32)\" > KEYFILE)\n"
    )
    more = [text for asked, text in ((unit.keys, _KEYS), (unit.tls, _TLS)) if asked]
    sections: dict[str, Callable[[ServiceUnit], str]] = {
        "quadlet": _quadlet,
        "kube": _kube,
        "compose": _compose,
        "kubernetes": _kubernetes,
        "kserve": _kserve,
    }
    return "\n".join([head, *more, *(sections[name](unit) for name in sections if name in chosen)])


_KEYS = "More keys, hashed, with limits: `hyb key add` writes such a file; below it is KEYSFILE.\n"
_TLS = "Certificate and key of the port, PEM: below they are CERTFILE and TLSFILE.\n"


def _files(unit: ServiceUnit) -> Iterator[tuple[str, str, str]]:
    """(secret, its entry, the file that it is made from)."""
    yield unit.secret, "api-key", "KEYFILE"
    if unit.keys:
        yield unit.keys_secret, "keys.json", "KEYSFILE"
    if unit.tls:
        yield unit.tls_secret, "tls.crt", "CERTFILE"
        yield unit.tls_secret, "tls.key", "TLSFILE"


def _sources(unit: ServiceUnit) -> dict[str, str]:
    """Podman's secret → file."""
    return {name: file for (name, _), (_, _, file) in zip(quadlet.secrets(unit), _files(unit), strict=True)}


def _look(unit: ServiceUnit, socket: str) -> str:
    """The command that asks whether the service lives."""
    if unit.unix_socket:
        return f"    curl --unix-socket {socket}/hyb.sock http://localhost/ready\n"
    host = f"[{unit.host}]" if ":" in unit.host else unit.host
    return f"    curl {'--cacert CERTFILE https' if unit.tls else 'http'}://{host}:{unit.port}/ready\n"


def _images(unit: ServiceUnit) -> str:
    return _in_storage(unit) + (decryption.podman_guide(unit, for_podman(unit)) if unit.sealed_to else "")


def _in_storage(unit: ServiceUnit) -> str:
    unit = for_podman(unit)
    if not unit.model_image:
        return f"The image must be in Podman's storage: `{unit.runtime_image}`. Nothing is pulled at a start.\n"
    return (
        f"Both images must be in Podman's storage: `{unit.runtime_image}` and\n`{unit.model_image}`. "
        "Nothing is pulled at a start.\n"
    )


def _quadlet(unit: ServiceUnit) -> str:
    made = "".join(f"    podman secret create {name} {file}\n" for name, file in _sources(unit).items())
    return (
        f"## Podman, by systemd\n\n{_images(unit)}\n{made}"
        f"    install -Dm644 quadlet/{unit.name}.container -t ~/.config/containers/systemd/\n"
        f"    systemctl --user daemon-reload\n    systemctl --user start {unit.name}\n"
        + _look(unit, f"$XDG_RUNTIME_DIR/hyb-{unit.name}")
        + ("\nThe model is an OCI artifact: Podman 5.5 or newer mounts it.\n" if unit.artifact else "")
    )


def _kube(unit: ServiceUnit) -> str:
    made, seen = "", set()
    for name, entry, file in _files(unit):
        made += "" if name in seen else f"    podman volume create {name}\n"
        made += (
            f"    tar -c --mode=0444 --owner=0 --group=0 --transform 's,.*,{entry},' {file} |\n"
            f"      podman volume import {name} -\n"
        )
        seen.add(name)
    image = for_podman(unit).model_image
    model = (
        f"    podman volume create --driver image --opt image={image} \\\n      {kube.model_volume(unit)}\n"
        if unit.model_image
        else ""
    )
    options = f" --userns={unit.userns}" if unit.userns else ""
    options += f" --runtime {unit.runtime}" if unit.runtime else ""
    return (
        f"## Podman, one Pod\n\n{_images(unit)}\n{made}{model}"
        f"    podman kube play{options} kube/{unit.name}.yaml\n{_look(unit, '')}\n"
        f"It ends with `podman kube down kube/{unit.name}.yaml`; the volumes stay.\n"
    )


def _compose(unit: ServiceUnit) -> str:
    made = "".join(
        f"    install -Dm444 {file} compose/{compose.SECRETS}/{name}\n" for name, file in _sources(unit).items()
    )
    sockets = "    install -dm1777 compose/sockets\n" if unit.unix_socket else ""
    return (
        f"## Compose\n\n{_images(unit)}podman-compose 1.3 or newer, or Docker's engine 28 or newer, "
        "mounts an image as a volume.\nThe folder is private, for the files in it are read by the container's user.\n\n"
        f"    install -dm700 compose/{compose.SECRETS}\n{made}{sockets}"
        f"    podman-compose -f compose/{unit.name}.yaml up -d\n{_look(unit, 'compose/sockets')}"
    )


def _secrets(unit: ServiceUnit) -> str:
    lines = [f"    kubectl create secret generic {unit.secret} --from-file={kubernetes.KEY}=KEYFILE\n"]
    if unit.keys:
        lines.append(f"    kubectl create secret generic {unit.keys_secret} --from-file={kubernetes.KEYS}=KEYSFILE\n")
    if unit.tls:
        lines.append(f"    kubectl create secret tls {unit.tls_secret} --cert=CERTFILE --key=TLSFILE\n")
    return "".join(lines)


def _kubernetes(unit: ServiceUnit) -> str:
    if not unit.model_image:
        title, needs = "Kubernetes, OpenShift", "The cluster must be able to pull the image.\n"
    elif unit.copy:
        title = "Kubernetes, OpenShift, of any age"
        needs = "The cluster must be able to pull the images. An init container copies the model into the pod.\n"
    else:
        title = "Kubernetes 1.36 or newer, OpenShift 4.20 or newer"
        needs = (
            "The cluster must be able to pull the images. From Kubernetes 1.33 on it works, too, where the feature\n"
            "`ImageVolume` is on. For an older cluster: `model_volume: copy`.\n"
        )
    return (
        f"## {title}\n\n{needs}\n{_node(unit)}{_secrets(unit)}"
        f"    kubectl apply -f kubernetes/{unit.name}.yaml\n"
        f"    kubectl rollout status deployment/{unit.name}\n\n"
        f"Only pods with the label `{kubernetes.CLIENT}: {unit.name}` reach it, on port {unit.port} "
        f"(container port {CONTAINER_PORT}).\n"
    )


def _node(unit: ServiceUnit) -> str:
    """What the nodes need for a sealed image."""
    return f"{decryption.node_guide(unit.name, unit.sealed_to)}\n" if unit.sealed_to else ""


def _kserve(unit: ServiceUnit) -> str:
    return (
        "## KServe 0.20 or newer\n\nOne of the two, with images that the cluster can pull:\n\n"
        f"{_node(unit)}{_secrets(unit)}"
        f"    kubectl apply -f kserve/{unit.name}-isvc.yaml\n"
        f"    kubectl wait --for=condition=Ready inferenceservice/{unit.name}\n\nor\n\n"
        f"    kubectl apply -f kserve/{unit.name}-llm.yaml\n"
        f"    kubectl wait --for=condition=Ready llminferenceservice/{unit.name}\n"
    )
