"""vLLM's command line and environment, without a vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hyb import templates
from hyb.errors import HybError
from hyb.serving import child, vllm
from hyb.serving.child import Adapter, Job, UnableError
from hyb.serving.vllm import Facts, command, environment
from tests.tiny import DISTILL

JOB = Job(model="/m", name="bot", socket="/s/engine.sock", context=2048, parallel=8)


def test_it_listens_on_the_socket_alone_and_runs_no_code_of_a_model() -> None:
    line = command(("/opt/vllm",), JOB, Facts())
    assert line[:3] == ["/opt/vllm", "serve", "/m"]
    assert line[line.index("--uds") + 1] == "/s/engine.sock"
    assert line[line.index("--served-model-name") + 1] == "bot"
    assert line[line.index("--max-model-len") + 1] == "2048"
    assert line[line.index("--max-num-seqs") + 1] == "8"
    for absent in ("--host", "--port", "--trust-remote-code", "--api-key", "--enable-lora", "--reasoning-parser"):
        assert absent not in line


def test_adapters_are_models_beside_the_base_and_the_rank_is_one_that_vllm_knows() -> None:
    job = Job(**{**JOB.__dict__, "adapters": (Adapter("a=b", "/a"), Adapter("c", "/c"))})
    line = command(("v",), job, Facts(rank=9))
    at = line.index("--lora-modules")
    assert [json.loads(text) for text in line[at + 1 :]] == [{"name": "a=b", "path": "/a"}, {"name": "c", "path": "/c"}]
    assert line[line.index("--max-lora-rank") + 1] == "16"
    assert line[line.index("--max-loras") + 1] == "2"


def test_an_adapter_that_is_the_service_answers_to_its_name() -> None:
    line = command(("v",), Job(**{**JOB.__dict__, "adapter": "/a"}), Facts(rank=8))
    assert line[line.index("--served-model-name") + 1] == "bot.base"
    assert json.loads(line[-1]) == {"name": "bot", "path": "/a"}


def test_a_rank_that_vllm_can_t_take_is_refused() -> None:
    with pytest.raises(UnableError, match="rank 600"):
        command(("v",), Job(**{**JOB.__dict__, "adapter": "/a"}), Facts(rank=600))


def test_a_template_that_thinks_or_calls_tools_gets_vllm_s_parser_for_it() -> None:
    line = command(("v",), JOB, Facts(thinks=True, calls=True))
    assert line[line.index("--reasoning-parser") + 1] == "deepseek_r1"
    assert line[line.index("--tool-call-parser") + 1] == "hermes"


def test_its_python_sees_none_of_hyb_s_packages_and_no_hub() -> None:
    got = environment({"PYTHONPATH": "/hyb", "VIRTUAL_ENV": "/v", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"})
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(got)
    assert got["CUDA_VISIBLE_DEVICES"] == "1"
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        assert got[name] == "1"


def test_hyb_vllm_names_a_program_or_a_python(tmp_path: Path) -> None:
    for name in ("vllm", "python3"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert vllm.program({"HYB_VLLM": str(tmp_path / "vllm")}) == (str(tmp_path / "vllm"),)
    assert vllm.program({"HYB_VLLM": str(tmp_path / "python3")}) == (str(tmp_path / "python3"), *vllm.MODULE)
    assert vllm.program({"PATH": str(tmp_path)}) == (str(tmp_path / "vllm"),)
    with pytest.raises(HybError, match="no program"):
        vllm.program({"HYB_VLLM": str(tmp_path / "nothing")})


def test_the_files_say_the_rank_and_what_the_template_does(tmp_path: Path) -> None:
    model, adapter = tmp_path / "m", tmp_path / "a"
    model.mkdir()
    adapter.mkdir()
    job = Job(model=str(model), name="bot", socket="/s.sock", adapters=(Adapter("x", str(adapter)),))
    with pytest.raises(UnableError, match="no PEFT adapter"):
        vllm.look(job)
    (adapter / "adapter_config.json").write_text('{"r": 24}')
    assert vllm.look(job) == Facts(rank=24)
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<think>"}))
    assert vllm.look(job) == Facts(24, thinks=True)
    (model / "chat_template.jinja").write_text("<tool_call>")
    assert vllm.look(job) == Facts(24, calls=True)


def test_a_raw_base_of_a_known_family_is_asked_with_the_pinned_template(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": DISTILL}))
    job = Job(model=str(tmp_path), name="bot", socket="/s.sock")
    found = vllm.look(job)
    assert Path(found.template).read_text(encoding="utf-8") == templates.pair("deepseek-r1").inference
    assert found.thinks
    line = command(("v",), job, found)
    assert line[line.index("--chat-template") + 1] == found.template
    (tmp_path / "chat_template.jinja").write_text(templates.pair("deepseek-r1").inference, encoding="utf-8")
    assert vllm.look(job).template == "", "an export has it already"


def test_without_a_vllm_the_log_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("HYB_VLLM", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: None)
    child.Job(model=str(tmp_path), name="bot", socket=str(tmp_path / "e.sock")).write(tmp_path / "job.json")
    assert vllm.main([sys.executable, str(tmp_path / "job.json")]) == 1
    assert "there is no vLLM here" in capfd.readouterr().err
    with pytest.raises(HybError) as caught:
        vllm.require(vllm.os.environ)
    assert "HYB_VLLM names the `vllm` program" in caught.value.hint


def test_it_takes_the_place_of_its_process_and_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    fake = tmp_path / "vllm"
    fake.write_text('#!/bin/sh\necho "$$" > "$PIDFILE.new"; mv "$PIDFILE.new" "$PIDFILE"; exec sleep 60\n')
    fake.chmod(0o755)
    job = child.Job(model=str(tmp_path), name="bot", socket=str(tmp_path / "e.sock"), leash=True)
    job.write(tmp_path / "job.json")
    holder = (
        "import subprocess, sys, time\n"
        "line = [sys.executable, '-P', '-m', 'hyb.serving.vllm', sys.argv[1]]\n"
        "child = subprocess.Popen(line, stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    pidfile = tmp_path / "pid"
    root = str(Path(vllm.__file__).parents[2])
    env = {**os.environ, "HYB_VLLM": str(fake), "PIDFILE": str(pidfile), "PYTHONPATH": root}
    line = [sys.executable, "-c", holder, str(tmp_path / "job.json")]
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        until(pidfile.exists)
        assert int(pidfile.read_text()) == pid
        parent.send_signal(signal.SIGKILL)
    until(lambda: not running(pid))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
