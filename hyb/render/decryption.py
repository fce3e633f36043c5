"""What lets a cluster's nodes open sealed images: CRI-O's drop-in, and an OpenShift MachineConfig that carries it.

CRI-O knows one model, the node's own key: every private key in a folder of the node is tried when an image is pulled.
CRI-O calls it experimental. The key itself is in no document: a MachineConfig is an object of the API, which many may
read. Source: CRI-O's tutorials/decryption.md and docs/crio.conf.5.md (`decryption_keys_path`).
"""

from __future__ import annotations

import base64

from hyb.render.dump import dump
from hyb.render.unit import ServiceUnit

KEYS = "/etc/crio/keys/"
DROP_IN = "/etc/crio/crio.conf.d/01-decrypt.conf"
POOL = "worker"


def crio() -> str:
    """The drop-in; it goes to DROP_IN of every node that runs the image."""
    return f'[crio.runtime]\ndecryption_keys_path = "{KEYS}"\n'


def machine_config(name: str) -> str:
    """A MachineConfig with the drop-in for the nodes of a pool. They restart one after the other when it is applied."""
    data = base64.b64encode(crio().encode()).decode()
    file = {
        "path": DROP_IN,
        "mode": 0o644,
        "overwrite": True,
        "contents": {"source": f"data:text/plain;charset=utf-8;base64,{data}"},
    }
    return dump(
        {
            "apiVersion": "machineconfiguration.openshift.io/v1",
            "kind": "MachineConfig",
            "metadata": {
                "name": f"99-{POOL}-{name}-decrypt",
                "labels": {"machineconfiguration.openshift.io/role": POOL},
            },
            "spec": {"config": {"ignition": {"version": "3.2.0"}, "storage": {"files": [file]}}},
        }
    )


def files(name: str) -> dict[str, str]:
    """Path → text of what belongs to a sealed image's documents for Kubernetes."""
    return {"crio/01-decrypt.conf": crio(), f"crio/{name}-machineconfig.yaml": machine_config(name)}


def node_guide(name: str, to: tuple[str, ...]) -> str:
    """What a cluster's owner does, before the image is pulled."""
    return (
        f"The image is sealed to {_keys(to)}.\n"
        "The nodes open it, with CRI-O and a private key of the node's; no pod sees the key. Any pod of such a node\n"
        "can use the image then, and the plain layers lie on the node's disk. As root on each node:\n\n"
        f"    install -Dm644 crio/01-decrypt.conf -t {DROP_IN.rpartition('/')[0]}/\n"
        f"    install -Dm600 NODEKEY.pem -t {KEYS}\n"
        "    systemctl restart crio\n\n"
        "An EC key must be PKCS#8. On OpenShift, this brings the drop-in to all nodes of a pool, which restart:\n\n"
        f"    oc apply -f crio/{name}-machineconfig.yaml      # the pool `{POOL}`\n\n"
        "Bring the key by another way: what is in a MachineConfig can be read by all who may read those.\n"
    )


def podman_guide(closed: ServiceUnit, opened: ServiceUnit) -> str:
    """How Podman gets a sealed image: by skopeo, for Podman before 5 has no option for a key."""
    name, _, digest = (closed.model_image or closed.runtime_image).partition("@")
    local = opened.model_image or opened.runtime_image
    return (
        f"\nThe image is sealed to {_keys(closed.sealed_to)}.\n"
        "Podman runs it once it is in its storage, opened with the private key. The plain layers lie there then:\n\n"
        f"    skopeo copy --decryption-key KEY.pem SOURCE containers-storage:{local}\n\n"
        f"SOURCE is `docker://REGISTRY/{name.rpartition('/')[2]}@{digest}`,\n"
        "or `oci:STORE:NAME` in hyb's store. `hyb serve NAME --decryption-key KEY.pem --memory-only` serves it\n"
        "without a plain byte on the disk.\n"
    )


def _keys(to: tuple[str, ...]) -> str:
    return ", ".join(f"`{k[:23]}…`" for k in to) or "keys that it does not name"
