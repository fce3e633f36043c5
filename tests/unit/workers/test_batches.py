from __future__ import annotations

import pytest

from tests.need import need

need("torch")

import torch  # noqa: E402

from hyb.workers import batches  # noqa: E402
from hyb.workers.labels import IGNORED, Example  # noqa: E402

CPU = torch.device("cpu")
SYSTEM = (1, 2, 3, 4)


def example(*answer: int, prompt: tuple[int, ...] = SYSTEM) -> Example:
    """A row whose prompt carries no label."""
    return Example((*prompt, *answer), (*[IGNORED] * len(prompt), *answer), str(answer))


ROWS = [
    example(9, 8, 7, prompt=(*SYSTEM, 5)),
    example(6, prompt=SYSTEM),
    example(9, 8, 1, prompt=(*SYSTEM, 5)),
    example(2, 2, prompt=(7,)),
]


def test_packs_hold_every_row_once_and_no_more_tokens_than_they_may() -> None:
    rows = [example(*range(1 + i * 7 % 11)) for i in range(40)]
    packs = batches.split(rows, batch=4, pack=32)
    assert sorted(e.where for pack in packs for e in pack) == sorted(e.where for e in rows)
    assert all(sum(len(e.ids) for e in pack) <= 32 for pack in packs)
    assert [len(part) for part in batches.split(rows, batch=16, pack=0)] == [16, 16, 8]


@pytest.mark.parametrize("share", [True, False])
def test_a_pack_spells_each_row_and_counts_its_positions_anew(share: bool) -> None:
    part = batches.micro(ROWS, CPU, packed=True, share=share)
    assert part.positions is not None
    assert part.layout is not None
    places = batches._places(ROWS, share)[0]
    for row, place in zip(ROWS, places, strict=True):
        assert part.ids[0, list(place)].tolist() == list(row.ids)
        assert part.positions[0, list(place)].tolist() == list(range(len(row.ids)))


def test_what_rows_begin_with_alike_stands_in_the_pack_once() -> None:
    part = batches.micro(ROWS, CPU, packed=True, share=True)
    assert sum(len(e.ids) for e in ROWS) == 24
    assert part.n == 4 + 1 + 2 + 1 + 1 + 1 + 3  # the system prompt, 5, "9 8", 7, 1, 6, and the last row
    assert batches.micro(ROWS, CPU, packed=True, share=False).n == 24
    assert batches.micro(ROWS, CPU, packed=False, share=True).n == 4 * 8  # padded


@pytest.mark.parametrize("packed", [True, False])
def test_each_learnt_token_is_asked_of_the_position_before_it(packed: bool) -> None:
    part = batches.micro(ROWS, CPU, packed=packed, share=True)
    assert part.counts == (3, 1, 3, 2)
    assert part.wanted.tolist() == [9, 8, 7, 6, 9, 8, 1, 2, 2]
    before = part.ids.flatten()[part.at].tolist()
    assert before == [5, 9, 8, 4, 5, 9, 8, 7, 2]
    assert sum(part.counts) == batches.labelled(ROWS)


def test_a_first_token_with_a_label_counts_for_nothing_as_nothing_stands_before_it() -> None:
    whole = Example((4, 5, 6), (4, 5, 6), "")
    part = batches.micro([whole], CPU, packed=True, share=True)
    assert (part.wanted.tolist(), part.at.tolist(), batches.labelled([whole])) == ([5, 6], [0, 1], 2)


def test_two_equal_rows_are_computed_once_and_count_twice() -> None:
    part = batches.micro([ROWS[0], ROWS[0]], CPU, packed=True, share=True)
    assert part.n == len(ROWS[0].ids)
    assert part.at.tolist() == [4, 5, 6, 4, 5, 6]
