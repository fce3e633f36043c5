"""What the alerts stand on: the chat's metrics tell a link that is down from a model that is, on a real process."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.chat_app import App, until
from tests.hyb import Hyb
from tests.need import need
from tests.parrot import Parrot


def state(app: App) -> tuple[float, float]:
    return app.metric("hyb_chat_model_up"), app.metric("hyb_chat_model_reachable")


def test_a_link_that_is_down_and_a_model_that_is_down_look_different(tmp_path: Path) -> None:
    with Parrot() as bird, App(tmp_path, bird.url, watch_seconds=0.2) as app:
        assert state(app) == (1, 1)
        bird.mode = "close"  # a live link with nothing behind it: taken, and closed without a word
        until(lambda: state(app) == (0, 1), 10)
        bird.mode = "answer"
        until(lambda: state(app) == (1, 1), 10)
    # nobody listens any more: what a listener does whose link is down
    with App(tmp_path / "down", bird.url, ready=False, watch_seconds=0.2) as app:
        until(lambda: state(app) == (0, 0), 10)


def test_prometheus_reads_the_file_of_link_metrics(tmp_path: Path) -> None:
    need("promtool")
    hyb = Hyb(tmp_path)
    target = tmp_path / "hyb_link.prom"
    assert "would write" in hyb.ok("link", "metrics", "--out", str(target), "--dry-run")
    assert not target.exists()
    hyb.ok("link", "metrics", "--out", str(target))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=target.read_text(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert hyb.json("link", "metrics") == []


@pytest.mark.parametrize("name", ["chat", "gateway"])
def test_prometheus_s_own_linter_takes_our_metrics(name: str) -> None:
    need("promtool")
    from hyb.chat.metrics import Metrics as Chat
    from hyb.serving.gateway.metrics import Metrics as Gateway

    text = (Chat() if name == "chat" else Gateway(lambda: 0, lambda: 0, lambda: 0, lambda: True)).text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
