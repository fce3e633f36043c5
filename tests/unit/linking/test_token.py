"""A token that somebody brings: judged before it is used, and never shown."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from hyb import certificates
from hyb.errors import Exit, HybError
from hyb.linking import token as tk
from hyb.render.skupper import documents as sk
from hyb.render.skupper.facts import ROLES

NOW = datetime.now(UTC)
CA = certificates.make_ca("grant server CA", 30, NOW)
CODE = "s3cretCode"
SPEC = {"url": "https://grants.example.com:9090/8742-uid", "code": CODE, "ca": CA.certificate.decode()}


def token(**changed: Any) -> dict[str, Any]:
    return sk.token("link-public", "chat", {k: v for k, v in {**SPEC, **changed}.items() if v is not None})


V1 = {"apiVersion": "v1", "kind": "Secret", "metadata": {"labels": {"skupper.io/type": "token-claim"}}}


def given_link(**changed: Any) -> list[dict[str, Any]]:
    """What a grant server answers: a Secret and a Link, as Go writes them."""
    leaf = certificates.make_leaf(CA, "private", 30, NOW)
    data = {"ca.crt": CA.certificate, "tls.crt": leaf.certificate, "tls.key": leaf.key}
    ends = [
        {"name": r, "host": f"hyb-{r}-chat.apps.example.com", "port": "443", "group": "skupper-router"} for r in ROLES
    ]
    link = sk.link("link-public", "", "link-public", 0, ends)
    link["metadata"] = {"name": "link-public", "creationTimestamp": None}
    link["status"] = {}
    secret = sk.secret("link-public", "", data)
    secret["metadata"] = {"name": "link-public", "creationTimestamp": None}
    return [secret, {**link, **changed}]


def read(*documents: Any) -> tk.Token | tk.LinkGiven:
    return tk.read(yaml.safe_dump_all(documents).encode(), "token.yaml")


def test_a_good_token_is_read_and_its_code_is_in_no_text() -> None:
    found = read(token(linkCost=3))
    assert isinstance(found, tk.Token)
    assert (found.name, found.url, found.code, found.cost) == ("link-public", SPEC["url"], CODE, 3)
    assert CODE not in repr(found)


def test_what_the_program_prints_is_taken_as_the_link_that_it_is() -> None:
    found = read(*given_link())
    assert isinstance(found, tk.LinkGiven) and "PRIVATE" not in repr(found)
    link, secret = found.documents("default", 5)
    assert link["spec"]["cost"] == 5 and link["metadata"] == {"name": "link-public", "namespace": "default"}
    assert link["spec"]["endpoints"][0]["group"] == "skupper-router" and "status" not in link
    assert secret["type"] == "kubernetes.io/tls" and set(secret["data"]) == {"ca.crt", "tls.crt", "tls.key"}


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([token(url="http://grants.example.com/uid")], "is not https"),
        ([token(url="https://10.0.0.1:9090/")], "has no path"),
        ([token(code=None)], "spec.code is missing"),
        ([token(ca="-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")], "spec.ca is no certificate"),
        ([token(ca="x")], "spec.ca is no certificate"),
        ([token(colour="red")], "unknown field spec.colour"),
        ([{**token(), "apiVersion": "skupper.io/v2beta1"}], "from a newer Skupper?"),
        ([{**token(), "metadata": {"name": "A_b"}}], "is no RFC 1123 label"),
        ([{**token(), "status": {"redeemed": True}}], "it has been redeemed, and is good once"),
        ([{**token(), "spec": []}], "spec.url is missing"),
        ([token(), token()], "holds no token but `AccessToken`, `AccessToken`"),
        ([sk.grant("hyb", "chat", 1, "15m")], "an AccessGrant, which stays in the cluster"),
        ([V1], "Skupper 1"),
        ([{"a": 1}], "`nothing with a kind`"),
        (["text"], "no document"),
        ([{**given_link()[0], "data": {}}, given_link()[1]], "data[ca.crt] is missing"),
        ([{**given_link()[0], "data": given_link()[0]["data"] | {"tls.key": given_link()[0]["data"]["tls.key"]}},
          given_link()[1]], "tls.key is not the key of tls.crt"),
        (given_link(spec={"endpoints": [], "tlsCredentials": "link-public"}), "endpoints is missing"),
        (given_link(spec={"endpoints": [{"name": "edge"}], "tlsCredentials": "x"}), "`x`, which is not there"),
        (given_link(apiVersion="skupper.io/v3"), "from a newer Skupper?"),
    ],
)  # fmt: skip
def test_what_would_not_work_is_refused_with_its_reason(documents: list[Any], expected: str) -> None:
    with pytest.raises(HybError) as caught:
        read(*documents)
    said = " ".join((caught.value.message, *caught.value.details, caught.value.hint))
    assert expected in said and caught.value.code == Exit.CHECK
    assert CODE not in said and "PRIVATE KEY" not in said and base64.b64encode(b"-----BEGIN")[:12].decode() not in said


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty"),
        (b"a: [", "is no YAML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"\x00", "is no YAML"),
        (b"[" * 100_000, "is no YAML"),
        (b"x" * (tk.SIZE_MAX + 1), "that is no token"),
        (b"&a [*a, *a]", "holds no document"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_token_at_all_is_refused(data: bytes, expected: str) -> None:
    with pytest.raises(HybError, match=expected):
        tk.read(data, "token.yaml")
