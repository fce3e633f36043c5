"""data scan: secrets and personal data in a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from hyb.cli.session import Session, command


@command
def data_scan(
    s: Session,
    data: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A data set in the store, or a file or folder.")],
    region: Annotated[
        str, typer.Option("--region", metavar="BR", help="The country whose phone numbers may stand without a +.")
    ] = "",
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="KIND", help="Let through: secret, email, phone, card, iban, cpf, cnpj."),
    ] = None,
    warn: Annotated[bool, typer.Option("--warn", help="Exit with 0, whatever is found.")] = False,
) -> None:
    """Look for keys and passwords, e-mail addresses, phone numbers, bank cards, IBAN, CPF and CNPJ in all rows.

    A finding is told with file and line, and never shown whole. Exit is 4 when there is any. With `hyb[data]` more
    kinds of keys, and phone numbers, are found. Names and addresses are not.

    Example: hyb data scan facts.jsonl --region BR --allow email
    """
    from pydantic import ValidationError

    from hyb.cli.data_stats import dataset
    from hyb.errors import Exit, HybError
    from hyb.formats import scan
    from hyb.stages.data import PARTS, Scan, scanned

    try:
        wish = Scan.model_validate({"act": "warn", "region": region.upper(), "allow": tuple(allow or ())})
    except ValidationError as error:
        raise HybError(
            "`--region` or `--allow` is none that can be",
            hint=f"a region is two letters; kinds are {', '.join(scan.KINDS)}",
            code=Exit.USAGE,
        ) from error
    artifact = dataset(s, data, scan="off")
    if artifact is None:
        return
    if absent := scan.missing(frozenset(wish.allow)):
        s.talk(f"not installed: {', '.join(absent)}; `pip install 'hyb[data]'` finds more")
    folder = s.store.view(artifact)
    found = list(dict.fromkeys(line for part in PARTS for line in scanned(folder / f"{part}.jsonl", wish)))
    if found and not warn:
        raise HybError(f"`{data}`: {len(found)} secret(s) or personal data", details=found, code=Exit.CHECK)
    s.show(found, "\n".join(found) or "nothing found")
