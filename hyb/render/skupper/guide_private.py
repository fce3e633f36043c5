"""The part of APPLY.md for one private site: a host with Podman, Docker or a bare router, or a cluster. Pure."""

from __future__ import annotations

from hyb.render.skupper.facts import LinkFacts, PrivateSite, endpoints


def private_text(facts: LinkFacts, site: PrivateSite, several: bool) -> str:
    """Section 2 of APPLY.md."""
    if site.platform == "kubernetes":
        return _kubernetes(facts, site, several)
    flag = "" if site.namespace == "default" else f" -n {site.namespace}"
    once = "    loginctl enable-linger     # else the router ends when you log out\n"
    once += "    skupper system install     # once a user\n"
    install = "" if site.platform == "linux" else once
    router = "The program `skrouterd` must be installed.\n" if site.platform == "linux" else ""
    folder = f'"$base/namespaces/{site.namespace}/input/resources"'
    return f"""\
## 2. Private host{f" `{site.name}`" if several else ""}
{_token(facts, site, several)}
As the user who runs the model. {router}As root, `base` is `/var/lib/skupper`.

    base="${{XDG_DATA_HOME:-$HOME/.local/share}}/skupper"
    mkdir -p "$base" && chmod 0700 "$base"     # Skupper's own copies of the key are readable by all
    install -d -m 0700 {folder}
    install -m 0600 {site.folder}/*.yaml {folder}
    export SKUPPER_PLATFORM={site.platform}
{install}    skupper system start{flag}

After a change: copy again, then `skupper system reload{flag}` (`start` refuses a site that is there already).
{_dials(facts)}
"""


def _kubernetes(facts: LinkFacts, site: PrivateSite, several: bool) -> str:
    return f"""\
## 2. Private cluster{f", site `{site.name}`" if several else ""}
{_token(facts, site, several)}
The Skupper controller must run there too, and the namespace must have no other Skupper Site.

    kubectl apply -f {site.folder}/ -n {site.namespace}
    kubectl get site,link,connector -n {site.namespace}

The router's pod (label `skupper.io/component: router`) must be let in to the model by the namespace's NetworkPolicies:
the one that `hyb serve` writes lets in only pods that are labelled for it.
{_dials(facts)}
"""


def _token(facts: LinkFacts, site: PrivateSite, several: bool) -> str:
    if facts.way != "token":
        return ""
    from_ = "token.yaml" if not several and len(facts.public) == 1 else "its token"
    which = f" --site {site.name}" if several else ""
    flag = "" if site.namespace == "default" else f" -n {site.namespace}"
    if site.platform == "kubernetes":
        how = "`private/` then holds the token, which the controller redeems once."
    else:
        how = (
            "With `--redeem` it is turned into a Link at once, and nothing below changes. Without it the token stays"
            " beside the\nfolders: start the site as below, then `skupper token redeem` with it and `skupper system"
            f" reload{flag}`. A token\namong the resources would be redeemed again at every reload, and fail."
        )
    return f"""
Bring {from_} here and make the folder whole:

    hyb link accept {"token.yaml" if from_ == "token.yaml" else "TOKEN"} --redeem{which}

{how.replace("private/", f"{site.folder}/")}
"""


def _dials(facts: LinkFacts) -> str:
    found = [endpoints(facts.access, public.namespace)[:1] for public in facts.public]
    ends = "`, `".join(f"{e.host}:{e.port}" for ends in found for e in ends)
    if not ends:
        return "The router dials the cluster: a firewall must let that out and leave the TLS untouched."
    return f"The router dials `{ends}`: a firewall must let that out and leave the TLS untouched."
