"""bench: load on a served model, and what it answers with."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.chat import CaOption, KeyFileOption, UrlOption
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.serving.benchmark import Shape
    from hyb.serving.endpoint import Endpoint

WARM = 4  # most requests, and tokens of each, before a level is measured


@command
def bench(
    s: Session,
    name: Annotated[str, typer.Argument(metavar="[NAME|URL]", help="As `hyb ps` shows it, or a URL.")] = "",
    url: UrlOption = "",
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="A model or adapter of the server.")] = "",
    clients: Annotated[str, typer.Option("--clients", metavar="N,…", help="Clients at once, a level each.")] = "1,4,16",
    prompt: Annotated[str, typer.Option("--prompt", metavar="TOKENS,…", help="Tokens of a prompt.")] = "128",
    answer: Annotated[int, typer.Option("--answer", metavar="TOKENS", help="Tokens of an answer.")] = 128,
    requests: Annotated[int, typer.Option("--requests", metavar="N", help="Requests a client at each level.")] = 2,
    seconds: Annotated[float, typer.Option("--seconds", help="In place of N: go on for so long at each level.")] = 0,
    seed: Annotated[
        int | None, typer.Option("--seed", help="The same prompts again; a server may still know them.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the figures as JSON, too.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Write a plot as SVG.")] = None,
) -> None:
    """Put load on a served model with 1, 4, 16, … clients: latency, throughput, memory, share of the machine's limit.

    Every prompt is of its own, so that nothing is answered from a cache of prompts, and every answer has the wanted
    length where the server heeds `ignore_eos`. For a GGUF on this machine the memory bandwidth is measured in the same
    run: no engine decodes faster than it can read the weights.

    Example: hyb bench quickstart --clients 1,4 --plot bench.svg
    """
    from hyb.serving import endpoint
    from hyb.serving.client import Client

    levels, prompts = _numbers(clients, "--clients"), _numbers(prompt, "--prompt")
    _positive(answer=answer, requests=requests)
    seed = secrets.randbelow(1 << 30) if seed is None else seed
    found = endpoint.find(name, os.environ, url=url, key_file=key_file, ca=ca, offline=s.offline)
    if s.dry_run:
        count = sum(n * requests for n in levels) * len(prompts)
        s.show({"url": found.address.url, "levels": levels, "prompts": prompts, "requests": count}, f"{count} requests")
        return
    if warning := endpoint.unencrypted(found.address):
        s.talk(f"warning: {warning}")
    with Client(found.address) as client:
        shapes = [_shape(client, found.model(client, model), length, answer, s) for length in prompts]
    limit, weights = _limit(found, s)
    rows = [
        _level(s, found, shape, count, requests=requests, seconds=seconds, seed=seed, limit=limit, weights=weights)
        for shape in shapes
        for count in levels
    ]
    _report(s, found, shapes, rows, limit, weights, seed, out, plot)


def _level(
    s: Session, found: Endpoint, shape: Shape, count: int, *, requests: int, seconds: float, seed: int, limit: float,
    weights: int,
) -> dict[str, Any]:  # fmt: skip
    """One level, after a short warm-up."""
    from hyb.progress import Progress
    from hyb.serving import benchmark, live, load

    first = ((seed * 7919 + shape.prompt) * 1009 + count) * 1_000_000  # no prompt is ever sent twice
    warm = min(count, WARM)
    load.run(found.address, [benchmark.body(shape, first - i - 1, WARM) for i in range(warm)], warm)
    total = count * requests
    many = max(total, 4 * count) if seconds else total
    bodies = [benchmark.body(shape, first + i) for i in range(many)]
    task = f"{count} client{'s' if count > 1 else ''}"

    def told(done: int) -> None:
        s.talk(Progress(task, done, None if seconds else total, unit="answer", note=f"prompt {shape.prompt}"))

    level = load.run(found.address, bodies, count, seconds=seconds, told=told)
    memory = live.memory(found.service) if found.service else 0
    return benchmark.summary(level, shape, weights=weights, limit=limit, memory=memory)


def _shape(client: Any, model: str, prompt: int, answer: int, s: Session) -> Shape:
    """Find out how many words make such a prompt here, and whether `ignore_eos` is taken."""
    from hyb.errors import HybError
    from hyb.serving import benchmark

    def tokens(words: int, ignore: bool) -> int:
        shape = benchmark.Shape(model, prompt, answer, words, ignore)
        body = {k: v for k, v in benchmark.body(shape, -words, 1).items() if not k.startswith("stream")}
        usage = client.json("POST", "chat/completions", body).get("usage")
        found = usage.get("prompt_tokens", 0) if isinstance(usage, dict) else 0
        return found if isinstance(found, int) else 0

    ignore = True
    try:
        few = tokens(2, ignore)
    except HybError as error:
        if " 400" not in error.message and " 422" not in error.message:
            raise
        ignore = False
        few = tokens(2, ignore)
    if not few:
        s.talk("the server does not count tokens: a prompt's words are taken for its tokens")
        return benchmark.Shape(model, prompt, answer, prompt, ignore)
    guess = max(3, prompt - few)
    words = benchmark.words_for(prompt, (2, few), (guess, tokens(guess, ignore)))
    return benchmark.Shape(model, prompt, answer, words, ignore)


def _limit(found: Endpoint, s: Session) -> tuple[float, int]:
    """(bytes a second that this machine reads, bytes that a token needs); zeros where that says nothing."""
    from hyb.serving import bandwidth, live

    weights = live.weights(found.service) if found.service else 0
    if not weights:
        return 0.0, 0
    s.talk("measuring the memory bandwidth")
    return bandwidth.measure(), weights


def _report(
    s: Session, found: Endpoint, shapes: Sequence[Shape], rows: list[dict[str, Any]], limit: float, weights: int,
    seed: int, out: Path | None, plot: Path | None,
) -> None:  # fmt: skip
    import json

    from hyb import fs
    from hyb.cli.output import columns, size
    from hyb.errors import Exit, HybError
    from hyb.serving import benchmark

    value: dict[str, Any] = {"server": found.name, "model": shapes[0].model, "seed": seed, "levels": rows}
    notes = benchmark.notes(rows, asked_eos=shapes[0].ignore_eos)
    if limit:
        value["memory_bandwidth_bytes_per_s"], value["weights_bytes"] = round(limit), weights
        notes.append(
            f"the limit: {size(limit)}/s read from memory by all cores, {size(weights)} of weights a token: "
            f"{limit / weights:.0f} steps/s"
        )
    cpu, piece = max(r["client_cpu_share"] for r in rows), max(r["client_us_per_piece"] for r in rows)
    notes.append(f"the client itself took at most {cpu:.1%} of a core, {piece:.0f} µs a token")
    notes += [f"an error: {r['first_error']}" for r in rows if r["errors"]][:3]
    value["notes"] = notes
    for path, text in ((out, json.dumps(value, indent=1) + "\n"), (plot, _plot(value) if plot else "")):
        if path:
            with fs.explained(f"can't write `{path}`"):
                fs.write_atomic(path.expanduser(), text.encode())
    if all(r["errors"] == r["requests"] for r in rows):
        raise HybError(f"no request was answered: {rows[0]['first_error']}", code=Exit.BELOW)
    table = columns([benchmark.cells(r) for r in rows], benchmark.HEADER)
    s.show(value, "\n".join([table, *(f"- {n}" for n in notes)]))


def _plot(value: dict[str, Any]) -> str:
    from hyb.formats.chart import Line, Panel, svg

    rows = value["levels"]
    counts = sorted({r["clients"] for r in rows})
    prompts = sorted({r["prompt"] for r in rows})

    def lines(label: str, pick: Any, dashed: bool = False) -> list[Line]:
        found = {(r["prompt"], r["clients"]): pick(r) for r in rows if r["errors"] < r["requests"]}
        return [
            Line(f"prompt {p}{label}", [found.get((p, c), float("nan")) for c in counts], i, dashed)
            for i, p in enumerate(prompts)
        ]

    def both(name: str) -> list[Line]:
        middle = lines("", lambda r: 1000 * r[name]["p50"])
        return middle + lines(", p95", lambda r: 1000 * r[name]["p95"], dashed=True)

    panels = [
        Panel("tokens/s, all clients", lines("", lambda r: r["tokens_per_s"])),
        Panel("time to first token, ms", both("ttft_s")),
        Panel("between tokens, ms", both("inter_token_s")),
    ]
    title = f"{value['model']}: answers of {rows[0]['answer']} tokens"
    return svg(title, [str(c) for c in counts], "clients", panels)


def _numbers(text: str, option: str) -> list[int]:
    from hyb.errors import Exit, HybError

    words = [w.strip() for w in text.split(",") if w.strip()]
    if not words or not all(w.isdigit() and 0 < int(w) <= 100_000 for w in words):
        raise HybError(f"`{option} {text}` is no list of numbers", hint=f"like `{option} 1,4,16`", code=Exit.USAGE)
    return [int(w) for w in words]


def _positive(**values: int) -> None:
    from hyb.errors import Exit, HybError

    for name, value in values.items():
        if value < 1:
            raise HybError(f"`--{name}` must be at least 1, not {value}", code=Exit.USAGE)
