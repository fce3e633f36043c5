"""The command line. This module holds only the table of commands and the way to one of them.

Help of `hyb` itself is printed from the table: nothing else is imported for it. A command's module is imported when
that command runs, and imports what it calls inside its function, so that `hyb ls` never waits for torch or pydantic.
"""

from __future__ import annotations

import os
import sys
from typing import Any

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "The chain, a stage a command": {
        "pull": ("chain", "Download a model, checked and pinned"),
        "data": ("chain", "Read a data set into one form, split it, report on it"),
        "tune": ("chain", "Train a LoRA adapter on a model"),
        "eval": ("chain", "Ask the held-out questions before and after; gate on the score"),
        "export": ("chain", "Merge an adapter, convert and quantize"),
        "pack": ("chain", "Make an OCI image of a model"),
        "serve": ("serving", "Serve a model on this machine, OpenAI-compatible"),
        "link": ("linking", "Write the Skupper documents that link this host to a namespace"),
        "deploy": ("deploy", "Write what puts the chat page before a link, in a cluster or on a host"),
    },
    "Recipes": {
        "init": ("recipes", "Make a recipe's folder"),
        "plan": ("recipes", "Show what a run would do"),
        "run": ("recipes", "Run what is not done yet"),
        "rollback": ("rollback", "Return a recipe to the generation before"),
        "verify": ("recipes", "Check store, lock, receipts, signatures, and what a server serves"),
        "repair": ("recipes", "Fetch or make again what is broken"),
        "report": ("provenance", "Write one HTML page for the auditor of a recipe"),
        "bundle": ("bundle_read", "Carry a recipe and all that it needs to where there is no network"),
        "boundary": ("boundary", "Show what may leave this host, and check what is to leave"),
    },
    "The store": {
        "ls": ("storage", "List what is in the store"),
        "show": ("storage", "Show one artifact, or write its files to a folder"),
        "log": ("storage", "List what was done, newest first"),
        "attest": ("provenance", "Check that receipts lead from an artifact back to its sources"),
        "sbom": ("provenance", "Write a bill of materials: CycloneDX, with model cards"),
        "push": ("registry", "Push an artifact to a registry"),
        "sign": ("signing", "Sign a model, an image or any artifact; make a key pair"),
        "mirror": ("mirror", "Show the store to a lab as a hub, a registry and a package index"),
        "rm": ("storage", "Take a name away"),
        "gc": ("storage", "Remove what no name and no generation reaches"),
    },
    "Running": {
        "ps": ("serving", "List the models being served"),
        "stop": ("serving", "Stop serving a model"),
        "ask": ("serving", "Ask a served model one question"),
        "adapter": ("serving", "Load, drop and weigh adapters of a model being served"),
        "key": ("keys", "Make, list and revoke the API keys of a service"),
        "chat": ("chat", "Chat with a served model"),
        "bench": ("bench", "Put load on a served model and measure it"),
        "top": ("top", "Show what the served models do now"),
        "logs": ("top", "Print what a service said"),
    },
    "This machine": {
        "doctor": ("machine", "Say what is installed, what is missing, and how to get it"),
        "completion": ("machine", "Print the completion script of a shell"),
        "man": ("machine", "Print a man page"),
        "version": ("machine", "Print the version"),
    },
}
"""Group → command → (module of hyb.cli that holds it, summary). A command `x` is the function `x` of its module,
`eval_` where the name is taken by Python."""

SUBCOMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "data": {
        "generate": ("data_generate", "Have a teacher model write questions and answers about documents"),
        "lint": ("data_lint", "Check an InstructLab taxonomy, every rule with its line"),
        "preview": ("data_preview", "Show what a model sees, and which tokens are trained"),
        "scan": ("data_scan", "Look for secrets and personal data, with file and line"),
        "stats": ("data_stats", "Show lengths, duplicates, contamination, languages"),
    },
    "link": {
        "check": ("link_check", "Ask the model through the link; say which side must act"),
        "status": ("link_site", "Show the private router and its link"),
        "start": ("link_site", "Start the private router with a link's documents"),
        "reload": ("link_site", "Give the private router the link's documents anew"),
        "stop": ("link_site", "Stop the private router and remove its site"),
        "route": ("link_route", "Move the traffic between two services, or share it"),
        "grant": ("link_token", "Write an AccessGrant, and say how to get its token"),
        "accept": ("link_token", "Take a token of the cluster into a link's folder"),
        "list": ("link_credentials", "List the credentials of all links, and until when they are good"),
        "renew": ("link_credentials", "Make new certificates, or a new CA, without an outage"),
        "revoke": ("link_credentials", "Make a private site's certificate worthless"),
        "passphrase": ("link_credentials", "Encrypt the CA's key, or change its passphrase"),
        "metrics": ("link_metrics", "Write when the certificates of all links end, for Prometheus"),
    },
    "attest": {"show": ("provenance", "Show what an artifact was made from, back to the data line and the hub commit")},
    "bundle": {
        "create": ("bundle", "Write a bundle of a recipe: plain tars that can be checked one by one"),
        "verify": ("bundle_read", "Check a bundle: every part, every byte, the signature"),
        "ls": ("bundle_read", "List what a bundle holds"),
        "diff": ("bundle_read", "Say what one bundle has and another has not"),
        "load": ("bundle", "Take a bundle into the store"),
        "inventory": ("bundle_read", "Write what the store has, for `create --since` on the other side"),
    },
    "mirror": {"serve": ("mirror", "Serve the store, read-only, to clients of a hub, a registry and pip")},
    "boundary": {"check": ("boundary", "Look for what must not leave in images, archives, manifests, logs and links")},
}
"""Command → second word → (module, summary). `hyb link check` is the function `link_check` of its module; whatever is
no second word here is an argument of the command itself."""

USAGE = "Usage: hyb COMMAND [OPTIONS] [ARGS]..."
ABOUT = "From a downloaded language model to a private endpoint that an OpenShift namespace can call."
EXAMPLE = "Example: hyb run recipes/quickstart\nEach command explains itself: hyb COMMAND --help"
COMPLETE = "_HYB_COMPLETE"


def main() -> None:
    """The entry point of `hyb`."""
    _open_streams()
    arguments = sys.argv[1:]
    if COMPLETE in os.environ:
        from hyb.cli.commands import complete

        complete()
    elif not arguments or arguments[0] in ("--help", "-h", "help"):
        sys.stdout.write(help_text())
        sys.exit(0 if arguments else 2)
    else:
        word = "version" if arguments[0] in ("--version", "-V") else arguments[0]
        if word == "version" and len(arguments) == 1:
            from hyb import __version__

            sys.stdout.write(f"hyb {__version__}\n")
        else:
            from hyb.cli.commands import run_command

            sys.exit(run_command(word, arguments[1:]))


def _open_streams() -> None:
    """Give a stream that the caller closed (`>&-`) to nowhere: a file opened later would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def table() -> dict[str, tuple[str, str]]:
    """Command → (module, summary), in the order of the help; one of two words stands behind its first."""
    found: dict[str, tuple[str, str]] = {}
    for group in COMMANDS.values():
        for name, entry in group.items():
            found[name] = entry
            found |= {f"{name} {word}": sub for word, sub in SUBCOMMANDS.get(name, {}).items()}
    return found


def help_text() -> str:
    """What `hyb --help` prints."""
    lines = [USAGE, "", ABOUT, ""]
    for title, group in COMMANDS.items():
        lines += [f"{title}:", *(f"  {name:<12}{summary}" for name, (_, summary) in group.items()), ""]
    return "\n".join([*lines, EXAMPLE, ""])


def function(name: str) -> Any:
    """The function of a command; imports its module and no other. Raises KeyError."""
    import importlib

    module = importlib.import_module(f"hyb.cli.{table()[name][0]}")
    attribute = name.replace(" ", "_")
    return getattr(module, attribute, None) or getattr(module, f"{attribute}_")
