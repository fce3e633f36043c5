"""Back to a generation: all of it or nothing, whatever is damaged, edited or killed on the way."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hyb import fs, generations, lock, rollback, verify
from hyb import recipe as recipes
from hyb import run as runs
from hyb.artifact import File
from hyb.errors import Exit, HybError
from hyb.linking import folder
from hyb.lock import Lock, Locked
from hyb.progress import silent
from hyb.store import Store
from tests.killing import killed_at

RECIPE = """\
hyb: 1
name: r
stages:
  base:    {{stage: pull, source: "file:model"}}
  facts:   {{stage: data, source: facts.jsonl, holdout: {holdout}}}
  service: {{stage: serve, image: base, name: bot, port: {port}, target: quadlet,
            runtime_image: registry.example.com/vllm:1, model_image: registry.example.com/lab/bot}}
  van:     {{stage: link, service: service, namespace: chat, apps_domain: apps.example.com}}
"""


class Lab:
    """A recipe that runs in a moment, its store, and where its link and its unit lie."""

    def __init__(self, root: Path) -> None:
        self.root = root / "a b é"
        self.folder = self.root / "recipe"
        self.folder.mkdir(parents=True)
        self.environ = {"HOME": str(self.root / "home")}
        self.said: list[str] = []
        rows = [json.dumps({"prompt": f"question {i}?", "completion": f"answer {i}"}) for i in range(20)]
        (self.folder / "facts.jsonl").write_text("\n".join(rows))
        self.write(port=8000, weight=1)

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    @property
    def path(self) -> Path:
        return self.folder / "hyb.yaml"

    @property
    def out(self) -> Path:
        return self.root / "the link"

    @property
    def unit(self) -> Path:
        return Path(self.environ["HOME"], ".config/containers/systemd/bot.container")

    def write(self, *, port: int, weight: int, holdout: float = 0.2) -> None:
        """The recipe and its model, anew."""
        self.path.write_text(RECIPE.format(port=port, holdout=holdout))
        model = self.folder / "model"
        model.mkdir(exist_ok=True)
        header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
        data = len(header).to_bytes(8, "little") + header + bytes([weight] * 4)
        (model / "model.safetensors").write_bytes(data)
        config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}
        (model / "config.json").write_text(json.dumps(config))

    def run(self, **options: Any) -> None:
        given = runs.Options(self.folder / lock.FILE, offline=True, **options)
        runs.run(recipes.read(self.path), self.store, given, lambda said: self.said.append(str(said)))

    def install(self) -> None:
        """What a person does with the result: the link's folder, and the unit where Podman reads it."""
        tags, store = self.store.tags(), self.store
        folder.materialise(store, store.artifact(tags["r/van"]), self.out, self.environ)
        self.unit.parent.mkdir(parents=True, exist_ok=True)
        service = store.artifact(tags["r/service"])
        self.unit.write_bytes(store.read(service.file("quadlet/bot.container").blob.digest))

    def two(self) -> Lab:
        """Two generations; the second is installed."""
        self.run()
        self.write(port=8001, weight=2)
        self.run()
        self.install()
        return self

    def back(self, to: int = 0, *, dry_run: bool = False, **request: Any) -> rollback.Done:
        asked = rollback.Request(self.path, to, **{"out": self.out, **request})
        say = lambda said: self.said.append(str(said))  # noqa: E731
        return rollback.rollback(asked, self.store, self.environ, say, dry_run=dry_run)

    @property
    def ledger(self) -> generations.Ledger:
        return generations.read(self.store, "r")

    def state(self) -> dict[str, Any]:
        """All that a rollback moves."""
        ours = {n: x for n, x in self.store.tags().items() if n.startswith("r/")}
        return {
            "tags": ours, "lock": (self.folder / lock.FILE).read_bytes(), "current": self.ledger.current,
            "moving": self.ledger.moving, "unit": self.unit.read_text() if self.unit.exists() else None,
            "link": {p.name: p.read_bytes() for p in sorted(self.out.rglob("*")) if p.is_file()},
        }  # fmt: skip

    def blob(self, number: int, stage: str) -> Path:
        """The largest blob of a generation's output."""
        found = self.ledger.get(number)
        assert found
        files = self.store.artifact(found.outputs[stage]).files
        return self.store.blob_path(max((f.blob for f in files), key=lambda b: b.size).digest)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_model_unit_link_names_and_lock_go_back_together_and_forward_again(lab: Lab) -> None:
    lab.run()
    lab.install()
    first = lab.state()
    lab.write(port=8001, weight=2)
    lab.run()
    lab.install()
    second = lab.state()
    assert first["current"] == 1 and second["current"] == 2
    assert (
        first["unit"] != second["unit"] and first["link"]["Connector-llm.yaml"] != second["link"]["Connector-llm.yaml"]
    )
    done = lab.back()
    assert (done.came_from, done.to) == (2, 1)
    assert lab.state() == first
    assert {c.what for c in done.changes} == {"name", "lock", "unit", "link"}
    assert any("systemctl --user restart bot" in note for note in done.notes)
    assert lab.back(2).to == 2
    assert lab.state() == second


def test_the_credentials_are_the_same_after_a_rollback(lab: Lab) -> None:
    lab.two()
    before = (lab.out / "private/Secret-link-public.yaml").read_bytes()
    lab.back()
    assert (lab.out / "private/Secret-link-public.yaml").read_bytes() == before


def test_a_dry_run_says_what_would_move_and_moves_nothing(lab: Lab) -> None:
    before = lab.two().state()
    would = lab.back(dry_run=True)
    assert lab.state() == before
    assert lab.back().changes == would.changes


def test_going_back_where_one_is_repairs_names_and_changes_nothing_else(lab: Lab) -> None:
    before = lab.two().state()
    assert lab.back(2).changes == ()
    lab.store.untag("r/base")
    assert [c.where for c in lab.back(2).changes] == ["r/base"]
    assert lab.state() == before


def test_a_stage_that_the_earlier_generation_did_not_have_loses_its_name_and_is_kept(lab: Lab) -> None:
    whole = lab.path.read_text()
    lab.path.write_text(whole[: whole.index("  service:")])
    lab.run()
    lab.path.write_text(whole)
    lab.run()
    van = lab.store.tags()["r/van"]
    lab.back(1, out=None)
    assert set(lab.store.tags()) == {"r/base", "r/facts"}
    lab.path.write_text(whole)
    lab.back(2, out=None)
    assert lab.store.tags()["r/van"] == van


@pytest.mark.parametrize("stage", ["base", "facts", "service", "van"])
@pytest.mark.parametrize("how", ["flipped", "missing", "cut"])
def test_a_generation_with_a_wrong_byte_is_refused_and_all_is_left_as_it_was(lab: Lab, stage: str, how: str) -> None:
    before = lab.two().state()
    path = lab.blob(1, stage)
    stat, data = path.stat(), bytearray(path.read_bytes())
    path.chmod(0o644)
    if how == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if how == "flipped" else data[:-1])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a disk does it: nobody notes a time
    with pytest.raises(HybError, match="generation 1 of `r` is not whole") as caught:
        lab.back()
    assert caught.value.code is Exit.CHECK
    assert any(line.startswith(f"{stage}: ") for line in caught.value.details), caught.value.details
    assert lab.state() == before


def test_a_generation_without_its_receipts_is_refused(lab: Lab) -> None:
    before = lab.two().state()
    first = lab.ledger.get(1)
    assert first
    with lab.store.index() as entries:
        receipts = {r.digest for r in lab.store.referrers(first.outputs["base"])}
        entries[:] = [e for e in entries if e["digest"] not in receipts]
    with pytest.raises(HybError) as caught:
        lab.back()
    assert any("base: no receipt says" in line for line in caught.value.details)
    assert lab.state() == before


def _noted(lab: Lab, *, passed: bool) -> None:
    """A generation whose exam says this, as the ledger of a hyb with a hole, or an edited one, would have it."""
    from hyb import receipt

    store, key = lab.store, "sha256:" + "1" * 64
    exam = store.add_artifact("report", [File("x", store.add_bytes(b"x"))], meta={"passed": passed})
    now = receipt.now()
    said = receipt.statement(name="r/exam", stage="eval", key=key, spec={}, pins={}, inputs={}, output=exam,
                             started=now, ended=now, facts={})  # fmt: skip
    receipt.add(store, said, exam)
    ledger = lab.ledger
    assert ledger.now
    stages = {**ledger.now.lock.stages, "exam": Locked("eval", key, {}, exam.digest)}
    generations.write(store, "r", ledger.with_(Lock(ledger.now.lock.pins, stages), now))


@pytest.mark.parametrize("passed", [True, False])
def test_a_generation_whose_exam_was_failed_stays_refused(lab: Lab, passed: bool) -> None:
    lab.run()
    _noted(lab, passed=passed)
    if passed:
        assert lab.back(2, out=None).to == 2
        return
    with pytest.raises(HybError) as caught:
        lab.back(2, out=None)
    assert caught.value.code is Exit.CHECK and "exam: this exam was not passed" in caught.value.details


def test_verify_tells_of_a_kept_generation_that_is_no_longer_whole(lab: Lab) -> None:
    lab.two()
    assert verify.check_store(lab.store, silent) == []
    old = lab.ledger.generations[0].outputs["van"]
    with lab.store.index() as entries:
        entries[:] = [e for e in entries if e["digest"] != old]
    wrong = verify.check_store(lab.store, silent)
    assert any(line.startswith("generation 1 of `r`: its `van`") for line in wrong), wrong


def test_a_link_folder_or_unit_that_was_edited_is_not_overwritten(lab: Lab) -> None:
    lab.two()
    (lab.out / "private/mine.yaml").write_text("kind: ConfigMap")
    before = lab.state()
    with pytest.raises(HybError, match="was edited") as caught:
        lab.back()
    assert caught.value.code is Exit.INPUT and lab.state() == before
    (lab.out / "private/mine.yaml").unlink()
    lab.unit.write_text(lab.unit.read_text() + "# mine\n")
    mine = lab.unit.read_text()
    lab.back()
    assert lab.unit.read_text() == mine, "a unit that is not hyb's, byte for byte, is left alone"
    with pytest.raises(HybError, match="holds no unit of this recipe"):
        lab.back(2, units=lab.unit.parent)


def test_a_folder_of_units_that_is_named_is_moved_whole(lab: Lab) -> None:
    lab.two()
    units = lab.root / "units"
    for f in lab.store.artifact(lab.store.tags()["r/service"]).files:
        (units / f.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(lab.store.blob_path(f.blob.digest), units / f.path)
    assert "8001" in (units / "quadlet/bot.container").read_text()
    lab.back(units=units)
    assert "8000" in (units / "quadlet/bot.container").read_text() and "8000" in (units / "APPLY.md").read_text()
    (units / "APPLY.md").write_text("mine")
    with pytest.raises(HybError, match="was edited"):
        lab.back(2, units=units)


def test_a_folder_with_another_link_is_refused_when_named_and_left_alone_otherwise(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.two()
    with pytest.raises(HybError, match="holds no link of `r`"):
        lab.back(out=lab.root)
    monkeypatch.chdir(lab.root)
    before = lab.state()["link"]
    lab.back(out=None)
    assert lab.state()["link"] == before


def test_a_failure_on_the_way_takes_back_what_was_done(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lab.two().state()

    def full(self: Store, *_: object) -> None:
        raise HybError("no space left on device")

    monkeypatch.setattr(Store, "move_names", full)
    with pytest.raises(HybError, match="no space"):
        lab.back()
    monkeypatch.undo()
    assert lab.state() == before


def test_nothing_before_no_such_number_and_no_generation_at_all_are_told(lab: Lab) -> None:
    with pytest.raises(HybError, match="no generation of `r` is in this store"):
        lab.back()
    assert not lab.store.root.exists() or not lab.ledger.generations
    lab.run()
    with pytest.raises(HybError, match="no generation of `r` before 1"):
        lab.back(out=None)
    with pytest.raises(HybError, match="`r` has no generation 7"):
        lab.back(7)


# -- runs after a rollback -------------------------------------------------------------------------------------------


def test_a_run_that_would_undo_the_rollback_is_refused_until_the_recipe_changes(lab: Lab) -> None:
    lab.two().back()
    before = lab.state()
    with pytest.raises(HybError, match="would bring back generation 2 of `r`, which was rolled back to 1") as caught:
        lab.run()
    assert caught.value.code is Exit.CHECK and "--to 2" in caught.value.hint
    assert lab.state() == before
    with pytest.raises(HybError, match="stale"):
        lab.run(locked=True)
    lab.write(port=8000, weight=1)
    lab.run()
    assert lab.state() == before, "the earlier recipe gives the earlier generation: nothing to do"
    lab.write(port=8002, weight=2)
    lab.run()
    assert (lab.ledger.current, lab.ledger.last) == (3, 3)
    assert lab.back().to == 1, "not 2, which had been left"


def test_a_run_to_a_stage_that_would_undo_it_is_refused_as_well(lab: Lab) -> None:
    lab.two().back()
    recipe = recipes.read(lab.path)
    options = runs.Options(lab.folder / lock.FILE, offline=True)
    with pytest.raises(HybError, match="would bring back generation 2"):
        runs.run(recipe.upto("service"), lab.store, options, lambda _: None)
    runs.run(recipe.upto("facts"), lab.store, options, lambda _: None)  # is the same in both


def test_a_run_to_a_stage_makes_no_generation_and_a_rollback_returns_to_the_current_one(lab: Lab) -> None:
    lab.two()
    before = lab.state()
    lab.write(port=8001, weight=3)
    options = runs.Options(lab.folder / lock.FILE, offline=True)
    runs.run(recipes.read(lab.path).upto("base"), lab.store, options, lambda _: None)
    assert lab.ledger.current == 2 and lab.state() != before
    done = lab.back()
    assert (done.came_from, done.to) == (0, 2)
    assert lab.state() == before


def test_a_lock_that_came_from_elsewhere_is_no_generation(lab: Lab) -> None:
    lab.two()
    path = lab.folder / lock.FILE
    fetched = lock.read(path)
    stages = {n: Locked(s.stage, s.key, {}, s.output) for n, s in fetched.stages.items() if n != "van"}
    lock.write(path, Lock(fetched.pins, stages))
    assert rollback.standing(lab.path, lab.store).number == 0
    assert lab.back().to == 2


def test_a_second_store_records_the_locked_run_as_its_first(lab: Lab) -> None:
    lab.two()
    other = Store(lab.root / "another")
    runs.run(recipes.read(lab.path), other, runs.Options(lab.folder / lock.FILE, locked=True), lambda _: None)
    assert generations.read(other, "r").current == 1
    assert generations.read(other, "r").generations[0].outputs == lab.ledger.generations[1].outputs


def test_nothing_of_time_or_place_is_in_a_lock_or_an_artifact(lab: Lab, tmp_path: Path) -> None:
    lab.two()
    other = Lab(tmp_path / "elsewhere").two()
    assert other.state()["lock"] == lab.state()["lock"]
    assert other.state()["tags"] == lab.state()["tags"]


# -- killed ----------------------------------------------------------------------------------------------------------


def _reset(lab: Lab, kept: Path) -> None:
    for name in ("store", "the link", "home", "recipe"):
        shutil.rmtree(lab.root / name, ignore_errors=True)
        shutil.copytree(kept / name, lab.root / name)


def test_a_rollback_killed_anywhere_is_ended_by_the_next_one_and_no_run_goes_astray(lab: Lab, tmp_path: Path) -> None:
    lab.run()
    lab.install()
    first = lab.state()
    lab.two()
    second = lab.state()
    shutil.copytree(lab.root, tmp_path / "kept")
    points = cut = 0
    for number in range(1, 400):
        _reset(lab, tmp_path / "kept")
        if not killed_at(number, lab.back):
            break
        points += 1
        ledger = lab.ledger
        if ledger.moving:
            cut += 1
            with pytest.raises(HybError, match="was cut off in the middle"):
                lab.run()
            assert lab.back().to == 1
            assert lab.state() == first
        elif ledger.current == 1:
            assert lab.state() == first
        else:
            assert lab.state() == second
            lab.run()
            assert lab.state() == second
    assert points > 15 and cut > 10, (points, cut)


def test_a_run_killed_anywhere_is_noted_by_the_next_run_or_rollback(lab: Lab, tmp_path: Path) -> None:
    lab.run()
    lab.install()
    first = lab.state()
    lab.write(port=8001, weight=2)
    shutil.copytree(lab.root, tmp_path / "kept")
    lab.run()
    second = lab.state()
    whole = last = 0
    for number in range(1, 400):
        _reset(lab, tmp_path / "kept")
        if not killed_at(number, lab.run):
            break
        standing = rollback.standing(lab.path, lab.store)
        if standing.ledger.current == 2:
            last += 1
        if number % 2:
            lab.run()
            assert lab.ledger.current == 2 and lab.state()["tags"] == second["tags"]
        else:
            done = lab.back() if lab.state() != first else None
            if done:
                assert done.to == 1 and lab.state()["tags"] == first["tags"] and lab.state()["lock"] == first["lock"]
        whole += 1
    assert whole > 30 and last >= 1, (whole, last)


def test_two_rollbacks_at_once_end_where_one_does(lab: Lab) -> None:
    lab.run()
    lab.install()
    first = lab.state()
    lab.two()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            status = 2
            try:
                lab.back(1)
                status = 0
            except HybError as error:
                status = 0 if "is going on" in error.message else 1
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0, 0, 0]
    assert lab.state() == first


def test_a_rollback_while_a_run_goes_on_is_refused_at_once(lab: Lab) -> None:
    before = lab.two().state()
    with fs.locked(lab.store.root / "locks" / "running.r", shared=True), pytest.raises(HybError, match="is going on"):
        lab.back()
    assert lab.state() == before
