"""lm-evaluation-harness: what it gives becomes one score."""

from __future__ import annotations

import pytest

from hyb.workers import harness
from hyb.workers.protocol import Failed


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
