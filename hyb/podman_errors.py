"""What Podman, skopeo and the OCI runtimes say when they fail, as errors that a user can act on."""

from __future__ import annotations

import re

from hyb.errors import Exit, HybError

SOCKET_OFF = "`systemctl --user enable --now podman.socket`, or unset `CONTAINER_HOST` to use the program"
SUBUIDS = "`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`, then `podman system migrate`"
UIDMAP = "install newuidmap and newgidmap with their rights: `apt-get install uidmap` or `dnf install shadow-utils`"
CDI = "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` describes the GPUs, `nvidia-ctk cdi list` names them"
LIMITS = "lower `default_ulimits` for nofile and nproc in containers.conf"

KNOWN = (
    (
        r"command required for rootless mode with multiple IDs|cannot set up namespace using",
        "rootless Podman can't use newuidmap",
        UIDMAP,
    ),
    (r"unresolvable CDI devices", "Podman knows no such device: no CDI file describes it", CDI),
    (
        r"OCI runtime \S+ not found|no valid executable found for OCI runtime",
        "Podman does not have this OCI runtime",
        "install it, or give its absolute path: `--runtime /usr/local/bin/runsc`",
    ),
    (
        r"could not find enough available IDs|not enough unused IDs in user namespace|containers.{,9}in /etc/subuid",
        "Podman has no user ids left for a container of its own",
        "give the user `containers` a larger range in /etc/subuid and /etc/subgid",
    ),
    (r"unable to set memory limit", "the memory limit is less than the container needs to start", "give more memory"),
    (
        r"the container name .* is already in use",
        "a container of that name is there",
        "remove it, or give another name",
    ),
    (r"no secret with name or id", "Podman does not have the secret", "`podman secret create NAME FILE`"),
    (r"invoke a command that was not found", "the image lacks the program that is to run", "is it the right image?"),
    (r"no space left on device|disk quota exceeded", "Podman's storage is full", "`podman system prune` frees space"),
    (
        r"insufficient UIDs or GIDs|no subuid ranges|cannot find (uid|gid) mappings|newuidmap|/etc/sub[ug]id",
        "rootless Podman has no range of user ids",
        SUBUIDS,
    ),
    (r"RLIMIT_|setrlimit", "Podman asks for more open files or processes than this machine allows", LIMITS),
    (r"cgroups in hybrid mode", "crun refuses this machine's cgroups", 'set `runtime = "runc"` in containers.conf'),
    (r"unable to connect to Podman|connection refused|Cannot connect", "Podman's socket does not answer", SOCKET_OFF),
    (r"policy\.json", "Podman has no signature policy", "install containers-common (it brings policy.json)"),
    (r"address already in use", "the port is taken", "give another port"),
    (r"no such image|image not known|does not resolve to an image|No such image", "Podman does not have the image", ""),
)
"""What Podman says (a pattern) → what it means, what to do. The first that fits."""


def explained(said: str, doing: str) -> HybError:
    """What a Podman or skopeo that failed said, as the error that a user can act on."""
    lines = said.strip().splitlines()
    for pattern, message, hint in KNOWN:
        if re.search(pattern, said):
            return HybError(message, hint=hint, details=lines[-3:], code=Exit.INPUT)
    return HybError(f"`{doing}` failed", details=lines[-5:], code=Exit.BELOW)
