"""The gateway: the one process of a service that clients speak to. Behind it run the engines, on Unix sockets.

    types.py     what its parts agree on: the job, a model, a choice of one, an engine's answer
    process.py   one engine process: started, waited for, warmed with a real token, ended
    wire.py      HTTP/1.1 over a Unix socket, bytes passed on as they come
    engines.py   the engines of a service: restart after a crash, swap for other adapters, drain, canary
    adapters.py  the set of adapters: names, weights in percent, what each engine calls them
    admin.py     a second door for the owner of the service alone: state, adapters
    listen.py    the listeners: silent connections are closed, the port is announced, SIGTERM drains
    app.py       the HTTP edge (OpenAI's and Ollama's API): a request's way from door to engine
    door.py      who gets in; auth.py: keys; limits.py: how much, and the queue; settings.py: what the owner can set
    exchange.py  one request and its answer; stream.py: an engine's stream on its way; metrics.py: Prometheus
    openai_api.py, ollama.py, ollama_answer.py, errors.py    the two APIs as data
    __main__.py  the process    python -m hyb.serving.gateway JOB.json

Nothing here imports an engine: they are processes of their own.
"""
