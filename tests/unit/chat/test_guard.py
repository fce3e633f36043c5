"""Who a client is, and which proxies are believed."""

from __future__ import annotations

import ipaddress

import pytest
from starlette.requests import Request

from hyb.chat import guard
from hyb.chat.settings import Settings

INSIDE = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("127.0.0.1/32"))


def request(peer: str, **headers: str) -> Request:
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return Request(
        {"type": "http", "client": (peer, 1), "headers": raw, "scheme": "http", "method": "GET", "path": "/"}
    )


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # a stranger's header is not believed
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "1.1.1.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"),  # what stands left was the client's own word
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "10.4.4.4", "10.4.4.4"),
        ("10.1.2.3", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.2.3", "nonsense", "unknown"),
        ("10.1.2.3", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("10.1.2.3", "[2001:db8:1:2:3:4:5:6]:99", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "", "192.0.2.1"),
    ],
)
def test_a_client_is_the_first_address_that_is_not_a_believed_proxys(peer: str, forwarded: str, client: str) -> None:
    assert guard.client_of(request(peer, x_forwarded_for=forwarded), Settings(trusted_proxies=INSIDE)) == client


def test_https_is_believed_from_a_proxy_alone() -> None:
    s = Settings(trusted_proxies=INSIDE)
    assert guard.is_https(request("10.0.0.1", x_forwarded_proto="https").scope, s)
    assert not guard.is_https(request("192.0.2.1", x_forwarded_proto="https").scope, s)
    assert not guard.is_https(request("10.0.0.1", x_forwarded_proto="https, http").scope, s)


@pytest.mark.parametrize(
    ("host", "name"), [("a.example:80", "a.example"), ("[::1]:80", "::1"), ("LOCALHOST", "localhost"), ("", "")]
)
def test_a_hosts_name_has_no_port(host: str, name: str) -> None:
    assert guard.name_of(host) == name


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_is_known(host: str) -> None:
    assert guard.is_loopback(host)
    assert not guard.is_loopback("0.0.0.0")
