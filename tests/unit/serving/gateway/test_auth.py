"""Keys: made, hashed, listed, revoked, compared; URLs and hosts that are refused; limits and the queue."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyb.errors import HybError
from hyb.serving import keys
from hyb.serving.gateway import auth, settings
from hyb.serving.gateway.auth import Keys
from hyb.serving.gateway.errors import GatewayError
from hyb.serving.gateway.limits import Limits, Line
from hyb.serving.keys import Key

OWN = "hyb_sk_0123456789"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_DATA_HOME": str(tmp_path)}


@pytest.fixture
def known(environ: dict[str, str], tmp_path: Path) -> Keys:
    own = tmp_path / "own.key"
    own.write_text(OWN + "\n")
    return Keys(own, keys.keys_path(environ, "bot"))


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


# -- the file --------------------------------------------------------------------------------------------------------


def test_a_new_key_is_kept_as_a_hash_in_a_private_file(environ: dict[str, str]) -> None:
    made, plain = keys.add(environ, "bot", label="web", rpm=3, tokens_per_day=5)
    path = keys.keys_path(environ, "bot")
    assert plain.startswith(keys.PREFIX)
    assert plain not in path.read_text()
    assert plain.removeprefix(keys.PREFIX) not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.read(path) == (made,)
    assert (made.rpm, made.tokens_per_day, made.revoked) == (3, 5, "")


def test_two_keys_are_never_the_same_and_a_label_is_taken_once(environ: dict[str, str]) -> None:
    first, one = keys.add(environ, "bot", label="a")
    with pytest.raises(HybError, match="already"):
        keys.add(environ, "bot", label="a")
    keys.revoke(environ, "bot", "a")
    second, two = keys.add(environ, "bot", label="a")
    assert one != two
    assert first.id != second.id


@pytest.mark.parametrize(
    "arguments", [{"label": ""}, {"label": "x" * 65}, {"label": "a\nb"}, {"label": "a", "rpm": -1}]
)
def test_mistakes_make_no_key(environ: dict[str, str], arguments: dict[str, object]) -> None:
    with pytest.raises(HybError):
        keys.add(environ, "bot", **arguments)  # type: ignore[arg-type]
    assert not keys.keys_path(environ, "bot").exists()


def test_revoking_what_is_not_there_says_what_is(environ: dict[str, str]) -> None:
    keys.add(environ, "bot", label="web")
    with pytest.raises(HybError) as caught:
        keys.revoke(environ, "bot", "wob")
    assert "`web`" in caught.value.hint


# -- who asks --------------------------------------------------------------------------------------------------------


def test_the_services_own_key_and_a_hashed_one_are_known(known: Keys, environ: dict[str, str]) -> None:
    assert known.who(bearer(OWN)).id == auth.OWN
    made, plain = keys.add(environ, "bot", label="web")
    assert known.who(bearer(plain)).id == made.id, "a key that was made just now"
    assert known.who(b"bearer " + plain.encode()).label == "web"


@pytest.mark.parametrize(
    "given", [b"", b"Bearer", b"Bearer ", b"Basic abc", b"Bearer hyb_sk_wrong", b"Bearer \xff\xfe"]
)
def test_no_key_and_a_wrong_one_are_401(known: Keys, given: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        known.who(given)
    assert caught.value.status == 401


def test_a_revoked_key_stops_at_once(known: Keys, environ: dict[str, str]) -> None:
    made, plain = keys.add(environ, "bot", label="web")
    assert known.who(bearer(plain))
    keys.revoke(environ, "bot", made.id)
    with pytest.raises(GatewayError, match="revoked") as caught:
        known.who(bearer(plain))
    assert caught.value.code == "revoked_api_key"


def test_the_hash_of_a_key_is_no_key(known: Keys, environ: dict[str, str]) -> None:
    made, _ = keys.add(environ, "bot", label="web")
    with pytest.raises(GatewayError):
        known.who(bearer(made.sha256))


def test_a_damaged_file_lets_nobody_in_but_the_owner(
    known: Keys, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, plain = keys.add(environ, "bot", label="web")
    keys.keys_path(environ, "bot").write_text('{"keys": [{"id": 1}]}')
    with pytest.raises(GatewayError):
        known.who(bearer(plain))
    assert known.who(bearer(OWN))
    assert "damaged" in capsys.readouterr().err


def test_no_own_key_means_that_none_is_right(tmp_path: Path) -> None:
    empty = tmp_path / "empty.key"
    empty.write_text("\n")
    for path in (None, empty, tmp_path / "absent"):
        with pytest.raises(GatewayError):
            Keys(path, None).who(b"Bearer ")


@pytest.mark.parametrize(("path", "query"), [
    ("/v1/models", b"api_key=x"), ("/v1/models", b"a=1&token=x"), ("/v1/models", b"x=hyb_sk_abc"),
    ("/v1/hyb_sk_abc/models", b""), ("/v1/models", b"Access-Token=x"), ("/v1/models", b"key=x"),
])  # fmt: skip
def test_a_key_in_the_url_is_refused_and_not_repeated(path: str, query: bytes) -> None:
    with pytest.raises(GatewayError, match="revoke") as caught:
        auth.check_url(path, query)
    assert caught.value.code == "key_in_url"
    assert "abc" not in str(caught.value)


def test_other_queries_are_nobodys_business() -> None:
    auth.check_url("/v1/models", b"limit=3&tokens=5&monkey=1")


@pytest.mark.parametrize(("host", "local"), [
    ("127.0.0.1:8000", True), ("localhost", True), ("[::1]:8000", True), ("bot:8000", True), ("192.168.1.7:8000", True),
    ("bot.chat.svc:8000", True), ("bot.chat.svc.cluster.local", True), ("host.containers.internal:8000", True),
    ("evil.example.com:8000", False), ("localhost.evil.com", False), ("", False), ("127.0.0.1.nip.io", False),
    ("my.lab.org", True), ("[evil.com]", False),
])  # fmt: skip
def test_hosts_that_a_web_page_could_have_are_not_local(host: str, local: bool) -> None:
    assert auth.local_host(host, frozenset({"my.lab.org"})) is local


# -- limits ----------------------------------------------------------------------------------------------------------


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.day = datetime(2026, 11, 22, 23, 59, 0, tzinfo=UTC)

    def limits(self, usage: Path | None = None) -> Limits:
        return Limits(usage, clock=lambda: self.seconds, now=lambda: self.day)


def test_requests_a_minute_slide() -> None:
    clock = Clock()
    limits, key = clock.limits(), Key("a", "a", "", rpm=2)
    limits.admit(key)
    clock.seconds += 40
    limits.admit(key)
    with pytest.raises(GatewayError) as caught:
        limits.admit(key)
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert dict(caught.value.headers())[b"retry-after"] == b"20"
    limits.admit(Key("b", "b", "", rpm=2))
    clock.seconds += 20
    limits.admit(key)


def test_tokens_a_day_come_back_at_midnight() -> None:
    clock = Clock()
    limits, key = clock.limits(), Key("a", "a", "", tokens_per_day=100)
    limits.admit(key)
    limits.spend(key, 100)
    with pytest.raises(GatewayError) as caught:
        limits.admit(key)
    assert caught.value.code == "tokens_per_day_exceeded"
    assert caught.value.retry_after == 60
    clock.day += timedelta(minutes=1)
    limits.admit(key)


def test_tokens_survive_a_restart_but_not_the_day(tmp_path: Path) -> None:
    path, key = tmp_path / "bot.usage.json", Key("a", "a", "", tokens_per_day=100)
    limits = Limits(path)
    limits.spend(key, 100)
    limits.save()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(GatewayError):
        Limits(path).admit(key)
    path.write_text(json.dumps({"day": "2020-01-01", "tokens": {"a": 100}}))
    Limits(path).admit(key)
    path.write_text("damaged")
    Limits(path).admit(key)


def test_a_place_that_cant_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    limits, key = Limits(blocked / "bot.usage.json"), Key("a", "a", "")
    for _ in range(2):
        limits.spend(key, 1)
        limits.save()
    assert capsys.readouterr().err.count("not kept") == 1
    assert limits.tokens("a") == 2


def test_the_queue_keeps_its_order_and_its_length() -> None:
    async def scenario() -> list[int]:
        line, order, go = Line(1, 2), [], asyncio.Event()

        async def ask(n: int) -> None:
            async with line.turn():
                order.append(n)
                await go.wait()

        tasks = [asyncio.create_task(ask(n)) for n in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (line.running, line.waiting) == (1, 2)
        with pytest.raises(GatewayError) as caught:
            async with line.turn():
                pass
        assert (caught.value.status, caught.value.code) == (503, "queue_full")
        tasks[1].cancel()  # its client has gone away
        await asyncio.gather(tasks[1], return_exceptions=True)
        assert line.waiting == 1
        go.set()
        await asyncio.gather(tasks[0], tasks[2])
        assert (line.running, line.waiting) == (0, 0)
        return order

    assert asyncio.run(scenario()) == [0, 2]


def test_settings_come_from_the_environment() -> None:
    found = settings.from_environ({
        "HYB_MAX_BODY": "10", "HYB_MAX_WAITING": "many", "HYB_ALLOWED_HOSTS": "A.org, b", "HYB_METRICS_OPEN": "1",
        "HYB_CORS_ORIGINS": "app://obsidian.md *",
    })  # fmt: skip
    assert (found.body, found.waiting, found.open_metrics) == (10, settings.WAITING, True)
    assert found.hosts == {"a.org", "b"}
    assert found.origins == {"app://obsidian.md"}, "never all"
    assert settings.from_environ({}) == settings.Settings()
