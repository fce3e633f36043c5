"""The trust policy in force, and what it says of an artifact (see hyb.formats.trust for the file).

It is the first of: `--trust FILE` (or `HYB_TRUST`), `~/.config/hyb/trust.yaml` (`XDG_CONFIG_HOME`), and
`/etc/hyb/trust.yaml`; never a file of the current folder. Without any, nothing is asked for. Whoever can write the
policy or a key decides what is trusted, so a file that others can write is refused.

An artifact is judged by all of its names: tags in the store, the source it was pulled from, what the command calls it;
by its digest when it has none. The first rule that fits a name decides for that name, and the strictest of them
counts: a second name never makes less be asked for. What it can't do without (an adapter's base) is judged, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from hyb import fs
from hyb.artifact import Artifact, short
from hyb.errors import Exit, HybError
from hyb.formats import trust, yaml_lines
from hyb.progress import Say, silent
from hyb.signing import attached, gate
from hyb.signing.keys import PublicKey, parse_public, short_id
from hyb.store import Store


@dataclass(frozen=True)
class Policy:
    """A policy with its keys: `usable` can sign today, `dead` says why another can't (name → reason)."""

    path: Path
    trust: trust.Trust
    keys: Mapping[str, PublicKey]
    dead: Mapping[str, str]

    def usable(self, names: Iterable[str]) -> list[PublicKey]:
        """The keys of these names that are neither expired nor revoked. A key that is revoked under any name is."""
        revoked = {self.keys[n].key_id for n in self.dead if self.trust.keys[n].revoked}
        found = [self.keys[n] for n in names if n not in self.dead]
        return [k for k in found if k.key_id not in revoked]


@dataclass(frozen=True)
class Verdict:
    """What a rule says of an artifact: `key_id` of the signature that counts, or "" and the reasons."""

    artifact: Artifact
    rule: trust.Rule
    key_id: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """True when the artifact may not be used."""
        return self.rule.mode == "enforce" and not self.key_id


def read(path: Path, today: date | None = None) -> Policy:
    """A policy and its keys. Raises HybError (exit 3) with every mistake found, as `file:line: …`."""
    data = _guarded(path)
    try:
        found, mistakes = trust.parse(data.decode())
    except UnicodeDecodeError as error:
        raise HybError(f"`{path}` is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error
    except yaml_lines.YamlError as error:
        raise HybError(f"{path}:{error.line}: {error}", hint="mend the YAML there") from error
    keys: dict[str, PublicKey] = {}
    for name, key in found.keys.items():
        try:
            if key.file or key.pem:
                where = path.parent / Path(key.file).expanduser()
                keys[name] = parse_public(_guarded(where) if key.file else key.pem.encode(), where)
        except HybError as error:
            mistakes.append((key.line, f"key `{name}`: {error.message}"))
    if mistakes:
        lines = [f"{path}:{line}: {text}" for line, text in sorted(mistakes)]
        raise HybError(lines[0] if len(lines) == 1 else f"the trust policy has {len(lines)} mistakes",
                       details=lines if len(lines) > 1 else [], hint="docs/signing.md shows a policy")  # fmt: skip
    now = today or datetime.now(UTC).date()
    dead = {n: "revoked" if k.revoked else f"expired on {k.expires}"
            for n, k in found.keys.items() if k.revoked or (k.expires and now >= k.expires)}  # fmt: skip
    return Policy(path, found, keys, dead)


def in_force(environ: Mapping[str, str]) -> Policy | None:
    """The policy that holds for this call. Raises HybError."""
    path = gate.find(environ)
    return read(path) if path else None


def check(
    policy: Policy, store: Store, artifact: Artifact, doing: str, *, names: Sequence[str] = (), say: Say = silent
) -> list[Verdict]:
    """Judge an artifact, and what it needs, before it is used. `doing`: the verb for the message (`serve`, `pack`).

    `names`: what it is called beside its tags in the store. Raises HybError (exit 4) when the policy refuses any; what
    it only warns of is said.
    """
    found = judge(policy, store, artifact, names)
    refused = [v for v in found if v.refused]
    for verdict in found:
        if verdict.rule.mode == "warn" and not verdict.key_id:
            say(f"trust: {_told(verdict, policy)}: {'; '.join(verdict.reasons)}")
    if refused:
        first = refused[0]
        called = (names[0] if names else "") or called_in(store, first.artifact)
        raise HybError(
            f"hyb does not {doing} `{called}`: {_told(first, policy)}",
            details=[f"{_title(store, v.artifact)}: {r}" for v in refused for r in v.reasons],
            hint=f"who holds such a key runs `hyb sign {called_in(store, first.artifact)} --key FILE`; the policy is"
            f" `{policy.path}`",
            code=Exit.CHECK,
        )
    return found


def judge(policy: Policy, store: Store, artifact: Artifact, names: Iterable[str] = ()) -> list[Verdict]:
    """What the policy says of an artifact and of all that it needs."""
    tags: dict[str, list[str]] = {}
    for tag, digest in store.tags().items():
        tags.setdefault(digest, []).append(tag)
    found, todo, seen, own = list[Verdict](), [artifact], set[str](), list(names)
    while todo:
        one = todo.pop()
        if one.digest in seen:
            continue
        seen.add(one.digest)
        called = [n for n in (*tags.get(one.digest, ()), str(one.meta.get("source", "")), *own) if n]
        found += [_verdict(policy, store, one, rule) for rule in policy.trust.rules_for(called or [one.digest])]
        todo += [store.artifact(d) for d in one.needs if store.blob_path(d).exists()]
        own = []  # the names that were given are those of the first alone
    return found


def signed(store: Store, artifact: Artifact, environ: Mapping[str, str]) -> str:
    """The id of a key of the policy in force that signed `artifact`, or ""; without a policy nobody is trusted."""
    policy = in_force(environ)
    good = attached.find(store, artifact, policy.usable(policy.keys)).good if policy else ()
    return good[0] if good else ""


def called_in(store: Store, artifact: Artifact) -> str:
    """A name by which a command finds an artifact."""
    return next((n for n, d in sorted(store.tags().items()) if d == artifact.digest), short(artifact.digest))


def _verdict(policy: Policy, store: Store, artifact: Artifact, rule: trust.Rule) -> Verdict:
    if rule.mode == "off":
        return Verdict(artifact, rule)
    found = attached.find(store, artifact, policy.usable(rule.keys))
    if found.good:
        return Verdict(artifact, rule, found.good[0])
    reasons = [*found.bad] or ["it has no signature"]
    every = attached.find(store, artifact, list(policy.keys.values())).good
    for name, key in policy.keys.items():
        if key.key_id in every:
            why = policy.dead.get(name) or ("not a key of this rule" if name not in rule.keys else "revoked")
            reasons.append(f"key `{name}` ({short_id(key.key_id)}) signed it, and is {why}")
    return Verdict(artifact, rule, "", tuple(reasons))


def _told(verdict: Verdict, policy: Policy) -> str:
    rule = verdict.rule
    if not rule.keys:
        return "no rule of the trust policy names it, and `default` lets nothing else in"
    ids = ", ".join(f"{n} ({short_id(policy.keys[n].key_id)})" for n in rule.keys)
    return f"pattern `{rule.pattern}` wants a signature by {ids}"


def _title(store: Store, artifact: Artifact) -> str:
    return f"{artifact.kind} `{called_in(store, artifact)}`"


def _guarded(path: Path) -> bytes:
    """The bytes of a file that decides about trust. Raises HybError when others can write it."""
    with fs.explained(f"can't read `{path}`"):
        status = path.stat()
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise HybError(f"other users can write `{path}` (mode {stat.S_IMODE(status.st_mode):04o}), and so decide"
                           " what is trusted", hint=f"`chmod go-w {path}`")  # fmt: skip
        if status.st_uid not in (os.geteuid(), 0):
            raise HybError(f"`{path}` is another user's", hint="take a file of your own, or of root")
        return fs.read_bounded(path)
