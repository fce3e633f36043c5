"""What a manifest says of a sealed image, and what is not believed."""

from __future__ import annotations

import base64
import json

import pytest

from hyb.artifact import META, parse
from hyb.errors import Exit, HybError
from hyb.formats import oci, sealed

TAR = "application/vnd.oci.image.layer.v1.tar"


def image(kinds: str, adapters: int = 0, **notes: str) -> sealed.Artifact:
    """`kinds`: a letter a layer: `e` encrypted, `c` clear, `b` the base image's, `x` an encrypted one of the base's."""
    layers = [
        {
            "mediaType": TAR + (sealed.SUFFIX if k in "ex" else ""), "digest": f"sha256:{n:064x}", "size": 1,
            "annotations": {oci.KEY: "k"} if k in "ec" else {},
        }
        for n, k in enumerate(kinds)
    ]  # fmt: skip
    meta = {"adapters": [{"name": f"a{n}", "digest": "d"} for n in range(adapters)]}
    config = {"digest": "sha256:" + "f" * 64, "size": 2}
    notes = {META: json.dumps(meta), **notes}
    return parse("sha256:" + "0" * 64, {"config": config, "layers": layers, "annotations": notes})


@pytest.mark.parametrize(
    ("kinds", "adapters", "covered"),
    [
        ("ee", 0, (True, True)),
        ("bee", 1, (True, True)),
        ("bce", 1, (False, True)),
        ("ccee", 2, (False, True)),
        ("ccec", 2, (False, False)),
        ("ec", 0, (False, True)),
        ("cc", 1, (False, False)),
        ("bb", 0, (False, False)),
        ("xb", 0, (False, False)),
    ],
)
def test_what_is_covered_is_read_off_the_layers(kinds: str, adapters: int, covered: tuple[bool, bool]) -> None:
    assert sealed.covers(image(kinds, adapters)) == covered


def test_one_encrypted_layer_makes_an_image_sealed() -> None:
    assert sealed.is_sealed(image("bce"))
    assert not sealed.is_sealed(image("bcc"))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "1", '{"sha256:00": {}}', '{"x": 1}', "[" * 100_000])
def test_parts_that_do_not_say_what_is_in_it_are_a_failed_check(text: str) -> None:
    with pytest.raises(HybError, match="does not say what is in it") as caught:
        sealed.parts(image("e", **{sealed.PARTS: text}))
    assert caught.value.code is Exit.CHECK


def test_the_recipients_of_a_wrapped_key_are_counted() -> None:
    def of(document: object) -> str:
        return base64.b64encode(json.dumps(document).encode()).decode()

    assert sealed.wrapped(of({"recipients": [{}, {}]})) == 2
    assert sealed.wrapped(of({"encrypted_key": "x"})) == 1
    assert [sealed.wrapped(x) for x in ("", "!", of([]), of(3), of({}))] == [0] * 5


def test_the_digest_of_a_list_of_recipients_is_that_of_the_set() -> None:
    assert sealed.list_digest(["b", "a"]) == sealed.list_digest(["a", "b"]) != sealed.list_digest(["a"])


def test_the_error_for_no_key_names_none_where_none_is_named() -> None:
    assert "keys that it does not name" in sealed.locked(image("e")).message
