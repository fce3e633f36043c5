"""Wheels for the other side: chosen by the real pip out of a folder, for machines that are not this one."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from hyb import __version__
from hyb.bundle import wheels
from hyb.errors import Exit, HybError
from hyb.progress import silent
from hyb.store import Store


def wheel(
    folder: Path, name: str, *needs: str, version: str = "1.0", tag: str = "py3-none-any", extras: tuple[str, ...] = ()
) -> Path:
    """A wheel without code."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    said = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Provides-Extra: {e}" for e in extras),
    ]
    files = {
        "METADATA": "\n".join([*said, *(f"Requires-Dist: {n}" for n in needs)]) + "\n",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as out:
        for file, text in files.items():
            out.writestr(f"{info}/{file}", text)
    return path


@pytest.fixture
def gather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`gather(target, *needs)`: requirements.txt and the file names for a hyb that needs these."""

    def go(want: wheels.Target, *needs: str) -> tuple[str, list[str]]:
        own = wheel(tmp_path / "own", "hyb", *needs, version=__version__, extras=("bundle", "mirror"))
        monkeypatch.setattr(wheels, "own_wheel", lambda _: own)
        artifact = wheels.collect(Store(tmp_path / "store"), want, tmp_path / "house", offline=True, say=silent)
        files = {f.path: f.blob.digest for f in artifact.files}
        return Store(tmp_path / "store").read(files.pop("requirements.txt")).decode(), sorted(files)

    return go


@pytest.mark.parametrize("platform", ["linux/arm64", "manylinux_2_28_aarch64"])
@pytest.mark.parametrize("glibc", ["manylinux_2_24", "manylinux2014", "linux"])
def test_what_was_built_for_any_older_glibc_is_taken(gather, tmp_path: Path, glibc: str, platform: str) -> None:
    wheel(tmp_path / "house", "quick", tag=f"cp312-abi3-{glibc}_aarch64")
    _, names = gather(wheels.Target("3.12", (platform,)), "quick")
    assert names == [f"hyb-{__version__}-py3-none-any.whl", f"quick-1.0-cp312-abi3-{glibc}_aarch64.whl"]


def test_a_newer_glibc_than_the_other_sides_is_not_taken(gather, tmp_path: Path) -> None:
    wheel(tmp_path / "house", "quick", tag="cp312-abi3-manylinux_2_34_aarch64")
    with pytest.raises(HybError, match="pip") as caught:
        gather(wheels.Target("3.12", ("manylinux_2_28_aarch64",)), "quick")
    assert caught.value.code is Exit.BELOW


def test_packages_are_those_that_the_other_python_and_machine_need(gather, tmp_path: Path) -> None:
    for name in ("old", "new", "arm", "intel", "here"):
        wheel(tmp_path / "house", name)
    wheel(tmp_path / "house", "middle", 'new; python_version >= "3.13"', 'old; python_version < "3.13"')
    needs = ("middle", 'arm; platform_machine == "aarch64"', 'intel; platform_machine == "x86_64"')
    text, _ = gather(wheels.Target("3.13", ("linux/arm64",)), *needs)
    assert re.findall(r"^(\w+)==", text, re.MULTILINE) == ["arm", "hyb", "middle", "new"]


def test_wheels_for_two_machines_say_which_takes_what(gather, tmp_path: Path) -> None:
    house = tmp_path / "house"
    wheel(house, "arm")
    wheel(house, "both")
    for machine, version in (("x86_64", "2.0"), ("aarch64", "3.0")):
        wheel(house, "quick", version=version, tag=f"py3-none-manylinux_2_28_{machine}")
    want = wheels.Target("3.13", ("linux/arm64", "linux/amd64"))
    text, names = gather(want, 'arm; platform_machine == "aarch64"', "both", "quick")
    lines = [line.partition(" --hash=")[0] for line in text.splitlines()]
    assert lines == [
        'arm==1.0 ; platform_machine == "aarch64"',
        "both==1.0",
        f"hyb=={__version__}",
        'quick==2.0 ; platform_machine == "x86_64"',
        'quick==3.0 ; platform_machine == "aarch64"',
    ]
    assert len(names) == 5


def test_a_bundle_brings_what_opens_it_inside() -> None:
    found = wheels.target("", (), (), ["pull", "tune", "link"])
    assert found.extras == ("bundle", "mirror", "sbom", "tune")
    assert wheels.target("", (), ["tune"], ["serve"], sealed=True).extras == ("bundle", "tune")


@pytest.mark.parametrize("platform", ["windows", "linux/arm64/v8", "macosx_14_0_arm64", "", "manylinux_2_28", "x86-64"])
def test_what_is_no_platform_of_linux_is_a_mistake_in_words(platform: str) -> None:
    with pytest.raises(HybError, match="is no platform") as caught:
        wheels.target("3.12", [platform], (), ())
    assert caught.value.code is Exit.USAGE


def test_an_extra_that_hyb_has_not_is_named(gather) -> None:
    with pytest.raises(HybError, match="no extra `nonsense`") as caught:
        gather(wheels.Target("3.12", ("x86_64",), ("nonsense",)))
    assert caught.value.code is Exit.USAGE
