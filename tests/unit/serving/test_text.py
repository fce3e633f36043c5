"""From tokens to text: characters whole, stop texts cut, thought told from answer, however the text is cut up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hyb.serving.text import Stop, Thinking, Words

EURO = "€uro ünd 日本 😀"


def bytes_of(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def every_cut(text: str) -> list[list[str]]:
    """The text whole, in single letters, and cut in two at each place."""
    return [[text], list(text), *([text[:i], text[i:]] for i in range(1, len(text)))]


def test_no_part_of_a_character_is_ever_said() -> None:
    words = Words(bytes_of)
    said = [words.push([b]) for b in EURO.encode()]
    assert all("�" not in s for s in said)
    assert "".join(said) + words.end() == EURO


def test_a_long_text_is_the_same_in_windows() -> None:
    text = "".join(f"line {i} {EURO}\n" for i in range(50))
    words = Words(bytes_of)
    assert "".join(words.push([b]) for b in text.encode()) + words.end() == text


def test_a_character_that_never_gets_whole_is_said_at_the_end() -> None:
    words = Words(bytes_of)
    assert words.push([0x61]) == "a"
    assert words.push([0xE2]) == ""
    assert words.end() == "�"


@pytest.mark.parametrize("parts", every_cut("one STOP two"))
def test_the_text_ends_before_a_stop_text(parts: list[str]) -> None:
    stop = Stop(["STOP", "never"])
    said = "".join(stop.push(p) for p in parts) + stop.end()
    assert (said, stop.hit) == ("one ", True)


@pytest.mark.parametrize("parts", every_cut("one STO two ST"))
def test_what_only_looks_like_a_stop_text_is_kept(parts: list[str]) -> None:
    stop = Stop(["STOP"])
    assert "".join(stop.push(p) for p in parts) + stop.end() == "one STO two ST"
    assert not stop.hit


def test_the_first_of_two_stop_texts_counts() -> None:
    stop = Stop(["world", "lo"])
    assert stop.push("hello world") == "hel"


def split(parts: list[str], inside: bool) -> tuple[str, str]:
    """(thought, answer)."""
    thinking = Thinking(inside)
    said = [pair for p in parts for pair in thinking.push(p)] + list(thinking.end())
    assert all(text for _, text in said)
    by = {k: "".join(t for kind, t in said if kind == k) for k in ("reasoning_content", "content")}
    return by["reasoning_content"], by["content"]


@pytest.mark.parametrize("parts", every_cut("two and two\n</think>\n\nFour </think> <think>"))
def test_a_prompt_that_opens_a_thought_is_closed_by_the_model(parts: list[str]) -> None:
    assert split(parts, True) == ("two and two\n", "Four </think> <think>")


@pytest.mark.parametrize("parts", every_cut("<think>hm</think>\n\nFour"))
def test_a_model_may_open_the_thought_itself(parts: list[str]) -> None:
    assert split(parts, False) == ("hm", "Four")


@pytest.mark.parametrize("parts", every_cut(" <thin line> of </think> text"))
def test_without_a_thought_nothing_is_changed(parts: list[str]) -> None:
    assert split(parts, False) == ("", " <thin line> of </think> text")


def test_a_thought_that_is_cut_off_is_all_thought() -> None:
    assert split(["still </thi"], True) == ("still </thi", "")
