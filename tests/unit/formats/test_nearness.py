"""How far a quantized model is from its own, and how a merge is told."""

from __future__ import annotations

import math
import random

import pytest

from hyb.formats.nearness import divergence, sentences


def logs(values: list[float]) -> list[float]:
    total = math.log(sum(map(math.exp, values)))
    return [v - total for v in values]


def test_with_all_tokens_known_it_is_the_kl_divergence() -> None:
    rng = random.Random(1)
    p, q = (logs([rng.gauss(0, 2) for _ in range(50)]) for _ in range(2))
    exact = sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    assert divergence(list(enumerate(p)), q) == pytest.approx(exact, rel=1e-6)
    likeliest = sorted(enumerate(p), key=lambda x: -x[1])[:20]
    part = divergence(likeliest, [q[token] for token, _ in likeliest])
    assert 0.5 * exact < part <= exact, "tokens taken together can only lose some of it"


def test_equal_distributions_are_at_no_distance_and_a_stranger_is_far() -> None:
    p = logs([3.0, 1.0, 0.0])
    assert divergence(list(enumerate(p)), p) == pytest.approx(0, abs=1e-9)
    assert divergence(list(enumerate(p))[:2], p[:2]) == pytest.approx(0, abs=1e-9)
    assert divergence([(0, math.log(0.999))], [math.log(0.001)]) > 5, "no token in common"
    assert divergence([(0, math.log(0.5))], [0.0]) > 5, "nothing is left for what the first model says else"
    assert divergence([(0, math.log(0.9)), (1, math.log(0.1))], [math.log(0.001), math.log(0.999)]) > 5


def test_a_merge_is_told_in_one_line_and_an_old_one_not_at_all() -> None:
    found = {"mean_kl": 0.002, "max_kl": 0.1, "agreement": 0.99, "mean_logit": 0.01, "max_logit": 0.4,
             "positions": 300, "perplexity": {"live": 5.1, "merged": 5.2}}  # fmt: skip
    (line,) = sentences(found)
    for part in ("0.002 nats (at most 0.1)", "99% of 300", "5.1 live, 5.2 merged", "0.01 apart (at most 0.4)"):
        assert part in line
    assert len(sentences({**found, "as_trained": found})) == 2
    assert sentences({"mean_kl": 0.002, "max_kl": 0.1, "agreement": 0.99}) == []
