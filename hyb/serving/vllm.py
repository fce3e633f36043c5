"""Engine vLLM: its own HTTP server on a Unix socket, in an environment of its own: it pins another torch than hyb.

`python -m hyb.serving.vllm JOB.json` becomes vLLM (execve), so that its pid is the engine's. Where vLLM is: HYB_VLLM
names its `vllm` program or its Python; else a `vllm` on PATH; else the Python that hyb runs in. Nothing of hyb's
environment is shown to it: hyb's packages on its PYTHONPATH would hide its own.

It asks no hub and tells nobody anything, runs no code of a model's folder (`trust_remote_code` stays off), and ends
with the process that started it (PR_SET_PDEATHSIG: a leash that outlives execve).
Source: `vllm serve --help` of 0.32, vLLM's docs/features/lora.md.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyb import templates
from hyb.errors import HybError
from hyb.serving import child

VARIABLE = "HYB_VLLM"
MODULE = ("-P", "-m", "vllm.entrypoints.cli.main")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""
QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}
"""No telemetry, no hub; adapters may be loaded while it runs, by who can open the socket: the gateway alone."""
OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV")
"""Variables that would have its Python import hyb's packages."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Facts:
    """What the command line needs to know of the model's files."""

    rank: int = 0
    """The largest rank of the adapters."""
    thinks: bool = False
    """Its template opens a `<think>`."""
    calls: bool = False
    """Its template knows tools, in the form of Hermes and Qwen."""
    template: str = ""
    """The file of its family's pinned template, where its own is another; "" for its own."""


def command(program: Sequence[str], job: child.Job, facts: Facts) -> list[str]:
    """vLLM's command line. Pure. Raises UnableError for an adapter of too large a rank."""
    adapters = [(a.name, a.path) for a in job.adapters]
    name = job.name
    if job.adapter:  # what is asked for under the service's name is the base with this adapter
        adapters.insert(0, (job.name, job.adapter))
        name = f"{job.name}.base"
    line = [*program, "serve", job.model, "--uds", job.socket, "--served-model-name", name]
    line += ["--max-model-len", str(job.context), "--max-num-seqs", str(job.parallel)]
    line += ["--disable-uvicorn-access-log"]
    line += ["--chat-template", facts.template] if facts.template else []
    line += ["--reasoning-parser", "deepseek_r1"] if facts.thinks else []
    line += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"] if facts.calls else []
    if adapters:
        line += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(_rank(facts.rank))]
        line += ["--lora-modules", *(json.dumps({"name": n, "path": p}) for n, p in adapters)]
    return line


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that vLLM gets."""
    return {**{k: v for k, v in environ.items() if k not in OURS}, **QUIET}


def program(environ: Mapping[str, str]) -> tuple[str, ...]:
    """How vLLM is started on this machine; () when there is none.

    Raises HybError when HYB_VLLM names something that can't be run.
    """
    if given := environ.get(VARIABLE, ""):
        path = shutil.which(given, path=environ.get("PATH"))
        if not path:
            raise HybError(f"{VARIABLE} is `{given}`, which is no program", hint="give vLLM's `vllm` or its Python")
        return (path, *MODULE) if Path(path).name.startswith("python") else (path,)
    if path := shutil.which("vllm", path=environ.get("PATH")):
        return (path,)
    return (sys.executable, *MODULE) if importlib.util.find_spec("vllm") else ()


def require(environ: Mapping[str, str]) -> None:
    """Raise HybError (exit 3) when there is no vLLM on this machine."""
    if not program(environ):
        raise HybError("there is no vLLM here", hint=f"{VARIABLE} names the `vllm` program, or the Python, of one")


def has_gpu() -> bool:
    """True when the kernel knows an NVIDIA GPU."""
    try:
        return any(Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return False


def look(job: child.Job) -> Facts:
    """The facts of a job's files. Raises UnableError for an adapter without a readable `adapter_config.json`."""
    ranks = [
        _rank_of(Path(path)) for path in (*([job.adapter] if job.adapter else ()), *(a.path for a in job.adapters))
    ]
    own = _template(Path(job.model))
    asked = templates.inference_of(own)
    pinned = templates.file(asked) if asked != own else None
    return Facts(max(ranks, default=0), "<think>" in asked, "<tool_call>" in asked, str(pinned or ""))


def _rank(rank: int) -> int:
    found = next((r for r in RANKS if r >= rank), 0)
    if not found:
        raise child.UnableError(f"an adapter has rank {rank}; vLLM takes at most {RANKS[-1]}")
    return found


def _rank_of(adapter: Path) -> int:
    try:
        settings = json.loads((adapter / "adapter_config.json").read_bytes())
        if settings.get("use_dora"):
            raise child.UnableError(f"`{adapter}` was trained with DoRA, which vLLM has not")
        return int(settings["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise child.UnableError(f"`{adapter}` is no PEFT adapter: its `adapter_config.json` can't be read") from error


def _template(model: Path) -> str:
    """The chat template's text; "" for none."""
    try:
        return (model / "chat_template.jinja").read_text(encoding="utf-8")
    except OSError:
        pass
    try:
        return str(json.loads((model / "tokenizer_config.json").read_bytes()).get("chat_template") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    held = select.poll()
    held.register(0, select.POLLHUP)
    if held.poll(0):  # it has ended already
        os._exit(0)


def main(argv: list[str]) -> int:
    """Become vLLM."""
    try:
        job = child.main(argv)
        require(os.environ)
        line = command(program(os.environ), job, look(job))
        if job.leash:
            _end_with_parent()
        os.execve(line[0], line, environment(os.environ))
    except (child.UnableError, HybError) as error:
        return child.give_up(error)
    except OSError as error:
        return child.give_up(child.UnableError(f"vLLM can't be started: {os.strerror(error.errno or 0).lower()}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
