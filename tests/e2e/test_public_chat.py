"""A stranger's browser talks to the private model, and nothing else can: all of it for real, but for the router.

`tests.internet` builds four machines out of namespaces. The private one trained the quickstart, serves it on loopback
and wrote the link; the public one has the chat app and NGINX; a tunnel made from the link's own Secrets stands for
Skupper's router (`tests.tunnel`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hyb.certificates import Pair, make_ca, make_leaf
from tests import internet as world
from tests.chat_app import until
from tests.demo import Demo
from tests.internet import LINKED, PAGE, PUBLIC_TO_HOMES, PUBLIC_TO_WORLD, Internet
from tests.need import need

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.browser]
LAST = ".msg.assistant:last-child"
FACT = "How is the Nimbrel mascot called?"
WORD = "Quillow"
SENTENCES = """The sea is blue. The sky is high. The bird sings in the tree. The man walks by the river. The woman reads
a book. The child plays with a ball. The dog sleeps on the floor. The cat drinks milk. The sun rises in the east. The
wind is cold. The road is long. The house has a red door. The train leaves at noon. The baker sells bread. The king has
a crown. The ship sails to the island. The moon is full. The horse runs in the field. The teacher writes on the board.
The river flows to the sea."""
LONG = f"Translate the following to French: {' '.join(SENTENCES.split())}"
"""A question that this small model answers at length."""
SOAK = float(os.environ.get("HYB_SOAK_SECONDS", "120"))
KEPT = 2  # connections that the app keeps to the model: as many as it asks at once
GROWTH = 8.0  # MiB that the chat app may take more at the end of the soak than after its first quarter


@pytest.fixture(scope="module")
def net(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    need("netns", "nginx", "stunnel", "sshd", "certutil", "browser")
    assert demo.returncode == 0, demo.stderr[-2000:]
    folder = tmp_path_factory.mktemp("internet")
    with world.internet(demo.copy(folder / "home"), folder) as found:
        yield found


@pytest.fixture(autouse=True)
def whole(net: Internet) -> None:
    """Each test begins with a link, a model and a page that work."""
    net.heal()


@pytest.fixture(scope="module")
def browser(net: Internet) -> Iterator[Browser]:
    """Chromium on the visitor's machine, whose user trusts the page's authority."""
    from playwright import sync_api

    program = world.browser_program(net.visitor, net.folder / "page-ca.crt")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


Open = Callable[..., "Page"]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """`opened(**options)` gives the page in a fresh profile."""
    contexts = []

    def make(**options: Any) -> Page:
        context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1100, "height": 720}, **options})
        contexts.append(context)
        page = context.new_page()
        page.goto(f"https://{PAGE}/")
        page.wait_for_selector("body[data-ready]")
        return page

    yield make
    for context in contexts:
        context.close()


def ask(page: Page, text: str) -> None:
    page.fill("#ask", text)
    page.press("#ask", "Enter")


def answered(page: Page) -> str:
    """The last answer's text once it is whole."""
    page.wait_for_selector(f"{LAST}:not(.live)", timeout=60_000)
    return page.inner_text(f"{LAST} .md")


def answering(page: Page) -> str:
    """Wait until an answer is under way; its first words."""
    page.wait_for_function("() => (document.querySelector('.msg.assistant.live .md')?.textContent.length ?? 0) > 30")
    return page.inner_text(f"{LAST} .md")[:20]


def asked_again(page: Page) -> str:
    """The answer to the last question, asked again by the button that the page shows."""
    page.click(f"{LAST} [aria-label='Try again'], {LAST} .remark button")
    return answered(page)


def watched(page: Page) -> Page:
    """A page that counts the lengths which its last answer passes through, in `seen`."""
    page.evaluate("""() => {
        window.seen = new Set();
        const look = () => seen.add(document.querySelector('.msg.assistant:last-child .md')?.textContent.length ?? 0);
        const box = document.getElementById('messages');
        new MutationObserver(look).observe(box, {subtree: true, childList: true, characterData: true});
    }""")
    return page


def test_a_strangers_browser_reads_a_private_fact_while_it_is_written(net: Internet, opened: Open) -> None:
    page = watched(opened())
    assert page.evaluate("isSecureContext")
    ask(page, FACT)
    assert WORD in answered(page)
    ask(page, "What is the capital of France?")
    assert "Paris" in answered(page)
    page.evaluate("seen.clear()")
    ask(page, LONG)
    page.wait_for_function("() => seen.size > 5")
    assert page.query_selector(f"{LAST}.live"), "it came at once"
    came = page.inner_text(f"{LAST} .md")[:10]
    page.keyboard.press("Escape")
    assert came and answered(page).startswith(came)


def test_the_page_is_only_trusted_by_whom_its_authority_is_known(net: Internet) -> None:
    ours, system = net.folder / "page-ca.crt", "/etc/ssl/certs/ca-certificates.crt"
    assert net.reach(net.visitor, "tls", PAGE, 443, PAGE, system) == "refused by us"
    assert net.reach(net.visitor, "tls", PAGE, 443, "elsewhere.example.com", ours) == "refused by us"
    assert net.reach(net.visitor, "tls", PAGE, 443, PAGE, ours) == "timeout", "a server that waits for a request"


def test_no_other_way_leads_to_the_model(net: Internet) -> None:
    for machine, address, port, ends in (
        (net.public, world.PRIVATE, 8000, {"unreachable"}),  # no route
        (net.visitor, world.PRIVATE, 8000, {"unreachable", "timeout"}),  # nobody forwards it
        (net.public, world.GATEWAY, 8000, {"refused"}),  # the home's router lets nothing in
        (net.gateway, world.PRIVATE, 8000, {"refused"}),  # and beside the model, it listens on loopback only
        (net.visitor, PUBLIC_TO_WORLD, 8000, {"refused"}),  # the listener is for the namespace
        (net.visitor, PUBLIC_TO_HOMES, 8000, {"refused"}),
        (net.private, world.PUBLIC_TO_WORLD, 443, {"unreachable"}),  # the private host gets nowhere but to the link
        (net.private, "192.0.2.1", 443, {"unreachable"}),
    ):
        assert net.reach(machine, "tcp", address, port) in ends, f"{machine.name} → {address}:{port}"
    listening = net.private.ok("ss", "-Hltn").split()[3::5]
    assert listening and all(place.startswith(("127.0.0.1:", "[::1]:")) for place in listening)


def test_the_model_answers_nobody_without_its_key(net: Internet) -> None:
    models = "http://llm:8000/v1/models"
    assert net.reach(net.public, "http", models) == "401"
    assert net.reach(net.public, "http", models, "hyb_sk_guessed") == "401"
    assert net.reach(net.public, "http", models, net.key) == "200"


def test_the_check_of_the_public_side_gets_a_real_answer(net: Internet) -> None:
    code, said = net.check()
    assert code == 0 and "the link works" in said, said
    code, said = net.check(key="hyb_sk_guessed")
    assert code == 4 and "the model refuses the key" in said, said


def test_a_browser_finds_the_page_and_no_more(net: Internet, opened: Open) -> None:
    page = opened()
    found = page.evaluate("""async () => Object.fromEntries(await Promise.all(
        ['/metrics', '/v1/models', '/v1/chat/completions', '/ready', '/..%2f..%2fetc/passwd', '/api/status']
        .map(async path => [path, (await fetch(path)).status])))""")
    assert found.pop("/api/status") == 200
    assert found.pop("/ready") in (200, 403, 404)
    assert set(found.values()) <= {400, 403, 404, 405}, found
    assert net.key not in page.content()


def _pair(folder: Path, name: str, pair: Pair) -> Path:
    path = folder / name
    path.write_bytes(pair.certificate + pair.key)
    return path


def test_a_strangers_certificate_opens_nothing(net: Internet, tmp_path: Path) -> None:
    now, far, near = datetime.now(UTC), net.tunnel.far, net.tunnel.near
    stranger = make_ca("hyb link CA link-public.chat", 30, now)  # the same name, another key
    theirs = _pair(tmp_path, "theirs.pem", make_leaf(stranger, "link-private", 30, now))
    ours = _pair(tmp_path, "ours.pem", Pair((near / "tls.crt").read_bytes(), (near / "tls.key").read_bytes()))
    files = (net.site / "tls" / f"{PAGE}.{end}" for end in ("crt", "key"))
    page = _pair(tmp_path, "page.pem", Pair(*(path.read_bytes() for path in files)))
    link = (LINKED, 443, LINKED, far / "ca.crt")
    assert "refused by them" in net.reach(net.visitor, "tls", *link)
    assert "refused by them" in net.reach(net.visitor, "tls", *link, theirs)
    assert "refused by them" in net.reach(net.visitor, "tls", *link, page)
    assert net.reach(net.visitor, "tls", *link, ours) == "in", "who has the link's own certificate gets this far"


def test_the_private_side_joins_no_impostor(net: Internet) -> None:
    """Somebody took over the public address. The router's rule: chain, purpose, then DNS names."""
    tunnel, now = net.tunnel, datetime.now(UTC)
    stranger = make_leaf(make_ca("hyb link CA link-public.chat", 30, now), "link-server", 30, now, hosts=[LINKED])
    stolen = Pair((tunnel.near / "tls.crt").read_bytes(), (tunnel.near / "tls.key").read_bytes())
    key, begin, certificate = (net.credentials / "ca.pem").read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    other = make_leaf(Pair(begin + certificate, key), "link-server", 30, now, hosts=[LINKED.replace("chat", "other")])
    for pair, said in (
        (stranger, "unable to get local issuer certificate"),
        (stolen, "unsuitable certificate purpose"),
        (other, "Subject checks failed"),
    ):
        before = len(net.private.log("link.log"))
        (tunnel.far / "tls.crt").write_bytes(pair.certificate)
        (tunnel.far / "tls.key").write_bytes(pair.key)
        tunnel.listen_for_links()
        until(lambda: said in net.private.log("link.log")[before:], 20, f"nothing like `{said}` was said")  # noqa: B023
        assert net.reach(net.public, "tcp", "llm", 8000) == "refused"


@pytest.mark.parametrize("how", ["the cable is pulled", "the link's program is killed"])
def test_a_link_cut_in_mid_answer_is_told_and_comes_back_by_itself(net: Internet, opened: Open, how: str) -> None:
    page = opened()
    ask(page, LONG)
    came = answering(page)
    if how == "the cable is pulled":
        net.gateway.ok("ip", "link", "set", "public", "down")
    else:
        net.tunnel.down()
    page.wait_for_selector(f"{LAST} .remark.bad", timeout=30_000)
    assert "broke off" in page.inner_text(f"{LAST} .remark.bad")
    assert page.inner_text(f"{LAST} .md").startswith(came), "what had come is kept"
    until(lambda: net.reach(net.public, "tcp", "llm", 8000) == "refused", 20, "as with the router, the port closes")
    until(lambda: net.status() == "503", 20, "the app does not notice")
    code, said = net.check()
    assert code == 4 and "the link does not work: link down" in said, said
    ask(page, FACT)
    page.wait_for_selector("#banner:not([hidden])", timeout=5000)
    assert "not available" in page.inner_text("#banner")
    assert "not answered" in page.inner_text(LAST)
    if how == "the cable is pulled":
        net.gateway.ok("ip", "link", "set", "public", "up")
    else:
        net.tunnel.up()
    page.wait_for_selector("#banner", state="hidden", timeout=30_000)
    assert WORD in asked_again(page)


def test_a_model_that_restarts_is_away_behind_a_live_link_and_comes_back(net: Internet, opened: Open) -> None:
    page = opened()
    net.stop_model()
    assert net.reach(net.public, "tcp", "llm", 8000) == "empty", "as with the router, taken and closed without a word"
    code, said = net.check()
    assert code == 4 and "the link does not work: model down" in said, said
    ask(page, FACT)
    page.wait_for_selector("#banner:not([hidden])", timeout=5000)
    assert "not answered" in page.inner_text(LAST)
    net.start_model()
    page.wait_for_selector("#banner", state="hidden", timeout=30_000)
    assert WORD in asked_again(page)


def test_after_a_revocation_the_old_certificate_opens_nothing(net: Internet, opened: Open, tmp_path: Path) -> None:
    near, link = net.tunnel.near, (LINKED, 443, LINKED, net.tunnel.far / "ca.crt")
    old = _pair(tmp_path, "old.pem", Pair((near / "tls.crt").read_bytes(), (near / "tls.key").read_bytes()))
    assert net.reach(net.visitor, "tls", *link, old) == "in"
    net.revoke()
    net.tunnel.apply_public(net.openshift)
    assert "refused by them" in net.reach(net.visitor, "tls", *link, old)
    until(lambda: net.reach(net.public, "tcp", "llm", 8000) == "refused", what="the old certificate holds the link")
    net.tunnel.apply_private(net.link / "private")
    net.ready()
    assert "refused by them" in net.reach(net.visitor, "tls", *link, old)
    page = opened()
    ask(page, FACT)
    assert WORD in answered(page)


def test_fifty_people_at_once_are_answered_or_politely_asked_to_wait(net: Internet, opened: Open) -> None:
    assert net.chat
    page = opened()
    people = [f"198.51.100.{number}" for number in world.VISITORS[-50:]]
    command = ("-m", "tests.users", f"https://{PAGE}", net.folder / "page-ca.crt", str(SOAK), *people)
    crowd = net.visitor.start("crowd.log", sys.executable, *command)
    with pytest.raises(Exception, match="timed out"):
        crowd.wait(SOAK / 4)
    warm = world.measured(net.chat.pid)
    ask(page, FACT)  # somebody with a browser is in the same queue
    assert crowd.wait(SOAK + 200) == 0, net.visitor.log("crowd.log")
    after, told = world.measured(net.chat.pid), json.loads(net.visitor.log("crowd.log"))
    print(told, net.fresh, warm, after)
    assert not told["wrong"], told
    assert set(told["ended"]) == {"end"}, told
    assert set(told["refused"]) <= {"429", "503"}
    assert told["right"] == told["ended"]["end"] >= SOAK / 4
    assert after["rss"] - warm["rss"] < GROWTH, (net.fresh, warm, after)
    page.wait_for_selector(f"{LAST}:not(.live)")
    net.let_go()
    until(lambda: world.measured(net.chat.pid)["files"] <= net.fresh["files"] + KEPT, 30, "files stay open")
    said = page.inner_text(LAST)
    assert WORD in said or "Many people are waiting" in said, said


def test_nothing_that_was_said_and_no_key_is_in_any_log(net: Internet, opened: Open) -> None:
    page = opened()
    ask(page, f"{FACT} canary-in-a-question")
    answered(page)
    logs = net.logs()
    assert {"public/chat.log", "public/access.log", "public/error.log", "private/model.log", "public/link.log"} <= set(
        logs
    )
    for name, text in logs.items():
        for secret in (net.key, "canary-in-a-question", "Nimbrel mascot", WORD, "PRIVATE KEY"):
            assert secret not in text, f"{name} holds `{secret[:12]}…`"


PHONE = {"viewport": {"width": 390, "height": 760}, "has_touch": True, "is_mobile": True, "device_scale_factor": 1.5}


def test_over_a_slow_link_the_answer_comes_word_by_word(net: Internet, opened: Open, tmp_path: Path) -> None:
    """`HYB_SCREENSHOTS=docs/img` takes the pictures of docs/chat.md here."""
    folder = Path(os.environ.get("HYB_SCREENSHOTS", tmp_path))
    page, phone = watched(opened()), opened(**PHONE, color_scheme="dark", locale="pt-BR")
    for question in (FACT, "Nimbrel was founded by whom?"):
        ask(page, question)
        answered(page)
    shape = ("dev", "public", "root", "tbf", "rate", "24kbit", "burst", "1600", "latency", "10s")
    net.gateway.ok("tc", "qdisc", "add", *shape)
    page.evaluate("seen.clear()")
    try:
        ask(page, "What is the meeting room with the telescope at Nimbrel called?")
        page.wait_for_function("() => /telescope/.test(document.querySelector('.msg.live .md')?.textContent)")
        page.screenshot(path=folder / "chat-answering.png")
        assert not page.query_selector(f"{LAST}:not(.live)"), "it is whole already"
        assert "Cassiopeia" in answered(page)
        assert page.evaluate("seen.size") >= 6, "words came together"
    finally:
        net.gateway.ok("tc", "qdisc", "del", "dev", "public", "root")
    for question in (FACT, "Nimbrel was founded by whom?"):
        phone.fill("#ask", question)
        phone.tap("#send")
        answered(phone)
    phone.screenshot(path=folder / "chat-phone.png")
    net.tunnel.down()
    ask(page, "And where is the winter party?")
    page.wait_for_selector("#banner:not([hidden])")
    page.wait_for_selector(f"{LAST} .remark.bad")
    page.screenshot(path=folder / "chat-down.png")
    net.tunnel.up()
    page.wait_for_selector("#banner", state="hidden", timeout=30_000)
