"""Bad facts of a deployment: each is told, and all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hyb.render.deploy.check import mistakes
from tests.deployments import ALL, DIGEST, FACTS, OIDC, OPENSHIFT, PLAIN


@pytest.mark.parametrize("name", FACTS)
def test_good_facts_have_no_mistake(name: str) -> None:
    assert mistakes(FACTS[name]) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"host": "*.example.com"}, "is a wildcard"),
        ({"host": "192.0.2.7"}, "is an address"),
        ({"host": "[2001:db8::1]"}, "is an address"),
        ({"host": "https://chat.example.com/"}, "a name alone"),
        ({"host": "chat.example.com:8443"}, "is no DNS name"),
        ({"host": "Chat.example.com"}, "is no DNS name"),
        ({"host": "chat"}, "has no dot"),
        ({"host": ""}, "is empty"),
        ({"host": f"{'c' * 64}.example.com"}, "has 64 characters, 63 are the most"),
        ({"host": "chat.example.com\n  evil: true"}, "is no DNS name"),
        ({"name": "c" * 64}, "has 64 characters, 63 are the most"),
        ({"name": "c" * 60}, "has 60 characters, 44 are the most"),
        ({"name": "1chat"}, "must start with a letter"),
        ({"name": "llm"}, "a Service which the link makes"),
        ({"name": "hyb"}, "a Service which the link makes"),
        ({"name": "skupper-router"}, "a Service which the link makes"),
        ({"namespace": "team_chat"}, "is no RFC 1123 label"),
        ({"namespace": ""}, "namespace is empty"),
        ({"image": "registry.example.com/hyb-chat:latest"}, "has no digest"),
        ({"image": "registry.example.com/hyb-chat"}, "has no digest"),
        ({"image": "hyb-chat"}, "no whole image reference"),
        ({"image": ""}, "no whole image reference"),
        ({"image": f"registry.example.com/hyb-chat@sha256:{'a' * 63}"}, "no whole image reference"),
        ({"model_port": "8000"}, "is not a whole number"),
        ({"model_port": 70000}, "out of range"),
        ({"model_host": "Llm"}, "the model's Service"),
        ({"overlays": ("openshift", "istio")}, "`istio` is none of"),
        ({"overlays": ()}, "no way in"),
        ({"tls": "passthrough"}, "`passthrough` is none of"),
        ({"tls": "reencrypt"}, "an image of NGINX"),
        ({"tls_secret": "Page"}, "TLS secret"),
        ({"overlays": ("nginx",), "pod_network": ("10.0.0.0/8",)}, "needs the class of its controller"),
        ({"overlays": ("nginx",), "ingress_class": "nginx"}, "needs the network of the pods"),
        ({"overlays": ("gateway",), "pod_network": ("10.0.0.0/8",)}, "needs a Gateway"),
        ({"overlays": ("loadbalancer",)}, "an image of NGINX"),
        ({"legacy_ingress_nginx": True}, "for the overlay `nginx` alone"),
        ({"sign_in": "ldap"}, "`ldap` is none of"),
        ({"sign_in": "openshift"}, "needs the image of oauth-proxy"),
        ({"sign_in": "oidc"}, "needs the image of oauth2-proxy"),
        ({"pod_network": ("10.128.0.0",), "overlays": ("openshift",)}, ""),
        ({"pod_network": ("10.128.0.1/14",)}, "is no network"),
        ({"pod_network": ("0.0.0.0/0",)}, "half the world"),
        ({"replicas": 0}, "must be 1 to 1000"),
        ({"replicas": 5, "max_replicas": 4}, "must not be fewer"),
        ({"title": "a\nHYB_CHAT_LOG=content"}, "one line"),
        ({"title": " "}, "title is empty"),
        ({"note": "n" * 301}, "300 are the most"),
        ({"access": "tunnel"}, "`tunnel` is none of"),
    ],
)
def test_a_mistake_is_told(change: dict[str, Any], said: str) -> None:
    found = mistakes(replace(PLAIN, **change), ("hyb",))
    assert (any(said in line for line in found)) if said else not found, found


def test_sign_in_by_openshift_goes_with_a_route_alone() -> None:
    (found,) = mistakes(replace(ALL, sign_in="openshift", sign_in_image=OPENSHIFT.sign_in_image, openai=False))
    assert found == "sign-in `openshift` needs a Route: it can't be had with `nginx`, `gateway`, `loadbalancer`"


@pytest.mark.parametrize(
    "change",
    [
        {"oidc_issuer": "http://login.example.com"}, {"oidc_issuer": "https://me:secret@login.example.com"},
        {"oidc_issuer": ""}, {"oidc_client": ""}, {"oidc_client": "a b"}, {"openai": True},
        {"sign_in_image": "quay.io/oauth2-proxy/oauth2-proxy:v7"},
    ],
)  # fmt: skip
def test_sign_in_by_oidc_needs_an_https_issuer_a_client_and_an_image_by_digest(change: dict[str, Any]) -> None:
    assert len(mistakes(replace(OIDC, **change))) == 1


def test_all_mistakes_are_told_together() -> None:
    facts = replace(PLAIN, host="*.x.y", image="x", name="Chat", namespace="", replicas=0, title="", overlays=("x",))
    assert len(mistakes(facts)) == 7


def test_an_image_may_have_a_tag_beside_its_digest() -> None:
    assert mistakes(replace(PLAIN, image=f"registry.example.com:5000/lab/hyb-chat:1.0{DIGEST}")) == []
