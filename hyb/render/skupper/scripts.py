"""The way `cli`: the same link by Skupper's own program, a shell script a side and their APPLY.md. Pure.

Certificates are then the cluster's own: `skupper link generate` prints a Link with one for each private site. Names
and ports are checked before they come here; they are quoted all the same. Options: Skupper 2.2.1.
"""

from __future__ import annotations

import shlex

from hyb.render.skupper.facts import LinkFacts, PrivateSite, PublicSite
from hyb.render.skupper.guide import check_text, head

SCRIPT = "skupper.sh"


def public_script(facts: LinkFacts, site: PublicSite) -> str:
    """What a person with rights in the namespace runs; it leaves a file for each private site."""
    files = ", ".join(link_file(facts, site, private) for private in facts.private)
    lines = [
        "#!/bin/sh",
        f"# The namespace {site.namespace} of the link {facts.name}. Each file that it writes has a private key in it:",
        f"# {files}",
        "set -eu",
        "export SKUPPER_PLATFORM=kubernetes",
        _run("skupper", "site", "create", site.name, "--enable-link-access", "--link-access-type", facts.access.kind,
             "--namespace", site.namespace),
    ]  # fmt: skip
    for service in facts.services:
        lines.append(
            _run("skupper", "listener", "create", service.name or service.host, service.port, "--host", service.host,
                 "--routing-key", service.routing_keys[0], "--namespace", site.namespace)
        )  # fmt: skip
    lines.append("umask 077")
    for private in facts.private:
        generate = _run("skupper", "link", "generate", "--tls-credentials", facts.client_name(site, private), "--cost",
                        private.cost, "--namespace", site.namespace)  # fmt: skip
        lines.append(f"{generate} > {shlex.quote(link_file(facts, site, private))}")
    return "\n".join([*lines, ""])


def private_script(facts: LinkFacts, site: PrivateSite) -> str:
    """What is run on a private host, with the files that the other side's script wrote."""
    files = " ".join(link_file(facts, public, site) for public in facts.public)
    lines = [
        "#!/bin/sh",
        f"# The private site {site.name} of the link {facts.name}. Usage: sh {SCRIPT} {files}",
        "set -eu",
        f': "${{1:?give the files that the other side wrote: {files}}}"',
        "umask 077",
        f"export SKUPPER_PLATFORM={site.platform}",
        _run("skupper", "site", "create", site.name, "--namespace", site.namespace),
    ]
    for target in site.targets:
        where = ("--selector", target.selector) if target.selector else ("--host", target.host)
        lines.append(
            _run("skupper", "connector", "create", target.name, target.port, *where, "--routing-key",
                 target.routing_key, "--namespace", site.namespace)
        )  # fmt: skip
    apply = (
        'kubectl apply --filename "$link"'
        if site.platform == "kubernetes"
        else 'skupper system apply --filename "$link"'
    )
    lines += ['for link in "$@"; do', f"    {apply} --namespace {shlex.quote(site.namespace)}", "done"]
    if site.platform != "kubernetes":
        lines.append(_run("skupper", "system", "start", "--namespace", site.namespace))
    return "\n".join([*lines, ""])


def link_file(facts: LinkFacts, public: PublicSite, private: PrivateSite) -> str:
    """The file that carries a Link and its certificate from a public to a private site."""
    return f"{facts.client_name(public, private)}.yaml"


def guide(facts: LinkFacts) -> str:
    """APPLY.md for the scripts."""
    publics = "\n".join(f"    sh {site.folder}/{SCRIPT}" for site in facts.public)
    privates = []
    for site in facts.private:
        files = " ".join(link_file(facts, public, site) for public in facts.public)
        on = f"     # on `{site.name}`" if len(facts.private) > 1 else ""
        privates.append(f"    sh {site.folder}/{SCRIPT} {files}{on}")
    hosts = [site for site in facts.private if site.platform in ("podman", "docker")]
    once = _ONCE.replace("{platform}", hosts[0].platform) if hosts else ""
    return f"""\
{head(facts)}
Skupper's own program does all of it, and the cluster makes the certificates. Needed: `skupper` 2 on both sides, and
rights in the namespace. Read the scripts first: they are short.

## 1. The cluster

{publics}

Each file that it writes holds a private key: carry it over an encrypted channel, and remove it when it is used.

## 2. Private side

{once}{chr(10).join(privates)}

{check_text(facts)}"""


_ONCE = """\
    mkdir -p "${XDG_DATA_HOME:-$HOME/.local/share}/skupper" && chmod 0700 "${XDG_DATA_HOME:-$HOME/.local/share}/skupper"
    loginctl enable-linger     # else the router ends when you log out
    SKUPPER_PLATFORM={platform} skupper system install     # once a user
"""


def _run(*words: str | int) -> str:
    return shlex.join(str(word) for word in words)
