"""DSSE in a sigstore bundle: what is signed, and every way of being no signature of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import Exit, HybError
from hyb.signing import dsse, keys

TYPE = dsse.IN_TOTO
PAYLOAD = b'{"a": 1}'


@pytest.fixture
def key(tmp_path: Path) -> keys.PrivateKey:
    return keys.load_private(keys.generate(tmp_path, "a").private)


@pytest.fixture
def other(tmp_path: Path) -> keys.PrivateKey:
    return keys.load_private(keys.generate(tmp_path, "b", kind="ed25519").private)


def changed(bundle: bytes, change: Callable[[Any], object]) -> bytes:
    value = json.loads(bundle)
    change(value)
    return json.dumps(value).encode()


def refused(bundle: bytes, *trusted: keys.PublicKey, kind: str = TYPE) -> str:
    with pytest.raises(HybError) as caught:
        dsse.verify(bundle, kind, trusted)
    assert caught.value.code is Exit.CHECK
    return caught.value.message


def test_the_encoding_is_the_one_of_the_specification() -> None:
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize("kind", keys.KINDS)
def test_what_a_key_signed_its_public_half_gives_back(tmp_path: Path, kind: str) -> None:
    key = keys.load_private(keys.generate(tmp_path, kind=kind).private)
    assert dsse.verify(dsse.sign(PAYLOAD, TYPE, key), TYPE, [key.public]) == dsse.Verified(PAYLOAD, key.public.key_id)


def test_of_several_trusted_keys_the_one_that_signed_is_named(key: keys.PrivateKey, other: keys.PrivateKey) -> None:
    both = [other.public, key.public]
    assert dsse.verify(dsse.sign(PAYLOAD, TYPE, key), TYPE, both).key_id == key.public.key_id
    assert dsse.verify(dsse.sign(PAYLOAD, TYPE, other), TYPE, both).key_id == other.public.key_id


def test_a_key_of_another_kind_or_none_at_all_is_no_reason_to_believe(
    key: keys.PrivateKey, other: keys.PrivateKey
) -> None:
    bundle = dsse.sign(PAYLOAD, TYPE, key)
    assert "signed by none" in refused(bundle, other.public)
    assert key.public.hint[:16] in refused(bundle, other.public)
    assert "none" in refused(bundle)


def test_payload_type_and_payload_are_both_covered(key: keys.PrivateKey) -> None:
    bundle = dsse.sign(PAYLOAD, TYPE, key)
    assert "wanted `text/plain`" in refused(bundle, key.public, kind="text/plain")
    swapped = changed(bundle, lambda b: b["dsseEnvelope"].update(payloadType="text/plain"))
    assert "is not good" in refused(swapped, key.public, kind="text/plain")
    other = base64.b64encode(b'{"a": 2}').decode()
    assert "is not good" in refused(changed(bundle, lambda b: b["dsseEnvelope"].update(payload=other)), key.public)


def test_a_hint_of_another_key_changes_nothing(key: keys.PrivateKey, other: keys.PrivateKey) -> None:
    bundle = dsse.sign(PAYLOAD, TYPE, other)
    lying = changed(bundle, lambda b: b["verificationMaterial"]["publicKey"].update(hint=key.public.hint))
    assert "is not good" in refused(lying, key.public)
    assert dsse.verify(lying, TYPE, [other.public]).key_id == other.public.key_id


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b["dsseEnvelope"].update(signatures=[]),
        lambda b: b["dsseEnvelope"].update(signatures=b["dsseEnvelope"]["signatures"] * 2),
        lambda b: b["dsseEnvelope"].update(signatures=[{"sig": "AAAA"}, *b["dsseEnvelope"]["signatures"]]),
        lambda b: b["dsseEnvelope"].update(signatures=None),
        lambda b: b["dsseEnvelope"].update(signatures=[7]),
        lambda b: b["dsseEnvelope"].update(payload=7),
        lambda b: b["dsseEnvelope"].update(payload="not base64!"),
        lambda b: b["dsseEnvelope"].update(payloadType=None),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=""),
        lambda b: b["dsseEnvelope"]["signatures"][0].pop("sig"),
        lambda b: b.pop("dsseEnvelope"),
        lambda b: b.update(verificationMaterial=[]),
        lambda b: b.update(mediaType="application/json"),
        lambda b: b.clear(),
    ],
)
def test_a_bundle_that_is_not_whole_is_none(key: keys.PrivateKey, change: Callable[[Any], object]) -> None:
    refused(changed(dsse.sign(PAYLOAD, TYPE, key), change), key.public)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xfe", b"[]", b"7", b"{", b'{"mediaType": NaN}', b"[" * 100_000, b'{"a":' * 90 + b"1" + b"}" * 90,
        b" " * (dsse.MOST + 1), b'{"mediaType": 1, "mediaType": 2}', b"1" * 10_000,
    ],
)  # fmt: skip
def test_garbage_is_no_signature_and_no_traceback(key: keys.PrivateKey, data: bytes) -> None:
    assert "no signature" in refused(data, key.public)


def test_a_key_that_stands_twice_is_refused_whatever_the_second_says(key: keys.PrivateKey) -> None:
    text = dsse.sign(PAYLOAD, TYPE, key).decode().replace('{"payload":', '{"payload":"e30=","payload":')
    assert "stands twice" in refused(text.encode(), key.public)
