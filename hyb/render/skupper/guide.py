"""APPLY.md: which command to run where. Pure text from the facts of a link; no path of this machine, no time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hyb.render.skupper.facts import Endpoint, LinkFacts, PrivateSite, PublicSite, endpoints
from hyb.render.skupper.guide_access import access_text
from hyb.render.skupper.guide_private import private_text

_OWN_KEYS = """\
Both folders hold a private key (files `Secret-*.yaml`, mode 0600): copy them over an encrypted channel, keep them out
of git. Needed: Skupper **2.1.0 or newer** on both sides (older controllers ignore `generateTlsCredentials`); sites of
Skupper 1 can't join.
"""
_ISSUER = """\
Both folders hold private keys (files `Secret-*.yaml`, mode 0600): copy them over an encrypted channel, keep them out
of git. The public one holds the key of the link's CA: whoever can read Secrets of that namespace can let others join.
Needed: Skupper **2.1.0 or newer** on both sides; sites of Skupper 1 can't join.
"""
_TOKEN = """\
There is no key in these folders. A token lets in whoever has it first, once: hand it over like a password. Needed:
Skupper **2.0.0 or newer** on both sides, with grants enabled on the controller (SKUPPER_ENABLE_GRANTS).
"""
_RENEW = """\
`hyb link list` says until when the certificates are good. `hyb link renew` makes new ones, and says what to apply where
and when; the link stays up meanwhile.
"""
_RENEW_TOKEN = """\
The cluster made the certificates. For a new one: a new grant (`hyb link grant`), its token, and 2 again.
"""


def guide(facts: LinkFacts) -> str:
    """The whole APPLY.md of a link whose way is not `cli` (that one's: `hyb.render.skupper.scripts`)."""
    several = len(facts.public) > 1, len(facts.private) > 1
    parts = [_top(facts), *(_public(facts, site, several[0]) for site in facts.public)]
    if facts.pending:
        return "\n".join([*parts, _second_run(facts)])
    parts += [private_text(facts, site, several[1]) for site in facts.private]
    return "\n".join([*parts, check_text(facts), _renew(facts)])


def _top(facts: LinkFacts) -> str:
    keys = {"given": _OWN_KEYS, "issuer": _ISSUER, "token": _TOKEN}[facts.way]
    if len(facts.public) + len(facts.private) > 2:
        keys = keys.replace("Both folders hold a private key", "Each folder holds a private key")
        keys = keys.replace("Both folders hold private keys", "Each folder holds a private key")
        keys = keys.replace("The public one holds", "Those of namespaces hold").replace(
            "Secrets of that namespace", "Secrets there"
        )
    if any(service.strategy or service.observer for service in facts.services):  # older ones drop it without a word
        keys = re.sub(r"\*\*2\.[01]\.0 or newer\*\*", "**2.2.0 or newer**", keys)
    return f"{head(facts)}\n{keys}"


def head(facts: LinkFacts) -> str:
    """Title, and what this link does."""
    s = "s" if len(facts.public) > 1 else ""
    names = "`, `".join(p.namespace for p in facts.public)
    word = "cluster" if all(p.platform == "kubernetes" for p in facts.private) else "host"
    sites = "`, `".join(p.name for p in facts.private)
    host = f"{word} dials" if len(facts.private) == 1 else f"{word}s `{sites}` dial"
    calls = "`, `".join(f"http://{service.host}:{service.port}" for service in facts.services)
    where = "on it" if len(facts.private) == 1 else "on them"
    return f"""\
# Apply the link `{facts.name}`

The private {host} out to the namespace{s} `{names}`; nothing listens {where} for this.
Pods in the namespace{s} then call `{calls}`.
{_answers(facts)}
"""


def _answers(facts: LinkFacts) -> str:
    if len(facts.private) == 1:
        answers = "`, `".join(shown(site) for site in facts.private)
        what = "private host" if facts.private[0].platform != "kubernetes" else "private cluster"
        return f"What answers is `{answers}` on the {what}."
    lines = ["What answers, and what its links cost (least first; the next one when that is down):", ""]
    return "\n".join([*lines, *(f"- `{site.name}`: `{shown(site)}`, cost {site.cost}" for site in facts.private)])


def shown(site: PrivateSite) -> str:
    """What a private site dials, for people."""
    return "`, `".join(dict.fromkeys(f"{t.selector or t.host}:{t.port}" for t in site.targets))


# -- the public side -------------------------------------------------------------------------------------------------


def _public(facts: LinkFacts, site: PublicSite, several: bool) -> str:
    where = f", namespace `{site.namespace}`" if several else ""
    word = "OpenShift" if facts.access.kind == "route" else "The cluster"
    oc = client(facts)
    listeners = "listener" if not any(s.strategy for s in facts.services) else "listener,multikeylistener"
    shows = [
        f"{oc} apply -f {site.folder}/ -n {site.namespace}",
        f"{oc} get site,routeraccess,{listeners} -n {site.namespace}",
        *access_commands(facts, site),
        f"{oc} get site {site.name} -n {site.namespace} -o jsonpath='{{.status.controller.version}}'",
    ]
    text = f"""\
## 1. {word}{where}

The Skupper controller must run in the cluster, and the namespace must have no other Skupper Site.

{indented(shows)}

Site and RouterAccess become `Ready`; the Listener waits for the private side. {access_text(facts, site)}
"""
    return text + (_tokens(facts, site) if facts.way == "token" else "")


def client(facts: LinkFacts) -> str:
    """The program that applies documents: Routes are OpenShift's."""
    return "oc" if facts.access.kind == "route" else "kubectl"


def access_commands(facts: LinkFacts, site: PublicSite) -> list[str]:
    """How to see under which addresses the router is reached."""
    if facts.access.kind == "route":
        return [f"oc get route -n {site.namespace} -o custom-columns=HOST:.spec.host"]
    each = '{range .status.endpoints[*]}{.name} {.host}:{.port}{"\\n"}{end}'
    return [f"{client(facts)} get routeraccess {facts.access.name} -n {site.namespace} -o jsonpath='{each}'"]


def token_commands(oc: str, grant: str, namespace: str, link: str, out: str) -> list[str]:
    """How to get the token of an AccessGrant out of the cluster: an AccessToken called `link`, in the file `out`."""
    fields = ",".join(f'"{f}":{{{{printf "%q" .status.{f}}}}}' for f in ("url", "code", "ca"))
    head = f'{{"apiVersion":"skupper.io/v2alpha1","kind":"AccessToken","metadata":{{"name":"{link}"}},"spec":{{'
    return [
        f"{oc} wait --for=condition=Ready accessgrant/{grant} -n {namespace} --timeout=2m",
        f"(umask 077; {oc} get accessgrant {grant} -n {namespace} -o go-template='{head}{fields}}}}}' > {out})",
    ]


def _tokens(facts: LinkFacts, site: PublicSite) -> str:
    lines = []
    for private in facts.private:
        out = token_file(facts, site, private)
        lines += token_commands(client(facts), facts.grant_name(private), site.namespace, site.link, out)
    each = "a token for each private host" if len(facts.private) > 1 else "a token"
    return f"""
Then take out {each}, good once and for {facts.grant_window}:

{indented(lines)}
"""


def token_file(facts: LinkFacts, public: PublicSite, private: PrivateSite) -> str:
    """`token.yaml`, with the names of the sites where there are several."""
    words = [public.namespace] if len(facts.public) > 1 else []
    words += [private.name] if len(facts.private) > 1 else []
    return "-".join(["token", *words]) + ".yaml"


def _second_run(facts: LinkFacts) -> str:
    access = facts.access.kind
    options = "--link-host HOST" if access != "nodeport" else "--link-host HOST --link-port inter-router=N,edge=N"
    return f"""\
## 2. The private side

It is not written yet: the cluster alone knows under which address its router is reached. The last command but one
of 1 prints both endpoints when they are there. Then write this folder again with them, `hyb link … {options}` (in a
recipe `link_host`{" and `link_ports`" if access == "nodeport" else ""}); what is applied stays as it is.
"""


# -- afterwards ------------------------------------------------------------------------------------------------------


def check_text(facts: LinkFacts) -> str:
    """How to see that it works."""
    oc, lines = client(facts), []
    for site in facts.private:
        flag = "" if site.namespace == "default" else f" -n {site.namespace}"
        if site.platform == "kubernetes":
            lines.append((f"kubectl get link -n {site.namespace}", "in the private cluster"))
        else:
            name = f" `{site.name}`" if len(facts.private) > 1 else ""
            lines.append((f"SKUPPER_PLATFORM={site.platform} skupper link status{flag}", f"on the private host{name}"))
    word = "OpenShift" if oc == "oc" else "the cluster"
    for public in facts.public:
        for service in facts.services:
            kind, has = (
                ("multikeylistener", "a destination") if service.strategy else ("listener", "a matching connector")
            )
            name = service.name or service.host
            lines.append((f"{oc} get {kind} {name} -n {public.namespace}", f"on {word}: has {has}"))
    for service in facts.services:
        lines.append(
            (f"curl http://{service.host}:{service.port}/v1/models", "from a pod of the namespace, with the API key")
        )
    hosts = "`, `".join(dict.fromkeys(service.host for service in facts.services))
    one = len({service.host for service in facts.services}) == 1
    return f"""\
## 3. Check

{indented([f"{command:<64} # {what}" for command, what in lines])}

Refused: the link or the model's server is down. An empty reply: the link is up and the model's server is down.
Skupper asks nobody who they are: every pod that reaches the Service{"" if one else "s"} `{hosts}` reaches the model.
Keep the API key of the model's server on, and don't make a Route to {"this Service" if one else "these Services"}.
"""


def _renew(facts: LinkFacts) -> str:
    return f"## 4. Renew\n\n{_RENEW_TOKEN if facts.way == 'token' else _RENEW}"


def indented(lines: Sequence[str]) -> str:
    """Lines as a block of code."""
    return "\n".join(f"    {line}" for line in lines)


def all_endpoints(facts: LinkFacts) -> list[Endpoint]:
    """Where a private host dials, over all public sites."""
    return [e for site in facts.public for e in endpoints(facts.access, site.namespace)]
