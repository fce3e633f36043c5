"""What is wrong with one document of Skupper's, kind by kind. Pure; see `hyb.render.skupper.check`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from hyb.render import names
from hyb.render.skupper.facts import ACCESS, ROLES
from hyb.render.skupper.fields import as_map, typed

OBSERVERS = ("auto", "none", "http1", "http2")
OTHER_ACCESS = ("ingress", "gateway", "contour-http-proxy")
"""Access types of Skupper's that hyb writes nothing for."""
KEYS_MAX = 256

_ENDPOINT = {"name": str, "host": str, "port": str, "group": str}
_ROLE = {"name": str, "port": int}
_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(h|m|s|ms))+")
_HOST = re.compile(r"[a-z0-9]+([-.][a-z0-9]+)*")
_SELECTOR = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
    r"=([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
)


def kind_mistakes(kind: str, spec: Mapping[str, Any], *, public: bool, kubernetes: bool) -> Iterator[str]:
    """Beyond its CRD: what Skupper takes and does not work. `public`: the side that accepts links; `kubernetes`: a
    controller reads it, not a site on a host."""
    if rule := _RULES.get(kind):
        yield from rule(spec, public, kubernetes)


def selector_problem(text: str) -> str:
    """Why `text` is no selector of pods; empty when it is one."""
    if all(_SELECTOR.fullmatch(part) for part in text.split(",")):
        return ""
    return f"`{text}` selects no pods: write `label=value`, several with commas"


def duration_problem(text: str) -> str:
    """Why Go's reader refuses a duration, or it is none at all; empty when it is good."""
    if not _DURATION.fullmatch(text):
        return f"`{text}` is no duration: h, m and s, such as `15m` or `1h30m`; there are no days"
    return "" if re.search(r"[1-9]", text) else f"`{text}` is over before it begins"


def _site(spec: Mapping[str, Any], public: bool, _kubernetes: bool) -> Iterator[str]:
    if public and spec.get("edge"):
        yield "spec.edge is true: an edge site accepts no link"
    if spec.get("edge") and spec.get("ha"):
        yield "spec.edge and spec.ha are both true: an edge site can't have two routers"
    if spec.get("defaultIssuer"):
        yield "spec.defaultIssuer signs clients only; the server keeps Skupper's own CA, so they don't trust each other"


def _link(spec: Mapping[str, Any], _public: bool, _kubernetes: bool) -> Iterator[str]:
    endpoints = spec.get("endpoints")
    found = []
    for index, endpoint in enumerate(endpoints if isinstance(endpoints, list) else []):
        where = f"spec.endpoints[{index}]"
        if not isinstance(endpoint, Mapping):
            yield f"{where} is no map"
            continue
        found.append(endpoint.get("name"))
        yield from typed(_ENDPOINT, endpoint, f"{where}.")
        yield from (f"{where}.{text}" for text in _endpoint(endpoint))
    if found and "inter-router" not in found:
        yield "no endpoint is named `inter-router`: an interior site would not connect at all"
    yield from _cost("cost", spec)


def _cost(name: str, spec: Mapping[str, Any]) -> Iterator[str]:
    cost = spec.get(name, 1)
    if isinstance(cost, int) and cost < 1:
        yield f"spec.{name} is {cost}, it must be 1 or more"


def _endpoint(endpoint: Mapping[str, Any]) -> Iterator[str]:
    if endpoint.get("name") not in tuple(ROLES):
        yield f"name is `{endpoint.get('name') or ''}`, it must be `inter-router` or `edge`: else no connector is made"
    if problem := names.host_problem(endpoint.get("host")):
        yield f"host {problem}"
    port = endpoint.get("port")
    if isinstance(port, str) and (not port.isascii() or not port.isdigit() or names.port_problem(int(port))):
        yield f"port `{port}` is no port: 1 to 65535"
    if port is None:
        yield "port is missing"


def _router_access(spec: Mapping[str, Any], public: bool, _kubernetes: bool) -> Iterator[str]:
    roles = spec.get("roles")
    roles = [r for r in roles if isinstance(r, Mapping)] if isinstance(roles, list) else []
    for role in roles:
        yield from typed(_ROLE, role, "spec.roles[].")
        if role.get("name") not in tuple(ROLES):
            yield f"role `{role.get('name') or ''}` must be `inter-router` or `edge`"
        if "port" in role and (problem := names.port_problem(role["port"])):
            yield f"role `{role.get('name')}`: port {problem}"
    ports = [r.get("port", ROLES.get(str(r.get("name")))) for r in roles]
    if len(set(map(str, ports))) < len(ports):
        yield "two roles have the same port"
    if not public:
        return
    if missing := [name for name in ROLES if name not in [r.get("name") for r in roles]]:
        yield f"no role `{'`, `'.join(missing)}`"
    if spec.get("generateTlsCredentials") is not True and spec.get("issuer"):
        yield "spec.issuer has no effect with given credentials; take it away"
    for name in ("bindHost", "subjectAlternativeNames"):
        if name in spec:
            yield f"spec.{name} has no effect in a cluster; take it away"
    yield from _access_type(spec)


def _access_type(spec: Mapping[str, Any]) -> Iterator[str]:
    kind = spec.get("accessType")
    if kind not in (*ACCESS, *OTHER_ACCESS):
        yield f"spec.accessType is `{kind}`, it must be one of {', '.join(f'`{a}`' for a in ACCESS)}"
    settings = as_map(spec.get("settings"))
    if "domain" in settings:
        if kind != "route":
            yield f"spec.settings.domain has no effect with accessType `{kind}`"
        elif problem := names.domain_problem(settings["domain"]):
            yield f"spec.settings.domain {problem}"
    if "ingressClassName" in settings and kind not in ("ingress", "ingress-nginx"):
        yield f"spec.settings.ingressClassName has no effect with accessType `{kind}`"


def _listener(spec: Mapping[str, Any], _public: bool, kubernetes: bool) -> Iterator[str]:
    if "host" in spec:
        host = spec["host"]
        if problem := names.service_problem(host) if kubernetes else _host_outside(host):
            yield f"spec.host {problem}"
    if "port" in spec and (problem := names.port_problem(spec["port"])):
        yield f"spec.port {problem}"
    if spec.get("observer", "auto") not in OBSERVERS:
        yield f"spec.observer is `{spec['observer']}`, it must be one of {', '.join(OBSERVERS)}"


def _host_outside(host: Any) -> str:
    """As `names.host_problem`, and by the narrower rule of a site outside Kubernetes: no `--` in a name."""
    if problem := names.host_problem(host):
        return problem
    try:
        ipaddress.ip_address(str(host))
    except ValueError:
        return "" if _HOST.fullmatch(str(host)) else f"`{host}` has two `-` in a row, which Skupper refuses on a host"
    return ""


def _multi_key_listener(spec: Mapping[str, Any], public: bool, kubernetes: bool) -> Iterator[str]:
    yield from _listener(spec, public, kubernetes)
    strategy = as_map(spec.get("strategy"))
    if not strategy:
        return
    yield from typed({"priority": dict, "weighted": dict}, strategy, "spec.strategy.")
    if len(strategy) != 1:
        yield "spec.strategy must have exactly one of `priority` and `weighted`"
    for name, wanted in (("priority", list), ("weighted", Mapping)):
        if name not in strategy or not isinstance(strategy[name], Mapping):
            continue
        yield from typed({"routingKeys": object}, strategy[name], f"spec.strategy.{name}.")
        keys = strategy[name].get("routingKeys")
        where = f"spec.strategy.{name}.routingKeys"
        if not isinstance(keys, wanted):
            yield f"{where} must be {'a list' if name == 'priority' else 'a map of routing keys to whole numbers'}"
        elif not keys or len(keys) > KEYS_MAX:
            yield f"{where} has {len(keys)} keys: 1 to {KEYS_MAX}"
        else:
            yield from (f"{where}: {text}" for text in _keys(keys))


def _keys(keys: list[Any] | Mapping[str, Any]) -> Iterator[str]:
    if not all(isinstance(key, str) and key for key in keys):
        yield "every routing key must be a text (quote it)"
    if not isinstance(keys, Mapping):
        if len({str(key) for key in keys}) < len(keys):
            yield "a routing key is there twice"
        return
    weights = list(keys.values())
    if not all(isinstance(w, int) and not isinstance(w, bool) and w >= 0 for w in weights):
        yield "every weight must be a whole number, 0 or more"
    elif not any(weights):
        yield "every weight is 0: nothing would be chosen"


def _connector(spec: Mapping[str, Any], public: bool, kubernetes: bool) -> Iterator[str]:
    host, selector = spec.get("host"), spec.get("selector")
    if bool(selector) == bool(host):
        yield "spec must have exactly one of `host` and `selector`"
    if selector and not kubernetes:
        yield "spec.selector means pods, there are none on the private host: use `host`"
    elif isinstance(selector, str) and selector and (problem := selector_problem(selector)):
        yield f"spec.selector {problem}"
    if host and (problem := names.host_problem(host) if kubernetes else _host_outside(host)):
        yield f"spec.host {problem}"
    elif host and kubernetes and not public and names.is_loopback(str(host)):
        yield f"spec.host is `{host}`, which in a cluster is the router's own pod: name a Service, or use `selector`"
    if "port" in spec and (problem := names.port_problem(spec["port"])):
        yield f"spec.port {problem}"


def _access_grant(spec: Mapping[str, Any], _public: bool, kubernetes: bool) -> Iterator[str]:
    if not kubernetes:
        yield "nobody outside a cluster redeems tokens: an AccessGrant has no effect here"
    uses = spec.get("redemptionsAllowed", 1)
    if isinstance(uses, int) and uses < 1:
        yield f"spec.redemptionsAllowed is {uses}, it must be 1 or more"
    window = spec.get("expirationWindow", "15m")
    if isinstance(window, str) and (problem := duration_problem(window)):
        yield f"spec.expirationWindow {problem}"
    if spec.get("code"):
        yield "spec.code is a secret in plain text; leave it out, the controller makes one"


def _access_token(spec: Mapping[str, Any], _public: bool, kubernetes: bool) -> Iterator[str]:
    if not kubernetes:
        yield (
            "a host redeems it anew at every `skupper system reload`, and it is good once: make a Link of it"
            " (`hyb link accept`)"
        )
    yield from token_mistakes(spec)


def token_mistakes(spec: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the `spec` of an AccessToken, wherever it is."""
    if problem := url_problem(spec.get("url")):
        yield f"spec.url {problem}"
    code = spec.get("code")
    if isinstance(code, str) and (code != code.strip() or not code.isprintable()):
        yield "spec.code has blanks or line ends"
    ca = spec.get("ca")
    if isinstance(ca, str) and ca and "-----BEGIN CERTIFICATE-----" not in ca:
        yield "spec.ca is no certificate in PEM"
    yield from _cost("linkCost", spec)


def url_problem(url: Any) -> str:
    """Why `url` can't be where a token is redeemed; empty when it can, or is not text (said elsewhere)."""
    if not isinstance(url, str) or not url:
        return ""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return f"`{url}` is no URL"
    if parts.scheme != "https":
        return f"`{url}` is not https: the code would travel in plain text"
    if not host or parts.username or parts.query or parts.fragment or not url.isprintable() or " " in url:
        return f"`{url}` is no URL of a cluster: https, host, port, path"
    if not parts.path.strip("/"):
        return f"`{url}` has no path: the grant's id is missing"
    return names.host_problem(host)


_RULES: dict[str, Callable[[Mapping[str, Any], bool, bool], Iterator[str]]] = {
    "Site": _site,
    "Link": _link,
    "RouterAccess": _router_access,
    "Listener": _listener,
    "MultiKeyListener": _multi_key_listener,
    "Connector": _connector,
    "AccessGrant": _access_grant,
    "AccessToken": _access_token,
}
