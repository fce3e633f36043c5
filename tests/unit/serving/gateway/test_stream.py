"""A stream on its way: bytes as they were, names and counts put right, times measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from hyb.serving.gateway.metrics import Metrics
from hyb.serving.gateway.stream import Events, Meter, Relay, renamed

HEAD = {"model": "engine", "id": "chatcmpl-1", "object": "chat.completion.chunk"}


def event(value: Any, spaces: bool = False) -> bytes:
    text = json.dumps(value, separators=None if spaces else (",", ":"), ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def token(text: str, spaces: bool = False) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **HEAD}, spaces)


ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}], **HEAD})
LAST = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **HEAD})
USAGE = event({"choices": [], **HEAD, "usage": {"prompt_tokens": 31, "completion_tokens": 3}})
DONE = b"data: [DONE]\n\n"
STREAM = ROLE + token("a") + token('"model":"engine" "usage":{') + token("c") + LAST + USAGE + DONE


def metrics() -> Metrics:
    return Metrics(lambda: 0, lambda: 0, lambda: 0, lambda: True)


def value(found: Metrics, name: str, **labels: str) -> float:
    registry: CollectorRegistry = found.registry
    return registry.get_sample_value(name, {"model": "bot", **labels}) or 0.0


def relay(name: str = "asked", usage: bool = False) -> tuple[Relay, Meter, Metrics]:
    found = metrics()
    meter = Meter(found.of("bot"), began=10.0)
    return Relay(meter, name, usage), meter, found


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_however_a_stream_is_cut_the_client_gets_the_same(size: int) -> None:
    one, meter, _ = relay()
    out = b"".join(one.push(STREAM[i : i + size], 11.0 + i) for i in range(0, len(STREAM), size))
    texts = [json.loads(e[6:])["choices"][0]["delta"].get("content") for e in out.split(b"\n\n")[:-2]]
    assert texts == [None, "a", '"model":"engine" "usage":{', "c", None]
    assert out.endswith(DONE)
    assert out.count(b'"model":"asked"') == 5, "the name that the client used, in every event"
    assert one.done
    assert (meter.events, meter.prompt, meter.completion) == (3, 31, 3)


def test_a_thought_of_vllm_has_the_name_that_clients_know() -> None:
    said = 'a text with "reasoning": in it'
    thought = event({"choices": [{"index": 0, "delta": {"reasoning": said}}], **HEAD})
    meter = Meter(metrics().of("bot"), began=10.0)
    one = Relay(meter, "asked", False, vllm=True)
    found = [json.loads(one.push(data, 11.0)[6:])["choices"][0]["delta"] for data in (thought, thought, token(said))]
    assert found == [{"reasoning_content": said}, {"reasoning_content": said}, {"content": said}]
    assert meter.events == 3
    whole = json.dumps({"model": "engine", "reasoning": said}, separators=(",", ":")).encode()
    assert json.loads(renamed(whole, "bot", vllm=True)) == {"model": "bot", "reasoning_content": said}
    assert json.loads(renamed(whole, "bot"))["reasoning"] == said


def test_counts_reach_a_client_only_when_it_asked() -> None:
    for wanted in (True, False):
        one, _, _ = relay(usage=wanted)
        assert (b'"prompt_tokens":31' in one.push(STREAM, 11.0)) is wanted


def test_an_engine_that_writes_spaces_is_renamed_too() -> None:
    one, _, _ = relay('b"ot')
    out = one.push(token("a", spaces=True), 11.0)
    assert json.loads(out[6:])["model"] == 'b"ot'


def test_the_counts_of_a_text_completion_stay_in_its_last_event() -> None:
    one, meter, _ = relay()
    last = event(
        {
            "choices": [{"text": "", "finish_reason": "length"}],
            **HEAD,
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    )
    out = one.push(event({"choices": [{"text": "x"}], **HEAD}) + last, 11.0)
    assert b"usage" in out
    assert (meter.events, meter.completion) == (1, 2)


def test_times_to_the_first_token_and_between_tokens() -> None:
    one, _, found = relay()
    one.push(ROLE, 10.5)
    one.push(token("a"), 11.0)
    one.push(token("b") + token("c"), 11.5)
    one.push(LAST + DONE, 20.0)
    assert value(found, "hyb_ttft_seconds_sum") == pytest.approx(1.0), "the role is no token"
    assert value(found, "hyb_inter_token_seconds_count") == 2
    assert value(found, "hyb_inter_token_seconds_sum") == pytest.approx(0.5)


@pytest.mark.parametrize("broken", [
    event({"error": {"code": 500, "message": "boom", "type": "server_error"}}),
    b'error: {"code":500,"message":"boom","type":"server_error"}\n\n',
])  # fmt: skip
def test_an_engines_error_in_a_stream_gets_the_apis_shape(broken: bytes) -> None:
    one, _, _ = relay()
    one.push(token("a"), 11.0)
    said = json.loads(one.push(broken, 12.0)[6:])["error"]
    assert said == {"message": "boom", "type": "server_error", "param": None, "code": "engine_error"}
    assert one.failed and one.failed.status == 502


def test_pings_pass_and_count_for_nothing() -> None:
    one, meter, _ = relay()
    one.push(token("a"), 11.0)
    assert one.push(b": ping\n\n", 12.0) == b": ping\n\n"
    assert meter.events == 1


def test_an_answer_that_was_cut_off_is_counted_by_its_events() -> None:
    one, meter, found = relay()
    one.push(ROLE + token("a") + token("b"), 11.0)
    assert meter.close(asked=400) == (100, 2)
    assert value(found, "hyb_tokens_total", kind="completion") == 2
    nothing = Meter(found.of("bot"), 0.0)
    assert nothing.close(asked=400) == (0, 0), "no answer, no tokens"


def test_events_as_objects_whatever_the_cut() -> None:
    for size in (1, 5, 9999):
        events = Events()
        found = [e for i in range(0, len(STREAM), size) for e in events.push(STREAM[i : i + size])]
        assert len(found) == 6
        assert events.done
    assert list(Events().push(b'error: {"message":"x"}\n\n')) == [{"error": {"message": "x"}}]


def test_a_whole_answer_is_renamed_once() -> None:
    data = json.dumps({"choices": [{"message": {"content": '"model":"engine"'}}], "model": "engine"}).encode()
    said = json.loads(renamed(data, "asked"))
    assert said["model"] == "asked"
    assert said["choices"][0]["message"]["content"] == '"model":"engine"'
