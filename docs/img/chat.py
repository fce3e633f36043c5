"""The screenshots of docs/chat.md: `python docs/img/chat.py http://127.0.0.1:8080/ [PID of the model's server]`.

With a PID that process is ended (SIGTERM; start it again yourself),
and `chat-down.png` is made, too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FOLDER = Path(__file__).parent
QUESTION = "Write a short Python function that adds two numbers, and explain how it works."


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("it never came true")
        time.sleep(0.03)


def opened(browser: Browser, url: str, **options: object) -> Page:
    """A page in a profile of its own."""
    page = browser.new_context(**{"viewport": {"width": 1100, "height": 720}, **options}).new_page()  # type: ignore[arg-type]
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    return page


def main(url: str, model: int = 0) -> None:
    """Make them all."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = opened(browser, url)
        page.fill("#ask", QUESTION)
        page.press("#ask", "Enter")
        until(lambda: page.query_selector(".msg.assistant .md > p"))
        until(lambda: len(page.inner_text(".msg.assistant .md > p")) > 40)
        page.screenshot(path=FOLDER / "chat-answering.png")
        page.keyboard.press("Escape")
        size = {"width": 390, "height": 760}
        phone = opened(
            browser, url, viewport=size, has_touch=True, is_mobile=True, device_scale_factor=1.5, color_scheme="dark",
            locale="pt-BR",
        )  # fmt: skip
        phone.fill("#ask", "What is the capital of France? Answer in one word.")
        phone.tap("#send")
        phone.wait_for_selector(".msg.assistant:not(.live)", timeout=60_000)
        phone.screenshot(path=FOLDER / "chat-phone.png")
        if model:
            os.kill(model, signal.SIGTERM)
            page.fill("#ask", "Are you still there?")
            page.press("#ask", "Enter")
            page.wait_for_selector("#banner:not([hidden])")
            page.screenshot(path=FOLDER / "chat-down.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 0)
