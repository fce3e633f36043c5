"""Whose credentials are taken for which registry, and what a registry's challenge and settings say."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from hyb.errors import Exit, HybError
from hyb.hub import registry, registry_auth
from hyb.hub.registry_auth import Credential

HOST = "registry.example:5000"


def entry(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def wrote(path: Path, auths: Mapping[str, object], **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths, **more}))
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def test_the_files_are_looked_at_in_skopeo_s_order_and_the_named_one_is_alone(
    environ: dict[str, str], tmp_path: Path
) -> None:
    docker = wrote(tmp_path / "home/.docker/config.json", {HOST: entry("docker:1")})
    assert registry_auth.find(HOST, "a/b", environ) == Credential("docker", "1")
    wrote(tmp_path / "home/.config/containers/auth.json", {HOST: entry("config:2")})
    assert registry_auth.find(HOST, "a/b", environ) == Credential("config", "2")
    wrote(tmp_path / "run/containers/auth.json", {HOST: entry("runtime:3:with colon")})
    assert registry_auth.find(HOST, "a/b", environ) == Credential("runtime", "3:with colon")
    named = wrote(tmp_path / "named.json", {"other.example": entry("x:y")})
    assert registry_auth.find(HOST, "a/b", environ | {"REGISTRY_AUTH_FILE": str(named)}) is None
    (tmp_path / "run/containers/auth.json").unlink()
    (tmp_path / "home/.config/containers/auth.json").unlink()
    moved = environ | {"HOME": str(tmp_path), "DOCKER_CONFIG": str(docker.parent)}
    assert registry_auth.find(HOST, "a/b", moved) == Credential("docker", "1")


def test_the_longest_key_wins_and_another_registry_s_never_does(environ: dict[str, str], tmp_path: Path) -> None:
    auths = {HOST: entry("all:1"), f"{HOST}/team": entry("team:2"), f"{HOST}/team/bot": entry("bot:3")}
    wrote(tmp_path / "run/containers/auth.json", auths)
    found = {r: registry_auth.find(HOST, r, environ) for r in ("team/bot", "team/other", "teams/bot", "x")}
    assert {r: c.user if c else "" for r, c in found.items()} == {
        "team/bot": "bot", "team/other": "team", "teams/bot": "all", "x": "all",
    }  # fmt: skip
    assert registry_auth.find("registry.example", "team/bot", environ) is None


def test_docker_s_own_names_of_a_registry_are_known(environ: dict[str, str], tmp_path: Path) -> None:
    auths = {"https://index.docker.io/v1/": entry("hub:1"), f"https://{HOST}/v2/": {"identitytoken": "t"}}
    wrote(tmp_path / "home/.docker/config.json", auths)
    assert registry_auth.find("docker.io", "library/x", environ) == Credential("hub", "1")
    assert registry_auth.find(HOST, "x", environ) == Credential(identity="t")


@pytest.mark.parametrize("content", ["", "[]", '{"auths": [1]}', '{"auths": {"registry.example:5000": {"auth": "%%"}}}',
                                     '{"auths": {"registry.example:5000": {"auth": "bm9jb2xvbg=="}}}'])  # fmt: skip
def test_a_damaged_file_is_named_and_its_content_is_not_shown(
    content: str, environ: dict[str, str], tmp_path: Path
) -> None:
    path = wrote(tmp_path / "run/containers/auth.json", {})
    path.write_text(content)
    with pytest.raises(HybError) as caught:
        registry_auth.find(HOST, "a", environ)
    assert str(path) in caught.value.message
    assert "bm9jb2xvbg" not in str(caught.value) + caught.value.hint


def test_a_credential_never_shows_its_secret() -> None:
    assert "hush" not in repr(Credential("ann", "hush")) + repr(Credential(identity="hush"))
    login = registry_auth.Login(HOST, Credential("ann", "hush"), (), False)
    login.header = "Bearer hush"
    assert "hush" not in repr(login)


def test_a_helper_that_is_not_installed_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    wrote(tmp_path / "home/.docker/config.json", {}, credHelpers={HOST: "none-such"})
    with pytest.raises(HybError, match="`docker-credential-none-such` is not installed"):
        registry_auth.find(HOST, "a", environ)
    wrote(tmp_path / "home/.docker/config.json", {}, credHelpers={HOST: "../../bin/sh"})
    with pytest.raises(HybError, match="is no name of a credential helper"):
        registry_auth.find(HOST, "a", environ)


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        ('Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"', "bearer",
         {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"}),
        ("bearer  realm=https://a/t , service=s", "bearer", {"realm": "https://a/t", "service": "s"}),
        ('Basic realm="x"', "basic", {"realm": "x"}),
        ("", "", {}),
    ],
)  # fmt: skip
def test_a_challenge_is_read(header: str, scheme: str, parameters: dict[str, str]) -> None:
    assert registry_auth.challenge(header) == (scheme, parameters)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("localhost:5000", True), ("127.0.0.1:1", True), ("127.9.9.9", True), ("[::1]:5000", True),
     ("localhost.example", False), ("10.0.0.1", False), ("registry.example:5000", False), ("127.0.0.1.example", False)],
)  # fmt: skip
def test_loopback_is_this_machine_alone(host: str, loopback: bool) -> None:
    assert registry_auth.is_loopback(host) is loopback


def test_a_token_service_without_tls_gets_no_password() -> None:
    login = registry_auth.Login(HOST, Credential("ann", "hush"), ("repository:a:pull",), False)
    with pytest.raises(HybError, match="not encrypted") as caught:
        login._token_request({"realm": "http://tokens.example/t"})
    assert caught.value.code == Exit.BELOW
    asked = login._token_request({"realm": "https://tokens.example/t?a=1", "service": "s"})
    assert str(asked.url) == "https://tokens.example/t?a=1&service=s&scope=repository%3Aa%3Apull"
    assert asked.headers["Authorization"].startswith("Basic ")
    token = registry_auth.Login(HOST, Credential(identity="hush"), ("repository:a:pull",), False)
    asked = token._token_request({"realm": "https://tokens.example/t"})
    assert asked.method == "POST" and b"grant_type=refresh_token" in asked.content
    assert "hush" not in str(asked.url)


def test_registries_conf_says_which_registry_needs_no_tls(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "home/.config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text(f'[[registry]]\nlocation = "{HOST}"\ninsecure = true\n[[registry]]\nlocation = "b"\n')
    assert registry.insecure(HOST, environ)
    assert not registry.insecure("b", environ)
    assert not registry.insecure("c", environ)
    assert registry.insecure("c", environ | {"HYB_TLS_VERIFY": "false"})
    path.write_text("[[registry")
    with pytest.raises(HybError, match=r"registries\.conf` can't be read"):
        registry.insecure(HOST, environ)
