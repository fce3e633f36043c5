"""Why a link does not work: one table of causes, for the report and for docs/link-check.md. Pure.

A key is a word for programs (`cause` in `--json`) and stays what it is. Side and advice are the usual ones; a check
that knows better says so.
"""

from __future__ import annotations

from dataclasses import dataclass

PRIVATE, OPENSHIFT, NETWORK = "private", "openshift", "network"
"""Who must act: whoever runs the private host, the namespace, or what lies between (DNS, firewalls, proxies)."""


@dataclass(frozen=True)
class Cause:
    """What is wrong in a few words, who must act, and what to do."""

    title: str
    side: str
    do: str


CAUSES: dict[str, Cause] = {
    "documents": Cause(
        "the documents would not work", PRIVATE, "mend what is named, or write the folder again with `hyb link`"
    ),
    "wrong-certificate": Cause(
        "wrong certificate",
        OPENSHIFT,
        "bring both sides from one folder: `oc apply -f openshift/`, then `hyb link reload` on the private host",
    ),
    "clock-skew": Cause(
        "the clocks differ", PRIVATE, "set the clock by NTP (`timedatectl set-ntp true`) and compare with `date -u`"
    ),
    "router-down": Cause("the private router is down", PRIVATE, "`hyb link start`; `podman logs` of it says why"),
    "no-such-name": Cause(
        "nobody knows the name",
        NETWORK,
        "compare it with `oc get route`: write the link for the right domain, or teach the DNS this name",
    ),
    "resolver-down": Cause("no name server answers", NETWORK, "mend this machine's DNS (`/etc/resolv.conf`)"),
    "unreachable": Cause("no way there", NETWORK, "give this machine a route to that address"),
    "timeout": Cause(
        "nobody answers", NETWORK, "a firewall drops it: let this machine out to that address and port over TCP"
    ),
    "reset": Cause(
        "the connection is reset", NETWORK, "a firewall or proxy cuts it: let TLS through to that name untouched"
    ),
    "refused": Cause(
        "nobody listens there", OPENSHIFT, "compare with `oc get routeraccess,route`; the router must run there"
    ),
    "no-tls": Cause(
        "no TLS there",
        OPENSHIFT,
        "the endpoint must be the router's own port: a passthrough Route, not another service",
    ),
    "no-route": Cause(
        "OpenShift's own router answers",
        OPENSHIFT,
        "no Route has this host: `oc get route`; apply `openshift/`, or write the link for the right domain",
    ),
    "intercepted": Cause(
        "something on the way ends the TLS",
        NETWORK,
        "a proxy that opens TLS must leave this name alone; a Route must be `passthrough`",
    ),
    "tls": Cause("TLS fails", NETWORK, "let TLS 1.2 or newer through to that name untouched"),
    "not-a-router": Cause(
        "no Skupper router there", OPENSHIFT, "the endpoint must lead to the router's inter-router or edge port"
    ),
    "skupper-1": Cause(
        "Skupper 1 on the other side",
        OPENSHIFT,
        "sites of Skupper 1 and 2 can't be linked: install Skupper 2.1 or newer in the cluster",
    ),
    "link-down": Cause(
        "link down", PRIVATE, "`hyb link check` on the private host says where; `hyb link start` starts its router"
    ),
    "no-listener": Cause(
        "no Listener", OPENSHIFT, "apply `openshift/` to this namespace; `oc get listener,service` shows the name"
    ),
    "listener-silent": Cause(
        "the Listener does not answer", OPENSHIFT, "a NetworkPolicy drops it: let this pod reach the router's pods"
    ),
    "model-down": Cause("model down", PRIVATE, "start the model's server on the private host: `hyb ps`, `hyb serve`"),
    "key-refused": Cause(
        "the model refuses the key",
        PRIVATE,
        "give the key's file with `--key-file`; `hyb key list` shows what is valid",
    ),
    "no-model": Cause("no model API there", PRIVATE, "the base URL must end in `/v1`; `--model` must be one it lists"),
    "busy": Cause("the model is busy", PRIVATE, "try again; if it stays so, `hyb top` shows what it does"),
    "model-error": Cause("the model's server errs", PRIVATE, "`hyb logs` on the private host says why"),
    "empty-answer": Cause(
        "the model answers nothing", PRIVATE, "ask it on the private host: `hyb ask`; `hyb logs` says why"
    ),
    "slow": Cause("the model is too slow", PRIVATE, "`hyb top` on the private host; `--timeout` waits longer"),
    "cluster": Cause("the cluster can't be asked", OPENSHIFT, "`oc login`, and a namespace that you may read"),
    "no-skupper": Cause(
        "no Skupper 2 in the cluster", OPENSHIFT, "install Skupper 2.1 or newer: its CRDs and its controller"
    ),
    "no-connector": Cause(
        "no Connector for the Listener",
        PRIVATE,
        "the private router must run with a Connector of the same routing key: `hyb link reload`, `hyb link check`",
    ),
    "not-applied": Cause("not applied", OPENSHIFT, "`oc apply -f openshift/ -n NAMESPACE`"),
    "not-ready": Cause("not ready", OPENSHIFT, "`oc describe` it; the controller's log says more"),
}
"""Key → cause."""
