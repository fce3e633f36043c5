"""What a machine can reach, told in one word: `python -m tests.probe tcp|tls|http …`.

tcp HOST PORT                   open, empty (taken, then closed unasked), refused, unreachable, timeout, reset
tls HOST PORT NAME CA [PAIR]    in, refused by us, refused by them, …; PAIR is a PEM file with certificate and key
http URL [KEY]                  the status, or what stands for tcp; KEY is sent as an API key
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import sys
import urllib.parse

ENDS = {
    errno.ECONNREFUSED: "refused", errno.ENETUNREACH: "unreachable", errno.EHOSTUNREACH: "unreachable",
    errno.ECONNRESET: "reset",
}  # fmt: skip
QUIET = 1.5  # seconds in which a server that speaks second says nothing


def tcp(host: str, port: str) -> str:
    """How a connection ends."""
    try:
        plug = socket.create_connection((host, int(port)), 3)
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return ENDS.get(error.errno or 0, str(error))
    with plug:
        plug.settimeout(QUIET)
        try:
            return "empty" if plug.recv(1) == b"" else "talks first"
        except TimeoutError:
            return "open"
        except OSError as error:
            return ENDS.get(error.errno or 0, str(error))


def tls(host: str, port: str, name: str, ca: str, pair: str = "") -> str:
    """How a session ends; with TLS 1.3 the other side's no comes with the first byte that is read."""
    context = ssl.create_default_context(cafile=ca)
    if pair:
        context.load_cert_chain(pair)
    try:
        plug = socket.create_connection((host, int(port)), 3)
        with plug, context.wrap_socket(plug, server_hostname=name) as session:
            session.settimeout(QUIET * 2)
            return "in" if session.recv(1) else "closed"
    except ssl.SSLCertVerificationError:
        return "refused by us"
    except ssl.SSLError as error:
        return f"refused by them: {error.reason}"
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return ENDS.get(error.errno or 0, str(error))


def http_status(url: str, key: str = "") -> str:
    """How a GET ends."""
    parts = urllib.parse.urlsplit(url)
    asked = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=5)
    try:
        asked.request("GET", parts.path, headers={"Authorization": f"Bearer {key}"} if key else {})
        return str(asked.getresponse().status)
    except http.client.RemoteDisconnected:
        return "empty"
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return ENDS.get(error.errno or 0, str(error))
    finally:
        asked.close()


if __name__ == "__main__":
    print({"tcp": tcp, "tls": tls, "http": http_status}[sys.argv[1]](*sys.argv[2:]))
