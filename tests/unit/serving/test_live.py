from __future__ import annotations

import os
import subprocess
import sys

from hyb.serving import live
from hyb.serving.live import Look

TEXT = """
# HELP hyb_running Requests.
hyb_running 2.0
hyb_queue_depth 1.0
hyb_requests_total{model="bot",path="/v1/chat/completions",status="200"} 7.0
hyb_requests_total{model="bot",path="/v1/chat/completions",status="429"} 2.0
hyb_requests_total{model="bot",path="/v1/chat/completions",status="500"} 1.0
hyb_requests_total{model="",path="/metrics",status="200"} 40.0
hyb_tokens_total{model="bot",kind="prompt"} 50.0
hyb_tokens_total{model="bot",kind="completion"} 100.0
hyb_ttft_seconds_sum{model="bot"} 1.0
hyb_ttft_seconds_count{model="bot"} 4.0
hyb_inter_token_seconds_sum{model="bot"} 2.0
hyb_inter_token_seconds_count{model="bot"} 80.0
junk without a number
"""


def later(text: str, **new: float) -> str:
    for name, value in new.items():
        head = next(line for line in text.splitlines() if line.startswith(name))
        text = text.replace(head, f"{head.rpartition(' ')[0]} {value}")
    return text


def test_two_looks_give_rates_and_one_gives_none() -> None:
    state = {"ready": True, "restarts": 1, "since": 60.0, "rss_bytes": 5}
    before = Look(10.0, state, live.parse(TEXT), 99)
    grown = later(TEXT, hyb_ttft_seconds_sum=2.0, hyb_ttft_seconds_count=6.0, hyb_inter_token_seconds_count=118.0)
    found = live.figures(before, Look(12.0, state, live.parse(grown), 99))
    assert (found.running, found.waiting, found.requests, found.errors) == (2, 1, 10, 3)
    assert found.tokens_per_s == 20.0, "streams are counted token by token"
    assert found.prompt_tokens_per_s == 0.0
    assert found.ttft_s == 0.5
    assert found.inter_token_s == 0.0
    assert (found.memory_bytes, found.restarts, found.up_s, found.ready) == (99, 1, 60.0, True)
    first = live.figures(None, before)
    assert (first.tokens_per_s, first.ttft_s, first.running) == (None, None, 2)


def test_a_service_that_says_nothing_has_no_figures_and_one_begun_anew_no_negative_ones() -> None:
    silent = live.figures(Look(1.0), Look(2.0, memory=7))
    assert (silent.running, silent.requests, silent.tokens_per_s, silent.ready, silent.memory_bytes) == (
        None, None, None, None, 7,
    )  # fmt: skip
    anew = later(TEXT, hyb_inter_token_seconds_count=3.0, hyb_ttft_seconds_count=1.0)
    assert live.figures(Look(1.0, {}, live.parse(TEXT)), Look(2.0, {}, live.parse(anew))).tokens_per_s == 0.0


def test_the_memory_of_a_process_and_of_those_that_it_started_is_seen() -> None:
    code = "print('here', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout and child.stdout.readline()
        family = live.below(os.getpid())
        assert {os.getpid(), child.pid} <= set(family)
        assert live.resident(family) > live.resident([child.pid]) > 1_000_000
    finally:
        child.communicate(b"\n")
    assert live.resident([child.pid]) == 0
