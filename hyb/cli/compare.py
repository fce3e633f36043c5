"""`hyb export --compare`: a chain of ordinary steps, and the table of what they gave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyb.cli.output import columns

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.cli.session import Session
    from hyb.store import Store


def compare(
    s: Session,
    model: str,
    quantize: str | None,
    *,
    data: str | None,
    imatrix: str | None,
    name: str | None,
    format: str | None,
    merge: str | None = None,
) -> None:
    """Make each quantization, ask each the data set's questions, measure, show the table. Raises HybError."""
    from hyb import comparison
    from hyb.cli.chain import Chain
    from hyb.errors import Exit, HybError
    from hyb.stages.asked import questions as asked_of
    from hyb.stages.export import WEIGHED

    if format not in (None, "gguf"):
        raise HybError("`--compare` is for `--format gguf`", code=Exit.USAGE)
    chain = Chain(s)
    chosen = source = chain.stored(model)
    kind = chain.kinds[chosen]
    if kind == "adapter":
        source = f"{chosen}-merged"
        chain.add(source, stage="export", model=chosen, format="safetensors", merge=merge)
    asked = chain.data(data) if data else None
    weighed = chain.data(imatrix) if imatrix and imatrix != data else asked if imatrix else None
    wanted = list(dict.fromkeys(x.strip() for x in (quantize or ",".join(comparison.DEFAULT)).split(",")))
    marks = {q: "-imatrix" if weighed and q in WEIGHED else "" for q in wanted}
    names = {q: f"{chosen}-gguf-{q}{marks[q]}".replace("_", "-") for q in wanted}
    for q, step in names.items():
        importance = weighed if q in WEIGHED else None
        chain.add(step, stage="export", model=source, format="gguf", quantize=q, imatrix=importance)
        if asked:
            chain.add(f"{step}-exam", stage="eval", model=step, data=asked, before=False)
    results = {r.name: r.artifact for r in chain.results(show=False)}
    if not results:
        return
    candidates = [comparison.Candidate(q, results[n], results.get(f"{n}-exam")) for q, n in names.items()]
    of_data = chain.given.get(asked) or results[asked].digest if asked else ""
    subject = s.store.artifact(chain.given[chosen])
    report = comparison.compare(
        s.store, name or f"{chosen}-comparison", subject, candidates, s.talk, data=of_data,
        source=results[source] if kind == "adapter" else None,
        prompts=asked_of(s.store.view(s.store.artifact(of_data)) if of_data else None),
    )  # fmt: skip
    s.show({"report": report.digest, **_document(report, s.store)}, comparison_text(report, s.store))


def comparison_text(report: Artifact, store: Store) -> str:
    """The table for people, and how it was made."""
    from hyb.formats import comparison as table
    from hyb.formats import nearness

    found = _document(report, store)
    header, cells = table.rows(found)
    merge = nearness.sentences(found.get("merge", {}))
    return "\n".join([columns(cells, header), *merge, found["method"]])


def _document(report: Artifact, store: Store) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(store.read(report.file("report.json").blob.digest))
    return found
