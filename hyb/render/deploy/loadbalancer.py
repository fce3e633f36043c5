"""The way in by a Service of type LoadBalancer: packets come to the pod as they are, so TLS ends there.

`externalTrafficPolicy: Local` keeps the clients' addresses, which the limits count by.
"""

from __future__ import annotations

from hyb.render.deploy.base import meta
from hyb.render.deploy.facts import DeployFacts
from hyb.render.dump import Document


def documents(facts: DeployFacts) -> dict[str, Document]:
    """File name → document."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(facts, f"{facts.name}-public"),
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": facts.select,
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": "door"}],
        },
    }
    return {"service-public.yaml": service}
