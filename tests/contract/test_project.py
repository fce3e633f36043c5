"""What the project owes as a whole."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_readme_changelog_and_contributing_are_there_and_name_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
    assert (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "CONTRIBUTING.md").read_text()


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http", "mailto")) and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_no_document_of_another_project_is_kept_here() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert not [f for f in listed if f.endswith("_crd.yaml")]


def test_imports_point_down() -> None:
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("name", ["quickstart"])
def test_the_lock_that_is_checked_in_is_not_stale(name: str) -> None:
    """A change of a stage's REVISION, of the recipe or of its data needs a new run, and the lock that it writes."""
    from hyb import digest, lock, recipe
    from hyb.plan import key_of
    from hyb.stages.base import referenced

    folder = ROOT / "recipes" / name
    written, locked = recipe.read(folder / recipe.FILE), lock.read(folder / lock.FILE)
    assert set(locked.stages) == {e.name for e in written.entries}
    for source, pinned in locked.pins.items():
        if (folder / source).exists():
            assert digest.of_tree(folder / source) == pinned
    for entry in written.entries:
        inputs = {n: locked.stages[n].output for n in referenced(entry.spec)}
        assert key_of(entry.spec, locked.pins, inputs) == locked.stages[entry.name].key, entry.name
