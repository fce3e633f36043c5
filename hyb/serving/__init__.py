"""Live serving: a model of the store behind OpenAI's API and Ollama's, on a port of this machine.

    service.py   what runs: the `Service`, its files in hyb's data folder, the identity of its process
    port.py      where it may listen, and who has a port that is taken
    keys.py      the API key, minted once a name
    choice.py    which engine serves an artifact, and why (pure)
    manager.py   start, wait, ps, stop
    client.py    a question over HTTP, with the standard library
    gateway/     what clients speak to: keys, limits, APIs, metrics; the engines behind it
    child.py     what every engine's process does first: read its job, watch its leash
    llama.py     engine llama.cpp        python -m hyb.serving.llama JOB.json
    hf.py        engine transformers     python -m hyb.serving.hf JOB.json
    vllm.py      engine vLLM             python -m hyb.serving.vllm JOB.json
    contained.py an engine in a container of Podman's; box.py: what that may see, use and take (pure)
    bare.py      an engine alone, in a container
    __main__.py  the entry point of a container image    python -m hyb.serving

Gateway and engines run in processes of their own, so nothing heavy is imported here.
"""

from hyb.serving.client import ask
from hyb.serving.manager import Wanted, ps, start, stop, wait
from hyb.serving.service import Service

__all__ = ["Service", "Wanted", "ask", "ps", "start", "stop", "wait"]
