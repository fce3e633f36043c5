"""Python wheels for the other side: hyb itself, the extras that it needs there, and all that these need, with hashes.

pip chooses them, for the Python and the platforms of the other side and never for those of this machine. They become an
artifact of the store (kind `wheels`), kept by what was asked for: the same hyb and the same wish give the same wheels
again, without asking an index.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import platform
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import hyb
from hyb import __version__, engine, fs
from hyb import digest as dg
from hyb.artifact import Artifact, File
from hyb.errors import Exit, HybError
from hyb.progress import Say
from hyb.store import Store

KIND = "wheels"
REQUIREMENTS = "requirements.txt"
_GLIBC = ("manylinux2014", "manylinux_2_28", "manylinux_2_34")
"""What pip is told a platform takes: glibc 2.17 and later, up to RHEL 9's."""
_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}
_EXTRAS = {"tune": "tune", "eval": "tune", "export": "tune", "serve": "serve"}
"""Stage → the extra that it needs."""


@dataclass(frozen=True)
class Target:
    """The other side: `python` (`3.11`), `platforms` (`x86_64`, `linux/arm64`, or a tag of pip's), extras of hyb."""

    python: str
    platforms: tuple[str, ...]
    extras: tuple[str, ...] = ()

    def tags(self) -> list[list[str]]:
        """Of each platform the tags that pip may take."""
        found = []
        for text in self.platforms:
            arch = text.removeprefix("linux/")
            arch = _ARCH.get(arch, arch)
            found.append([f"{g}_{arch}" for g in _GLIBC] if re.fullmatch(r"[a-z0-9]+(_64)?", arch) else [text])
        return found


def target(python: str, platforms: Sequence[str], extras: Iterable[str], stages: Iterable[str]) -> Target:
    """What was asked for, or this Python, this machine, and the extras that the recipe's stages need.

    Raises HybError (exit 2) for what is no version or no platform.
    """
    version = python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not re.fullmatch(r"3\.\d{1,2}", version):
        raise HybError(f"`{python}` is no version of Python", hint="such as `--python 3.12`", code=Exit.USAGE)
    if bad := [p for p in platforms if not re.fullmatch(r"(linux/)?[a-z0-9_.]+", p)]:
        raise HybError(
            f"`{bad[0]}` is no platform", hint="such as `linux/amd64` or `manylinux_2_28_x86_64`", code=Exit.USAGE
        )
    chosen = sorted(set(extras) or {_EXTRAS[s] for s in stages if s in _EXTRAS})
    known = {e.lower() for e in importlib.metadata.metadata("hyb").get_all("Provides-Extra") or ()}
    if lacks := [e for e in chosen if known and e not in known]:
        raise HybError(f"hyb has no extra `{lacks[0]}`", hint=f"there are {', '.join(sorted(known))}", code=Exit.USAGE)
    return Target(version, tuple(platforms) or (platform.machine(),), tuple(chosen))


def collect(store: Store, want: Target, folder: Path | None, *, offline: bool, say: Say) -> Artifact:
    """The wheels, in the store. `folder`: choose from this folder alone, without an index.

    Raises HybError: exit 6 when they would have to be fetched and hyb is offline, exit 5 when pip finds no fitting set.
    """
    store_work = store.work(dg.of_json(["bundle-wheels", asdict(want)]))
    with fs.room(f"can't gather wheels in the store `{store.root}`"):
        own = own_wheel(store_work / "own")
        listed = sorted(p.name for p in folder.glob("*.whl")) if folder else None
        key = dg.of_json([KIND, asdict(want), dg.of_file(own)[0], listed])
        known = next((d for d in store.outputs(key) if store.has(d)), None)
        if known:
            return store.artifact(known)
        if offline and folder is None:
            raise HybError("wheels for the other side would have to be fetched, and hyb is offline", code=Exit.OFFLINE,
                           hint="`--wheels DIR` takes them from a folder, `--no-wheels` leaves them out")  # fmt: skip
        got = store_work / "wheels"
        shutil.rmtree(got, ignore_errors=True)
        for tags in want.tags():
            say(f"gathering wheels for Python {want.python}, {tags[-1]}")
            _download(own, want, tags, folder, got)
        shutil.copyfile(own, got / own.name)
        text = requirements(got)
        files = [File(p.name, store.add_file(p, how="move")) for p in sorted(got.glob("*.whl"))]
        files.append(File(REQUIREMENTS, store.add_bytes(text.encode())))
        meta = {
            "hyb": __version__,
            "python": want.python,
            "platforms": list(want.platforms),
            "extras": list(want.extras),
        }
        artifact = store.add_artifact(KIND, files, meta=meta)
        store.record_step(key, KIND, artifact.digest)
        shutil.rmtree(store_work, ignore_errors=True)
    return artifact


def _download(own: Path, want: Target, tags: Sequence[str], folder: Path | None, out: Path) -> None:
    extras = f"[{','.join(want.extras)}]" if want.extras else ""
    where = ["--no-index", f"--find-links={folder.absolute()}"] if folder else []
    argv = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "-q", "-d", str(out),
        "--only-binary=:all:", f"--python-version={want.python}", "--implementation=cp",
        *(f"--platform={t}" for t in tags), *where, f"hyb{extras} @ file://{own.absolute()}",
    ]  # fmt: skip
    engine.run(argv, cwd=own.parent)


def requirements(folder: Path) -> str:
    """`requirements.txt` over the wheels of a folder: each pinned, with the hash of every file.

    Raises HybError when there are two versions of one package: pip would take one and miss the other.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        digest = dg.of_file(path)[0].removeprefix("sha256:")
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), {}).setdefault(version, []).append(digest)
    if several := [f"{n}: {', '.join(v)}" for n, v in found.items() if len(v) > 1]:
        raise HybError("the platforms need different versions of a package", details=several,
                       hint="make a bundle for each platform")  # fmt: skip
    lines = [f"{n}=={v} " + " ".join(f"--hash=sha256:{d}" for d in sorted(digests))
             for n, versions in sorted(found.items()) for v, digests in versions.items()]  # fmt: skip
    return "\n".join(lines) + "\n"


def own_wheel(folder: Path) -> Path:
    """The wheel of the hyb that runs, in `folder`: built from its checkout, or put together again from what was
    installed. Always the same bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = Path(hyb.__file__).parents[1]
    if (root / "pyproject.toml").is_file():
        argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps",
                "--no-build-isolation", "-w", str(folder), str(root)]  # fmt: skip
        engine.run(argv, cwd=folder)
        return next(folder.glob("hyb-*.whl"))
    path = folder / f"hyb-{__version__}-py3-none-any.whl"
    path.write_bytes(_repacked(root))
    return path


def _repacked(root: Path) -> bytes:
    """A wheel of the installed files, as its RECORD lists them."""
    info = f"hyb-{__version__}.dist-info"
    names = [str(f) for f in importlib.metadata.files("hyb") or () if str(f).startswith(("hyb/", f"{info}/"))]
    left = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    names = sorted(n for n in names if n.removeprefix(f"{info}/") not in left and "__pycache__" not in n)
    out, record = io.BytesIO(), []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name in names:
            data = (root / name).read_bytes()
            wheel.writestr(zipfile.ZipInfo(name, (2020, 2, 2, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
            sha = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={sha},{len(data)}")
        record.append(f"{info}/RECORD,,")
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD", (2020, 2, 2, 0, 0, 0)), "\n".join(record) + "\n")
    return out.getvalue()
