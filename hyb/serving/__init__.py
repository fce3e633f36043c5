"""Live serving: a model of the store behind an OpenAI-compatible port of this machine.

    service.py   what runs: the `Service`, its files in hyb's data folder, the identity of its process
    port.py      where it may listen, and who has a port that is taken
    keys.py      the API key, minted once a name
    choice.py    which engine serves an artifact, and why (pure)
    manager.py   start, wait, ps, stop
    client.py    a question over HTTP, with the standard library
    child.py     what every engine's process does first: read its job, watch its leash, announce its port
    llama.py     engine llama.cpp        python -m hyb.serving.llama JOB.json
    hf.py        engine transformers     python -m hyb.serving.hf JOB.json
    __main__.py  the entry point of a container image    python -m hyb.serving

The engines run in processes of their own, so nothing heavy is imported here.
"""

from hyb.serving.client import ask
from hyb.serving.manager import ps, start, stop, wait
from hyb.serving.service import Service

__all__ = ["Service", "ask", "ps", "start", "stop", "wait"]
