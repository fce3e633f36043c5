"""`hyb chat --web`: the page on this machine, by the installed `hyb`, in front of a bird and of a real service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from hyb import certificates, serving
from hyb.formats import modelpack
from hyb.serving import Wanted
from hyb.store import Store
from tests.chat_app import until
from tests.chat_model import free_port
from tests.hyb import Hyb
from tests.need import need
from tests.parrot import Parrot

KEY = "hyb_sk_only-for-this-test"
HI = {"messages": [{"role": "user", "content": "say:hi"}]}


@pytest.fixture
def home(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


@pytest.fixture
def bird() -> Iterator[Parrot]:
    with Parrot() as found:
        yield found


class Web:
    """A running `hyb chat --web`, and what it printed."""

    def __init__(self, home: Hyb, *arguments: str, **more: Any) -> None:
        self.process = home.start("chat", "--web", "--json", *arguments, **more)
        assert self.process.stdout
        text = ""
        while line := self.process.stdout.readline():  # one JSON document, and then it stays
            text += line
            if line == "}\n":
                break
        self.said = json.loads(text)
        self.base, _, self.code = self.said["url"].partition("#code=")
        self.http = httpx.Client(base_url=self.base, trust_env=False, timeout=60)

    def signed_in(self) -> httpx.Client:
        assert self.http.post("/api/sign-in", json={"code": self.code}).status_code == 200
        until(lambda: self.http.get("/ready").status_code == 200, 30)
        return self.http

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_prints_an_address_answers_there_and_ends(
    home: Hyb, bird: Parrot, number: signal.Signals, status: int
) -> None:
    web = Web(home, bird.url, env={"HYB_API_KEY": KEY})
    assert web.base == f"http://127.0.0.1:{web.said['port']}/" and web.said["model"] == "parrot"
    assert "<!doctype html>" in web.http.get("/").text
    assert '"text":"hi"' in web.signed_in().post("/api/chat", json=HI).text
    assert bird.headers[-1]["Authorization"] == f"Bearer {KEY}"
    code, out, err = web.end(number)
    assert (code, out) == (status, ""), err
    assert "in a browser" in err and "the model is there" in err
    assert "Traceback" not in err and KEY not in err


def test_another_person_of_this_machine_can_ask_nothing(home: Hyb, bird: Parrot) -> None:
    need("ss")
    with Web(home, bird.url) as web:
        assert web.http.post("/api/chat", json=HI).status_code == 401
        assert web.http.post("/api/chat", json=HI, headers={"Host": "evil.example"}).status_code == 421
        pid = web.process.pid
        for name in ("cmdline", "environ"):
            assert web.code.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        sockets = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
        mine = [line.split()[3] for line in sockets if f"pid={pid}," in line]
        assert mine == [f"127.0.0.1:{web.said['port']}"], "it listens there and nowhere else"


def test_a_key_of_a_file_is_in_no_argument_and_no_environment(home: Hyb, bird: Parrot, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    options = ("--key-file", str(tmp_path / "key"), "--system", "Be brief.", "--temperature", "0", "--max-tokens", "7")
    with Web(home, bird.url, *options) as web:
        web.signed_in().post("/api/chat", json=HI)
        for name in ("cmdline", "environ"):
            assert KEY.encode() not in Path(f"/proc/{web.process.pid}/{name}").read_bytes()
        assert KEY not in web.http.get("/api/config").text
    asked = bird.asked[-1]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["max_tokens"]) == (0, 7)


def test_a_port_can_be_chosen_and_one_that_is_taken_is_told(home: Hyb, bird: Parrot) -> None:
    port = free_port()
    with Web(home, bird.url, "--port", str(port)) as web:
        assert web.said["port"] == port
        said = home.fails(3, "chat", "--web", bird.url, "--port", str(port))
        assert "in use" in said and "`--port`" in said


def test_a_dry_run_says_where_and_opens_nothing(home: Hyb) -> None:
    plan = home.json("chat", "--web", "http://127.0.0.1:9/v1", "--dry-run", "--port", "4711")
    assert plan == {"url": "http://127.0.0.1:9/v1", "model": "", "web": True, "port": 4711}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--web", "--load", "x.json"], 2, "`--load` has no meaning with `--web`"),
        (["--web", "bot", "What?"], 2, "`QUESTION` has no meaning"),
        (["--port", "80", "bot"], 2, "`--port` needs `--web`"),
        (["--open", "bot"], 2, "`--open` needs `--web`"),
        (["--web", "--port", "70000"], 2, "--port"),
        (["--web"], 3, "nothing is being served"),
        (["--web", "http://127.0.0.1:9/v1"], 5, "connection refused"),
        (["--web", "https://models.example/v1", "--offline"], 6, "another machine"),
    ],
)
def test_a_mistake_is_told_at_once(home: Hyb, arguments: list[str], code: int, said: str) -> None:
    assert said in home.fails(code, "chat", *arguments)


def test_without_the_packages_it_says_what_to_install(home: Hyb, tmp_path: Path) -> None:
    hidden = "import sys, importlib.machinery as m\nreal = m.PathFinder.find_spec\n"
    hidden += "m.PathFinder.find_spec = lambda n, *a: None if n in ('starlette', 'uvicorn') else real(n, *a)\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    said = home.fails(3, "chat", "--web", "http://127.0.0.1:9/v1", env={"PYTHONPATH": path})
    assert "`starlette`, `uvicorn`" in said and "pip install 'hyb[chat]'" in said


def test_the_browser_is_opened_by_a_file_of_ones_own(home: Hyb, bird: Parrot, tmp_path: Path) -> None:
    """Its arguments are for all to see, so the code is not among them."""
    (tmp_path / "bin").mkdir()
    opener = tmp_path / "bin" / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/arguments\nstat -c %a "$1" > {tmp_path}/mode\n')
    opener.write_text(opener.read_text() + f'cp "$1" {tmp_path}/page\n')
    opener.chmod(0o755)
    with Web(home, bird.url, "--open", env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}) as web:
        until((tmp_path / "page").exists)
        until(lambda: web.code in (tmp_path / "page").read_text())
        opened = Path((tmp_path / "arguments").read_text().strip())
        assert web.code not in str(opened) and (tmp_path / "mode").read_text() == "600\n"
    assert not opened.exists(), "it goes with the page"


@pytest.mark.browser
def test_the_address_alone_opens_the_page_and_leaves_no_code_behind(home: Hyb, bird: Parrot) -> None:
    need("browser")
    from playwright import sync_api

    with Web(home, bird.url) as web, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(web.said["url"])
        page.wait_for_selector("body[data-ready]")
        assert not page.is_visible("#gate") and page.url == web.base
        page.fill("#ask", "say:hello from here")
        page.press("#ask", "Enter")
        page.wait_for_selector(".msg.assistant:not(.live)")
        assert page.inner_text(".msg.assistant .md") == "hello from here"
        other = browser.new_context().new_page()
        other.goto(web.base)
        other.wait_for_selector("#gate[open]")
        browser.close()


def test_a_real_service_is_reached_over_tls(home: Hyb, smollm2_gguf: Path, tmp_path: Path) -> None:
    need("xllamacpp")
    store = Store(home.store)
    files = [modelpack.file("model.gguf", store.add_file(smollm2_gguf))]
    meta = {"format": "gguf", "architecture": "LlamaForCausalLM", "context": 8192, "name": "smol"}
    artifact = store.add_artifact("model", files, meta=meta, config=modelpack.config(files, name="smol"))
    now = datetime.now(UTC)
    pair = certificates.make_leaf(certificates.make_ca("test", 1, now), "server", 1, now, hosts=["127.0.0.1"])
    (tmp_path / "cert.pem").write_bytes(pair.certificate)
    (tmp_path / "key.pem").write_bytes(pair.key)
    (tmp_path / "key.pem").chmod(0o600)
    tls = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    wanted = Wanted(name="bot", port=0, context=1024, parallel=1, **tls)
    serving.start(store, artifact, wanted, environ=home.env, detach=True)
    try:
        with Web(home, "bot", "--temperature", "0", "--max-tokens", "12") as web:
            question = "What is the capital of France? Answer in one word."
            asked = {"messages": [{"role": "user", "content": question}]}
            answer = web.signed_in().post("/api/chat", json=asked).text
            assert "Paris" in answer and '"type":"end"' in answer
            assert web.said["name"] == web.said["model"] == "bot"
    finally:
        serving.stop("bot", home.env)
