"""Deployments as tests use them: some facts, and what kustomize makes of their folder."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from hyb.render.deploy.facts import OVERLAYS, DeployFacts
from hyb.render.deploy.kustomize import folder

DIGEST = "@sha256:" + "a" * 64
PLAIN = DeployFacts(namespace="chat", image=f"registry.example.com/hyb-chat{DIGEST}", host="chat.example.com")
ALL = replace(
    PLAIN, overlays=OVERLAYS, ingress_class="nginx", gateway="public", gateway_namespace="gateways",
    nginx_image=f"registry.example.com/nginx{DIGEST}", pod_network=("10.244.0.0/16",), sign_in="code", tls="reencrypt",
    tls_secret="page-certificate", title="Ask the lab", note="Don't tell it secrets: yes, no", openai=True, model="bot",
)  # fmt: skip
OPENSHIFT = replace(PLAIN, sign_in="openshift", sign_in_image=f"registry.example.com/oauth-proxy{DIGEST}")
OIDC = replace(
    ALL, sign_in="oidc", sign_in_image=f"registry.example.com/oauth2-proxy{DIGEST}", openai=False, tls="edge",
    oidc_issuer="https://login.example.com/realms/lab", oidc_client="chat", nginx_image="", tls_secret="",
)  # fmt: skip
LEGACY = replace(
    PLAIN, overlays=("nginx",), ingress_class="nginx", ingress_namespace="ingress-nginx", legacy_ingress_nginx=True,
    pod_network=("10.244.0.0/16",), page_only=True, name="page",
)  # fmt: skip
IN_CLUSTER = replace(PLAIN, model_in_cluster=True, model_host="bot", model_secret="bot-api-key")
FACTS = {
    "plain": PLAIN, "all": ALL, "openshift": OPENSHIFT, "oidc": OIDC, "legacy": LEGACY, "in-cluster": IN_CLUSTER,
}  # fmt: skip
BUILDS = [(name, overlay) for name, facts in FACTS.items() for overlay in facts.overlays]
Documents = list[dict[str, Any]]


def build(files: Mapping[str, str], overlay: str) -> Documents:
    """What `kustomize build overlays/NAME` makes, as far as our folders use it: resources and three kinds of patch.

    A resource that does not exist, a patch without its one target: AssertionError.
    """
    return _build(files, f"overlays/{overlay}")


@functools.cache
def built(name: str, overlay: str) -> Documents:
    """The same of the facts called `name`, once; not to be changed."""
    return build(folder(FACTS[name]), overlay)


def _build(files: Mapping[str, str], folder: str) -> Documents:
    listed = yaml.safe_load(files[f"{folder}/kustomization.yaml"])
    assert set(listed) <= {"apiVersion", "kind", "resources", "components", "patches"}
    found: Documents = []
    for name in listed["resources"]:
        path = os.path.normpath(f"{folder}/{name}")
        found += _build(files, path) if f"{path}/kustomization.yaml" in files else [_one(files[path])]
    for patch in listed.get("patches", []):
        kind, name = patch["target"]["kind"], patch["target"]["name"]
        (target,) = [d for d in found if (d["kind"], d["metadata"]["name"]) == (kind, name)]
        change = _one(files[f"{folder}/{patch['path']}"])
        patched = _operations(target, change) if isinstance(change, list) else _merged(target, change)
        found[found.index(target)] = patched
    return found


def _one(text: str) -> Any:
    (document,) = yaml.safe_load_all(text)
    return document


def _operations(document: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    result = copy.deepcopy(document)
    for operation in operations:
        *way, last = operation["path"].strip("/").split("/")
        place: Any = result
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        key: Any = int(last) if isinstance(place, list) else last
        assert operation["op"] == ("replace" if isinstance(place, list) or key in place else "add")
        place[key] = operation["value"]
    return result


def _merged(old: Any, new: Any) -> Any:
    """Strategic merge, for lists whose items are known by their name."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {k: _merged(old[k], new[k]) if k in old and k in new else new.get(k, old.get(k)) for k in {**old, **new}}
    if isinstance(old, list) and isinstance(new, list):
        names = {item["name"]: item for item in old}
        return [*(_merged(names[n], i) if (n := i["name"]) in names else i for i in new)] + [
            item for item in old if item["name"] not in {i["name"] for i in new}
        ]
    return new


def pod_of(documents: Documents) -> dict[str, Any]:
    """The pod template of the one Deployment."""
    (deployment,) = [d for d in documents if d["kind"] == "Deployment"]
    template: dict[str, Any] = deployment["spec"]["template"]
    return template


def ordered(documents: Documents) -> list[str]:
    """Documents that can be compared whatever the order of keys, documents and of lists of named things."""

    def sorted_(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: sorted_(v) for k, v in value.items()}
        if isinstance(value, list):
            items = [sorted_(v) for v in value]
            return (
                sorted(items, key=lambda i: i["name"])
                if all(isinstance(i, dict) and "name" in i for i in items)
                else items
            )
        return value

    return sorted(json.dumps(sorted_(d), sort_keys=True) for d in documents)
