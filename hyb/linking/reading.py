"""The sides of a link read from its folders' files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper.fields import as_map, of, spec_of


def of_private(folder: str) -> bool:
    """True for the folder of a private site: `private`, or `private-<site>` of several."""
    return folder == "private" or folder.startswith("private-")


def of_public(folder: str) -> bool:
    """True for the folder of a namespace: `openshift`, or `openshift-<namespace>` of several."""
    return folder == "openshift" or folder.startswith("openshift-")


def sides_of(
    files: Mapping[str, bytes], platforms: Mapping[str, str] | None = None
) -> tuple[list[skupper_check.Side], list[str]]:
    """The sides in files (path → content), and which files can't be read. A folder of scripts is no side.

    `platforms`: folder → what runs the router; without it, it is read off the documents.
    """
    folders: dict[str, list[Any]] = {}
    mistakes = []
    for path, data in files.items():
        folder = path.partition("/")[0]
        if not (of_private(folder) or of_public(folder)) or not path.endswith((".yaml", ".yml")):
            continue
        found, fault = load(data)
        folders.setdefault(folder, []).extend(found)
        mistakes += [f"{path}: {fault}"] if fault else []
    sides = []
    for folder in sorted(folders, key=lambda name: (of_public(name), name)):
        documents = folders[folder]
        platform = "" if of_public(folder) else (platforms or {}).get(folder) or platform_of(documents)
        sides.append(skupper_check.Side(folder, documents, of_public(folder), platform))
    return sides, mistakes


def platform_of(documents: Iterable[Any]) -> str:
    """What the Site says; else Podman, unless a Connector has a sense in a cluster only."""
    documents = list(documents)
    for site in of(documents, "Site"):
        if told := as_map(as_map(site.get("metadata")).get("annotations")).get(sk.PLATFORM):
            return str(told)
    connectors = [spec_of(d) for d in of(documents, "Connector")]
    selects = any(c.get("selector") for c in connectors) and not any(c.get("host") for c in connectors)
    return "kubernetes" if selects else "podman"


def documents_in(data: bytes) -> list[Any]:
    """The documents of a YAML text as far as it can be read."""
    return load(data)[0]


def load(data: bytes) -> tuple[list[Any], str]:
    """The documents of a YAML text, and what is wrong with it."""
    try:
        return [d for d in yaml.safe_load_all(data.decode()) if d is not None], ""
    except UnicodeDecodeError:
        return [], "is not UTF-8"
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        return [], f"is no YAML{f' (line {mark.line + 1})' if mark else ''}"
