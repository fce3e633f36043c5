"""link: the Skupper documents of all sides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.link_credentials import AuthorityKeyOption, AuthorityOption, PassphraseOption, secrets_given
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.cli.chain import Chain

WAYS = "given|issuer|token|cli"
ACCESS = "route|loadbalancer|ingress-nginx|nodeport|local"
PLATFORMS = "podman|docker|linux|kubernetes"


@command
def link(
    s: Session,
    service: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="A service, image or model in the store (or several), or a link."),
    ],
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", metavar="NAME", help="The OpenShift namespace; again for several."),
    ] = None,
    apps_domain: Annotated[
        str | None, typer.Option("--apps-domain", metavar="DOMAIN", help="The cluster's domain of routes.")
    ] = None,
    route_domain: Annotated[
        str | None, typer.Option("--route-domain", metavar="DOMAIN", help="Instead: a domain that Skupper asks for.")
    ] = None,
    way: Annotated[str | None, typer.Option("--way", metavar=WAYS, help="Where trust comes from.")] = None,
    access: Annotated[
        str | None, typer.Option("--access", metavar=ACCESS, help="How the namespace's router is reached.")
    ] = None,
    link_host: Annotated[
        list[str] | None,
        typer.Option(
            "--link-host", "--host", metavar="[NAMESPACE=]HOST", help="Its address, where no domain gives it."
        ),
    ] = None,
    link_port: Annotated[
        list[str] | None,
        typer.Option("--link-port", metavar="ROLE=PORT", help="With nodeport: of inter-router and of edge."),
    ] = None,
    ingress_class: Annotated[
        str | None, typer.Option("--ingress-class", metavar="NAME", help="With ingress-nginx: the IngressClass.")
    ] = None,
    routing_key: Annotated[
        str | None, typer.Option("--routing-key", metavar="KEY", help="What joins listener and connector.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="The port that pods call.", show_default=False)] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar=PLATFORMS, help="Where the private router runs.")
    ] = None,
    private_namespace: Annotated[
        str | None, typer.Option("--private-namespace", metavar="NAME", help="Skupper's namespace there.")
    ] = None,
    target_host: Annotated[
        str | None, typer.Option("--target-host", metavar="HOST", help="The model, as the private router reaches it.")
    ] = None,
    selector: Annotated[
        str | None, typer.Option("--selector", metavar="LABEL=VALUE", help="On Kubernetes instead: the model's pods.")
    ] = None,
    private_site: Annotated[
        list[str] | None,
        typer.Option("--private-site", metavar="NAME[=COST]", help="A private host; again for several."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", metavar="priority|weighted", help="Share several hosts or services not by cost."),
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", metavar="NAME=N", help="With weighted: of a host or service.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the link in the store.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.")] = Path("link"),
    renew: Annotated[bool, typer.Option("--renew", help="New certificates of the same authority.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a folder of hyb's that was edited or holds another link.")
    ] = False,
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
    fields = {
        "namespace": namespace or None, "apps_domain": apps_domain, "route_domain": route_domain, "way": way,
        "access": access, "link_host": _pairs("--link-host", link_host),
        "link_ports": _numbers("--link-port", link_port), "ingress_class": ingress_class,
        "routing_key": routing_key, "port": port, "platform": platform,
        "private_namespace": private_namespace, "target_host": target_host, "selector": selector,
        **_sites(private_site), "strategy": strategy, "weights": _numbers("--weight", weight),
    }  # fmt: skip
    given = {key: value for key, value in fields.items() if value is not None}
    artifacts = {text: s.store.artifact(s.store.resolve(text)) for text in service}
    if [a.kind for a in artifacts.values()] == ["link"]:
        if given:
            raise HybError(f"`{service[0]}` is a link already: its recipe says `{'`, `'.join(given)}`",
                           hint="leave the options out, or name the service", code=Exit.USAGE)  # fmt: skip
        artifact = artifacts[service[0]]
    elif made := _make(s, artifacts, name, given):
        artifact = made
    else:
        return
    if s.dry_run:
        paths = [out / f.path for f in artifact.files]
        s.show({"would_write": [f.path for f in artifact.files]}, "\n".join(f"would write {p}" for p in paths))
        return
    written = materialise(
        s.store, artifact, out, os.environ, renew=renew, force=force, say=s.talk, passphrase=passphrase,
        authority=authority,
    )  # fmt: skip
    s.show(
        {"link": artifact.digest, "written": [str(p) for p in written]},
        "\n".join([*(f"wrote {p}" for p in written), f"next: {out / 'APPLY.md'} says what to run where"]),
    )


def _make(s: Session, artifacts: dict[str, Artifact], name: str | None, given: dict[str, Any]) -> Artifact | None:
    """The link stage of a small recipe, run; None for a dry run. Raises HybError."""
    from hyb.cli.chain import Chain
    from hyb.errors import Exit, HybError

    if strange := [text for text, artifact in artifacts.items() if artifact.kind == "link"]:
        raise HybError(f"`{strange[0]}` is a link, and the others are not", hint="name it alone", code=Exit.USAGE)
    by_domain = given.get("way", "given") in ("given", "issuer") and given.get("access", "route") == "route"
    if "namespace" not in given or (by_domain and not {"apps_domain", "route_domain"} & set(given)):
        raise HybError(
            "a link needs `--namespace` and `--apps-domain`",
            hint="or name a link stage of a recipe, such as `quickstart/van`", code=Exit.USAGE,
        )  # fmt: skip
    chain = Chain(s)
    several = len(artifacts) > 1
    targets = [_service(chain, text, artifact, several) for text, artifact in artifacts.items()]
    if len(set(targets)) < len(targets):
        raise HybError(f"two services are called `{max(targets, key=targets.count)}`", code=Exit.USAGE,
                       hint="several models over one link need names of their own")  # fmt: skip
    chain.add(name or f"{targets[0]}-link"[:40], stage="link", service=targets, **given)
    return chain.run(show=s.dry_run)


def _service(chain: Chain, text: str, artifact: Artifact, several: bool) -> str:
    """The service of one argument as an input of the chain: of an image or model it is made on the way."""
    if artifact.kind == "service" and several:  # its own name is what pods will call it by
        own = str(artifact.meta.get("name"))
        chain.given[own], chain.kinds[own] = artifact.digest, artifact.kind
        return own
    target = chain.stored(text)
    if artifact.kind == "model":
        chain.add(f"{target}-image", stage="pack", model=target)
        target = f"{target}-image"
    if artifact.kind != "service":
        chain.add(f"{target}-service", stage="serve", image=target)
        target = f"{target}-service"
    return target


# -- options with an equals sign ---------------------------------------------------------------------------------------


def _pairs(option: str, texts: list[str] | None) -> dict[str, str] | str | None:
    """`NAME=VALUE`, again and again, or one bare value. Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError

    if not texts:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not (key and sign and value) or key in found:
            raise HybError(f"`{option} {text}` is not NAME=VALUE, once a name", code=Exit.USAGE)
        found[key] = value
    return found


def _numbers(option: str, texts: list[str] | None) -> dict[str, int] | None:
    """`NAME=NUMBER`, several with commas or again and again. Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError

    if not texts:
        return None
    pairs = _pairs(option, [part for text in texts for part in text.split(",")])
    if not isinstance(pairs, dict) or not all(v.isascii() and v.isdigit() for v in pairs.values()):
        raise HybError(f"`{option}` takes NAME=NUMBER, not `{','.join(texts)}`", code=Exit.USAGE)
    return {key: int(value) for key, value in pairs.items()}


def _sites(texts: list[str] | None) -> dict[str, Any]:
    """The fields for `--private-site`: one without a cost is the simple case. Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError

    if not texts:
        return {}
    found: dict[str, dict[str, int]] = {}
    for text in texts:
        key, sign, cost = text.partition("=")
        if not key or key in found or (sign and not (cost.isascii() and cost.isdigit())):
            raise HybError(f"`--private-site {text}` is not NAME or NAME=COST, once a name", code=Exit.USAGE)
        found[key] = {"cost": int(cost)} if sign else {}
    if len(found) == 1:
        ((only, part),) = found.items()
        return {"private_site": only, **part}
    return {"private_sites": found}
