"""Writing, reading and loading bundles, in this process: kills, damage, deltas."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hyb import lock as lockfile
from hyb import recipe as recipes
from hyb.artifact import Blob
from hyb.bundle import gather, load, read, write
from hyb.bundle.write import How
from hyb.errors import Exit, HybError
from hyb.formats import bundle as form
from hyb.progress import silent
from hyb.run import Options, run
from hyb.store import Store
from tests import bundles
from tests.killing import killed_at

MOST = 400_000  # bytes of a part: the weights are split over several


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """A recipe that was run, and its store. Not to be changed."""
    home = tmp_path_factory.mktemp("made")
    folder, store = bundles.recipe(home / "recipe"), Store(home / "store")
    go(folder, store)
    return folder, store


def go(folder: Path, store: Store, *, locked: bool = False) -> None:
    run(recipes.read(folder / "hyb.yaml"), store, Options(folder / "hyb.lock", offline=True, locked=locked), silent)


def gathered(folder: Path, store: Store, *, with_data: bool = False) -> gather.Gathered:
    lock = lockfile.read(folder / "hyb.lock")
    return gather.gather(gather.Order(recipes.read(folder / "hyb.yaml"), lock, with_data=with_data), store)


def create(
    made: tuple[Path, Store], out: Path, most: int = MOST, since: Path | None = None, recipients: tuple[str, ...] = ()
) -> form.Bundle:
    what = gathered(*made)
    if since:
        what = what.since(*form.parse_since((since / form.FILE).read_bytes(), "since"))
    return write.write(made[1], "small", what, out, How(most, recipients), silent).bundle


def take(folder: Path, store: Store, out: Path, identity: Path | None = None) -> load.Loaded:
    return load.load(read.open_bundle([folder]), store, out, silent, identity=identity)


def same_lock(made: tuple[Path, Store], store: Store, out: Path) -> None:
    """Inside, the recipe runs from the store alone and leaves the lock as it is."""
    before = (out / "recipe" / "hyb.lock").read_bytes()
    assert before == (made[0] / "hyb.lock").read_bytes()
    go(out / "recipe", store, locked=True)
    assert (out / "recipe" / "hyb.lock").read_bytes() == before


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_same_lock_gives_the_same_bytes(made: tuple[Path, Store], tmp_path: Path) -> None:
    create(made, tmp_path / "one")
    create(made, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(files(tmp_path / "one")) > 6


def test_a_bundle_is_loaded_and_the_recipe_runs_from_it(made: tuple[Path, Store], tmp_path: Path) -> None:
    bundle = create(made, tmp_path / "b")
    assert all(p.size <= MOST for p in bundle.parts)
    store = Store(tmp_path / "store")
    done = take(tmp_path / "b", store, tmp_path / "out")
    assert set(done.names) == {"small/base", "small/facts"}
    assert {a.kind for a in store.artifacts()} >= {"model", "dataset", "receipt"}
    same_lock(made, store, tmp_path / "out")
    again = take(tmp_path / "b", store, tmp_path / "out")
    assert (again.new, again.read) == (0, 0)


def test_create_killed_at_any_change_of_the_disk_goes_on_to_the_same_bytes(
    made: tuple[Path, Store], tmp_path: Path
) -> None:
    create(made, tmp_path / "whole")
    wanted, number, ended = files(tmp_path / "whole"), 0, False
    while not ended:
        number += 3
        out = tmp_path / f"k{number}"
        ended = not killed_at(number, lambda out=out: create(made, out))  # type: ignore[misc]
        assert ended or not (out / form.FILE).exists() or "sha256" in (out / form.FILE).read_text()
        create(made, out)
        assert {n: d for n, d in files(out).items() if not n.endswith(".tmp")} == wanted
        shutil.rmtree(out)
    assert number > 12


def test_create_keeps_the_parts_that_are_whole_and_writes_a_damaged_one_anew(
    made: tuple[Path, Store], tmp_path: Path
) -> None:
    bundle = create(made, tmp_path / "b")
    flip(tmp_path / "b" / bundle.parts[1].name, 100)
    done = write.write(made[1], "small", gathered(*made), tmp_path / "b", How(MOST), silent)
    assert done.written == bundle.parts[1].size
    assert done.kept == bundle.size - bundle.parts[1].size
    assert done.bundle == bundle


def test_load_killed_at_any_change_of_the_disk_goes_on(made: tuple[Path, Store], tmp_path: Path) -> None:
    create(made, tmp_path / "b")
    number, ended = 0, False
    while not ended:
        number += 7
        store, out = tmp_path / f"s{number}", tmp_path / f"o{number}"
        ended = not killed_at(number, lambda s=store, o=out: take(tmp_path / "b", Store(s), o))  # type: ignore[misc]
        if not ended and (store / "index.json").exists():
            names = Store(store).tags()
            assert not names or all(Store(store).has(d) for d in names.values())
        take(tmp_path / "b", Store(store), out)
        same_lock(made, Store(store), out)
        shutil.rmtree(store)
    assert number > 28


@pytest.mark.parametrize("moved", [False, True])
def test_load_killed_between_the_last_piece_of_a_blob_and_the_blob_goes_on(
    made: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    bundle = create(made, tmp_path / "b")
    (split,) = {p.item for p in bundle.pieces if p.at}
    add_file = Store.add_file

    def killed(self: Store, path: Path, **how: str) -> Blob:
        if how.get("trusted") == split:
            if moved:
                path.unlink()
            raise KeyboardInterrupt
        return add_file(self, path, **how)

    store = Store(tmp_path / "store")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "add_file", killed)
        take(tmp_path / "b", store, tmp_path / "out")
    take(tmp_path / "b", store, tmp_path / "out")
    same_lock(made, store, tmp_path / "out")


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("at", [0, 5_000, 200_000, -1])
def test_a_flipped_bit_names_its_part_and_only_that_part_is_read_again(
    made: tuple[Path, Store], tmp_path: Path, at: int
) -> None:
    bundle = create(made, tmp_path / "b")
    good = (tmp_path / "b" / bundle.parts[2].name).read_bytes()
    flip(tmp_path / "b" / bundle.parts[2].name, at % len(good))
    assert [w.split(":")[0] for w in read.verify(read.open_bundle([tmp_path / "b"]), None, silent)] == [
        f"part 3 `{bundle.parts[2].name}`"
    ]
    store = Store(tmp_path / "store")
    with pytest.raises(HybError, match=f"1 of {len(bundle.parts)} parts") as caught:
        take(tmp_path / "b", store, tmp_path / "out")
    assert caught.value.code is Exit.CHECK
    assert store.tags() == {}
    (tmp_path / "b" / bundle.parts[2].name).write_bytes(good)
    headers = at in (0, -1)  # no content was hurt there
    assert take(tmp_path / "b", store, tmp_path / "out").read == (0 if headers else 1)
    same_lock(made, store, tmp_path / "out")


@pytest.mark.parametrize("cut", [0, 1, 512, 100_000])
def test_a_part_that_was_cut_off_is_named(made: tuple[Path, Store], tmp_path: Path, cut: int) -> None:
    bundle = create(made, tmp_path / "b")
    os.truncate(tmp_path / "b" / bundle.parts[0].name, cut)
    [wrong] = read.verify(read.open_bundle([tmp_path / "b"]), None, silent)
    assert f"it has {cut:,} bytes" in wrong


def test_missing_parts_are_named_and_come_on_another_medium(made: tuple[Path, Store], tmp_path: Path) -> None:
    bundle = create(made, tmp_path / "disc1")
    (tmp_path / "disc2").mkdir()
    for part in bundle.parts[3:]:
        (tmp_path / "disc1" / part.name).rename(tmp_path / "disc2" / part.name)
    store = Store(tmp_path / "store")
    with pytest.raises(HybError) as caught:
        take(tmp_path / "disc1", store, tmp_path / "out")
    assert caught.value.code is Exit.INPUT
    assert caught.value.details == tuple(
        f"part {n} `{p.name}` is missing" for n, p in enumerate(bundle.parts, 1) if n > 3
    )
    for part in bundle.parts[:3]:
        (tmp_path / "disc1" / part.name).unlink()
    opened = read.open_bundle([tmp_path / "disc1", tmp_path / "disc2"])
    done = load.load(opened, store, tmp_path / "out", silent)
    assert done.read == len(bundle.parts) - 3
    same_lock(made, store, tmp_path / "out")


def test_exchanged_parts_and_parts_of_another_bundle_are_told(made: tuple[Path, Store], tmp_path: Path) -> None:
    bundle = create(made, tmp_path / "b")
    names = [tmp_path / "b" / p.name for p in bundle.parts]
    same = [n for n in range(len(names)) if names[n].stat().st_size == names[2].stat().st_size]
    assert len(same) > 1, "two parts of one size"
    one, two = names[same[0]], names[same[1]]
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    [wrong] = read.verify(read.open_bundle([tmp_path / "b"]), None, silent)
    assert f"it holds part {same[1] + 1}" in wrong
    one.write_bytes(bytes(len(kept)))
    [wrong] = read.verify(read.open_bundle([tmp_path / "b"]), None, silent)
    assert "of another bundle" in wrong


def test_a_part_that_lies_with_the_right_sum_is_found(made: tuple[Path, Store], tmp_path: Path) -> None:
    """Whoever makes a bundle can sign nonsense: each piece has its own digest, and each blob."""
    bundle = create(made, tmp_path / "b")
    part = tmp_path / "b" / bundle.parts[1].name
    flip(part, 3_000)
    from hyb import digest as dg

    parts = [replace(p, sha256=dg.of_file(part)[0]) if p.name == part.name else p for p in bundle.parts]
    (tmp_path / "b" / form.FILE).write_bytes(form.dump(replace(bundle, parts=tuple(parts))))
    [wrong] = read.verify(read.open_bundle([tmp_path / "b"]), None, silent)
    assert "as its maker wrote it, and wrong" in wrong
    store = Store(tmp_path / "store")
    with pytest.raises(HybError):
        take(tmp_path / "b", store, tmp_path / "out")
    assert store.tags() == {}


def test_pieces_that_make_another_blob_are_found(made: tuple[Path, Store], tmp_path: Path) -> None:
    from hyb import digest as dg

    bundle = create(made, tmp_path / "b")
    number = next(p.part for p in bundle.pieces if p.size != bundle.items[p.item])
    piece = next(p for p in bundle.pieces if p.part == number and p.size != bundle.items[p.item])
    part = tmp_path / "b" / bundle.parts[number - 1].name
    flip(part, piece.offset)
    data = part.read_bytes()
    bent = replace(piece, digest=dg.of_bytes(data[piece.offset : piece.offset + piece.size]))
    lying = replace(
        bundle,
        pieces=tuple(bent if p == piece else p for p in bundle.pieces),
        parts=tuple(replace(p, sha256=dg.of_bytes(data)) if p.name == part.name else p for p in bundle.parts),
    )
    (tmp_path / "b" / form.FILE).write_bytes(form.dump(lying))
    store = Store(tmp_path / "store")
    with pytest.raises(HybError) as caught:
        take(tmp_path / "b", store, tmp_path / "out")
    assert "its pieces do not make it" in str(caught.value.details)
    assert not store.blob_path(piece.item).exists()


def test_a_delta_holds_what_is_new_and_changes_nothing_without_its_base(
    made: tuple[Path, Store], tmp_path: Path
) -> None:
    folder = shutil.copytree(made[0], tmp_path / "recipe")
    store = Store(tmp_path / "connected")
    go(folder, store)
    create((folder, store), tmp_path / "first")
    with (folder / "data" / "facts.jsonl").open("a") as stream:
        stream.write(json.dumps(bundles.row(99)) + "\n")
    go(folder, store)
    delta = create((folder, store), tmp_path / "second", since=tmp_path / "first")
    assert delta.size < 60_000 < bundles.SMALL < sum(delta.assumes.values())
    inside = Store(tmp_path / "inside")
    with pytest.raises(HybError, match="holds only what is new") as caught:
        take(tmp_path / "second", inside, tmp_path / "out")
    assert len(caught.value.details) == len(delta.assumes)
    assert not inside.root.exists()
    assert not (tmp_path / "out").exists()
    take(tmp_path / "first", inside, tmp_path / "out")
    take(tmp_path / "second", inside, tmp_path / "out")
    same_lock((folder, store), inside, tmp_path / "out")
    have = load.inventory(inside)
    assert set(delta.items) <= set(have) | {d for d in delta.items if d not in have}
    assert delta.assumes.keys() <= have.keys()


def test_nothing_that_was_changed_by_hand_is_written_over(made: tuple[Path, Store], tmp_path: Path) -> None:
    create(made, tmp_path / "b")
    store, out = Store(tmp_path / "store"), tmp_path / "out"
    take(tmp_path / "b", store, out)
    (out / "recipe" / "hyb.yaml").write_text("mine")
    with pytest.raises(HybError, match="were changed since"):
        take(tmp_path / "b", store, out)
    assert (out / "recipe" / "hyb.yaml").read_text() == "mine"


def test_a_link_in_the_folder_is_not_followed(made: tuple[Path, Store], tmp_path: Path) -> None:
    create(made, tmp_path / "b")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HybError):
        take(tmp_path / "b", Store(tmp_path / "store"), tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_data_stays_out_where_the_boundary_says_never(tmp_path: Path) -> None:
    said = "boundary: {data: never, weights: never}\n"
    folder, store = bundles.recipe(tmp_path / "r", boundary=said), Store(tmp_path / "store")
    go(folder, store)
    what = gathered(folder, store)
    assert {c.kind for c in what.contents} == {"model", "receipt"}
    assert not [p for p in what.files if "facts" in p]
    assert len([line for line in what.left_out if "data: never" in line]) == 2
    write.write(store, "small", what, tmp_path / "b", How(MOST), silent)
    text = b"".join(files(tmp_path / "b").values())
    assert b"number 7 of the long list" not in text
    assert {c.kind for c in gathered(folder, store, with_data=True).contents} >= {"dataset"}
    take(tmp_path / "b", Store(tmp_path / "inside"), tmp_path / "out")
    shutil.copytree(folder / "data", tmp_path / "out" / "recipe" / "data")  # the data came another way
    same_lock((folder, store), Store(tmp_path / "inside"), tmp_path / "out")


def test_a_key_in_the_recipe_is_refused_and_other_files_stay_at_home(tmp_path: Path) -> None:
    folder, store = bundles.recipe(tmp_path / "r"), Store(tmp_path / "store")
    (folder / ".env").write_text("HF_TOKEN=hf_" + "a" * 34)
    (folder / "notes.txt").write_text("hyb_sk_" + "b" * 43)
    (folder / "Makefile").write_text("all:\n\thyb run\n")
    go(folder, store)
    assert {p for p in gathered(folder, store).files if "/" in p and p.count("/") == 1} == {
        "recipe/Makefile", "recipe/hyb.lock", "recipe/hyb.yaml",
    }  # fmt: skip
    (folder / "Makefile").write_text("all:\n\tHF_TOKEN=hf_" + "a" * 34 + " hyb run\n")
    with pytest.raises(HybError, match="private keys") as caught:
        gathered(folder, store)
    assert "hf_aaaa" not in str(caught.value.details)


def test_a_store_that_rotted_is_found_while_the_bundle_is_written(made: tuple[Path, Store], tmp_path: Path) -> None:
    root = shutil.copytree(made[1].root, tmp_path / "store")
    store = Store(root)
    rows = next(a for a in store.artifacts() if a.kind == "dataset").files[-1]
    path = store.blob_path(rows.blob.digest)
    times = path.stat()
    path.chmod(0o644)
    flip(path, rows.blob.size // 2)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(HybError, match="damaged") as caught:
        create((made[0], store), tmp_path / "b")
    assert caught.value.code is Exit.CHECK
    assert not (tmp_path / "b" / form.FILE).exists()


def test_a_folder_with_something_else_is_left_alone(made: tuple[Path, Store], tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious.txt").write_text("x")
    with pytest.raises(HybError, match="something else"):
        create(made, tmp_path / "b")
    create(made, tmp_path / "c")
    with pytest.raises(HybError, match="another bundle"):
        create(made, tmp_path / "c", most=500_000)


def test_too_little_room_is_said_before_a_byte_is_written(
    made: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = create(made, tmp_path / "b")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(HybError, match="1,000 are free"):
        create(made, tmp_path / "c")
    with pytest.raises(HybError, match="1,000 are free"):
        take(tmp_path / "b", Store(tmp_path / "store"), tmp_path / "out")
    blobs = sum(bundle.items.values()) + load.MARGIN
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=blobs))
    with pytest.raises(HybError, match="needs"):  # the plain files would not go beside them
        take(tmp_path / "b", Store(tmp_path / "store"), tmp_path / "out")
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store" / "blobs" / "sha256").iterdir())
    copies = sum(bundle.items[d] for d in bundle.files.values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=blobs + copies))
    take(tmp_path / "b", Store(tmp_path / "store"), tmp_path / "out")


def test_a_disk_that_takes_no_larger_file_is_an_error_in_words(made: tuple[Path, Store], tmp_path: Path) -> None:
    def small_files(work: Callable[[], object]) -> int:
        if (child := os.fork()) == 0:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_505_000, 1_505_000))
            try:
                work()
            except HybError as error:
                os._exit(10 if "too large" in error.message else 11)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert small_files(lambda: create(made, tmp_path / "b", most=4_000_000)) == 10
    assert small_files(lambda: create(made, tmp_path / "c", most=1_000_000)) == 0


def test_a_sealed_bundle_opens_for_its_recipients_alone_and_hides_what_it_holds(
    made: tuple[Path, Store], tmp_path: Path
) -> None:
    pyrage = pytest.importorskip("pyrage")
    keys = [pyrage.x25519.Identity.generate() for _ in range(3)]
    paths = [tmp_path / f"key{n}" for n in range(3)]
    for path, key in zip(paths, keys, strict=True):
        path.write_text(f"# comment\n{key}\n")
        path.chmod(0o600)
    (tmp_path / "recipients").write_text(f"# lab\n{keys[1].to_public()}\n")
    bundle = create(made, tmp_path / "b", recipients=(str(keys[0].to_public()), str(tmp_path / "recipients")))
    assert b"of the long list" not in b"".join(files(tmp_path / "b").values())
    opened = read.open_bundle([tmp_path / "b"])
    assert read.verify(opened, None, silent) == []
    assert read.verify(opened, paths[1], silent) == []
    assert all("o matching keys" in w for w in read.verify(opened, paths[2], silent))
    store = Store(tmp_path / "store")
    with pytest.raises(HybError, match="is sealed"):
        take(tmp_path / "b", store, tmp_path / "out")
    with pytest.raises(HybError, match="matching"):
        take(tmp_path / "b", store, tmp_path / "out", paths[2])
    flip(tmp_path / "b" / bundle.parts[1].name, 90_000)
    with pytest.raises(HybError) as caught:
        take(tmp_path / "b", store, tmp_path / "out", paths[0])
    assert "part 2" in str(caught.value.details)
    flip(tmp_path / "b" / bundle.parts[1].name, 90_000)
    assert take(tmp_path / "b", store, tmp_path / "out", paths[0]).read == 1
    same_lock(made, store, tmp_path / "out")
    again = write.write(
        made[1], "small", gathered(*made), tmp_path / "b", How(MOST, opened_by(bundle, keys, tmp_path)), silent
    )
    assert again.written == 0


def opened_by(_bundle: form.Bundle, keys: list[object], folder: Path) -> tuple[str, ...]:
    return (str(keys[0].to_public()), str(folder / "recipients"))  # type: ignore[attr-defined]


def test_gc_inside_keeps_what_a_delta_builds_on(made: tuple[Path, Store], tmp_path: Path) -> None:
    from hyb import upkeep

    bundle = create(made, tmp_path / "b")
    store = Store(tmp_path / "store")
    take(tmp_path / "b", store, tmp_path / "out")
    upkeep.gc(store)
    small = {"oci-layout", "index.json"}
    lost = [d for d, s in bundle.items.items() if not store.has_blob(Blob(d, s))]
    assert len(lost) <= len(small)


@pytest.mark.parametrize("name", ["new\nline", "back\\slash", "\u202egnp.exe"])
def test_a_file_that_no_load_would_take_is_said_before_a_part_is_written(
    made: tuple[Path, Store], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(made[0], tmp_path / "recipe")
    (folder / "model" / name).write_text("x")
    with pytest.raises(HybError, match="can't be bundled") as caught:
        create((folder, made[1]), tmp_path / "b")
    assert caught.value.code is Exit.INPUT
    assert not (tmp_path / "b").exists()


def test_a_fresh_medium_has_folders_of_its_own(made: tuple[Path, Store], tmp_path: Path) -> None:
    for name in ("lost+found", "System Volume Information", ".Trash-1000"):
        (tmp_path / "b" / name).mkdir(parents=True)
    create(made, tmp_path / "b")
    create(made, tmp_path / "b")
    take(tmp_path / "b", Store(tmp_path / "store"), tmp_path / "out")


@pytest.mark.parametrize("place", ["docs", "recipe/hyb.yaml", "recipe/hyb.lock"])
def test_a_folder_where_a_file_goes_or_a_file_for_the_folder_is_said(
    made: tuple[Path, Store], tmp_path: Path, place: str
) -> None:
    create(made, tmp_path / "b")
    out = tmp_path / "out"
    if "." in place:
        (out / place).mkdir(parents=True)
    else:
        out.write_text("a file")
    with pytest.raises(HybError, match="not of a bundle") as caught:
        take(tmp_path / "b", Store(tmp_path / "store"), out)
    assert caught.value.code is Exit.INPUT
    assert not (tmp_path / "store").exists(), "nothing was changed"


def test_a_mount_point_with_a_blank_in_its_name_is_known_as_fat(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "/dev/a / ext4 rw 0 0\n/dev/b /media/USB\\040STICK vfat rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert write._is_fat(Path("/media/USB STICK/b"))
    assert not write._is_fat(Path("/media/USB"))


def test_parts_that_can_hold_nothing_beside_their_recipients_are_a_mistake(
    made: tuple[Path, Store], tmp_path: Path
) -> None:
    pytest.importorskip("pyrage")
    import pyrage

    key = str(pyrage.x25519.Identity.generate().to_public())
    with pytest.raises(HybError, match="too small for 20 recipients"):
        create(made, tmp_path / "b", form.SMALLEST, recipients=(key,) * 20)
    bundle = create(made, tmp_path / "c", form.SMALLEST, recipients=(key,))
    assert max(p.size for p in bundle.parts) <= form.SMALLEST


def test_a_document_that_no_reader_takes_is_said_before_a_part_is_written(
    made: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = create(made, tmp_path / "b")
    size = (tmp_path / "b" / form.FILE).stat().st_size
    monkeypatch.setattr(form, "MOST", size + 32 * len(bundle.parts))
    create(made, tmp_path / "c")
    monkeypatch.setattr(form, "MOST", size - 1)
    with pytest.raises(HybError, match="document would have") as caught:
        create(made, tmp_path / "d")
    assert caught.value.code is Exit.INPUT
    assert not list((tmp_path / "d").glob("*.tar"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_medium_that_can_not_sync_a_folder_is_written_and_a_broken_one_is_not(
    made: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuses(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "no")
        fsync(descriptor)

    what = gathered(*made)
    monkeypatch.setattr(os, "fsync", refuses)
    if number == errno.EINVAL:
        write.write(made[1], "small", what, tmp_path / "b", How(MOST), silent)
        assert read.verify(read.open_bundle([tmp_path / "b"]), None, silent) == []
    else:
        with pytest.raises(HybError, match="can't write the bundle"):
            write.write(made[1], "small", what, tmp_path / "b", How(MOST), silent)
