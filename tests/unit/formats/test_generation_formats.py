"""Passages, what a teacher wrote, and whether it is borne out: pure functions on hard texts."""

from __future__ import annotations

import pytest

from hyb.formats import grounded, pairs, passages

LONG = "This sentence has exactly nine words in it now. " * 4


def test_labelled_pairs_are_read_in_a_time_that_grows_with_their_length() -> None:
    assert pairs.parse("Q: a\n" * 200_000) == []  # this took hours
    assert pairs.parse("1\n" * 100_000) == []
    assert len(pairs.parse("**Question:** q?\n**Answer:** a.\n" * 1000)) == 1000
    text = "1) Q1: What\nis it?\nA1: That.\nAnd more.\n\nPergunta: Quem?\nResposta: Eu.\nQ: nobody answers"
    assert pairs.parse(text) == [pairs.Pair("What\nis it?", "That.\nAnd more."), pairs.Pair("Quem?", "Eu.")]


def test_a_passage_stands_below_its_headings_and_knows_its_line() -> None:
    text = f"---\ntitle: x\n---\n# Birds\n\n{LONG}\n\n## Owls\n\n{LONG}\n\n{LONG}\n\n# Bees\n{LONG}\n"
    found = passages.split(text)
    assert [(p.heading, p.line) for p in found] == [("Birds", 6), ("Birds > Owls", 10), ("Bees", 15)]
    assert found[1].whole.startswith("Birds > Owls\n\nThis sentence")


def test_a_heading_in_a_fence_is_none_and_a_fence_is_not_cut() -> None:
    code = "```python\n# no heading\n\nprint(1)\n```"
    (found,) = passages.split(f"# A\n\n{LONG}\n\n{code}\n\n{LONG}")
    assert code in found.text


def test_long_paragraphs_are_cut_at_sentences_and_short_ones_left_out() -> None:
    found = passages.split("Too short.\n\n# B\n\n" + LONG * 40)
    assert len(found) > 3 and all(len(p.text.split()) <= 2 * passages.WORDS for p in found)
    assert all(p.text.endswith("now.") for p in found)
    assert passages.split("Too short.") == [] == passages.split("")


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "q", "answer": "a"}\n{"question": "r", "answer": 5}',
        '[{"question": "q", "answer": "a"}, {"Question": "r", "Answer": 5}]',
        'Sure!\n```json\n{"pairs": [{"question": "q", "answer": "a"}, {"question": "r", "answer": "5"}]}\n```\nDone.',
        '<think>{"question": "x", "answer": "y"}</think>{"q": "q", "a": "a"}{"q": "r", "a": "5"}',
        "Q: q\nA: a\n\nQ: r\nA: 5\n",
        "1. Question: q\n   Answer: a\n2. Question: r\n   Answer: 5",
        "**Pergunta 1:** q\n**Resposta 1:** a\n\n**Pergunta 2:** r\n**Resposta 2:** 5",
        '{"question": "q", "answer": "a"}\n{"question": "r", "answer": 5}\n{"question": "half of it',
    ],
)
def test_pairs_are_read_however_a_teacher_writes_them(text: str) -> None:
    found = [(p.question.strip("* "), p.answer.strip("* ")) for p in pairs.parse(text)]
    assert found == [("q", "a"), ("r", "5")]


@pytest.mark.parametrize(
    "text",
    ["", "{" * 5000, "[" * 100_000, "<html><body>502</body></html>", "I can't.", "{}", "[1, 2]", '{"question": "q"}'],
)
def test_what_holds_no_pair_gives_none(text: str) -> None:
    assert pairs.parse(text) == []


PASSAGE = "The Nimbrel company was founded in 2009 by Tamsin Okereke in Lisbon. Its mascot is an otter called Quillow."


@pytest.mark.parametrize(
    ("question", "answer", "wrong"),
    [
        ("Who founded Nimbrel?", "Nimbrel was founded by Tamsin Okereke.", ""),
        ("When was Nimbrel founded?", "It was founded in 2009.", ""),
        ("When was Nimbrel founded?", "It was founded in 2011.", "has a number that the text has not"),
        ("What is the mascot of Nimbrel?", "A purple dragon from outer space.", "is not in the text"),
        ("According to the passage, who founded Nimbrel?", "Tamsin Okereke.", "refers to the text"),
        ("What does the text say about the mascot?", "It is an otter.", "refers to the text"),
        ("How tall is the Eiffel tower in metres?", "Quillow.", "asks of something else"),
        ("What is it?", "It is.", "is not in the text"),
    ],
)
def test_an_answer_is_grounded_in_its_passage_or_not(question: str, answer: str, wrong: str) -> None:
    assert grounded.problem(question, answer, PASSAGE) == wrong


def test_case_accents_and_forms_of_a_word_do_not_matter() -> None:
    assert grounded.share("OS ARQUIVOS FORAM ENVIADOS", "o arquivo foi enviado") == 1
    assert grounded.share("The birds were walking", "a bird walks") == 1
