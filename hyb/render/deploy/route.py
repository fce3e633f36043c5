"""The way in on OpenShift: a Route. TLS ends at the router (`edge`) or goes on into the pod (`reencrypt`).

The chat sets the security headers; the router adds Strict-Transport-Security to its own answers, too.
Sources: OpenShift's routes.route.openshift.io; https://docs.redhat.com/en/documentation/openshift_container_platform/
("Configuring Routes": route-specific annotations)
"""

from __future__ import annotations

from typing import Any

from hyb.render.deploy.base import meta
from hyb.render.deploy.facts import ANSWER_SECONDS, DeployFacts
from hyb.render.dump import Document

HSTS = "max-age=31536000"
ANNOTATIONS = {
    "haproxy.router.openshift.io/timeout": f"{ANSWER_SECONDS}s",
    "haproxy.router.openshift.io/hsts_header": HSTS,
    "haproxy.router.openshift.io/balance": "leastconn",
    "haproxy.router.openshift.io/disable_cookies": "true",
    "haproxy.router.openshift.io/rate-limit-connections": "true",
    "haproxy.router.openshift.io/rate-limit-connections.concurrent-tcp": "50",
    "haproxy.router.openshift.io/rate-limit-connections.rate-http": "100",
    "haproxy.router.openshift.io/rate-limit-connections.rate-tcp": "100",
}
"""The limits are of one client address: connections at once, and requests and new connections in three seconds."""


def documents(facts: DeployFacts) -> dict[str, Document]:
    """File name → document."""
    found = {"route.yaml": route(facts)}
    return {**found, **_may_read_certificate(facts)} if facts.tls_secret else found


def route(facts: DeployFacts) -> Document:
    """The Route; plain HTTP is sent on to HTTPS."""
    tls: dict[str, Any] = {
        "termination": "reencrypt" if facts.ends_tls("openshift") else "edge",
        "insecureEdgeTerminationPolicy": "Redirect",
    }
    if facts.tls_secret:
        tls["externalCertificate"] = {"name": facts.tls_secret}
    return {
        "apiVersion": "route.openshift.io/v1",
        "kind": "Route",
        "metadata": meta(facts, annotations=ANNOTATIONS),
        "spec": {
            "host": facts.host,
            "to": {"kind": "Service", "name": facts.name, "weight": 100},
            "port": {"targetPort": "web"},
            "tls": tls,
            "wildcardPolicy": "None",
        },
    }


def _may_read_certificate(facts: DeployFacts) -> dict[str, Document]:
    """The router's right to read the Secret that the Route names, and no other."""
    name = f"{facts.name}-router-certificate"
    api = "rbac.authorization.k8s.io"
    rule = {
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": [facts.tls_secret],
        "verbs": ["get", "list", "watch"],
    }
    subject = {"kind": "ServiceAccount", "name": "router", "namespace": "openshift-ingress"}
    return {
        "role.yaml": {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": meta(facts, name), "rules": [rule]},
        "rolebinding.yaml": {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": meta(facts, name),
            "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    }
