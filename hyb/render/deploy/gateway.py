"""The way in through a Gateway that the cluster has: an HTTPRoute (Gateway API v1), on its listener for HTTPS alone.

The Gateway's TLS, its redirect from plain HTTP and limits by client address are its owner's: the API has no field for
them here. The chat's own limits hold. Source: https://gateway-api.sigs.k8s.io/reference/spec/
"""

from __future__ import annotations

from hyb.render.deploy.base import meta
from hyb.render.deploy.facts import ANSWER_SECONDS, DeployFacts
from hyb.render.dump import Document


def documents(facts: DeployFacts) -> dict[str, Document]:
    """File name → document."""
    parent = {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "namespace": facts.gateway_namespace,
        "name": facts.gateway,
        "sectionName": facts.gateway_listener,
    }
    port = 443 if facts.ends_tls("gateway") else 80
    backend = {"group": "", "kind": "Service", "name": facts.name, "port": port, "weight": 1}
    wait = f"{ANSWER_SECONDS}s"
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "timeouts": {"request": wait, "backendRequest": wait},
        "backendRefs": [backend],
    }
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": meta(facts),
        "spec": {"parentRefs": [parent], "hostnames": [facts.host], "rules": [rule]},
    }
    return {"httproute.yaml": route}
