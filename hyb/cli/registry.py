"""push: an artifact of the store to a registry."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from hyb.cli.output import size
from hyb.cli.session import Session, command
from hyb.cli.signing import TrustOption, trusting

TlsOption = Annotated[
    str,
    typer.Option(
        "--tls-verify", metavar="true|false", help="false: no TLS, or any certificate. Loopback never needs TLS."
    ),
]


@command
def push(
    s: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name in the store, or a digest.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="oci://REGISTRY/REPO[:TAG]; no tag is `latest`.")],
    with_reports: Annotated[
        bool,
        typer.Option(
            "--with-reports", help="Reports and receipts that speak of it, too, as OCI referrers; signatures always go."
        ),
    ] = False,
    tls_verify: TlsOption = "",
    trust: TrustOption = None,
) -> None:
    """Push a model, an image or any artifact to a registry, its digest preserved. What is there is not sent again.

    Layers go up in parallel; a push that was cut goes on where the registry says it stopped. Credentials are those of
    `podman login` (or REGISTRY_AUTH_FILE), never an argument. What the boundary of its recipe forbids is refused (exit
    4), unless the registry is on loopback.

    Example: hyb push bot oci://registry.example/lab/bot:1 --with-reports
    """
    from hyb.boundary.recorded import check_push
    from hyb.errors import Exit, HybError
    from hyb.hub import names
    from hyb.hub.push import push as push_artifact
    from hyb.hub.push import speaking_of
    from hyb.signing import gate

    place = names.parse(target) if target.startswith("oci://") else None
    if not isinstance(place, names.OCI) or place.digest:
        raise HybError(f"`{target}` is not of the form `oci://REGISTRY/REPO[:TAG]`", code=Exit.USAGE)
    trusting(trust)
    artifact = s.store.artifact(s.store.resolve(name))
    if s.offline:
        raise HybError(
            f"`{target}` is in a registry, and hyb is offline",
            hint=f"`skopeo copy oci:{s.store.root}:{name} oci:DIR` makes a folder to carry over",
            code=Exit.OFFLINE,
        )
    speaking = speaking_of(s.store, artifact, place, reports=with_reports)
    check_push(s.store, [artifact, *speaking], place.where.partition("/")[0])
    gate.check(s.store, artifact, "push", os.environ, say=s.talk)
    tls(tls_verify)
    if s.dry_run:
        total = artifact.size
        value: dict[str, Any] = {"target": str(place), "digest": artifact.digest, "bytes": total, "dry_run": True}
        s.show(value, f"would push {artifact.digest} to {place}: at most {size(total)}")
        return
    with s.store.in_use():
        done = push_artifact(s.store, artifact, place, say=s.talk, reports=with_reports)
    told = [f"sent {size(done.sent)}", f"mounted {size(done.mounted)}", f"there already {size(done.there)}"]
    more = f", {done.referrers} that speak of it" if done.referrers else ""
    s.show({**vars(done), "target": str(place)}, f"{done.source}\n{', '.join(told)}{more}")


def tls(verify: str) -> None:
    """`--tls-verify=false` holds for this run and the programs that it starts. Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError
    from hyb.hub.registry import TLS_VERIFY

    if verify not in ("", "true", "false"):
        raise HybError(f"`--tls-verify={verify}` is neither `true` nor `false`", code=Exit.USAGE)
    if verify:
        os.environ[TLS_VERIFY] = verify
