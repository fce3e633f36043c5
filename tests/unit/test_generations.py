"""The ledger of a recipe's generations: numbers, order, what is kept."""

from __future__ import annotations

import json
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hyb import digest, generations, upkeep
from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.generations import Ledger
from hyb.lock import Lock, Locked
from hyb.store import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def d(text: str) -> str:
    return digest.of_bytes(text.encode())


def lock(**outputs: str) -> Lock:
    """A lock whose stages gave these things, by name."""
    return Lock({}, {n: Locked("data", d(f"key {n} {o}"), {}, d(o)) for n, o in outputs.items()})


def made(*names: str, keep: int = 5) -> Ledger:
    ledger = Ledger(keep=keep)
    for name in names:
        ledger = ledger.with_(lock(a=name), NOW)
    return ledger


def numbers(ledger: Ledger) -> list[int]:
    return [g.number for g in ledger.generations]


def moved(ledger: Ledger, to: int) -> Ledger:
    return Ledger(ledger.generations, to, 0, ledger.keep, ledger.last)


def test_an_output_that_changed_makes_the_next_number_and_the_same_outputs_make_none() -> None:
    ledger = made("x", "y", "y")
    assert numbers(ledger) == [1, 2] and ledger.current == 2
    assert [g.after for g in ledger.generations] == [0, 1]
    again = Lock({"s": "p"}, lock(a="y").stages)
    same = ledger.with_(again, NOW)
    assert numbers(same) == [1, 2] and same.now and same.now.lock == again, "the lock is the newest one"


def test_outputs_of_long_ago_are_a_new_generation() -> None:
    ledger = made("x", "y", "x")
    assert numbers(ledger) == [1, 2, 3] and ledger.current == 3


def test_after_a_rollback_the_next_number_is_new_and_comes_after_the_one_that_was_gone_back_to() -> None:
    ledger = moved(made("x", "y", "z"), 1).with_(lock(a="w"), NOW)
    assert ledger.current == 4
    before = ledger.before(4)
    assert before and before.number == 1, "not 3, which was left"


def test_only_the_last_are_kept_with_the_current_one_and_the_one_before_it() -> None:
    assert numbers(made(*"abcdefg")) == [3, 4, 5, 6, 7]
    old = moved(made(*"abcde"), 1)
    assert numbers(old.pruned(2)) == [1, 5]
    assert numbers(old.pruned(1)) == [1]
    assert numbers(old.with_(lock(a="new"), NOW).pruned(2)) == [1, 6]


def test_numbers_are_not_used_again_when_generations_are_forgotten() -> None:
    ledger = made("x", "y").pruned(0)
    assert numbers(ledger) == []
    again = ledger.pruned(3).with_(lock(a="z"), NOW)
    assert numbers(again) == [3] and again.before(3) is None


def test_when_the_one_before_is_no_longer_kept_the_nearest_below_is_it() -> None:
    ledger = made("a", "b", "c", "d")
    without = Ledger(tuple(g for g in ledger.generations if g.number != 3), 4, 0, 5, 4)
    found = without.before(4)
    assert found and found.number == 2


def test_a_lock_is_whole_when_its_stages_were_made_from_each_other() -> None:
    stages = {"base": Locked("pull", d("k"), {}, d("b")), "bot": Locked("tune", d("l"), {"base": d("b")}, d("c"))}
    assert generations.whole(Lock({}, stages), {"base", "bot"})
    assert not generations.whole(Lock({}, stages), {"base", "bot", "exam"}), "one is missing"
    assert not generations.whole(Lock({}, stages), {"base"}), "one is too many"
    other = {**stages, "base": Locked("pull", d("k2"), {}, d("b2"))}
    assert not generations.whole(Lock({}, other), {"base", "bot"}), "bot is still of the other base"


def test_a_ledger_is_read_as_it_was_written_and_written_only_when_it_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert generations.read(store, "r") == Ledger() and not (tmp_path / "generations").exists()
    first = generations.record(store, "r", lock(a="x"), NOW)
    assert generations.read(store, "r") == first
    before = generations.path(store, "r").stat().st_ino
    generations.record(store, "r", lock(a="x"), NOW)
    assert generations.path(store, "r").stat().st_ino == before
    assert generations.names(store) == ["r"]
    assert "2026-01-02T03:04:05+00:00" in generations.path(store, "r").read_text()


def test_nothing_is_noted_when_none_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    generations.write(store, "r", Ledger(keep=0))
    assert generations.record(store, "r", lock(a="x"), NOW).generations == ()


@pytest.mark.parametrize("spoil", ["half", "list", "digest", "empty"])
def test_a_damaged_ledger_is_refused_and_stops_gc(tmp_path: Path, spoil: str) -> None:
    store = Store(tmp_path)
    generations.record(store, "r", lock(a="x"), NOW)
    path = generations.path(store, "r")
    text = path.read_text()
    path.write_text({"half": text[:40], "list": "[]", "digest": text.replace(d("x"), "sha256:12"), "empty": ""}[spoil])
    with pytest.raises(HybError, match="is damaged") as caught:
        generations.read(store, "r")
    assert caught.value.code is Exit.CHECK
    with pytest.raises(HybError, match="is damaged"):
        upkeep.gc(store)


def test_a_ledger_of_a_newer_hyb_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    generations.record(store, "r", lock(a="x"), NOW)
    path = generations.path(store, "r")
    path.write_text(json.dumps({**json.loads(path.read_text()), "hyb-generations": 2}))
    with pytest.raises(HybError, match="has format 2"):
        generations.read(store, "r")


def _artifact(store: Store, text: str, **more: object) -> Artifact:
    from hyb.artifact import File

    return store.add_artifact("dataset", [File("x", store.add_bytes(text.encode()))], **more)  # type: ignore[arg-type]


def test_gc_keeps_what_a_kept_generation_reaches_and_nothing_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base = _artifact(store, "base")
    old = _artifact(store, "old", needs=(base.digest,))
    receipt = _artifact(store, "receipt", subject=old)
    new, stray = _artifact(store, "new"), _artifact(store, "stray")
    for one in (old, new):
        generations.record(store, "r", Lock({}, {"a": Locked("data", d("k"), {}, one.digest)}), NOW)
    store.tag("r/a", new.digest)
    upkeep.gc(store)
    assert set(store.digests()) == {base.digest, old.digest, receipt.digest, new.digest}
    assert not store.blob_path(stray.digest).exists()
    generations.write(store, "r", generations.read(store, "r").pruned(1))
    upkeep.gc(store)
    assert set(store.digests()) == {new.digest}
    assert not store.blob_path(old.digest).exists() and not store.blob_path(base.files[0].blob.digest).exists()


def _record(root: str, name: str) -> None:
    generations.record(Store(Path(root)), "r", lock(a=name), NOW)


def test_processes_that_record_at_once_lose_nothing(tmp_path: Path) -> None:
    Store(tmp_path).add_bytes(b"x")
    generations.write(Store(tmp_path), "r", Ledger(keep=20))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_record, args=(str(tmp_path), f"output {i}")) for i in range(8)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    ledger = generations.read(Store(tmp_path), "r")
    assert numbers(ledger) == list(range(1, 9)) and len({g.outputs["a"] for g in ledger.generations}) == 8


def test_a_rollback_is_alone_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with generations.running(store, "r"), generations.running(store, "r"):
        with pytest.raises(HybError, match="a run or rollback of `r` is going on"), generations.alone(store, "r"):
            pass
        with generations.alone(store, "another"):
            pass
    with generations.alone(store, "r"):
        pass


def test_names_move_together_in_one_write(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = _artifact(store, "one"), _artifact(store, "two")
    store.tag("r/a", one.digest)
    store.tag("r/gone", one.digest)
    store.tag("mine", one.digest)
    store.move_names({"r/a": two.digest, "r/b": one.digest}, ["r/gone", "r/never"])
    assert store.tags() == {"r/a": two.digest, "r/b": one.digest, "mine": one.digest}
    assert set(store.digests()) == {one.digest, two.digest}
    before = (tmp_path / "index.json").stat().st_ino
    store.move_names({"r/a": two.digest, "r/b": one.digest}, ["r/gone"])
    assert (tmp_path / "index.json").stat().st_ino == before, "nothing to do writes nothing"
    with pytest.raises(HybError, match="not in the store"):
        store.move_names({"r/a": d("nothing"), "r/b": two.digest})
    assert store.tags()["r/b"] == one.digest
