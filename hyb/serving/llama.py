"""Engine llama.cpp: the real llama.cpp HTTP server, from the wheel `xllamacpp`, in this process.

`python -m hyb.serving.llama JOB.json`. Continuous batching over `parallel` slots, OpenAI's API with streaming, an API
key on everything but `/health` (which says 503 while the model is loaded), `/metrics`.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from hyb.serving import child

PROMPT_CACHE = 256  # MiB of host memory for prompts seen before; llama.cpp's own default is 8192


def parameters(job: child.Job, key: str) -> Any:
    """llama.cpp's settings for a job."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = job.model
    p.model_alias = {job.name}  # otherwise the id in the API is the file's name
    p.hostnames, p.port = [job.host], job.port
    p.reuse_port = True  # otherwise a port is lost for a minute after the last connection to it was closed
    p.api_keys = [key]
    p.n_parallel = job.parallel
    p.n_ctx = job.context * job.parallel  # the total: each slot gets an equal part of it
    p.ui = False
    p.endpoint_metrics = True
    p.endpoint_slots = False  # would show one client's prompt to another
    p.endpoint_props = False  # would let a client change settings
    p.cors_origins = ""  # the default lets any web page use the port
    p.cache_ram_mib = PROMPT_CACHE
    return p


def serve(job: child.Job, key: str) -> Any:
    """Load the model and open the port. The server lives as long as what is returned. Raises UnableError."""
    import xllamacpp

    try:
        server = xllamacpp.Server(parameters(job, key))
    except RuntimeError as error:  # it has said why on stderr
        raise child.UnableError(f"llama.cpp can't serve `{job.model}`") from error
    port = server.listening_address.rpartition(":")[2]
    child.announce(job, int(port) if port.isdigit() else 0)  # a unix socket has none
    return server


def main(argv: list[str]) -> int:
    """Serve until somebody ends the process."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        job, key = child.main(argv)
        server = serve(job, key)
    except child.UnableError as error:
        return child.give_up(error)
    threading.Event().wait()  # SIGTERM has its default effect: it ends the process at once
    del server
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
