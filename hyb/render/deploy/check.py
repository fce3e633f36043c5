"""What is wrong with the facts of a deployment, all of it at once. Pure: facts in, mistakes out, a line each.

A cluster takes much of this without a word and then does not work: a host that no certificate can have, a Service that
takes the Listener's name, a tag that is another image tomorrow.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Iterator

from hyb.render import names
from hyb.render.deploy.facts import ACCESS, OVERLAYS, SIGN_IN, TLS, DeployFacts
from hyb.render.skupper.documents import RESERVED_HOSTS
from hyb.render.unit import reference_mistake

LONGEST_NAME = names.LABEL_MAX - len("-router-certificate")
"""The longest name, so that what is called after it has a good one."""
_CLIENT = re.compile(r"[!-~]{1,200}")


def mistakes(facts: DeployFacts, taken: tuple[str, ...] = ()) -> list[str]:
    """Everything that is wrong. `taken`: Services that the link makes in the namespace."""
    return [
        *_names(facts, taken), *_images(facts), *_overlays(facts), *_sign_in(facts), *_numbers(facts), *_texts(facts)
    ]  # fmt: skip


def host_mistake(host: str) -> str:
    """Why nobody can open a page at `host`; empty when they can."""
    if "://" in host or "/" in host:
        return f"host `{host}` must be a name alone, without `https://` and path"
    if host.startswith("*"):
        return f"host `{host}` is a wildcard: a page has one name"
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    else:
        return f"host `{host}` is an address: certificates and Routes want a DNS name"
    if problem := names.domain_problem(host):
        return f"host {problem}"
    return "" if "." in host else f"host `{host}` has no dot: a whole name such as `chat.example.com` is needed"


def image_mistake(what: str, image: str) -> str:
    """Why an image can't be used; empty when it can: a whole reference, by digest."""
    if problem := reference_mistake(image):
        return f"{what}: {problem}"
    if "@sha256:" not in image:
        return f"{what}: `{image}` has no digest: a tag is another image tomorrow; write `…@sha256:…`"
    return ""


def _names(facts: DeployFacts, taken: tuple[str, ...]) -> Iterator[str]:
    for what, text in (("namespace", facts.namespace), ("ingress namespace", facts.ingress_namespace)):
        if problem := names.label_problem(text):
            yield f"{what} {problem}"
    if facts.monitoring and (problem := names.label_problem(facts.monitoring)):
        yield f"namespace of Prometheus {problem}"
    if problem := names.service_problem(facts.name):
        yield f"name {problem}"
    elif len(facts.name) > LONGEST_NAME:
        yield f"name `{facts.name}` has {len(facts.name)} characters, {LONGEST_NAME} are the most"
    elif facts.name in (facts.model_host, *RESERVED_HOSTS, *taken):
        yield f"name `{facts.name}` is that of a Service which the link makes; choose another"
    if problem := names.service_problem(facts.model_host):
        yield f"the model's Service {problem}"
    if problem := names.port_problem(facts.model_port):
        yield f"the model's port {problem}"
    if problem := host_mistake(facts.host):
        yield problem
    for what, text in (("TLS secret", facts.tls_secret), ("pull secret", facts.pull_secret)):
        if text and (problem := names.domain_problem(text)):
            yield f"{what} {problem}"


def _images(facts: DeployFacts) -> Iterator[str]:
    for what, image in (("image", facts.image), ("sign-in image", facts.sign_in_image), ("NGINX", facts.nginx_image)):
        if (image or what == "image") and (problem := image_mistake(what, image)):
            yield problem


def _overlays(facts: DeployFacts) -> Iterator[str]:
    for overlay in facts.overlays:
        if overlay not in OVERLAYS:
            yield f"`{overlay}` is none of {', '.join(OVERLAYS)}"
    if not facts.overlays:
        yield f"no way in: choose of {', '.join(OVERLAYS)}"
    if facts.tls not in TLS:
        yield f"TLS `{facts.tls}` is none of {', '.join(TLS)}"
    if facts.access not in ACCESS:
        yield f"access `{facts.access}` is none of {', '.join(ACCESS)}"
    if "nginx" in facts.overlays:
        if not facts.ingress_class:
            yield "the overlay `nginx` needs the class of its controller: `kubectl get ingressclass` lists them"
        elif problem := names.domain_problem(facts.ingress_class):
            yield f"ingress class {problem}"
    elif facts.legacy_ingress_nginx:
        yield "annotations of ingress-nginx are for the overlay `nginx` alone"
    if "gateway" in facts.overlays:
        yield from _gateway(facts)
    for overlay in (o for o in facts.overlays if o in OVERLAYS):
        if facts.door(overlay) == "nginx" and not facts.nginx_image:
            yield f"TLS ends in the pod with `{overlay}`: an image of NGINX that runs without root is needed, by digest"
        if overlay in ("nginx", "gateway") and not facts.door(overlay) and not facts.pod_network:
            yield (
                f"the overlay `{overlay}` needs the network of the pods, such as 10.244.0.0/16: without it all people"
                " count as one"
            )


def _gateway(facts: DeployFacts) -> Iterator[str]:
    if not facts.gateway:
        yield "the overlay `gateway` needs a Gateway, as NAMESPACE/NAME: `kubectl get gateway -A` lists them"
        return
    for what, text in (("gateway", facts.gateway), ("listener", facts.gateway_listener)):
        if problem := names.domain_problem(text):
            yield f"{what} {problem}"
    if problem := names.label_problem(facts.gateway_namespace):
        yield f"the gateway's namespace {problem}"


def _sign_in(facts: DeployFacts) -> Iterator[str]:
    if facts.sign_in not in SIGN_IN:
        yield f"sign-in `{facts.sign_in}` is none of {', '.join(SIGN_IN)}"
        return
    if facts.sign_in == "openshift" and (others := [o for o in facts.overlays if o != "openshift"]):
        yield f"sign-in `openshift` needs a Route: it can't be had with {', '.join(f'`{o}`' for o in others)}"
    if facts.has_proxy and not facts.sign_in_image:
        proxy = "oauth-proxy" if facts.sign_in == "openshift" else "oauth2-proxy"
        yield f"sign-in `{facts.sign_in}` needs the image of {proxy}, by digest"
    if facts.has_proxy and facts.openai:
        yield f"programs can't sign in by `{facts.sign_in}`: the OpenAI pass-through needs `code` or `none`"
    if facts.sign_in == "oidc":
        url = urllib.parse.urlsplit(facts.oidc_issuer)
        if url.scheme != "https" or not url.hostname or url.query or url.fragment or url.username:
            yield f"the OIDC issuer must be an https address, not `{facts.oidc_issuer}`"
        if not _CLIENT.fullmatch(facts.oidc_client):
            yield "sign-in `oidc` needs the id of the client at the issuer"


def _numbers(facts: DeployFacts) -> Iterator[str]:
    for what, number, most in (
        ("replicas", facts.replicas, 1000),
        ("the most replicas", facts.max_replicas, 1000),
        ("questions at once", facts.parallel, 10_000),
    ):
        if not 1 <= number <= most:
            yield f"{what} must be 1 to {most}, not {number}"
    if facts.max_replicas < facts.replicas:
        yield f"the most replicas ({facts.max_replicas}) must not be fewer than the fewest ({facts.replicas})"
    for text in facts.pod_network:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            yield f"`{text}` is no network such as 10.128.0.0/14"
        else:
            if network.prefixlen < 8:
                yield f"`{text}` is not a network of pods but half the world: what it says of clients would be believed"


def _texts(facts: DeployFacts) -> Iterator[str]:
    for what, text, most in (("title", facts.title, 100), ("note", facts.note, 300), ("model", facts.model, 200)):
        if not text.isprintable():
            yield f"the {what} must be one line without control characters"
        elif len(text) > most:
            yield f"the {what} has {len(text)} characters, {most} are the most"
    if not facts.title.strip():
        yield "the title is empty"
