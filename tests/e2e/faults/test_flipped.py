"""One flipped bit in each kind of file that hyb writes: `hyb verify` finds it, using it is refused or heals, and
`hyb repair` makes or fetches again what is broken and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hyb.hub import checks
from hyb.store import Store
from tests.e2e.faults.chain import Chain, spoil


def manifest(one: Chain, step: str) -> dict[str, object]:
    return dict(json.loads(one.blob(one.output(step)).read_bytes()))


def layer(one: Chain, step: str, suffix: str) -> Path:
    """The blob of the file of a step's output whose path ends in `suffix`."""
    layers = manifest(one, step)["layers"]
    assert isinstance(layers, list)
    found = [x for x in layers if x.get("annotations", {}).get("org.cncf.model.filepath", "").endswith(suffix)]
    return one.blob(found[0]["digest"])


def layers(one: Chain) -> list[Path]:
    """The blobs of the image's layers."""
    found = manifest(one, "image")["layers"]
    assert isinstance(found, list)
    return [one.blob(x["digest"]) for x in found]


def receipt(one: Chain, step: str) -> tuple[Path, Path]:
    """The manifest and the statement of a step's receipt."""
    digest = next(e["receipt"] for e in one.hyb.json("log") if e["name"].endswith(f"/{step}"))
    found = json.loads(one.blob(digest).read_bytes())
    return one.blob(digest), one.blob(found["layers"][0]["digest"])


KINDS: dict[str, Callable[[Chain], Path]] = {
    "the manifest of a model": lambda c: c.blob(c.output("base")),
    "safetensors": lambda c: layer(c, "base", ".safetensors"),
    "a row of the data": lambda c: layer(c, "facts", "train.jsonl"),
    "an image's layer": lambda c: layers(c)[0],
    "an image's config": lambda c: c.blob(manifest(c, "image")["config"]["digest"]),  # type: ignore[index]
    "a unit": lambda c: layer(c, "service", ".container"),
    "a link document": lambda c: layer(c, "van", "APPLY.md"),
    "a receipt's manifest": lambda c: receipt(c, "facts")[0],
    "a receipt's statement": lambda c: receipt(c, "image")[1],
    "a step record": lambda c: c.store / "steps" / f"{c.key('image')}.json",
    "the index": lambda c: c.store / "index.json",
    "the layout's mark": lambda c: c.store / "oci-layout",
    "the lock": lambda c: c.file,
    "the generations": lambda c: c.store / "generations" / "quick.json",
}


def broken(path: Path) -> None:
    """A flipped bit; where the bit would leave JSON that says the same, the brace at its start."""
    if path.suffix in (".json", ".lock") or path.name == "oci-layout":
        spoil(path, lambda data: data.__setitem__(0, data[0] ^ 1))
    else:
        spoil(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_and_repaired_with_the_same_lock(quick: Chain, tmp_path: Path, kind: str) -> None:
    one = quick.copy(tmp_path)
    before = {p: p.stat().st_ino for p in (one.store / "blobs" / "sha256").iterdir()}
    path = KINDS[kind](one)
    broken(path)
    assert one.hyb.fails(4, "verify", str(one.recipe), "-q")
    done = one.hyb("repair", str(one.recipe), "-q")
    assert done.returncode == (4 if kind == "the generations" else 0), done.stdout + done.stderr
    assert done.stdout.strip() != "all whole"
    one.hyb.ok("verify", str(one.recipe), "-q")
    assert one.file.read_bytes() == one.lock
    touched = {p for p, inode in before.items() if p.exists() and p.stat().st_ino != inode} - {path}
    assert not touched, "what is whole is not written again"
    steps = one.hyb.json("run", str(one.recipe), "-q")["steps"]
    assert all(s["cached"] for s in steps)
    assert one.file.read_bytes() == one.lock
    assert set(Store(one.store).tags()) == {f"quick/{s}" for s in json.loads(one.lock)["stages"]}


def test_a_damaged_signature_is_set_aside_and_repair_says_that_it_must_be_made_again(
    quick: Chain, tmp_path: Path
) -> None:
    one, keys = quick.copy(tmp_path), tmp_path / "keys"
    one.hyb.ok("sign", "--new-key", str(keys))
    sign = ("sign", "quick/base", "--key", str(keys / "hyb.key"))
    made = one.hyb.json(*sign)["signature"]
    spoil(one.blob(json.loads(one.blob(made).read_bytes())["layers"][0]["digest"]))
    assert "is lost: sign it again" in one.hyb.fails(4, "repair", str(one.recipe))
    assert one.hyb.json("repair", str(one.recipe))["done"] == []
    one.hyb.ok("verify", str(one.recipe), "-q")
    one.hyb.ok(*sign)
    one.hyb.ok("verify", "quick/base", "--key", str(keys / "hyb.pub"))


def test_a_flipped_bit_at_use_is_refused_and_nothing_is_made_of_it(quick: Chain, tmp_path: Path) -> None:
    """Used means packed: weights that changed after they were checked once, their time moved by the change."""
    one = quick.copy(tmp_path)
    path = layer(one, "base", ".safetensors")
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    one.undo("image")
    for image in layers(one):  # else they are taken as they are
        image.unlink()
    said = one.hyb.fails(4, "run", str(one.recipe), "-q")
    assert "is damaged" in said
    assert "hyb repair" in said
    one.hyb.ok("repair", str(one.recipe), "-q")
    one.converges()


def test_a_damaged_copy_in_a_view_is_found_and_removed(quick: Chain, tmp_path: Path) -> None:
    """A copy, as on a file system without links: it is damaged without its blob."""
    one = quick.copy(tmp_path)
    store = Store(one.store)
    path = store.view(store.artifact(one.output("base"))) / "model.safetensors"
    spoil(path)  # written anew: no longer a link
    assert "view" in one.hyb.fails(4, "verify", "-q")
    one.hyb.ok("repair", "-q")
    one.hyb.ok("verify", "-q")


def test_a_blob_that_is_gone_and_one_that_is_a_link_are_mended(quick: Chain, tmp_path: Path) -> None:
    one = quick.copy(tmp_path)
    gone, linked = one.blob(one.output("facts")), layer(one, "base", "config.json")
    gone.unlink()
    (tmp_path / "other").write_bytes(linked.read_bytes() + b" ")
    linked.unlink()
    linked.symlink_to(tmp_path / "other")
    one.hyb.fails(4, "verify", str(one.recipe), "-q")
    one.hyb.ok("repair", str(one.recipe), "-q")
    assert not linked.is_symlink()
    one.converges()


def test_a_store_without_its_recipe_is_repaired_from_its_receipts(quick: Chain, tmp_path: Path) -> None:
    """All but what was made of files of the recipe's folder: that is named, with the command that mends it."""
    one = quick.copy(tmp_path)
    for path in (layers(one)[0], layer(one, "facts", "train.jsonl")):
        spoil(path)
    done = one.hyb("repair", "-q", cwd=tmp_path)
    assert done.returncode == 4
    assert "made quick/image" in done.stderr
    assert "quick/facts" in done.stderr
    assert "hyb repair RECIPE" in done.stderr
    one.hyb.ok("repair", str(one.recipe), "-q")
    one.converges()


def test_a_repair_changes_nothing_when_all_is_whole_and_a_dry_run_never_does(quick: Chain, tmp_path: Path) -> None:
    one = quick.copy(tmp_path)

    def tree() -> dict[Path, int]:
        files = (p for p in one.store.rglob("*") if p.is_file() and "locks" not in p.parts)
        return {p: p.stat().st_mtime_ns for p in files}

    before = tree()
    assert one.hyb.ok("repair", str(one.recipe), "-q").strip() == "all whole"
    assert tree() == before
    spoil(one.blob(one.output("base")))
    damaged = tree()
    assert "would" in one.hyb.ok("repair", str(one.recipe), "-q", "--dry-run")
    assert tree() == damaged


def test_what_was_never_in_this_store_is_for_a_run_to_make(quick: Chain, tmp_path: Path) -> None:
    one = quick.copy(tmp_path)
    shutil.rmtree(one.store)
    said = one.hyb.fails(4, "repair", str(one.recipe), "-q")
    assert said.count("is not in this store: `hyb run` makes it") == len(json.loads(one.lock)["stages"])
    assert not one.store.exists()


def test_data_that_changed_since_is_not_taken_for_the_old(quick: Chain, tmp_path: Path) -> None:
    one = quick.copy(tmp_path)
    spoil(layer(one, "facts", "train.jsonl"))
    with (one.recipe / "facts.jsonl").open("a") as stream:
        stream.write('{"prompt": "another?", "completion": "yes"}\n')
    said = one.hyb.fails(4, "repair", str(one.recipe), "-q")
    assert "has changed since" in said
    assert one.file.read_bytes() == one.lock


def test_a_damaged_boundary_record_is_named_and_not_thrown_away(quick: Chain, tmp_path: Path) -> None:
    """It says what may leave: without it everything might, so a person must decide."""
    one = quick.copy(tmp_path)
    record = one.store / "boundaries.json"
    record.write_text("{")
    assert "boundaries.json" in one.hyb.fails(4, "verify", "-q")
    one.hyb("repair", "-q")
    assert record.read_text() == "{"


def test_what_torch_made_is_made_again_by_that_step_alone(chain: Chain, tmp_path: Path) -> None:
    """One after the other in one copy: each is a process with torch."""
    one = chain.copy(tmp_path)
    made = {"bot": ".safetensors", "exam": "report.json", "gguf": ".gguf", "merged": ".safetensors"}
    for step, suffix in made.items():
        spoil(layer(one, step, suffix))
        one.hyb.fails(4, "verify", str(one.recipe), "-q")
        said = one.hyb.ok("repair", str(one.recipe), "-q")
        assert [line for line in said.splitlines() if line.startswith("made ")] == [
            f"made small/{step} `{one.output(step)[7:19]}` again"
        ]
        one.hyb.ok("verify", str(one.recipe), "-q")
    one.converges()


def test_flipped_bits_in_the_header_of_weights_are_told_by_the_header_alone(chain: Chain, tmp_path: Path) -> None:
    """A bit in a header changes what the rest means, or is refused; it never is a traceback."""
    from hyb.errors import HybError

    for step, suffix, check in (("merged", ".safetensors", checks.safetensors), ("gguf", ".gguf", checks.gguf)):
        data = layer(chain, step, suffix).read_bytes()
        path = tmp_path / f"x{suffix}"
        refused = 0
        for bit in range(0, 8 * 512, 7):
            flipped = bytearray(data[: 1 << 16]) + data[1 << 16 :]
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                check(path)
            except HybError:
                refused += 1
        assert refused > 50, suffix
