"""Files are known by their bytes."""

from __future__ import annotations

import os
import struct
import tarfile

import pytest

from hyb.formats import recognise, safetensors


def head(version: int, tensors: int, keys: int, word: bytes = b"general.architecture", order: str = "<") -> bytes:
    numbers = struct.pack(f"{order}III" if version == 1 else f"{order}IQQ", version, tensors, keys)
    return b"GGUF" + numbers + struct.pack(f"{order}I" if version == 1 else f"{order}Q", len(word)) + word + bytes(40)


@pytest.mark.parametrize(
    "data",
    [head(3, 2, 5), head(2, 290, 20), head(1, 2, 5), head(3, 2, 5, order=">")],
    ids=["3", "2", "1", "3, big-endian"],
)
def test_a_gguf_of_each_version_is_known(data: bytes) -> None:
    assert recognise.weights(data) == ("weights", "a GGUF model")


@pytest.mark.parametrize(
    "data",
    [b"GGUF is a format of models, it says here, and more", head(3, 0, 5), head(9, 2, 5), head(3, 2, 5, b"\0\1")],
)
def test_what_only_begins_like_one_is_not(data: bytes) -> None:
    assert recognise.weights(data) is None


def test_safetensors_are_known_by_their_header_and_adapters_by_their_names() -> None:
    model = safetensors.header_bytes([("a", "BF16", (2, 2))], {"format": "pt"})
    assert recognise.weights(model) == ("weights", "safetensors weights")
    adapter = safetensors.header_bytes([("base_model.model.q.lora_B.weight", "F32", (2, 2))])
    assert recognise.weights(adapter) == ("adapter", "a safetensors adapter")
    assert recognise.weights(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}') is None


def test_noise_is_nothing() -> None:
    noise = os.urandom(8 << 20)
    assert list(recognise.embedded(noise)) == []
    assert recognise.container(noise[:512].replace(b"\x1f", b"x", 1)) == ""


def test_a_tar_header_is_known_by_its_sum() -> None:
    block = bytearray(tarfile.TarInfo("a").tobuf())
    assert recognise.is_tar_header(bytes(block[:512]))
    block[0] ^= 1
    assert not recognise.is_tar_header(bytes(block[:512]))
    assert not recognise.is_tar_header(bytes(512))
    assert not recognise.is_tar_header(b"short")


def test_text_may_be_cut_within_a_letter() -> None:
    assert recognise.is_text("é".encode() * 10 + b"\xc3")
    assert not recognise.is_text(b"a\xff\xfebc and more")
    assert not recognise.is_text(b"a\0b")
