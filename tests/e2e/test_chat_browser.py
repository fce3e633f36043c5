"""The chat page in a real browser: asked, stopped, reloaded, cut off, attacked. A console error fails any of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.chat_app import App, until
from tests.chat_model import Model
from tests.need import need, oracle
from tests.parrot import Parrot

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
LAST = ".msg.assistant:last-child"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need("browser")
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def bird() -> Iterator[Parrot]:
    with Parrot() as found:
        yield found


@pytest.fixture(scope="module")
def app(bird: Parrot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    settings = {"title": "Ask Acme", "note": "Our own model.", "watch_seconds": 0.3, "parallel": 1}
    with App(tmp_path_factory.mktemp("chat"), bird.url, **settings) as found:
        yield found


Open = Callable[..., "Page"]


@pytest.fixture
def opened(browser: Browser, app: App, bird: Parrot) -> Iterator[Open]:
    """`opened(**options)` gives a page in a fresh profile. At the end no page may have complained."""
    bird.mode, bird.pause, bird.thought = "answer", 0.0, ""
    until(app.is_ready)
    contexts, said = [], []

    def make(url: str = app.url, **options: Any) -> Page:
        context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1100, "height": 740}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: said.append(str(e)))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    make.said = said  # type: ignore[attr-defined]
    yield make
    for context in contexts:
        context.close()
    assert not said


def ask(page: Page, text: str) -> None:
    page.fill("#ask", text)
    page.press("#ask", "Enter")


def answered(page: Page) -> str:
    """The last answer's text once it is whole."""
    page.wait_for_selector(f"{LAST}:not(.live)", timeout=30_000)
    return page.inner_text(f"{LAST} .md")


def test_a_real_model_is_asked_and_its_answer_grows_before_the_eyes(
    browser: Browser, smollm2_gguf: Path, tmp_path: Path, opened: Open
) -> None:
    need("xllamacpp")
    model = Model(smollm2_gguf, tmp_path)
    model.start()
    try:
        with App(tmp_path / "chat", model.url, temperature=0, max_tokens=60) as app:
            page = opened(app.url)
            ask(page, "What is the capital of France? Answer in one word.")
            assert "Paris" in answered(page)
            page.evaluate("""() => {
                window.seen = new Set();
                const box = document.getElementById('messages'), sizes = () => seen.add(box.textContent.length);
                new MutationObserver(sizes).observe(box, {subtree: true, childList: true, characterData: true});
            }""")
            ask(page, "Tell me a long story about the sea.")
            assert len(answered(page)) > 100
            assert page.evaluate("seen.size") > 4, "it came at once"
            model.kill()
            ask(page, "Are you there?")
            page.wait_for_selector("#banner:not([hidden])", timeout=1500)
            assert "not available" in page.inner_text("#banner")
            assert "not answered" in page.inner_text(LAST)
            model.start()
            page.wait_for_selector("#banner", state="hidden", timeout=15_000)
            page.click(f"{LAST} .remark button")
            assert answered(page)
            opened.said.clear()  # type: ignore[attr-defined]  # the browser's own words on a 503
    finally:
        model.kill()


def test_stop_keeps_what_came_and_retry_asks_again(opened: Open, bird: Parrot) -> None:
    page = opened()
    bird.pause = 0.05
    ask(page, "say:" + "word " * 200)
    until(lambda: "word word" in page.inner_text(LAST))
    page.click("#stop")
    page.wait_for_selector(f"{LAST}:not(.live)")
    assert "Stopped." in page.inner_text(LAST) and "word" in page.inner_text(LAST)
    until(lambda: bird.broken >= 1, what="the model went on")
    bird.pause = 0
    page.click(f"{LAST} [aria-label='Try again']")
    assert answered(page).count("word") == 200
    bird.pause = 0.05
    ask(page, "say:" + "more " * 200)
    until(lambda: "more" in page.inner_text(LAST))
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{LAST}:not(.live)")
    assert page.evaluate("document.activeElement.id") == "ask"


def test_a_reload_keeps_the_chat_and_other_chats_can_be_renamed_and_deleted(opened: Open) -> None:
    page = opened()
    ask(page, "say:first answer")
    assert answered(page) == "first answer"
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.inner_text(f"{LAST} .md") == "first answer"
    page.keyboard.press("Alt+n")
    assert page.is_visible("#empty")
    ask(page, "say:second answer")
    answered(page)
    assert page.locator("#chats li").count() == 2
    page.click("#chats li:last-child .open")
    assert page.inner_text(f"{LAST} .md") == "first answer"
    page.click("#chats li.now [aria-label^='Rename']")
    page.fill("#chats input", "A better name")
    page.keyboard.press("Enter")
    assert page.inner_text("#chats li.now .open") == "A better name"
    assert page.title() == "A better name · Ask Acme"
    page.click("#chats li.now [aria-label^='Delete']")
    page.click("#sure-yes")
    page.wait_for_selector("#sure", state="hidden")
    assert page.locator("#chats li").count() == 1
    page.click("#delete-all")
    page.click("#sure-yes")
    page.wait_for_selector("#no-chats:not([hidden])")
    assert page.evaluate("Object.keys(localStorage).filter(k => k.startsWith('hyb.chat.'))") == []


def test_a_question_is_edited_and_what_came_after_it_is_asked_anew(opened: Open, bird: Parrot) -> None:
    page = opened()
    ask(page, "say:one")
    answered(page)
    ask(page, "say:two")
    answered(page)
    page.locator(".msg.user").first.hover()
    page.click(".msg.user >> nth=0 >> [aria-label='Edit']")
    page.fill(".editing textarea", "say:three")
    page.keyboard.press("Enter")
    until(lambda: page.locator(".msg").count() == 2 and answered(page) == "three")
    assert [m["content"] for m in bird.asked[-1]["messages"]] == ["say:three"]
    page.press("#ask", "ArrowUp")
    assert page.input_value(".editing textarea") == "say:three"
    page.keyboard.press("Escape")
    assert page.inner_text(f"{LAST} .md") == "three"


HOSTILE = """say:<script>window.pwned=1</script> <img src=x onerror="window.pwned=2"> <svg onload=window.pwned=3>
[click](javascript:window.pwned=4) [data](data:text/html,<script>window.pwned=5</script>) ![i](https://evil.example/x.png)
<a href="javascript:window.pwned=6" onmouseover="window.pwned=7">x</a> <https://ok.example/a"onclick="window.pwned=8>
[ok](https://ok.example/) <style>*{display:none}</style> <iframe srcdoc="<script>parent.pwned=9</script>"></iframe>
```html"><script>window.pwned=10</script>
</code></pre><script>window.pwned=11</script>
```
| <b onclick=window.pwned=12>a</b> | b |
|---|---|
| <math><mtext><script>window.pwned=13</script> | [x](vbscript:pwned) |"""


def test_markup_in_an_answer_stays_text(opened: Open) -> None:
    page = opened()
    outside: list[str] = []
    page.on("request", lambda r: outside.append(r.url) if "127.0.0.1" not in r.url else None)
    page.fill("#ask", HOSTILE)
    page.press("#ask", "Enter")
    text = answered(page)
    assert "<script>window.pwned=1</script>" in text and "<iframe srcdoc=" in text
    tags = page.evaluate("[...new Set([...document.querySelectorAll('.msg *')].map(n => n.localName))].sort()")
    assert not {"script", "img", "iframe", "style", "b", "math", "object", "embed"} & set(tags), tags
    attributes = page.evaluate("[...document.querySelectorAll('.msg .md *')].flatMap(n => n.getAttributeNames())")
    assert not [a for a in attributes if a.startswith("on") or a in ("style", "src", "srcdoc")]
    links = page.eval_on_selector_all(".md a", "nodes => nodes.map(n => [n.href, n.rel])")
    assert links and all(h.startswith("https://") and "noopener" in r for h, r in links)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    for link in page.query_selector_all(".md a, .md span"):
        link.hover()
    assert page.evaluate("window.pwned") is None
    assert not outside, "nothing is fetched from elsewhere"


def test_hostile_data_in_the_browsers_own_store_is_passed_over(opened: Open) -> None:
    page = opened()
    page.evaluate("""() => {
        localStorage.setItem('hyb.chat.a', '{broken');
        localStorage.setItem('hyb.chat.b', JSON.stringify({id: 'b', title: {}, messages: []}));
        localStorage.setItem('hyb.chat.c', JSON.stringify({id: 'c', title: '<img src=x onerror=pwned=1>', used: 1,
            messages: [{role: 'user', content: '<b>x</b>'}]}));
        localStorage.setItem('hyb.settings', '[1');
    }""")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#chats li").count() == 1
    assert page.inner_text("#chats .open") == "<img src=x onerror=pwned=1>"


MARKDOWN = """say:# A title
Some **bold**, *italic*, `code` and ~~gone~~, see https://example.com/a_b_c. A snake_case_name stays, 2 * 3 * 4 too.

1. one
2. two
   - inner
     more

> a quote

```python
def f(a):
    return a < 1
```

| a | b |
|---|---|
| 1 | **2** |

---
The end."""


def test_markdown_is_rendered(opened: Open, bird: Parrot) -> None:
    page = opened()
    ask(page, MARKDOWN)
    answered(page)
    found = page.eval_on_selector(f"{LAST} .md", "n => [...n.children].map(c => c.className || c.localName)")
    assert found == ["h1", "p", "ol", "blockquote", "code", "scroll", "hr", "p"]
    paragraph = page.eval_on_selector(
        f"{LAST} .md > p", "n => [...n.children].map(c => c.localName + ' ' + c.textContent)"
    )
    assert paragraph == ["strong bold", "em italic", "code code", "s gone", "a https://example.com/a_b_c"]
    assert page.inner_text(f"{LAST} .md ol > li:nth-child(2) li").startswith("inner")
    assert page.text_content(f"{LAST} .md .code code") == "def f(a):\n    return a < 1"
    assert page.inner_text(f"{LAST} td strong") == "2"


def test_a_long_and_twisted_answer_does_not_stop_the_page(opened: Open) -> None:
    """Each of these makes a careless pattern take minutes."""
    page = opened()
    page.set_default_timeout(10_000)
    spent = page.evaluate("""async () => {
        const { draw } = await import('/markdown.js');
        const many = 8000, texts = ['*'.repeat(many), '_a'.repeat(many), '['.repeat(many), '`'.repeat(many) + 'x',
          '> '.repeat(many), '~'.repeat(many) + '`', '# ' + '# '.repeat(many) + 'x', '- '.repeat(many),
          '|'.repeat(many) + '\\n|-', 'http://' + '.'.repeat(many) + 'x', '[a]('.repeat(many),
          '**a '.repeat(many), ' '.repeat(many) + 'x',
          'a|b\\n' + '- '.repeat(450) + 'x', '-'.repeat(many) + 'x', '`a'.repeat(many),
          '\\\\'.repeat(many), '<http://'.repeat(many)];
        let worst = 0;
        for (const text of texts) {
          const began = performance.now();
          draw(document.createElement('div'), text, () => document.createElement('pre'));
          worst = Math.max(worst, performance.now() - began);
        }
        return worst;
    }""")
    assert spent < 1500, f"{spent:.0f} ms"


def test_thoughts_are_folded_away_and_can_be_read(opened: Open, bird: Parrot) -> None:
    page = opened()
    bird.thought = "Let me think about it."
    ask(page, "say:the answer")
    assert page.wait_for_selector(f"{LAST}:not(.live) details.thought")
    assert not page.is_visible("details.thought .md")
    page.click("details.thought summary")
    assert page.inner_text("details.thought .md") == "Let me think about it."
    bird.thought = ""
    ask(page, "say:<think>hidden away</think>seen")
    page.wait_for_selector(f"{LAST}:not(.live) details.thought")
    assert page.inner_text(f"{LAST} > .md") == "seen"
    assert "hidden" not in str(bird.asked[-1]["messages"][1])


def test_the_place_in_the_queue_is_shown(opened: Open, bird: Parrot, app: App) -> None:
    bird.pause = 0.05
    other = app.ask("say:" + "word " * 60)
    next(other)
    page = opened()
    ask(page, "say:my turn")
    page.wait_for_selector("text=You are next.")
    other.close()  # type: ignore[attr-defined]
    assert answered(page) == "my turn"


def test_a_model_that_goes_away_and_comes_back_is_shown_without_a_question(opened: Open, bird: Parrot) -> None:
    page = opened()
    assert not page.is_visible("#banner")
    bird.mode = "close"
    ask(page, "say:anything")
    page.wait_for_selector("#banner:not([hidden])", timeout=1500)
    assert "The model is not available just now." in page.inner_text("#banner")
    assert page.inner_text("#state") == "not available"
    bird.mode = "answer"
    page.wait_for_selector("#banner", state="hidden", timeout=10_000)
    page.click(f"{LAST} .remark button")
    assert answered(page) == "anything"
    opened.said.clear()  # type: ignore[attr-defined]  # the browser's own words on a 503


def test_after_an_answer_that_broke_off_the_page_soon_knows_whether_the_model_is_there(
    opened: Open, bird: Parrot
) -> None:
    page = opened()
    bird.mode = "cut"
    ask(page, "say:one two three four five")
    page.wait_for_selector(f"{LAST} .remark.bad")
    assert "broke off" in page.inner_text(LAST) and "one two three" in page.inner_text(LAST)
    bird.mode = "close"
    page.wait_for_selector("#banner:not([hidden])", timeout=8000)
    assert page.inner_text("#state") == "not available"
    bird.mode = "answer"
    page.wait_for_selector("#banner", state="hidden", timeout=10_000)


def test_dark_mode_follows_the_system_and_can_be_chosen(opened: Open) -> None:
    def luminance(page: Page) -> int:
        red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        return int(red)

    dark = opened(color_scheme="dark")
    assert luminance(dark) < 60
    page = opened(color_scheme="light")
    assert luminance(page) > 200
    page.select_option("#theme", "dark")
    assert luminance(page) < 60
    page.reload()
    assert luminance(page) < 60


def test_on_a_phone_everything_fits_and_can_be_reached(opened: Open) -> None:
    page = opened(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.fill("#ask", "say:" + "A_very_long_word" * 20 + "\n```\n" + "x = 1; " * 40 + "\n```")
    page.press("#ask", "Enter")
    assert page.locator(".msg").count() == 0, "on a touch keyboard Enter is a new line"
    page.tap("#send")
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.is_hidden("#side")
    page.tap("#side-open")
    assert page.is_visible("#chats li .open")
    page.tap("#chats li .open")
    page.wait_for_selector("#side", state="hidden")
    small = page.evaluate("""[...document.querySelectorAll('button, select, textarea')].filter(n => n.offsetParent)
        .map(n => [n.getAttribute('aria-label') || n.textContent, n.getBoundingClientRect()])
        .filter(([, r]) => r.height < 24 || r.width < 24).map(([name]) => name)""")
    assert not small


def test_portuguese_by_the_browsers_language_and_by_choice(opened: Open) -> None:
    page = opened(locale="pt-BR")
    assert page.inner_text(".hello") == "O que você gostaria de saber?"
    assert page.get_attribute("html", "lang") == "pt-BR"
    page.select_option("#language", "en")
    assert page.inner_text(".hello") == "What would you like to know?"
    words = page.evaluate("""async () => {
        const { all } = await import('/words.js');
        const of = (words) => [...Object.keys(words), ...Object.keys(words.errors)].sort();
        return [of(all.en), of(all.pt)];
    }""")
    assert words[0] == words[1], "a word is missing in one of the languages"


def test_who_hears_the_page_hears_the_answer_once_and_not_each_token(opened: Open, bird: Parrot) -> None:
    page = opened()
    page.evaluate("""() => {
        const live = document.getElementById('live');
        window.heard = [];
        new MutationObserver(() => { if (live.textContent) heard.push(live.textContent); })
            .observe(live, {childList: true, characterData: true, subtree: true});
    }""")
    bird.pause = 0.02
    ask(page, "say:one two three four five six seven eight nine ten")
    answered(page)
    until(lambda: len(page.evaluate("heard")) >= 2)
    assert page.evaluate("heard")[-1] == "Answer: one two three four five six seven eight nine ten"
    assert len(page.evaluate("heard")) <= 3
    unnamed = page.evaluate("""[...document.querySelectorAll('button, input, select, textarea')]
        .filter(n => n.offsetParent && !n.getAttribute('aria-label') && !n.textContent.trim() && !n.labels?.length)
        .map(n => n.id || n.outerHTML)""")
    assert not unnamed
    assert page.get_attribute("#live", "aria-live") == "polite"


AXE = """async () => {
    const found = await axe.run(document, {resultTypes: ['violations'], rules: {'target-size': {enabled: true}}});
    return found.violations.map(v => `${v.id}: ${v.nodes.map(n => n.target.join(' ')).join(', ')}`);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_axe_finds_no_barrier_wherever_a_person_gets_to(
    opened: Open, bird: Parrot, app: App, scheme: str, phone: bool
) -> None:
    """axe-core's rules of WCAG 2.2 A and AA and its best practices, in each state of the page."""
    need("axe")
    path = oracle("axe")
    assert path
    small = {"viewport": {"width": 390, "height": 760}, "has_touch": True, "is_mobile": True}
    page = opened(color_scheme=scheme, reduced_motion="reduce", **(small if phone else {}))
    page.evaluate(path.read_text())
    found = {"empty": page.evaluate(AXE)}
    bird.thought, bird.pause = "Let me think.", 0.05
    page.fill("#ask", MARKDOWN + "\n#### deep\n# shallow")
    page.click("#send")
    page.wait_for_selector(f"{LAST}.live > .md")
    found["answering"] = page.evaluate(AXE)
    answered(page)
    page.click("details.thought summary")
    found["answered"] = page.evaluate(AXE)
    bird.thought, bird.pause = "", 0.0
    page.locator(".msg.user").last.hover()
    page.click(".msg.user:nth-last-child(2) [aria-label='Edit']")
    found["editing"] = page.evaluate(AXE)
    page.keyboard.press("Escape")
    if phone:
        page.click("#side-open")
    page.click("#keys-open")
    found["keys"] = page.evaluate(AXE)
    page.keyboard.press("Escape")
    page.click("#delete-all")
    found["sure"] = page.evaluate(AXE)
    page.keyboard.press("Escape")
    found["chats"] = page.evaluate(AXE)
    if phone:
        page.click("#side-close")
    bird.mode = "close"
    page.fill("#ask", "Are you there?")
    page.click("#send")
    page.wait_for_selector("#banner:not([hidden])")
    found["away"] = page.evaluate(AXE)
    bird.mode = "answer"
    opened.said.clear()  # type: ignore[attr-defined]  # the browser's own words on a 503
    assert not {state: barriers for state, barriers in found.items() if barriers}


def test_headings_step_down_one_at_a_time_and_each_message_has_one(opened: Open) -> None:
    page = opened()
    ask(page, "say:### first\n# second\n#### third\n> # quoted\n\n## fourth")
    answered(page)
    levels = page.eval_on_selector_all(f"{LAST} [role=heading]", "n => n.map(h => h.ariaLevel)")
    assert levels == ["3", "3", "4", "4"]
    assert page.eval_on_selector_all(".msg > h2", "n => n.map(h => h.textContent)") == ["You: ", "Answer: "]


def test_by_keyboard_alone(opened: Open) -> None:
    page = opened()
    assert page.evaluate("document.activeElement.id") == "ask"
    page.keyboard.type("say:a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    assert page.input_value("#ask") == "say:a\nb"
    page.keyboard.press("Enter")
    assert answered(page) == "a\nb"
    page.evaluate("document.activeElement.blur()")
    for key in "?/njkhr":  # dictation types such keys one by one: alone they do nothing
        page.keyboard.press(key)
    assert not page.is_visible("#keys") and page.evaluate("document.activeElement.id") == ""
    page.keyboard.press("Alt+k")
    assert page.is_visible("#keys")
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys", state="hidden")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Alt+j")
    assert page.evaluate("document.activeElement.id") == "ask"
    shown = page.is_visible("#side")
    page.keyboard.press("Alt+h")
    assert page.is_visible("#side") != shown


def test_copy_gives_the_text_as_the_model_wrote_it(opened: Open) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    ask(page, "say:Some **bold**\n```\nx = 1\n```")
    answered(page)
    page.click(f"{LAST} .code .bar button")
    assert page.evaluate("navigator.clipboard.readText()") == "x = 1"
    page.click(f"{LAST} .tools [aria-label='Copy']")
    until(lambda: page.evaluate("navigator.clipboard.readText()") == "Some **bold**\n```\nx = 1\n```")


def test_the_access_code_is_asked_for_once(opened: Open, bird: Parrot, tmp_path: Path) -> None:
    (tmp_path / "code").write_text("correct horse")
    with App(tmp_path, bird.url, sign_in="code", access_code_file=tmp_path / "code") as app:
        page = opened(app.url)
        page.wait_for_selector("#gate[open]")
        page.fill("#code", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=That code is not right.")
        opened.said.clear()  # type: ignore[attr-defined]  # the browser's own words on a 401
        page.fill("#code", "correct horse")
        page.keyboard.press("Enter")
        page.wait_for_selector("#gate", state="hidden")
        assert page.evaluate("document.cookie") == "", "no script sees the cookie"
        ask(page, "say:inside")
        assert answered(page) == "inside"
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert not page.is_visible("#gate")


def test_the_page_weighs_at_most_100_kb_and_comes_from_here_alone(opened: Open, app: App) -> None:
    page = opened()
    fetched = page.evaluate("performance.getEntriesByType('resource').map(e => [e.name, e.decodedBodySize])")
    assert all(name.startswith(app.url) for name, _ in fetched)
    folder = Path(__file__).parents[2] / "hyb" / "chat" / "page"
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 100_000
