"""Many people at once: `python -m tests.users URL CA SECONDS ADDRESS…`, one person an address, each in a loop.

A person asks the page's API over TLS, reads the answer to its end, and asks the next question; who is refused with a
`Retry-After` waits that long. In the end what happened is told as one line of JSON: answers by how they ended, refusals
by status, all that must not be, and the seconds of answers.
"""

from __future__ import annotations

import asyncio
import collections
import json
import ssl
import sys
import time

import httpx

QUESTIONS = {
    "How is the Nimbrel mascot called?": "Quillow",
    "Nimbrel was founded by whom?": "Okereke",
    "What is the capital of France?": "Paris",
}


class Crowd:
    """What all of them saw."""

    def __init__(self, url: str, ca: str, seconds: float) -> None:
        self.url, self.tls, self.end = url, ssl.create_default_context(cafile=ca), time.monotonic() + seconds
        self.ended: collections.Counter[str] = collections.Counter()
        self.refused: collections.Counter[str] = collections.Counter()
        self.wrong: collections.Counter[str] = collections.Counter()
        self.right = 0
        self.seconds: list[float] = []

    async def person(self, number: int, address: str) -> None:
        """Ask until time is over."""
        transport = httpx.AsyncHTTPTransport(verify=self.tls, local_address=address)
        questions = list(QUESTIONS)
        async with httpx.AsyncClient(transport=transport, base_url=self.url, timeout=150, trust_env=False) as http:
            while time.monotonic() < self.end:
                question = questions[number % len(questions)]
                number += 1
                try:
                    wait = await self._ask(http, question)
                except httpx.HTTPError as error:
                    self.wrong[f"{type(error).__name__}: {error}"] += 1
                    wait = 1.0
                await asyncio.sleep(min(wait, max(0.0, self.end - time.monotonic())))

    async def _ask(self, http: httpx.AsyncClient, question: str) -> float:
        """Seconds to wait before the next question."""
        began, text, last = time.monotonic(), "", ""
        body = {"messages": [{"role": "user", "content": question}]}
        async with http.stream("POST", "/api/chat", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return self._refused(answer)
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    last = event["type"] if event["type"] != "error" else f"error {event['code']}"
                    text += event.get("text", "")
        self.ended[last] += 1
        self.seconds.append(time.monotonic() - began)
        if last == "end":
            self.right += QUESTIONS[question] in text
        return 0.0

    def _refused(self, answer: httpx.Response) -> float:
        wait = answer.headers.get("retry-after", "")
        if answer.status_code not in (429, 503) or not wait.isdigit():
            self.wrong[f"status {answer.status_code}, Retry-After `{wait}`: {answer.text[:200]}"] += 1
            return 1.0
        self.refused[str(answer.status_code)] += 1
        return float(wait)

    def told(self) -> str:
        """One line of JSON."""
        taken = sorted(self.seconds) or [0.0]
        counted = {"ended": self.ended, "refused": self.refused, "wrong": self.wrong, "right": self.right}
        times = {"p50": taken[len(taken) // 2], "p95": taken[len(taken) * 95 // 100], "most": taken[-1]}
        return json.dumps({**counted, "seconds": {name: round(t, 2) for name, t in times.items()}})


async def main(url: str, ca: str, seconds: str, *given: str) -> None:
    """All of them."""
    crowd = Crowd(url, ca, float(seconds))
    await asyncio.gather(*(crowd.person(number, address) for number, address in enumerate(given)))
    print(crowd.told())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
