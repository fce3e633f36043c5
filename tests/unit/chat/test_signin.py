"""The access code and its cookies."""

from __future__ import annotations

import pytest

from hyb.chat.errors import ChatError
from hyb.chat.settings import Settings
from hyb.chat.signin import ALL_TRIES_MINUTE, TRIES_MINUTE, SignIn

SETTINGS = Settings(sign_in="code", access_code="correct horse", session_hours=1)


@pytest.fixture(scope="module")
def key() -> bytes:
    return SignIn(SETTINGS).key


def signin(key: bytes) -> SignIn:
    return SignIn(SETTINGS, key=key)


def test_a_cookie_is_good_until_it_ends_and_in_another_process(key: bytes) -> None:
    cookie = signin(key).cookie(now=1000)
    again = SignIn(SETTINGS)  # another process with the same code
    assert again.key == key
    assert again.valid(cookie, now=1000 + 3599)
    assert not again.valid(cookie, now=1000 + 3601)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: "9" + c,
        lambda c: c[:-1] + ("0" if c[-1] != "0" else "1"),
        lambda c: c.replace(".", "..", 1),
        lambda c: "",
        lambda c: "..",
        lambda c: c + "é",
        lambda c: "9" * 5000 + c,
        lambda c: "²" + c,
    ],
)
def test_a_changed_cookie_is_no_cookie(key: bytes, change) -> None:  # type: ignore[no-untyped-def]
    s = signin(key)
    assert not s.valid(change(s.cookie()))


def test_another_code_or_secret_ends_all_cookies(key: bytes) -> None:
    cookie = signin(key).cookie()
    assert not SignIn(Settings(sign_in="code", access_code="another code")).valid(cookie)
    with_secret = Settings(sign_in="code", access_code="correct horse", secret="s" * 32)
    assert not SignIn(with_secret).valid(cookie)
    assert SignIn(with_secret).valid(SignIn(with_secret).cookie())


def test_no_cookie_is_like_another_and_none_shows_the_code(key: bytes) -> None:
    s = signin(key)
    assert s.cookie(now=1) != s.cookie(now=1)
    assert "correct" not in s.cookie()


def test_guessing_is_slow_for_one_and_for_many(key: bytes) -> None:
    s = signin(key)

    def tried(code: str, client: str) -> str:
        try:
            s.check_code(code, client)
        except ChatError as error:
            return error.code
        return "ok"

    assert [tried("wrong", "a") for _ in range(TRIES_MINUTE + 1)] == ["wrong_code"] * TRIES_MINUTE + ["limited"]
    assert tried("correct horse", "a") == "limited", "also when the guess is right"
    assert tried("correct horse", "b") == "ok"
    codes = [tried("wrong", f"client {n}") for n in range(ALL_TRIES_MINUTE)]
    assert codes[-1] == "limited", "from many addresses, too"


def test_a_programs_right_code_is_no_try(key: bytes) -> None:
    s = signin(key)
    for _ in range(100):
        s.check_bearer("correct horse", "a")
    with pytest.raises(ChatError):
        s.check_bearer("wrong", "a")


@pytest.mark.parametrize("code", ["", "correct", "correct horse ", "ä\ud800", "x" * 10_000])
def test_no_other_code_is_right(key: bytes, code: str) -> None:
    with pytest.raises(ChatError, match="wrong"):
        signin(key).check_code(code, "a")
