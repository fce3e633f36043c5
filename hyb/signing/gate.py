"""Where a trust policy lies, and the way to it: light, since every run and every serve passes here.

Nothing else of signatures is imported while there is no policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.progress import Say
from hyb.store import Store

VARIABLE = "HYB_TRUST"
SYSTEM = Path("/etc/hyb/trust.yaml")
NAME = "trust.yaml"


def find(environ: Mapping[str, str]) -> Path | None:
    """Where the policy in force lies; None when there is none. Raises HybError for one that was named and is absent."""
    if given := environ.get(VARIABLE):
        if not Path(given).is_file():
            raise HybError(f"the trust policy `{given}` is not there", hint=f"`--trust` or `{VARIABLE}` names it")
        return Path(given)
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    places = [Path(home, "hyb", NAME)] if home else []
    return next((p for p in (*places, SYSTEM) if p.is_file()), None)


def check(
    store: Store, artifact: Artifact, doing: str, environ: Mapping[str, str], *, say: Say, names: Iterable[str] = ()
) -> None:
    """Raise HybError (exit 4) when the policy in force, if there is one, refuses the artifact: see
    `hyb.signing.policy.check`. `doing`: the verb for the message; `names`: what it is called beside its tags."""
    if path := find(environ):
        from hyb.signing import policy

        policy.check(policy.read(path), store, artifact, doing, names=tuple(names), say=say)
