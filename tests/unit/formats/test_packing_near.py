"""Packs lose and cut nothing; twins are found among many, and strangers are not."""

from __future__ import annotations

import random
import time

import pytest

from hyb.formats import near, packing


@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_is_in_one_pack_and_no_pack_is_too_full(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 300) for _ in range(500)]
    packs = packing.best_fit(lengths, 256)
    assert sorted(i for p in packs for i in p) == list(range(500))
    assert all(sum(lengths[i] for i in p) <= 256 or len(p) == 1 for p in packs)
    assert packs == packing.best_fit(lengths, 256)


def test_packs_are_nearly_full_and_far_better_than_padding() -> None:
    rng = random.Random(1)
    lengths = [min(1024, max(8, int(rng.lognormvariate(4.5, 0.8)))) for _ in range(5000)]
    assert packing.efficiency(lengths, 8192) > 0.99
    assert packing.efficiency([], 10) == 1.0 == packing.efficiency([10], 10)
    assert packing.efficiency([6, 6], 10) == 0.6


def test_a_hundred_thousand_sequences_are_packed_in_moments() -> None:
    began = time.monotonic()
    packing.best_fit([17 + i % 1000 for i in range(100_000)], 8192)
    assert time.monotonic() - began < 30


BASE = (
    "The warehouse of the company opens at seven in the morning and closes at nine in the evening on all working days"
)


def test_a_text_with_a_changed_word_is_a_twin_and_another_is_not() -> None:
    texts = [
        BASE,
        "A dog is no cat and never will be one",
        BASE.replace("nine", "ten") + " of the whole long year",
        BASE.upper() + "!",
    ]
    found = near.twins(texts, 0.6)
    assert [(t.index, t.of) for t in found] == [(2, 0), (3, 0)]
    assert found[1].similarity == 1.0


def test_twins_are_found_among_many() -> None:
    rng = random.Random(0)
    words = [f"w{n}" for n in range(2000)]
    texts = [" ".join(rng.choices(words, k=40)) for _ in range(3000)]
    copies = {}
    for n in range(0, 3000, 100):
        changed = texts[n].split()
        changed[20] = "changed"
        copies[len(texts)] = n
        texts.append(" ".join(changed))
    found = {t.index: t.of for t in near.twins(texts)}
    assert len(found.keys() & copies.keys()) >= 0.9 * len(copies) and all(copies[i] == of for i, of in found.items())


def test_thousands_of_texts_that_are_much_alike_are_looked_up_without_comparing_each_with_each() -> None:
    texts = [f"{BASE} of the year {n} and of no other year but {n} itself, says the notice of {n}" for n in range(3000)]
    index = near.Index()
    for text in texts:
        index.add(near.triples(text))
    buckets = [len(bucket) for bucket in index._buckets.values()]
    assert max(buckets) <= near._FULL < len(texts)
    assert index.twin(near.triples(texts[0])) == (0, 1.0)


def test_empty_and_short_texts_are_no_trouble() -> None:
    assert near.twins(["", "", "a", "a b", "a"]) == [near.Twin(4, 2, 1.0)]
