"""Engine llama.cpp: the real llama.cpp HTTP server, from the wheel `xllamacpp`, in this process, on a Unix socket.

`python -m hyb.serving.llama JOB.json`. Continuous batching over `parallel` slots; OpenAI's API with streaming, tool
calls and JSON schemas by the model's own chat template (jinja), a reasoning model's thought as `reasoning_content`.
Adapters are loaded beside the base with scale 0: a request says which one it wants (`"lora": [{"id", "scale"}]`).
`/health` says 503 while the model is loaded.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyb import templates
from hyb.serving import child

PROMPT_CACHE = 256  # MiB of host memory for prompts seen before; llama.cpp's own default is 8192
HINT = "content.split('</think>')"
HTTP_THREADS = 64  # connections read at once; more of them than slots wait in llama.cpp's own queue


def parameters(job: child.Job) -> Any:
    """llama.cpp's settings for a job. Raises UnableError for a file that is no whole GGUF."""
    import xllamacpp

    facts = metadata(Path(job.model))
    p = xllamacpp.CommonParams()
    p.model.path = job.model
    p.model_alias = {job.name}  # otherwise the id in the API is the file's name
    p.hostnames, p.port = [job.socket], 0
    p.n_parallel = job.parallel
    p.n_ctx = job.context * job.parallel  # the total: each slot gets an equal part of it
    p.n_threads_http = HTTP_THREADS
    p.ui = False
    p.endpoint_metrics = True
    p.endpoint_slots = False  # would show one client's prompt to another
    p.endpoint_props = False  # would let a client change settings
    p.cors_origins = ""  # the default lets any web page use the port
    p.cache_ram_mib = PROMPT_CACHE
    p.use_jinja = True
    p.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_DEEPSEEK
    p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(a.path, 0.0) for a in job.adapters]
    p.embedding = bool(facts.get(f"{facts.get('general.architecture')}.pooling_type"))  # made for embeddings
    own = str(facts.get("tokenizer.chat_template") or "")
    pinned = templates.inference_of(own)
    if pinned != own:
        p.chat_template = pinned
    elif thinking := with_hint(own):
        p.chat_template = thinking
    return p


def metadata(model: Path) -> Mapping[str, Any]:
    """What the GGUF says of itself. Raises UnableError for a file that is no whole GGUF."""
    from hyb.errors import HybError
    from hyb.hub import checks

    try:
        return checks.gguf(model).metadata
    except HybError as error:
        raise child.UnableError(error.message) from error
    except OSError as error:
        raise child.UnableError(f"`{model}` can't be read: {os.strerror(error.errno or 0).lower()}") from error


def with_hint(template: str) -> str:
    """A reasoning model's chat template with a comment by which llama.cpp sees what it is; "" when it needs none.

    llama.cpp (b11549) tells thought from answer by how a template treats `reasoning_content`. Of the templates that
    drop a thought from the history instead, as DeepSeek-R1's does, it knows the one with these very words.
    """
    known = HINT in template or "reasoning_content" in template
    return "" if known or "<think>" not in template or "</think>" not in template else template + f"{{# {HINT} #}}"


def serve(job: child.Job) -> Any:
    """Load the model and open the socket. The server lives as long as what is returned. Raises UnableError."""
    import xllamacpp

    try:
        return xllamacpp.Server(parameters(job))
    except RuntimeError as error:  # it has said why on stderr
        raise child.UnableError(f"llama.cpp can't serve `{job.model}`") from error


def main(argv: list[str]) -> int:
    """Serve until somebody ends the process."""
    try:
        job = child.main(argv)
        server = serve(job)
    except child.UnableError as error:
        return child.give_up(error)
    threading.Event().wait()  # SIGTERM has its default effect: it ends the process at once
    del server
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
