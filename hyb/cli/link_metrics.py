"""link metrics: the ends of certificates for Prometheus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hyb.cli.session import Session, command


@command
def link_metrics(
    s: Session,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write it there, in one rename, as node_exporter wants; else print."
        ),
    ] = None,
) -> None:
    """Write when the certificates of all links end, in Prometheus' text format. Run it once a day, by a timer.

    Example: hyb link metrics --out /var/lib/prometheus/node-exporter/hyb_link.prom
    """
    from hyb import fs
    from hyb.linking import metrics

    found = metrics.ends(os.environ)
    value = [{"link": link, "certificate": name, "ends": end} for (link, name), end in found.items()]
    if out is None:
        s.show(value, metrics.text(found).rstrip("\n"))
        return
    if not s.dry_run:
        with fs.explained(f"can't write `{out}`"):
            fs.write_atomic(out, metrics.text(found).encode())
    s.show({"written": str(out), "certificates": value, "dry_run": s.dry_run},
           f"{'would write' if s.dry_run else 'wrote'} {out}: {len(found)} certificates")  # fmt: skip
