"""A peer that speaks AMQP as a Skupper router does, with Proton, the library that the router is built on.

Run by the system's Python, whose Proton comes from Debian (`python3-qpid-proton`):

    python3 amqp_router.py FOLDER PORT PRODUCT VERSION

FOLDER holds ca.crt, tls.crt, tls.key. It prints `ready`, then a line for each thing that a peer does.
"""

from __future__ import annotations

import sys

from proton import SSLDomain, symbol
from proton.handlers import MessagingHandler
from proton.reactor import Container


class Router(MessagingHandler):
    def __init__(self, folder: str, port: str, product: str, version: str) -> None:
        super().__init__()
        self.folder, self.port, self.product, self.version = folder, port, product, version

    def on_start(self, event) -> None:
        domain = event.container.ssl.server
        domain.set_credentials(f"{self.folder}/tls.crt", f"{self.folder}/tls.key", None)
        domain.set_trusted_ca_db(f"{self.folder}/ca.crt")
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER, f"{self.folder}/ca.crt")
        event.container.container_id = "public-router"
        event.container.allowed_mechs = "EXTERNAL"
        event.container.listen(f"amqps://127.0.0.1:{self.port}")
        self.say("ready")

    def on_connection_bound(self, event) -> None:
        event.transport.require_auth(True)
        event.transport.sasl().allowed_mechs("EXTERNAL")

    def on_connection_opening(self, event) -> None:
        event.connection.properties = {
            symbol("product"): self.product, symbol("version"): self.version, symbol("qd.conn-id"): 7,
            symbol("qd.annotations-version"): 1,
        }  # fmt: skip

    def on_connection_opened(self, event) -> None:
        self.say(f"opened {event.connection.remote_container}")

    def on_connection_closing(self, event) -> None:
        self.say("closed politely")

    def on_session_opened(self, event) -> None:
        self.say("a session")

    def on_disconnected(self, event) -> None:
        self.say("disconnected")

    def on_transport_error(self, event) -> None:
        self.say(f"error {event.transport.condition}")

    def say(self, text: object) -> None:
        print(text, flush=True)


Container(Router(*sys.argv[1:5])).run()
