"""What an engine is told, and the log that must not grow without bound."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from hyb.serving.child import Job
from hyb.serving.gateway import __main__ as gateway
from hyb.serving.gateway import process
from hyb.serving.gateway.types import AdapterSpec, GatewayJob


def test_an_engine_is_told_its_socket_its_adapters_in_order_and_is_on_a_leash(tmp_path: Path) -> None:
    job = GatewayJob("bot", "llama.cpp", "/m.gguf", str(tmp_path), context=512, parallel=3)
    how = process.launch(job, [AdapterSpec("b", "/b"), AdapterSpec("a", "/a")], tmp_path / "e1")
    assert how.argv[-3:-1] == ["-m", "hyb.serving.llama"]
    told = json.loads(Path(how.argv[-1]).read_text())
    assert told["socket"] == how.socket == str(tmp_path / "e1" / "engine.sock")
    assert [a["name"] for a in told["adapters"]] == ["b", "a"]
    assert told["leash"] is True
    assert set(told) == set(Job.__dataclass_fields__)
    assert (tmp_path / "e1").stat().st_mode & 0o777 == 0o700


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = GatewayJob(
        "bot", "vllm", "/m", "/r", adapters=(AdapterSpec("a", "/a", "sha256:1", 2.5),), model_meta={"x": 1}
    )
    job.write(tmp_path / "job.json")
    assert GatewayJob.read(tmp_path / "job.json") == job
    assert (tmp_path / "job.json").stat().st_mode & 0o777 == 0o600


def test_a_log_that_has_grown_is_emptied_under_its_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LOG", 1000)
    log = tmp_path / "bot.log"

    async def look() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gateway._keep_log_small(str(log)), 0.05)

    with log.open("ab") as stream:
        stream.write(b"a" * 900)
        stream.flush()
        asyncio.run(look())
        assert log.stat().st_size == 900
        stream.write(b"a" * 200)
        stream.flush()
        asyncio.run(look())
        stream.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "bot.log.1").stat().st_size == 1100
    assert (tmp_path / "bot.log.1").stat().st_mode & 0o777 == 0o600


def test_a_larger_model_has_more_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "b").write_bytes(b"x" * 50)
    assert process.size(tmp_path / "a") == 100
    assert process.size(tmp_path) == 150
    assert process.size(tmp_path / "absent") == 0
