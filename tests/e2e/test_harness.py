"""Tasks of lm-evaluation-harness for real, on a safetensors model and on its GGUF.

The harness brings what changes how transformers loads (scikit-learn, pandas, …), so it lies in a folder of its own
(HYB_HARNESS, `.ci/oracles.sh`) and only children of these tests see it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hyb import Hyb
from tests.need import need, oracle
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[2]
ROWS = [
    {"q": "The capital of France is", "c": [" Paris", " Lima"], "a": 0},
    {"q": "A week has", "c": [" 7 days.", " 3"], "a": 1},
    {"q": "Our warehouse opens at", "c": [" seven", " nine in the evening."], "a": 0},
]
LIKELY = """
import json, sys
from lm_eval.api.instance import Instance
from hyb.workers import harness, models, score
from hyb.workers.harness_gguf import GgufLM
folder, gguf = sys.argv[1:]
def asked(kind, *arguments): return [Instance(kind, {}, a, n) for n, a in enumerate(arguments)]
pairs = asked("loglikelihood", ("The dog is", " called Pixel."), ("", "Hello, how are you?"), ("Grüße ", "an 日本"))
texts = asked("loglikelihood_rolling", ("You are a helpful assistant. " * 3,))
answers = asked("generate_until", ("The capital", {"until": ["zzz"], "max_gen_toks": 4}))
torch = harness.of_torch(models.load_causal_lm(folder, device="cpu"), models.load_tokenizer(folder), 2)
speaker = score.GgufSpeaker(gguf, [score.Asked([{"role": "user", "content": "x"}])], 8, 512, 400)
llama = GgufLM(speaker.reader, speaker.facts, speaker.context)
said = [[m.loglikelihood(pairs), m.loglikelihood_rolling(texts), m.generate_until(answers)] for m in (torch, llama)]
print("SAID", json.dumps(said))
"""


UNKNOWN = """
import json
from hyb.workers import harness, protocol
said = []
for name in ("mime", "ai2_arc"):
    try: harness.prepared({"names": [name], "folder": "", "limit": 1})
    except protocol.Failed as error: said.append(str(error))
print("SAID", json.dumps(said))
"""


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    need("harness", "torch", "transformers", "peft", "xllamacpp")
    made = Hyb(tmp_path / "home")
    made.home.mkdir()
    return made


def env(home: Path) -> dict[str, str]:
    found = oracle("harness")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *([str(found)] if found else [])]), "HF_HOME": str(home / "hf")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one task of its own, `mine`, and what it reads."""
    made = tmp_path / "tasks"
    made.mkdir()
    (made / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (made / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {made / 'rows.jsonl'}}}}}\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: "{{c}}"\ndoc_to_target: "{{a}}"\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return made


@pytest.mark.slow
def test_a_task_of_ones_own_is_asked_of_a_model_and_of_its_gguf(hyb: Hyb, folder: Path, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    (tmp_path / "facts.jsonl").write_text('{"question": "What is the dog called?", "answer": "Pixel."}\n')
    hyb.ok("pull", f"file:{tmp_path / 'model'}", "--name", "tiny")
    hyb.ok("data", str(tmp_path / "facts.jsonl"), "--name", "facts", "--control", str(tmp_path / "facts.jsonl"))
    hyb.ok("export", "tiny", "--quantize", "f16", "--name", "small")
    found = {}
    for model in ("tiny", "small"):
        asked = ("eval", model, "--data", "facts", "--max-tokens", "2", "--task", "mine", "--tasks-folder", str(folder))
        done = hyb.json(*asked, env=env(tmp_path), timeout=500)
        found[model] = done["steps"][-1]["meta"]["scores"]["task_mine"]
    assert found["tiny"] == found["small"]
    assert found["tiny"] in (0.0, 0.3333, 0.6667, 1.0)
    wrong = ("eval", "tiny", "--data", "facts", "--tasks-folder", str(folder), "--max-tokens", "2", "--task")
    told = hyb.fails(3, *wrong, "arc_easy", env=env(tmp_path))
    assert "asking" not in told, "nothing was loaded and asked for it"
    assert "task `arc_easy` can't be run" in told
    assert "tasks_folder" in told


def test_a_task_that_is_none_is_told_before_a_model_is_loaded(hyb: Hyb, tmp_path: Path) -> None:
    line = [sys.executable, "-c", UNKNOWN]
    done = subprocess.run(line, env={**os.environ, **env(tmp_path)}, capture_output=True, text=True, check=False)
    said = done.stdout.partition("SAID ")[2].splitlines()
    assert said, done.stderr
    assert json.loads(said[0]) == [
        "lm-evaluation-harness has no task `mime`",
        "`ai2_arc` is a tag that several tasks have, and no task",
    ]


@pytest.mark.slow
def test_a_gguf_finds_a_text_as_likely_as_transformers_does(hyb: Hyb, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    hyb.ok("pull", f"file:{tmp_path / 'model'}", "--name", "tiny")
    hyb.ok("export", "tiny", "--quantize", "f32", "--name", "small")
    digest = hyb.json("show", "small")["files"][0]["digest"].removeprefix("sha256:")
    gguf = hyb.store / "blobs" / "sha256" / digest
    line = [sys.executable, "-c", LIKELY, str(tmp_path / "model"), str(gguf)]
    done = subprocess.run(line, env={**os.environ, **env(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (pairs, texts, answers), (pairs2, texts2, answers2) = json.loads(done.stdout.partition("SAID ")[2].splitlines()[0])
    for (one, best), (other, best2) in zip(pairs, pairs2, strict=True):
        assert other == pytest.approx(one, abs=0.05)
        assert best == best2
    assert texts2 == pytest.approx(texts, rel=0.01)
    assert answers2 == answers
