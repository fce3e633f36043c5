"""Which services change when a recipe goes to another generation, and what can't change while it runs.

The service here is a state file and a job, as a running one has them; one that runs for real changes over in
tests/e2e/test_rollback.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyb.artifact import Artifact, File
from hyb.errors import HybError
from hyb.progress import silent
from hyb.serving import handover, live, manager
from hyb.serving.gateway.types import GatewayJob
from hyb.serving.service import Service
from hyb.store import Store


class Lab:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.store = root, Store(root / "store")
        self.beside: list[dict[str, Any]] = []
        self.served = ""
        monkeypatch.setattr(manager, "ps", lambda _: [self.service()])
        monkeypatch.setattr(live, "ask_owner", lambda _: {"adapters": self.beside})

    def model(self, text: str, form: str = "gguf") -> Artifact:
        name = "model.gguf" if form == "gguf" else "model.safetensors"
        files = [File(name, self.store.add_bytes(text.encode()))]
        return self.store.add_artifact("model", files, meta={"format": form, "context": 512})

    def adapter(self, text: str, base: Artifact) -> Artifact:
        files = [File("adapter.gguf", self.store.add_bytes(text.encode()))]
        meta = {"format": "gguf", "base": base.digest}
        return self.store.add_artifact("adapter", files, meta=meta, needs=(base.digest,))

    def service(self) -> Service:
        log = str(self.root / "bot.log")
        return Service("bot", 1, 1, "127.0.0.1", 8000, "llama.cpp", "", self.served, "", log, True)

    def serve(self, artifact: Artifact, **more: Any) -> None:
        self.served = artifact.digest
        job = GatewayJob("bot", "llama.cpp", "/m", str(self.root), context=4096, parallel=2, **more)
        job.write(self.root / "bot.job.json")

    def plan(self, known: list[dict[str, Artifact]], to: dict[str, Artifact]) -> handover.Plan:
        digests = [{stage: a.digest for stage, a in one.items()} for one in known]
        return handover.plan(self.store, {}, digests, {stage: a.digest for stage, a in to.items()}, silent)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_a_service_of_the_recipe_changes_and_a_strangers_does_not(lab: Lab) -> None:
    old, new, other = lab.model("old"), lab.model("new"), lab.model("other")
    lab.serve(new)
    assert lab.plan([{"gguf": old}, {"gguf": new}], {"gguf": old}).lines == [("bot", new.digest, old.digest)]
    assert lab.plan([{"gguf": old}, {"gguf": new}], {"gguf": new}).lines == []
    lab.serve(other)
    assert lab.plan([{"gguf": old}, {"gguf": new}], {"gguf": old}).lines == []


def test_adapters_beside_the_model_change_with_their_share_and_others_stay(lab: Lab) -> None:
    base = lab.model("base")
    old, new, mine = (lab.adapter(text, base) for text in ("old", "new", "mine"))
    lab.serve(base)
    lab.beside = [{"name": "support", "digest": new.digest, "weight": 10},
                  {"name": "mine", "digest": mine.digest, "weight": 0}]  # fmt: skip
    plan = lab.plan([{"gguf": base, "lora": old}, {"gguf": base, "lora": new}], {"gguf": base, "lora": old})
    ((_, beside),) = [c.after for c in plan.changes]
    assert [(n, a.digest, w) for n, a, w in beside] == [("support", old.digest, 10), ("mine", mine.digest, 0)]


def test_an_adapter_that_does_not_fit_the_earlier_model_stops_it_before_anything_moves(lab: Lab) -> None:
    old, new = lab.model("old"), lab.model("new")
    mine = lab.adapter("mine", new)
    lab.serve(new)
    lab.beside = [{"name": "mine", "digest": mine.digest, "weight": 0}]
    with pytest.raises(HybError, match="`bot` is being served and can't change over: adapter `mine` was made for"):
        lab.plan([{"gguf": old}, {"gguf": new}], {"gguf": old})


def test_another_engine_needs_a_new_start_and_that_is_said(lab: Lab) -> None:
    old, new = lab.model("old", "safetensors"), lab.model("new")
    lab.serve(new)
    with pytest.raises(HybError, match="it needs another engine, transformers") as caught:
        lab.plan([{"gguf": old}, {"gguf": new}], {"gguf": old})
    assert "`hyb stop bot` first" in caught.value.hint
    lab.serve(new, where="podman", container={"model_image": "localhost/bot"})
    with pytest.raises(HybError, match="mounted anew"):
        lab.plan([{"gguf": lab.model("old")}, {"gguf": new}], {"gguf": lab.model("old")})


def test_the_context_is_no_more_than_the_earlier_model_was_made_for(lab: Lab) -> None:
    old, new = lab.model("old"), lab.model("new")
    lab.serve(new)
    _, choice = manager.exchangeable(lab.store, lab.service(), old, ())
    assert (choice.context, choice.parallel) == (512, 2)


def test_what_serves_a_stage_that_the_generation_does_not_have_goes_on_and_is_told(lab: Lab) -> None:
    new = lab.model("new")
    lab.serve(new)
    plan = lab.plan([{"gguf": new}], {})
    assert plan.lines == [] and "goes on with `gguf`" in plan.notes[0]
