"""lm-evaluation-harness: what it gives becomes one score; its own API, where it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyb.workers import harness
from hyb.workers.protocol import Failed
from tests.need import need
from tests.tiny import tiny_model


def test_the_first_known_metric_stands_for_a_task_with_its_error() -> None:
    found = harness.summary({
        "alias": "arc", "acc,none": 0.41, "acc_stderr,none": 0.02, "acc_norm,none": 0.44444,
        "acc_norm_stderr,none": 0.0211,
    })  # fmt: skip
    assert (found["metric"], found["value"], found["stderr"]) == ("acc_norm", 0.4444, 0.0211)
    assert found["metrics"]["acc"] == 0.41


def test_an_error_that_is_no_number_is_none_and_an_unknown_metric_will_do() -> None:
    found = harness.summary({"my_score,none": 3, "my_score_stderr,none": "N/A"})
    assert (found["metric"], found["value"], found["stderr"]) == ("my_score", 3.0, None)
    with pytest.raises(Failed, match="gave no number"):
        harness.summary({"alias": "x"})


@pytest.mark.filterwarnings("ignore")  # the harness and `datasets` have many of their own
def test_a_task_of_a_folder_of_ones_own_is_run_and_what_is_not_here_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("lm_eval", "torch", "transformers")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    from hyb.workers import models

    rows = [
        {"q": "The capital of France is", "c": [" Paris", " Lima"], "a": 0},
        {"q": "A week has", "c": [" 7", " 3"], "a": 1},
    ]
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: "{{c}}"\ndoc_to_target: "{{a}}"\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    path = tiny_model(tmp_path / "model")
    model, tokenizer = models.load_causal_lm(path, device="cpu"), models.load_tokenizer(path)

    def run(name: str) -> dict[str, dict[str, object]]:
        asked = {"names": [name], "folder": str(folder), "limit": 0}
        return harness.run(model, tokenizer, asked, batch=2, seed=0)

    assert run("mine")["mine"]["value"] in (0.0, 0.5, 1.0)
    with pytest.raises(Failed, match="no task `mime`"):
        run("mime")
    with pytest.raises(Failed, match="task `arc_easy` can't be run") as caught:
        run("arc_easy")
    assert "tasks_folder" in caught.value.fields["hint"]
