"""APPLY.md: which command to run where. Pure text from the facts of a link; no path of this machine, no time."""

from __future__ import annotations

from hyb.render.skupper.documents import LinkFacts, route_hosts

PLATFORMS = ("podman", "docker", "linux")


def guide(facts: LinkFacts, platform: str = "podman") -> str:
    """The whole APPLY.md. `platform`: what runs the router on the private host."""
    return "\n".join([_top(facts), _openshift(facts), _private(facts, platform), _after(facts, platform)])


def _top(facts: LinkFacts) -> str:
    return f"""\
# Apply the link `{facts.name}`

The private host dials out to the namespace `{facts.namespace}`; nothing listens on it for this.
Pods in the namespace then call `http://{facts.host}:{facts.port}`.
What answers is `{facts.target_host}:{facts.target_port}` on the private host.

Both folders hold a private key (files `Secret-*.yaml`, mode 0600): copy them over an encrypted channel, keep them out
of git. Needed: Skupper **2.1.0 or newer** on both sides (older controllers ignore `generateTlsCredentials`); sites of
Skupper 1 can't join.
"""


def _openshift(facts: LinkFacts) -> str:
    hosts = "\n".join(route_hosts(facts))
    return f"""\
## 1. OpenShift

The Skupper controller must run in the cluster, and the namespace must have no other Skupper Site.

    oc apply -f openshift/ -n {facts.namespace}
    oc get site,routeraccess,listener -n {facts.namespace}
    oc get route -n {facts.namespace} -o custom-columns=HOST:.spec.host
    oc get site {facts.site} -n {facts.namespace} -o jsonpath='{{.status.controller.version}}'

Site and RouterAccess become `Ready`; the Listener waits for the private side. The Routes must be exactly

{_indented(hosts)}

If they are not, the cluster's domain is another one (`oc get ingresses.config cluster -o jsonpath='{{.spec.domain}}'`):
set it in the recipe and write this folder again.
"""


def _private(facts: LinkFacts, platform: str) -> str:
    flag = "" if facts.private_namespace == "default" else f" -n {facts.private_namespace}"
    once = "    loginctl enable-linger     # else the router ends when you log out\n"
    once += "    skupper system install     # once a user\n"
    install = "" if platform == "linux" else once
    router = "The program `skrouterd` must be installed.\n" if platform == "linux" else ""
    folder = f'"$base/namespaces/{facts.private_namespace}/input/resources"'
    return f"""\
## 2. Private host

As the user who runs the model. {router}As root, `base` is `/var/lib/skupper`.

    base="${{XDG_DATA_HOME:-$HOME/.local/share}}/skupper"
    mkdir -p "$base" && chmod 0700 "$base"     # Skupper's own copies of the key are readable by all
    install -d -m 0700 {folder}
    install -m 0600 private/*.yaml {folder}
    export SKUPPER_PLATFORM={platform}
{install}    skupper system start{flag}

After a change: copy again, then `skupper system reload{flag}` (`start` refuses a site that is there already).
The router dials `{route_hosts(facts)[0]}:443`: a firewall must let that out and leave the TLS untouched.
"""


def _after(facts: LinkFacts, platform: str) -> str:
    flag = "" if facts.private_namespace == "default" else f" -n {facts.private_namespace}"
    return f"""\
## 3. Check

    SKUPPER_PLATFORM={platform} skupper link status{flag}                     # on the private host
    oc get listener {facts.host} -n {facts.namespace}                # on OpenShift: has a matching connector
    curl http://{facts.host}:{facts.port}/v1/models                  # from a pod of the namespace, with the API key

Refused: the link or the model's server is down. An empty reply: the link is up and the model's server is down.
Skupper asks nobody who they are: every pod that reaches the Service `{facts.host}` reaches the model.
Keep the API key of the model's server on, and don't make a Route to this Service.

## 4. Renew

`hyb link … --renew` writes both folders anew with new certificates of the same CA: apply 1, then copy and reload as
in 2. Only when it says that the CA is new, the link is down between the two.
"""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
