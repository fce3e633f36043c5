"""deploy: the chat page in a cluster, as a folder for kustomize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.render.deploy.facts import DeployFacts

IMAGE = "REGISTRY/NAME@sha256:…"


@command
def deploy(
    s: Session,
    link: Annotated[
        str, typer.Argument(metavar="LINK", help="A link, its folder, or a service that runs in the cluster.")
    ],
    image: Annotated[str, typer.Option("--image", metavar=IMAGE, help="The chat's image, by digest.")],
    host: Annotated[str, typer.Option("--host", metavar="NAME", help="The page's name, such as chat.example.com.")],
    ways: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="openshift|nginx|gateway|loadbalancer|all",
            help="A way in, once for each; default openshift and what other options name.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.")] = Path("deploy"),
    diff: Annotated[
        Path | None,
        typer.Option("--diff", metavar="DIR", help="Write nothing; show what would change in DIR. Exit 4 if anything."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an edited folder, or one of another page. Files added are lost.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What everything is called.")] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Of a link with several, or of a service.")
    ] = "",
    listener: Annotated[str, typer.Option("--listener", metavar="HOST", help="Of a link with several.")] = "",
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="The model to ask for.")] = None,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="The page's title.")] = None,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="A line on an empty page.")] = None,
    sign_in: Annotated[
        str | None, typer.Option("--sign-in", metavar="none|code|openshift|oidc", help="Who may use the page.")
    ] = None,
    sign_in_image: Annotated[
        str | None, typer.Option("--sign-in-image", metavar=IMAGE, help="Of oauth-proxy or oauth2-proxy.")
    ] = None,
    oidc_issuer: Annotated[
        str | None, typer.Option("--oidc-issuer", metavar="URL", help="Who signs people in.")
    ] = None,
    oidc_client: Annotated[str | None, typer.Option("--oidc-client", metavar="ID", help="The page's id there.")] = None,
    openai: Annotated[bool, typer.Option("--openai", help="Let programs use the OpenAI pass-through.")] = False,
    tls: Annotated[
        str | None, typer.Option("--tls", metavar="edge|reencrypt", help="Where the Route's TLS ends.")
    ] = None,
    tls_secret: Annotated[
        str | None, typer.Option("--tls-secret", metavar="NAME", help="Secret with the certificate of the host.")
    ] = None,
    pull_secret: Annotated[
        str | None, typer.Option("--pull-secret", metavar="NAME", help="Secret for the registry of the images.")
    ] = None,
    nginx_image: Annotated[
        str | None, typer.Option("--nginx-image", metavar=IMAGE, help="NGINX without root, where TLS ends in the pod.")
    ] = None,
    pod_network: Annotated[
        list[str] | None, typer.Option("--pod-network", metavar="CIDR", help="The cluster's network of pods.")
    ] = None,
    ingress_class: Annotated[
        str | None, typer.Option("--ingress-class", metavar="NAME", help="Class of the NGINX ingress controller.")
    ] = None,
    ingress_namespace: Annotated[
        str | None, typer.Option("--ingress-namespace", metavar="NAME", help="Where that controller runs.")
    ] = None,
    legacy_ingress_nginx: Annotated[
        bool, typer.Option("--legacy-ingress-nginx", help="It is ingress-nginx, without support since March 2026.")
    ] = False,
    gateway: Annotated[
        str, typer.Option("--gateway", metavar="NAMESPACE/NAME[:LISTENER]", help="The Gateway that the page joins.")
    ] = "",
    replicas: Annotated[int | None, typer.Option("--replicas", help="Pods at least.", show_default=False)] = None,
    max_replicas: Annotated[
        int | None, typer.Option("--max-replicas", help="Pods at most.", show_default=False)
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", help="Questions that a pod lets through at once.", show_default=False)
    ] = None,
    keep_page: Annotated[
        bool, typer.Option("--keep-page", help="Pods stay ready while the model is away: the page says so itself.")
    ] = False,
    monitoring: Annotated[
        str | None,
        typer.Option("--monitoring", metavar="NAMESPACE", help="Prometheus runs there: alerts, a dashboard."),
    ] = None,
) -> None:
    """Write what puts the chat page before a link: a kustomize base, an overlay for each way in, NGINX for a host.

    Nothing is applied and nothing is sent anywhere. Secrets are named, never written: the folder can be committed.

    Example: hyb deploy quickstart/van --image registry.example.com/hyb-chat@sha256:c0ffee… --host chat.example.com
    """
    from hyb.deploying import choose, files_of, targets

    found = choose(targets(link, s.store, namespace), link, namespace=namespace, listener=listener)
    space, gateway_name, section = _gateway(gateway)
    facts = _facts(
        namespace=found.namespace, image=image, host=host, model_host=found.host, model_port=found.port,
        access=found.access, model_in_cluster=found.in_cluster, model_secret=found.secret, name=name, model=model,
        title=title, note=note, sign_in=sign_in, sign_in_image=sign_in_image, oidc_issuer=oidc_issuer,
        oidc_client=oidc_client, openai=openai, tls=tls, tls_secret=tls_secret, nginx_image=nginx_image,
        pull_secret=pull_secret,
        overlays=_overlays(ways or [], ingress_class or legacy_ingress_nginx, gateway),
        pod_network=tuple(pod_network) if pod_network else None, ingress_class=ingress_class,
        ingress_namespace=ingress_namespace or ("ingress-nginx" if legacy_ingress_nginx else None),
        legacy_ingress_nginx=legacy_ingress_nginx, gateway=gateway_name, gateway_namespace=space,
        gateway_listener=section, replicas=replicas, max_replicas=_most(replicas, max_replicas), parallel=parallel,
        page_only=keep_page, monitoring=monitoring,
    )  # fmt: skip
    files = files_of(facts, found.taken)
    if legacy_ingress_nginx:
        s.talk("warning: ingress-nginx has had no support since March 2026, not even for security; plan to leave it")
    if diff is not None:
        _show_difference(s, files, diff)
    else:
        _write(s, facts, files, out, force)


def _facts(**given: Any) -> DeployFacts:
    """The facts; what was not given takes their defaults, which are written there alone."""
    from hyb.render.deploy.facts import DeployFacts

    return DeployFacts(**{key: value for key, value in given.items() if value is not None})


def _most(replicas: int | None, most: int | None) -> int | None:
    """Asked for more pods at least than the default has at most, that is what people get."""
    return most if most is not None or replicas is None else max(4, replicas)


def _overlays(ways: list[str], nginx: object, gateway: str) -> tuple[str, ...]:
    """The ways in, in their own order; without `--for` those that an option speaks of, else OpenShift."""
    from hyb.render.deploy.facts import OVERLAYS

    named = [word for way in ways for word in way.split(",")]
    if not named:
        named = [*(["nginx"] if nginx else []), *(["gateway"] if gateway else [])] or ["openshift"]
    wanted = OVERLAYS if "all" in named else tuple(dict.fromkeys(named))
    return tuple(sorted(wanted, key=lambda way: OVERLAYS.index(way) if way in OVERLAYS else len(OVERLAYS)))


def _gateway(text: str) -> tuple[str | None, str | None, str | None]:
    """`NAMESPACE/NAME[:LISTENER]` → its parts. Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError

    if not text:
        return None, None, None
    whole, _, section = text.partition(":")
    space, slash, name = whole.partition("/")
    if not slash or not space or not name:
        raise HybError(
            f"`{text}` is no Gateway", hint="write NAMESPACE/NAME or NAMESPACE/NAME:LISTENER", code=Exit.USAGE
        )
    return space, name, section or None


def _show_difference(s: Session, files: dict[str, str], place: Path) -> None:
    from hyb.deploying import difference
    from hyb.errors import Exit

    text = difference(files, place)
    s.show({"folder": str(place), "differs": bool(text), "diff": text}, text.rstrip("\n"))
    if text:
        raise typer.Exit(int(Exit.CHECK))


def _write(s: Session, facts: DeployFacts, files: dict[str, str], out: Path, force: bool) -> None:
    from hyb.deploying import write

    if s.dry_run:
        s.show({"would_write": list(files)}, "\n".join(f"would write {out / path}" for path in files))
        return
    written = write(facts, files, out, force=force)
    lines = [*(f"wrote {path}" for path in written), f"next: {out / 'APPLY.md'} says what to run"]
    s.show({"overlays": list(facts.overlays), "written": [str(p) for p in written]}, "\n".join(lines))
