"""Pod Security "restricted" and OpenShift's restricted-v2, control by control, over every pod of every overlay.

The controls: https://kubernetes.io/docs/concepts/security/pod-security-standards/. restricted-v2 asks for the same and
takes no user or group id of the pod's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.deployments import BUILDS, built, pod_of

Pod = dict[str, Any]
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SELINUX = {"container_t", "container_init_t", "container_kvm_t"}
IDS = ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups")


def containers(spec: Pod) -> Iterator[Pod]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(kind, ())


def contexts(spec: Pod) -> list[Pod]:
    return [spec.get("securityContext", {}), *(c.get("securityContext", {}) for c in containers(spec))]


def each(spec: Pod, holds: Callable[[Pod], bool]) -> bool:
    return all(holds(c.get("securityContext", {})) for c in containers(spec))


def set_in_pod_or_all(spec: Pod, key: str, good: Callable[[Any], bool]) -> bool:
    """The pod says it, or each container does; and nobody says otherwise."""
    pod, *own = contexts(spec)
    said = all(good(c[key]) for c in [pod, *own] if key in c)
    return said and (key in pod or all(key in c for c in own))


CONTROLS: dict[str, Callable[[Pod], bool]] = {
    "HostProcess": lambda s: all(not c.get("windowsOptions", {}).get("hostProcess") for c in contexts(s)),
    "Host Namespaces": lambda s: not any(s.get(k) for k in ("hostNetwork", "hostPID", "hostIPC")),
    "Privileged Containers": lambda s: each(s, lambda c: not c.get("privileged")),
    "Capabilities": lambda s: each(
        s,
        lambda c: (
            c.get("capabilities", {}).get("drop") == ["ALL"]
            and set(c["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
        ),
    ),
    "HostPath Volumes": lambda s: not any("hostPath" in v for v in s.get("volumes", ())),
    "Host Ports": lambda s: not any(p.get("hostPort") for c in containers(s) for p in c.get("ports", ())),
    "AppArmor": lambda s: all(
        c.get("appArmorProfile", {}).get("type", "RuntimeDefault") in ("RuntimeDefault", "Localhost")
        for c in contexts(s)
    ),
    "SELinux": lambda s: all(
        o.get("type", "container_t") in SELINUX and not o.get("user") and not o.get("role")
        for o in (c.get("seLinuxOptions", {}) for c in contexts(s))
    ),
    "/proc Mount Type": lambda s: each(s, lambda c: c.get("procMount", "Default") == "Default"),
    "Sysctls": lambda s: not s.get("securityContext", {}).get("sysctls"),
    "Volume Types": lambda s: all(set(v) - {"name"} <= VOLUMES for v in s.get("volumes", ())),
    "Privilege Escalation": lambda s: each(s, lambda c: c.get("allowPrivilegeEscalation") is False),
    "Running as Non-root": lambda s: set_in_pod_or_all(s, "runAsNonRoot", lambda v: v is True),
    "Running as Non-root user": lambda s: all(c.get("runAsUser") != 0 for c in contexts(s)),
    "Seccomp": lambda s: set_in_pod_or_all(
        s, "seccompProfile", lambda v: v.get("type") in ("RuntimeDefault", "Localhost")
    ),
    "Probes and hooks have no host": lambda s: (
        not any(
            (c.get(kind, {}).get("httpGet") or {}).get("host")
            for c in containers(s)
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        )
    ),
    "restricted-v2: ids are the cluster's": lambda s: not any(k in c for c in contexts(s) for k in IDS),
    "of our own: a read-only root": lambda s: each(s, lambda c: c.get("readOnlyRootFilesystem") is True),
    "of our own: limits": lambda s: all(c["resources"]["limits"]["memory"] for c in containers(s)),
    "of our own: no token by itself": lambda s: s.get("automountServiceAccountToken") is False,
}


@pytest.mark.parametrize(("name", "overlay"), BUILDS)
@pytest.mark.parametrize("control", CONTROLS)
def test_every_pod_keeps_every_control(control: str, name: str, overlay: str) -> None:
    assert CONTROLS[control](pod_of(built(name, overlay))["spec"])


def spoilt(change: Callable[[Pod], Any]) -> Pod:
    spec: Pod = copy.deepcopy(pod_of(built("all", "openshift"))["spec"])
    change(spec)
    return spec


SPOILT: dict[str, Callable[[Pod], Any]] = {
    "HostProcess": lambda s: s["securityContext"].update(windowsOptions={"hostProcess": True}),
    "Host Namespaces": lambda s: s.update(hostNetwork=True),
    "Privileged Containers": lambda s: s["containers"][0]["securityContext"].update(privileged=True),
    "Capabilities": lambda s: s["containers"][1]["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    "HostPath Volumes": lambda s: s["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "Host Ports": lambda s: s["containers"][0]["ports"][0].update(hostPort=80),
    "AppArmor": lambda s: s["securityContext"].update(appArmorProfile={"type": "Unconfined"}),
    "SELinux": lambda s: s["securityContext"].update(seLinuxOptions={"type": "spc_t"}),
    "/proc Mount Type": lambda s: s["containers"][0]["securityContext"].update(procMount="Unmasked"),
    "Sysctls": lambda s: s["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
    "Volume Types": lambda s: s["volumes"].append({"name": "x", "nfs": {"server": "a", "path": "/"}}),
    "Privilege Escalation": lambda s: s["containers"][1]["securityContext"].pop("allowPrivilegeEscalation"),
    "Running as Non-root": lambda s: s["containers"][0]["securityContext"].update(runAsNonRoot=False),
    "Running as Non-root user": lambda s: s["containers"][0]["securityContext"].update(runAsUser=0),
    "Seccomp": lambda s: s["securityContext"].pop("seccompProfile"),
    "Probes and hooks have no host": lambda s: s["containers"][0]["livenessProbe"]["httpGet"].update(host="x"),
    "restricted-v2: ids are the cluster's": lambda s: s["securityContext"].update(fsGroup=1000),
    "of our own: a read-only root": lambda s: s["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    "of our own: limits": lambda s: s["containers"][1]["resources"].update(limits={"memory": ""}),
    "of our own: no token by itself": lambda s: s.pop("automountServiceAccountToken"),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_pod_that_breaks_the_control_would_be_seen(control: str) -> None:
    assert not CONTROLS[control](spoilt(SPOILT[control]))
