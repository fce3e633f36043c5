"""What a live server lists, held against what a lock names."""

from __future__ import annotations

from typing import Any

import pytest

from hyb.running import Locked, differences

MODEL, OTHER, LORA, SPARE = ("sha256:" + c * 64 for c in "1234")
NAMES = {MODEL: "gguf", LORA: "lora", SPARE: "base"}


def entry(name: str, digest: str | None) -> dict[str, Any]:
    return {"id": name} if digest is None else {"id": name, "digest": digest}


def test_a_server_that_serves_what_the_lock_names_differs_in_nothing() -> None:
    assert differences([entry("m", MODEL)], Locked("gguf", MODEL), NAMES) == []
    assert differences([entry("m", MODEL), entry("a", LORA)], Locked("image", MODEL, (LORA,)), NAMES) == []


@pytest.mark.parametrize(
    ("entries", "wanted", "words"),
    [
        ([], Locked("gguf", MODEL), "lists no model"),
        ([entry("m", None)], Locked("gguf", MODEL), "tells no digest"),
        ([entry("m", "")], Locked("gguf", MODEL), "tells no digest"),
        ([entry("m", OTHER)], Locked("gguf", MODEL), "`222222222222`, which the lock does not name"),
        ([entry("m", SPARE)], Locked("gguf", MODEL), "(stage `base`); the lock names `111111111111`"),
        ([entry("m", MODEL), entry("evil\x1b[2J", OTHER)], Locked("gguf", MODEL), r"'evil\x1b[2J'"),
        ([entry("m", MODEL)], Locked("image", MODEL, (LORA,)), "adapter `333333333333` is not served"),
    ],
)
def test_every_difference_is_told(entries: list[dict[str, Any]], wanted: Locked, words: str) -> None:
    (line,) = differences(entries, wanted, NAMES)
    assert words in line
