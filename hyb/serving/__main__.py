"""The entry point of a container: `python -m hyb.serving` finds the model under /models and serves it on port 8000.

It starts the very gateway that `hyb serve` starts on a host. As process 1 it does what an init must: it passes SIGTERM
on (process 1 ignores it unless it asks for it) and reaps. Nothing is served without an API key, which is read from a
file (a mounted secret), never from an argument. `--engine-only` is the bare engine on a Unix socket (see `bare`).
"""

from __future__ import annotations

import argparse
import http.client
import os
import ssl
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyb import engine as programs
from hyb.errors import HybError
from hyb.render.names import is_loopback
from hyb.serving import bare, child, client
from hyb.serving.choice import LLAMA, PARALLEL, TRANSFORMERS
from hyb.serving.gateway.adapters import checked, shares
from hyb.serving.gateway.types import AdapterSpec, GatewayJob

MODULE = "hyb.serving.gateway"
GRACE = 7.0  # seconds that running requests have after SIGTERM; an orchestrator gives ten or more in all


def options(argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """The options; each has a variable of the environment, for an image's unit sets those."""
    parser = argparse.ArgumentParser("python -m hyb.serving", description="Serve the model under a folder.")

    def add(option: str, variable: str, default: str, kind: type, text: str) -> None:
        parser.add_argument(option, type=kind, default=environ.get(variable, default), help=f"{text} (${variable})")

    add("--models", "HYB_MODELS", "/models", Path, "folder with the model")
    add("--adapters", "HYB_ADAPTERS", "/adapters", str, "folder with one subfolder an adapter; need not be there")
    add("--name", "HYB_NAME", "model", str, "the model's id in the API")
    add("--host", "HYB_HOST", "0.0.0.0", str, "address to listen on")
    add("--port", "HYB_PORT", "8000", int, "port to listen on; -1 for none")
    add("--unix-socket", "HYB_UNIX_SOCKET", "", str, "listen on this socket, too")
    add("--key-file", "HYB_KEY_FILE", "/run/secrets/api-key", Path, "file with the API key")
    add("--keys-file", "HYB_KEYS_FILE", "", str, "file with hashed keys, as `hyb key` makes it")
    add("--context", "HYB_CONTEXT", "4096", int, "tokens a request")
    add("--parallel", "HYB_PARALLEL", "0", int, "requests at once; 0: the engine's default")
    add("--canary", "HYB_CANARY", "", str, "shares of adapters, `support=10,other=5`")
    add("--digest", "HYB_DIGEST", "", str, "the model's digest, for the list of models")
    add("--tls-cert", "HYB_TLS_CERT", "", str, "certificate chain (PEM)")
    add("--tls-key", "HYB_TLS_KEY", "", str, "its key (PEM)")
    parser.add_argument("--engine-only", action="store_true", help="the bare engine on its socket: no gateway, no key")
    parser.add_argument("--healthy", action="store_true", help="ask the server that runs: status 0 when it is ready")
    return parser.parse_args(argv)


def job(given: argparse.Namespace, run: Path) -> GatewayJob:
    """The gateway's job. Raises UnableError, HybError."""
    child.read_key(given.key_file)
    engine, model = bare.find(given.models)
    share = shares([text for text in given.canary.split(",") if text])
    found = bare.adapters(Path(given.adapters) if given.adapters else None)
    if unknown := sorted(share.keys() - {a.name for a in found}):
        raise child.UnableError(f"there is no adapter `{unknown[0]}` to have a share of the requests")
    return GatewayJob(
        name=given.name,
        engine=engine,
        model=str(model),
        run=str(run),
        host=given.host,
        port=given.port,
        unix_socket=given.unix_socket,
        admin_socket=str(run / "admin.sock"),
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        key_path=str(given.key_file.absolute()),
        keys_path=given.keys_file,
        ready_path=str(run / "ready.json"),
        adapters=checked([AdapterSpec(a.name, a.path, weight=share.get(a.name, 0)) for a in found]),
        context=given.context,
        parallel=1 if engine == TRANSFORMERS else given.parallel or PARALLEL.get(engine, PARALLEL[LLAMA]),
        grace=GRACE,
        digest=given.digest,
    )


def run(given: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises UnableError, HybError."""
    with tempfile.TemporaryDirectory(prefix="hyb-") as folder:
        path = Path(folder, "job.json")
        job(given, Path(folder)).write(path)
        return bare.mind(programs.spawn(programs.python(MODULE, str(path))))


def engine_only(given: argparse.Namespace) -> bare.Bare:
    """What the bare engine is given. Raises UnableError."""
    if not given.unix_socket:
        raise child.UnableError("`--engine-only` needs `--unix-socket` ($HYB_UNIX_SOCKET): there is no key on a port")
    return bare.Bare(
        given.models,
        given.name,
        given.unix_socket,
        Path(given.adapters) if given.adapters else None,
        given.context,
        given.parallel or PARALLEL[LLAMA],
        leash=os.environ.get("HYB_LEASH") == "1",
    )


def healthy(given: argparse.Namespace) -> bool:
    """True when the server that runs here is ready: the model answers."""
    try:
        if given.unix_socket and given.port < 0:
            return client.over_socket(given.unix_socket, "GET", "/ready")[0] == http.client.OK
        host = given.host if is_loopback(given.host) else "127.0.0.1"
        if not given.tls_cert:
            return client.request("GET", f"http://{host}:{given.port}", "ready", "", None, 5)[0] == http.client.OK
        return _ready_by_tls(host, given.port)
    except HybError:
        return False


def _ready_by_tls(host: str, number: int) -> bool:
    """The certificate is for the name that clients use; on loopback it proves nothing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, number, timeout=5, context=context)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """See the module's docstring."""
    given = options(sys.argv[1:], os.environ)
    if given.healthy:
        return 0 if healthy(given) else 1
    try:
        return bare.run(engine_only(given)) if given.engine_only else run(given)
    except (child.UnableError, HybError) as error:
        return child.give_up(error)


if __name__ == "__main__":
    sys.exit(main())
