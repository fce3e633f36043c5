"""The whole folder: which file says what. Components (monitoring) are joined here."""

from __future__ import annotations

from hyb.render.deploy.facts import DeployFacts


def folder(facts: DeployFacts) -> dict[str, str]:
    """Path → text of every file, in the order of their paths."""
    raise NotImplementedError(facts.name)
