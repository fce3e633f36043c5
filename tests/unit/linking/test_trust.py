"""The certificates in a link's folders carry a mutual TLS session under the router's name rule, whatever the access."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb import certificates
from hyb.render.skupper.across import endpoint_hosts
from tests.unit.certificates.test_mistakes import handshake, router_accepts
from tests.unit.linking.test_folder import KINDS, NOW, Place

GIVEN = {name: given for name, given in KINDS.items() if given.get("way", "given") == "given"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def documents(place: Place, prefix: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(t) for p, t in sorted(place.there().items()) if p.startswith(prefix) and p.endswith(".yaml")]


def secret(place: Place, folder: str) -> dict[str, bytes]:
    (found,) = [d for d in documents(place, f"{folder}/") if d["kind"] == "Secret"]
    return {key: base64.b64decode(value) for key, value in found["data"].items()}


@pytest.mark.parametrize("kind", GIVEN)
def test_every_host_dials_every_namespace_by_a_name_that_the_router_accepts(place: Place, kind: str) -> None:
    artifact = place.link(**GIVEN[kind])
    place.write(artifact)
    for site in artifact.meta["sites"]:
        for public in artifact.meta["publics"]:
            client, server = handshake(place.root, secret(place, site["folder"]), secret(place, public["folder"]))
            links = [d for d in documents(place, site["folder"] + "/") if d["kind"] == "Link"]
            (link,) = [d for d in links if d["metadata"]["name"] == public["link"]]
            assert all(router_accepts(client, host) for host in endpoint_hosts([link])), kind
            subject = dict(part[0] for part in server.getpeercert()["subject"])  # type: ignore[index]
            assert subject == {"commonName": f"link-{site['name']}"}


def test_a_namespace_does_not_answer_to_the_name_of_another(place: Place) -> None:
    place.write(place.link(namespace=["chat", "shop"]))
    client, _ = handshake(place.root, secret(place, "private"), secret(place, "openshift-shop"))
    assert router_accepts(client, "hyb-edge-shop.apps.example.com")
    assert not router_accepts(client, "hyb-edge-chat.apps.example.com")


def test_what_a_controller_signs_with_the_issuer_is_trusted_by_the_private_side(place: Place) -> None:
    """The controller's part is played by the same library: a server certificate signed by the Secret's CA and key."""
    place.write(place.link(way="issuer"))
    issuer = secret(place, "openshift")
    ca = certificates.Pair(issuer["tls.crt"], issuer["tls.key"])
    host = "hyb-inter-router-chat.apps.example.com"
    leaf = certificates.make_leaf(ca, "hyb", 365, NOW, hosts=(host,))
    made = {"ca.crt": issuer["tls.crt"], "tls.crt": leaf.certificate, "tls.key": leaf.key}
    client, _ = handshake(place.root, secret(place, "private"), made)
    assert router_accepts(client, host)
