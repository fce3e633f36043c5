"""The settings of the chat app."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb.chat import settings
from hyb.errors import HybError

URL = {"HYB_CHAT_MODEL_URL": "http://llm:8000/v1"}


def test_the_models_address_is_all_that_must_be_given() -> None:
    found = settings.from_environ({**URL, "PATH": "/bin", "HYB_CHAT_TITLE": ""})
    assert (found.host, found.port, found.sign_in, found.log) == ("127.0.0.1", 8080, "none", "requests")
    assert found.title == "Chat"


def test_values_are_read_by_their_kind(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hyb_sk_x\n")
    (tmp_path / "system").write_text("You are\nkind.\n")
    found = settings.from_environ(
        {
            **URL,
            "HYB_CHAT_KEY_FILE": str(tmp_path / "key"),
            "HYB_CHAT_SYSTEM_FILE": str(tmp_path / "system"),
            "HYB_CHAT_PORT": "0",
            "HYB_CHAT_TEMPERATURE": "0.5",
            "HYB_CHAT_OPENAI": "on",
            "HYB_CHAT_TRUSTED_PROXIES": "10.128.0.0/14, fd00::/8",
            "HYB_CHAT_HOSTS": "Chat.Example.com",
        }
    )
    assert found.key == "hyb_sk_x" and found.system == "You are\nkind."
    assert found.port == 0 and found.temperature == 0.5 and found.openai
    assert [str(n) for n in found.trusted_proxies] == ["10.128.0.0/14", "fd00::/8"]
    assert found.hosts == ("chat.example.com",)
    assert "hyb_sk_x" not in repr(found)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("1234")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(HybError) as caught:
        settings.from_environ(
            {
                "HYB_CHAT_MODEL_URL": "llm:8000",
                "HYB_CHAT_PORT": "eighty",
                "HYB_CHAT_METRICS_PORT": "70000",
                "HYB_CHAT_QUEUE": "-1",
                "HYB_CHAT_QUEUE_SECONDS": "nan",
                "HYB_CHAT_OPENAI": "maybe",
                "HYB_CHAT_SIGN_IN": "password",
                "HYB_CHAT_TRUSTED_PROXIES": "10.0.0.1/8",
                "HYB_CHAT_ACCESS_CODE_FILE": str(tmp_path / "short"),
                "HYB_CHAT_KEY_FILE": str(tmp_path / "empty"),
                "HYB_CHAT_CA_FIEL": "x",
                "HYB_CHAT_KEY": "hyb_sk_x",
            }
        )
    told = "\n".join(caught.value.details)
    for name in ("MODEL_URL", "PORT", "METRICS_PORT", "QUEUE", "QUEUE_SECONDS", "OPENAI", "SIGN_IN", "TRUSTED_PROXIES"):
        assert f"`HYB_CHAT_{name}`" in told
    assert "`HYB_CHAT_CA_FIEL` is no setting" in told
    assert "`HYB_CHAT_KEY` is no setting" in told, "a key comes from a file"
    assert "fewer than 8" in told and "it is empty" in told
    assert "hyb_sk_x" not in told


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"HYB_CHAT_SIGN_IN": "code"}, "ACCESS_CODE_FILE"),
        ({"HYB_CHAT_SIGN_IN": "proxy"}, "TRUSTED_PROXIES"),
        ({"HYB_CHAT_METRICS_PORT": "8080"}, "another port"),
        ({"HYB_CHAT_MODEL_URL": "http://user:secret@llm/v1"}, "holds a password"),
        ({"HYB_CHAT_KEY_FILE": "/nowhere/key"}, "No such file"),
        ({"HYB_CHAT_MODEL_URL": "http://[::1/v1"}, "http or https address"),
        ({"HYB_CHAT_MODEL_URL": "http://llm:99999/v1"}, "http or https address"),
        ({"HYB_CHAT_MODEL_URL": "http://llm:8000/v 1"}, "http or https address"),
        ({"HYB_CHAT_MODEL_URL": "http://llm/v1\r\nX-Evil: 1"}, "http or https address"),
        ({"HYB_CHAT_MODEL_URL": "file:///etc/passwd"}, "http or https address"),
        ({"HYB_CHAT_HOSTS": "https://chat.example.com"}, "names without a port"),
        ({"HYB_CHAT_HOSTS": "chat.example.com:8443"}, "names without a port"),
        ({"HYB_CHAT_HOSTS": "*.example.com"}, "names without a port"),
        ({"HYB_CHAT_USER_HEADER": "X User"}, "name of a header"),
        ({"HYB_CHAT_SIGN_IN": "proxy", "HYB_CHAT_TRUSTED_PROXIES": "10.0.0.0/8,0.0.0.0/0"}, "has everybody in it"),
    ],
)
def test_what_does_not_go_together_is_refused(environ: dict[str, str], word: str) -> None:
    with pytest.raises(HybError) as caught:
        settings.from_environ({**URL, **environ})
    assert word in "\n".join(caught.value.details)


def test_an_access_code_that_nobody_would_be_asked_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("correct horse")
    with pytest.raises(HybError) as caught:
        settings.from_environ({**URL, "HYB_CHAT_ACCESS_CODE_FILE": str(tmp_path / "code")})
    assert "nobody would be asked" in caught.value.details[0]


def test_the_documentation_lists_every_setting() -> None:
    from dataclasses import fields

    page = (Path(__file__).parents[3] / "docs" / "chat.md").read_text()
    names = {f"{settings.PREFIX}{f.name.upper()}" for f in fields(settings.Settings)}
    missing = {n for n in names if f"`{n.removeprefix(settings.PREFIX)}`" not in page}
    assert not missing - {settings.PREFIX + n for n in ("KEY", "ACCESS_CODE", "SECRET")}
