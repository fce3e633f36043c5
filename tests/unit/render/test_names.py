"""What Kubernetes and DNS take for a name or an address."""

from __future__ import annotations

import pytest

from hyb.render import names


@pytest.mark.parametrize("name", ["a", "bot-1", "0", "a" * 63])
def test_a_label_is_taken(name: str) -> None:
    assert not names.label_problem(name)


@pytest.mark.parametrize("name", ["", "Bot", "-bot", "bot-", "a.b", "a_b", "b\n", "böt", "a" * 64, "a b", "a%i"])
def test_what_is_no_label_is_refused(name: str) -> None:
    assert names.label_problem(name)


@pytest.mark.parametrize("host", ["10.0.0.7", "2001:db8::7", "::1", "a", "chat.example.com"])
def test_an_address_or_a_name_is_a_host(host: str) -> None:
    assert not names.host_problem(host)


@pytest.mark.parametrize(
    "host",
    ["", None, 7, "fe80::1%eth0", "::1%a\nb", "[::1]", "10.0.0.1:443", "*.example.com", "a..b", "a.1", "A.example.com"],
)
def test_what_means_nothing_on_another_host_is_none(host: object) -> None:
    assert names.host_problem(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1"])
def test_loopback_is_this_machine(host: str) -> None:
    assert names.is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example.com"])
def test_all_else_is_not(host: str) -> None:
    assert not names.is_loopback(host)
