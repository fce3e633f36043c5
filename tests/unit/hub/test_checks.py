"""Headers of weight files: a file is what its name says, or it is refused."""

import json
import struct
from pathlib import Path

import pytest

from hyb.errors import Exit, HybError
from hyb.hub import checks
from tests.hubserver import HTML, safetensors


def made(header: object, body: bytes) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refused(check: object, data: bytes, tmp_path: Path) -> HybError:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(HybError) as caught:
        check(path, "model.x")  # type: ignore[operator]
    assert caught.value.code == Exit.CHECK and "`model.x`" in caught.value.message
    return caught.value


def test_a_whole_safetensors_file_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(safetensors({"a": (4, 8), "b": (3,)}))
    header = checks.safetensors(path)
    assert header.parameters == 35 and header.tensors == ("a", "b")


def test_metadata_and_an_empty_tensor_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(
        made({"__metadata__": {"format": "pt"}, "a": tensor(0, 8, [2]), "e": tensor(8, 8, [0, 4])}, b"12345678")
    )
    assert checks.safetensors(path).parameters == 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "header would be 0"),
        (b"\x08\0\0", "header would be 0"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "bytes long"),
        (made(b"[1, 2]", b""), "not a JSON object"),
        (made(b"{nonsense", b""), "not a JSON object"),
        (made(b"[" * 100_000, b""), "not a JSON object"),
        (made({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, b"x" * 12), "starts at byte 4"),
        (made({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, b"x" * 12), "starts at byte 8"),
        (made({"a": tensor(0, 8, [2])}, b"x" * 7), "the file at"),
        (made({"a": tensor(0, 8, [2])}, b"x" * 9), "the file at"),
        (made({"a": tensor(0, 8, [3])}, b"x" * 8), "does not fill"),
        (made({"a": tensor(0, 8, [-1, -2])}, b"x" * 8), ""),
        (made({"a": tensor(0, 8, [2], "F99")}, b"x" * 8), "not described"),
        (made({"a": 5}, b""), "not described"),
        (made(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 1}', b"1234"), "not a JSON object"),
        (HTML, "web page"),
        (b"\x80\x04\x95" + b"x" * 100, "pickle"),
        (b"PK\x03\x04" + b"x" * 100, "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
    ],
)
def test_a_safetensors_file_that_is_not_whole_is_refused(data: bytes, why: str, tmp_path: Path) -> None:
    assert why in refused(checks.safetensors, data, tmp_path).message


def gguf(
    metadata: bytes = b"", keys: int = 0, tensors: bytes = b"", count: int = 0, magic: bytes = b"GGUF", version: int = 3
) -> bytes:
    return magic + struct.pack("<IQQ", version, count, keys) + metadata + tensors


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_metadata_and_tensors_of_a_gguf_are_read(tmp_path: Path) -> None:
    metadata = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    metadata += text("llama.context_length") + struct.pack("<II", 4, 512)
    metadata += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bb")
    metadata += text("scores") + struct.pack("<IIQ", 9, 6, 3) + b"\0" * 12
    table = text("w") + struct.pack("<IQQIQ", 2, 4, 8, 0, 0)
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(metadata, 4, table, 1) + b"\0" * 128)
    header = checks.gguf(path)
    assert header.metadata == {"general.architecture": "llama", "llama.context_length": 512, "tokens": 2, "scores": 3}
    assert header.parameters == 32 and header.tensors == ("w",)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GGML" + b"\0" * 40, "does not start"),
        (HTML, "web page"),
        (b"\x80\x04\x95" + b"x" * 100, "pickle"),
        (gguf(version=99), "version 99"),
        (gguf(keys=1 << 60), "counts"),
        (gguf()[:14], "cut off"),
        (gguf(struct.pack("<Q", 1 << 40), 1), "a text of"),
        (gguf(text("k") + struct.pack("<I", 77), 1), "unknown type 77"),
        (gguf(text("k") + struct.pack("<IIQ", 9, 9, 1), 1), "array of unknown type"),
        (gguf(text("k") + struct.pack("<IIQ", 9, 4, 1 << 20), 1), "cut off"),
        (gguf(b"", 0, text("w") + struct.pack("<I", 4_000_000_000), 1), "dimensions"),
        (gguf(b"", 0, text("w") + struct.pack("<IQIQ", 1, 4, 0, 1 << 40), 1), "past its end"),
    ],
)
def test_a_gguf_that_is_not_one_is_refused(data: bytes, why: str, tmp_path: Path) -> None:
    assert why in refused(checks.gguf, data, tmp_path).message


def test_a_model_that_needs_its_own_python_code_is_refused_and_the_file_named() -> None:
    config = {
        "auto_map": {"AutoModelForCausalLM": "modeling_odd.OddModel", "AutoConfig": "o/n--configuration_odd.OddConfig"}
    }
    with pytest.raises(HybError) as caught:
        checks.no_remote_code([("config.json", config), ("tokenizer_config.json", {})], "hf://o/n")
    assert caught.value.details == ("`config.json`: `auto_map` names `configuration_odd.py`, `modeling_odd.py`",)


def test_a_model_without_code_passes() -> None:
    checks.no_remote_code([("config.json", {"auto_map": {}}), ("tokenizer_config.json", {})], "x")


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff\xfe", HTML])
def test_a_config_that_is_no_json_object_is_refused(data: bytes, tmp_path: Path) -> None:
    refused(checks.json_file, data, tmp_path)
