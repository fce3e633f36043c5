"""Load: HTTP from bytes in any cut, samples from pieces, figures from samples."""

from __future__ import annotations

import json

import pytest

from hyb.serving import bandwidth, benchmark, load
from hyb.serving.answer import Answer, Timing
from hyb.serving.benchmark import Shape
from hyb.serving.http1 import MOST, BadAnswerError, Response
from hyb.serving.load import Level, Raw, Sample

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = HEAD + b"5\r\nHello\r\n10;x=y\r\n, wonderful worl\r\n1\r\nd\r\n0\r\nT: 1\r\n\r\n"
SIZED = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope"


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 1000])
def test_an_answer_cut_anywhere_gives_the_same_body(step: int) -> None:
    for wire, status, body, keep in ((CHUNKED, 200, b"Hello, wonderful world", True), (SIZED, 404, b"nope", False)):
        response, found = Response(), b""
        for at in range(0, len(wire), step):
            assert not response.done
            found += response.push(wire[at : at + step])
        assert (found, response.status, response.done, response.keep) == (body, status, True, keep)


def test_an_answer_up_to_the_end_of_the_connection_is_whole_and_one_that_breaks_off_is_not() -> None:
    response = Response()
    assert response.push(b"HTTP/1.1 200 OK\r\n\r\nsome") == b"some"
    assert not response.done
    response.end()
    assert response.done and not response.keep
    for wire, said in ((CHUNKED[:-30], "broke off"), (SIZED[:-1], "broke off"), (b"", "without an answer")):
        broken = Response()
        broken.push(wire)
        with pytest.raises(BadAnswerError, match=said):
            broken.end()


@pytest.mark.parametrize("wire", [b"SSH-2.0-x\r\n\r\n", b"x" * (MOST + 1), HEAD + b"zz\r\n", SIZED + b"more"])
def test_what_is_no_answer_is_refused(wire: bytes) -> None:
    with pytest.raises(BadAnswerError):
        Response().push(wire)


def wire(*events: object) -> bytes:
    return b"".join(b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events)


def delta(text: str) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}}]}


def test_a_sample_has_the_times_of_its_pieces() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    pieces = [
        (1.5, wire(delta("a"))),
        (2.0, wire(delta("b"))[:9]),
        (2.25, wire(delta("b"))[9:] + wire(usage, b"[DONE]")),
    ]
    answer = load.read(Raw(1.0, 200, pieces)).answer
    assert answer and answer.text == "ab"
    assert (answer.timing.first, answer.timing.gaps, answer.timing.exact) == (0.5, (0.75,), True)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (Raw(0, 0, (), "connection refused"), "connection refused"),
        (Raw(0, 429, [(1, b'{"error": {"message": "too many"}}')]), "status 429: too many"),
        (Raw(0, 502, [(1, b"<html>")]), "status 502: <html>"),
        (Raw(0, 200, [(1, wire(delta("a")))]), "broke off"),
        (Raw(0, 200, [(1, wire({"error": {"message": "engine lost"}}))]), "engine lost"),
        (Raw(0, 200, [(1, wire(b"[DONE]"))]), "without a token"),
        (Raw(0, 200, [(1, b"data: {\n\n")]), "no JSON"),
        (Raw(0, 200, ()), "broke off"),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_no_sample(raw: Raw, said: str) -> None:
    found = load.read(raw)
    assert found.answer is None
    assert said in found.error


def answer(first: float, rate: float, tokens: int = 11, exact: bool = True, cached: int = 0) -> Answer:
    gaps = (1 / rate,) * (tokens - 1)
    return Answer("x", "", "length", "bot", Timing(first, first + sum(gaps), gaps, 100, tokens, exact, cached))


SHAPE = Shape("bot", prompt=100, answer=11, words=90)


def test_the_summary_of_a_level_has_rates_quantiles_and_the_share_of_the_limit() -> None:
    samples = [Sample(0, 1, answer(first / 10, 10)) for first in range(1, 6)] + [Sample(0, 1, None, "status 429: no")]
    level = Level(2, 0.0, 5.0, tuple(samples), cpu=0.055)
    found = benchmark.summary(level, SHAPE, weights=1000, limit=20_000, memory=7)
    assert (found["requests"], found["errors"], found["first_error"]) == (6, 1, "status 429: no")
    assert found["tokens_per_s"] == 11.0
    assert found["prompt_tokens_per_s"] == 100.0
    assert found["ttft_s"] == {"p50": 0.3, "p95": 0.48, "p99": 0.496}
    assert found["inter_token_s"]["p50"] == 0.1
    assert found["bandwidth_share"] == 0.5
    assert (found["client_us_per_piece"], found["memory_bytes"]) == (1000.0, 7)
    assert benchmark.cells(found)[-4:] == ["100.0 100.0 100.0", "0", "50%", "1"]


def test_a_level_without_an_answer_and_odd_figures_are_told() -> None:
    nothing = benchmark.summary(Level(1, 0, 1, (Sample(0, 1, None, "x"),), 0), SHAPE)
    assert "-" in benchmark.cells(nothing)
    assert benchmark.notes([nothing], asked_eos=True) == []
    odd = answer(0.1, 10, tokens=5, exact=False, cached=80)
    short = benchmark.summary(Level(1, 0, 1, (Sample(0, 1, odd),), 0), SHAPE)
    told = " ".join(benchmark.notes([short], asked_eos=True))
    assert "does not heed" in told and "does not count" in told and "kept more than half" in told
    assert "refuses" in benchmark.notes([short], asked_eos=False)[0]


def test_prompts_differ_from_their_first_word_on_and_have_the_length_that_the_probes_say() -> None:
    assert len({benchmark.prompt(20, seed).split()[0] for seed in range(50)}) > 20
    assert benchmark.prompt(20, 1) == benchmark.prompt(20, 1)
    assert len(benchmark.prompt(500, 1).split()) == 500
    assert benchmark.words_for(128, (2, 12), (116, 126)) == 118
    assert benchmark.words_for(128, (2, 14), (100, 210)) == 59
    assert benchmark.words_for(5, (2, 30), (3, 31)) == 1, "the template alone is longer"
    body = benchmark.body(SHAPE, 3)
    assert body["ignore_eos"] and body["stream"] and body["max_tokens"] == 11
    assert "ignore_eos" not in benchmark.body(Shape("bot", 1, 1, 1, ignore_eos=False), 0)


def test_the_memory_is_read_at_a_speed_that_a_machine_can_have() -> None:
    assert 1e8 < bandwidth.measure(total=8 << 20, seconds=0.02) < 1e13
