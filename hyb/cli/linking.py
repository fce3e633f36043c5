"""link: the Skupper documents of both sides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hyb.cli.link_credentials import AuthorityKeyOption, AuthorityOption, PassphraseOption, secrets_given
from hyb.cli.session import Session, command


@command
def link(
    s: Session,
    service: Annotated[str, typer.Argument(metavar="NAME", help="A service, image or model in the store, or a link.")],
    namespace: Annotated[
        str | None, typer.Option("--namespace", metavar="NAME", help="The OpenShift namespace.")
    ] = None,
    apps_domain: Annotated[
        str | None, typer.Option("--apps-domain", metavar="DOMAIN", help="The cluster's domain of routes.")
    ] = None,
    routing_key: Annotated[
        str | None, typer.Option("--routing-key", metavar="KEY", help="What joins listener and connector.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="The port that pods call.", show_default=False)] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="podman|docker|linux", help="Where the private router runs.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the link in the store.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.")] = Path("link"),
    renew: Annotated[bool, typer.Option("--renew", help="New certificates of the same authority.")] = False,
    ca: AuthorityOption = None,
    ca_key: AuthorityKeyOption = None,
    ca_passphrase_file: PassphraseOption = None,
) -> None:
    """Write the documents that link this host to a namespace: private/, openshift/, and APPLY.md with what to run.

    Keys and certificates are made here, once, and are part of no artifact and no lock. Nothing is sent anywhere.

    Example: hyb link quickstart/service --namespace chat --apps-domain apps.example.com --out link
    """
    from hyb.errors import Exit, HybError
    from hyb.linking.folder import materialise

    passphrase, authority = secrets_given(ca_passphrase_file, ca, ca_key)
    artifact = s.store.artifact(s.store.resolve(service))
    if artifact.kind != "link":
        from hyb.cli.chain import Chain

        if not namespace or not apps_domain:
            raise HybError(
                "a link needs `--namespace` and `--apps-domain`",
                hint="or name a link stage of a recipe, such as `quickstart/van`", code=Exit.USAGE,
            )  # fmt: skip
        chain = Chain(s)
        target = chain.stored(service)
        if artifact.kind == "model":
            chain.add(f"{target}-image", stage="pack", model=target)
            target = f"{target}-image"
        if artifact.kind != "service":
            chain.add(f"{target}-service", stage="serve", image=target)
            target = f"{target}-service"
        chain.add(
            name or f"{target}-link"[:40], stage="link", service=target, namespace=namespace, apps_domain=apps_domain,
            routing_key=routing_key, port=port, platform=platform,
        )  # fmt: skip
        made = chain.run(show=s.dry_run)
        if made is None:
            return
        artifact = made
    if s.dry_run:
        s.show(
            {"would_write": [f.path for f in artifact.files]},
            "\n".join(f"would write {out / f.path}" for f in artifact.files),
        )
        return
    written = materialise(
        s.store, artifact, out, os.environ, renew=renew, say=s.talk, passphrase=passphrase, authority=authority
    )
    s.show(
        {"link": artifact.digest, "written": [str(p) for p in written]},
        "\n".join([*(f"wrote {p}" for p in written), f"next: {out / 'APPLY.md'} says what to run where"]),
    )
