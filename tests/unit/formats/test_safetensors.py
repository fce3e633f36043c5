"""safetensors by their headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from hyb.errors import HybError
from hyb.formats import safetensors as st


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_is_written_is_read_back_in_the_order_of_the_data(tmp_path: Path) -> None:
    head = st.header_bytes([("z", "BF16", (3, 2)), ("a", "F32", (2,)), ("s", "F32", ())], {"format": "pt"})
    (tmp_path / "x").write_bytes(head + bytes(12 + 8 + 4))
    found = st.read_header(tmp_path / "x")
    assert list(found) == ["z", "a", "s"]
    assert (found["z"].rows, found["z"].row_size, found["z"].offset) == (3, 4, len(head))
    assert found["s"].size == 4
    assert len(head) % 8 == 0


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        (b"{{", b"", "not JSON"),
        (b"[]", b"", "no JSON object"),
        ({"a": {"dtype": "F32"}}, b"", "entry of `a`"),
        ({"a": entry("F32", [2], 0, 4)}, bytes(4), "does not fit its shape"),
        ({"a": entry("F32", [1], 4, 8)}, bytes(8), "does not start"),
        ({"a": entry("F32", [2], 0, 8)}, bytes(7), "its header tells of"),
        ({"a": entry("F32", [1], 0, 4)}, bytes(9), "its header tells of"),
        ({"a": entry("F8_E4M3", [1], 0, 1)}, bytes(1), "type `F8_E4M3`"),
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, header: object, data: bytes, says: str) -> None:
    with pytest.raises(HybError, match=says):
        st.read_header(write(tmp_path / "m.safetensors", header, data))


@pytest.mark.parametrize("data", [b"", b"1234", struct.pack("<Q", 1 << 60), struct.pack("<Q", 500) + b"{}"])
def test_a_cut_or_absurd_header_length_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(HybError, match="no sensible length"):
        st.read_header(tmp_path / "m.safetensors")


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.safetensors", {name: entry("F32", [1], 0, 4)}, bytes(4))
    write(tmp_path / "stray.safetensors", {"a": entry("F32", [1], 0, 4)}, bytes(4))
    (tmp_path / st.INDEX).write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    assert set(st.read_folder(tmp_path)) == {"a", "b"}
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(HybError, match=r"lacks `b\.safetensors`"):
        st.read_folder(tmp_path)


def test_a_folder_without_safetensors_says_so(tmp_path: Path) -> None:
    with pytest.raises(HybError, match="no safetensors"):
        st.read_folder(tmp_path)
