"""The way in through an NGINX ingress controller: F5's by default (`nginx.org/…`).

The controller of the Kubernetes project, ingress-nginx, has had no support since March 2026; its annotations are
written only where that is asked for. Neither set has snippets: both controllers refuse them unless told otherwise.
Sources: https://docs.nginx.com/nginx-ingress-controller/ ("Advanced configuration with Annotations");
https://kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations/
"""

from __future__ import annotations

from hyb.render.deploy.base import meta
from hyb.render.deploy.facts import ANSWER_SECONDS, BODY_BYTES, BURST, RATE, DeployFacts
from hyb.render.dump import Document

F5 = {
    "nginx.org/proxy-buffering": "False",
    "nginx.org/proxy-connect-timeout": "5s",
    "nginx.org/proxy-read-timeout": f"{ANSWER_SECONDS}s",
    "nginx.org/proxy-send-timeout": f"{ANSWER_SECONDS}s",
    "nginx.org/proxy-next-upstream": "off",
    "nginx.org/keepalive": "16",
    "nginx.org/client-max-body-size": f"{BODY_BYTES >> 10}k",
    "nginx.org/limit-req-rate": f"{RATE}r/s",
    "nginx.org/limit-req-key": "${binary_remote_addr}",
    "nginx.org/limit-req-zone-size": "10m",
    "nginx.org/limit-req-burst": str(BURST),
    "nginx.org/limit-req-no-delay": "true",
    "nginx.org/limit-req-reject-code": "429",
    "nginx.org/ssl-redirect": "True",
    "nginx.org/http-redirect-code": "308",
    "nginx.org/server-tokens": "False",
}
"""Streams pass as they come; a question is sent once and never again to another pod."""
LEGACY = {
    "nginx.ingress.kubernetes.io/proxy-buffering": "off",
    "nginx.ingress.kubernetes.io/proxy-connect-timeout": "5",
    "nginx.ingress.kubernetes.io/proxy-read-timeout": str(ANSWER_SECONDS),
    "nginx.ingress.kubernetes.io/proxy-send-timeout": str(ANSWER_SECONDS),
    "nginx.ingress.kubernetes.io/proxy-next-upstream": "off",
    "nginx.ingress.kubernetes.io/proxy-body-size": f"{BODY_BYTES >> 10}k",
    "nginx.ingress.kubernetes.io/limit-rps": str(RATE),
    "nginx.ingress.kubernetes.io/limit-burst-multiplier": str(BURST // RATE),
    "nginx.ingress.kubernetes.io/limit-connections": "50",
    "nginx.ingress.kubernetes.io/ssl-redirect": "true",
    "nginx.ingress.kubernetes.io/force-ssl-redirect": "true",
}


def documents(facts: DeployFacts) -> dict[str, Document]:
    """File name → document. Security headers, HSTS among them, are the chat's: once, whatever the controller."""
    backend = {"service": {"name": facts.name, "port": {"name": "web"}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": meta(facts, annotations=LEGACY if facts.legacy_ingress_nginx else F5),
        "spec": {
            "ingressClassName": facts.ingress_class,
            "tls": [{"hosts": [facts.host], "secretName": facts.public_secret}],
            "rules": [{"host": facts.host, "http": {"paths": [path]}}],
        },
    }
    return {"ingress.yaml": ingress}
