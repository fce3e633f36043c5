"""Python wheels for the other side: hyb itself, the extras that it needs there, and all that these need, with hashes.

pip chooses them, for the Python and the platforms of the other side and never for those of this machine: neither which
file fits nor which packages are needed (`; python_version < "3.13"`) is asked of this one. They become an artifact of
the store (kind `wheels`), kept by what was asked for: the same hyb and the same wish give the same wheels again,
without asking an index.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import itertools
import platform
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
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
_GLIBC = 34
"""The other side has glibc 2.34, RHEL 9's, or a later one, where nobody says otherwise."""
_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}
_PLATFORM = re.compile(
    r"(linux/|linux_|(?P<kind>many|musl)linux_(?P<major>\d)_(?P<minor>\d{1,2})_|manylinux20\d\d_)?"
    r"(?P<arch>x86_64|amd64|aarch64|arm64|ppc64le|s390x|riscv64|armv7l|i686)"
)
_EXTRAS = {"tune": "tune", "eval": "tune", "export": "tune", "serve": "serve"}
"""Stage → the extra that it needs."""
_INSIDE = ("bundle", "mirror", "sbom")
"""Small extras for what people do inside: open what is sealed, serve it to the lab, report on it."""


@dataclass(frozen=True)
class Target:
    """The other side: `python` (`3.11`), `platforms` (`x86_64`, `linux/arm64`, or a tag of pip's), extras of hyb."""

    python: str
    platforms: tuple[str, ...]
    extras: tuple[str, ...] = ()

    def places(self) -> list[Place]:
        """Of each platform its machine and the tags that pip may take, the best one first."""
        return [place for text in self.platforms if (place := _place(text))]


@dataclass(frozen=True)
class Place:
    """A platform: what `uname -m` says there, and the tags that pip may take."""

    machine: str
    tags: tuple[str, ...]


def _place(text: str) -> Place | None:
    """`linux/arm64`, or a tag such as `manylinux_2_28_x86_64`: who has that libc takes what was built for an older one.
    None for what is neither."""
    found = _PLATFORM.fullmatch(text)
    if not found:
        return None
    kind, major, minor = found["kind"] or "many", found["major"] or "2", int(found["minor"] or _GLIBC)
    machine = _ARCH.get(found["arch"], found["arch"])
    tags = [f"{kind}linux_{major}_{n}_{machine}" for n in range(minor, -1, -1)]
    if kind == "many" and minor >= 17:
        tags.append(f"manylinux2014_{machine}")  # pip adds the older names
    return Place(machine, (*tags, f"linux_{machine}"))


def target(
    python: str, platforms: Sequence[str], extras: Iterable[str], stages: Iterable[str], *, sealed: bool = False
) -> Target:
    """What was asked for, or this Python, this machine, and the extras that the recipe's stages and the inside need.

    Raises HybError (exit 2) for what is no version or no platform.
    """
    version = python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not re.fullmatch(r"3\.\d{1,2}", version):
        raise HybError(f"`{python}` is no version of Python", hint="such as `--python 3.12`", code=Exit.USAGE)
    if bad := [p for p in platforms if not _place(p)]:
        raise HybError(
            f"`{bad[0]}` is no platform", hint="such as `linux/amd64` or `manylinux_2_28_x86_64`", code=Exit.USAGE
        )
    chosen = set(extras) or {*_INSIDE, *(_EXTRAS[s] for s in stages if s in _EXTRAS)}
    if sealed:
        chosen.add("bundle")
    return Target(version, tuple(platforms) or (platform.machine(),), tuple(sorted(chosen)))


def collect(store: Store, want: Target, folder: Path | None, *, offline: bool, say: Say) -> Artifact:
    """The wheels, in the store. `folder`: choose from this folder alone, without an index.

    Raises HybError: exit 2 for an extra that hyb has not, exit 6 when they would have to be fetched and hyb is offline,
    exit 5 when pip finds no fitting set.
    """
    meta = {
        "hyb": __version__,
        "python": want.python,
        "platforms": list(want.platforms),
        "extras": list(want.extras),
    }
    if offline and folder is None and not any(a.kind == KIND and a.meta == meta for a in store.artifacts()):
        raise _offline(want)
    store_work = store.work(dg.of_json(["bundle-wheels", asdict(want)]))
    with fs.room(f"can't gather wheels in the store `{store.root}`"):
        own = own_wheel(store_work / "own")
        _check_extras(own, want)
        listed = sorted(p.name for p in folder.glob("*.whl")) if folder else None
        key = dg.of_json([KIND, asdict(want), dg.of_file(own)[0], listed])
        known = next((d for d in store.outputs(key) if store.has(d)), None)
        if known:
            return store.artifact(known)
        if offline and folder is None:
            raise _offline(want)
        got = store_work / "wheels"
        shutil.rmtree(got, ignore_errors=True)
        folders: dict[str, Path] = {}
        for place in want.places():
            say(f"gathering wheels for Python {want.python}, {place.tags[0]}")
            out = folders.setdefault(place.machine, got / place.machine)
            _download(own, want, place, folder, out)
            shutil.copyfile(own, out / own.name)
        text = requirements(folders)
        paths = {p.name: p for out in folders.values() for p in out.glob("*.whl")}
        files = [File(n, store.add_file(p, how="move")) for n, p in sorted(paths.items())]
        files.append(File(REQUIREMENTS, store.add_bytes(text.encode())))
        artifact = store.add_artifact(KIND, files, meta=meta)
        store.record_step(key, KIND, artifact.digest)
        shutil.rmtree(store_work, ignore_errors=True)
    return artifact


def _offline(want: Target) -> HybError:
    return HybError(
        "wheels for the other side would have to be fetched, and hyb is offline",
        details=[
            f"missing: wheels of hyb[{','.join(want.extras)}] for Python {want.python}, {' '.join(want.platforms)}"
        ],
        code=Exit.OFFLINE,
        hint="where there is a network: the same command without `--offline`; here `--wheels DIR` takes them from a"
        " folder, and `--no-wheels` leaves them out",
    )


def _download(own: Path, want: Target, place: Place, folder: Path | None, out: Path) -> None:
    extras = f"[{','.join(want.extras)}]" if want.extras else ""
    where = ["--no-index", f"--find-links={folder.absolute()}"] if folder else []
    argv = [
        sys.executable, "-m", "hyb.workers.pip_there", place.machine, want.python,
        "--disable-pip-version-check", "--no-input", "download", "-q", "-d", str(out), "--only-binary=:all:",
        f"--python-version={want.python}", "--implementation=cp", *(f"--platform={t}" for t in place.tags), *where,
        f"hyb{extras} @ file://{own.absolute()}",
    ]  # fmt: skip
    try:
        engine.run(argv)
    except HybError as error:
        if error.code is not Exit.BELOW:
            raise
        raise HybError(
            f"pip finds no wheels of hyb{extras} for Python {want.python}, {place.tags[0]}",
            details=error.details,
            hint="`--python` and `--platform` say for whom; PIP_INDEX_URL, PIP_CONSTRAINT and their like hold",
            code=Exit.BELOW,
        ) from error


def _check_extras(own: Path, want: Target) -> None:
    with zipfile.ZipFile(own) as wheel:
        metadata = wheel.read(f"hyb-{__version__}.dist-info/METADATA").decode()
    known = re.findall(r"^Provides-Extra: (\S+)$", metadata, re.MULTILINE)
    if lacks := [e for e in want.extras if e not in known]:
        raise HybError(f"hyb has no extra `{lacks[0]}`", hint=f"there are {', '.join(known)}", code=Exit.USAGE)


def requirements(folders: Mapping[str, Path]) -> str:
    """`requirements.txt` over folders of wheels, machine → folder: each pinned, with the hash of every file; what not
    every machine takes says for which it is.

    Raises HybError when there are two versions of one package for a machine: pip would take one and miss the other.
    """
    found: dict[tuple[str, str], set[str]] = {}
    takers: dict[tuple[str, str], set[str]] = {}
    for machine, folder in folders.items():
        for path in sorted(folder.glob("*.whl")):
            name, version = path.name.split("-")[:2]
            package = (re.sub(r"[-_.]+", "-", name).lower(), version)
            found.setdefault(package, set()).add(dg.of_file(path)[0])
            takers.setdefault(package, set()).add(machine)
    several = [f"{one[0]}: {one[1]}, {other[1]}" for one, other in itertools.combinations(sorted(found), 2)
               if one[0] == other[0] and takers[one] & takers[other]]  # fmt: skip
    if several:
        raise HybError("the platforms need different versions of a package", details=several,
                       hint="make a bundle for each platform")  # fmt: skip
    lines = []
    for package, digests in sorted(found.items()):
        those = sorted(takers[package]) if len(takers[package]) < len(folders) else ()
        marker = " or ".join(f'platform_machine == "{m}"' for m in those)
        hashes = (f"--hash={d}" for d in sorted(digests))
        lines.append(" ".join(["==".join(package), *([f"; {marker}"] if marker else []), *hashes]) + "\n")
    return "".join(lines)


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
