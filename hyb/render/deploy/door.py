"""What stands before the page in its own pod: the proxy that asks people to sign in, or NGINX that ends TLS.

It reaches the page on loopback, which is all that the chat then believes. The NetworkPolicies open only the port of the
door: nobody comes past it.
Sources: https://github.com/openshift/oauth-proxy; https://oauth2-proxy.github.io/oauth2-proxy/configuration/overview
"""

from __future__ import annotations

import json
from typing import Any

from hyb.render.deploy.base import DRAIN, GRACE, SECRETS, probe
from hyb.render.deploy.facts import ANSWER_SECONDS, DOOR_PORT, PEOPLE_PORT, DeployFacts
from hyb.render.kubernetes import LOCKED

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
UPSTREAM = f"http://127.0.0.1:{PEOPLE_PORT}"
TLS, SIGN_IN = f"{SECRETS}/tls", f"{SECRETS}/sign-in"
CONFIG = "/etc/hyb/nginx.conf"
COOKIE_HOURS = 12
OPEN_STILL = DRAIN + GRACE + 3
"""Seconds that the door stays open after its pod began to end, for the answers behind it (Kubernetes 1.30 or newer)."""


def container(facts: DeployFacts, overlay: str) -> dict[str, Any]:
    """The container, called by what it is."""
    door = facts.door(overlay)
    tls = facts.ends_tls(overlay)
    arguments = {"oauth-proxy": oauth_proxy, "oauth2-proxy": oauth2_proxy}
    command = ["nginx", "-e", "/dev/stderr", "-c", CONFIG, "-g", "daemon off;"]
    started = {"command": command} if door == "nginx" else {"args": arguments[door](facts, tls)}
    path = {"oauth-proxy": "/oauth/healthz", "oauth2-proxy": "/ping", "nginx": "/door"}[door]
    return {
        "name": door,
        "image": facts.nginx_image if door == "nginx" else facts.sign_in_image,
        "imagePullPolicy": "IfNotPresent",
        **started,
        **({"env": [_cookie_secret(facts)]} if door == "oauth2-proxy" else {}),
        "ports": [{"name": "door", "containerPort": DOOR_PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": dict(LOCKED),
        "readinessProbe": probe(path, "door", 5, 2, "HTTPS" if tls else "HTTP"),
        "livenessProbe": probe(path, "door", 20, 3, "HTTPS" if tls else "HTTP"),
        "lifecycle": {"preStop": {"sleep": {"seconds": OPEN_STILL}}},
        "volumeMounts": _mounts(facts, overlay),
    }


def _mounts(facts: DeployFacts, overlay: str) -> list[dict[str, Any]]:
    door = facts.door(overlay)
    paths = {"tls": TLS} if facts.ends_tls(overlay) else {}
    paths |= {"sign-in": SIGN_IN} if facts.has_proxy else {}
    paths |= {"token": TOKEN} if door == "oauth-proxy" else {}
    paths |= {"nginx": CONFIG.rpartition("/")[0]} if door == "nginx" else {}
    mounts = [{"name": name, "mountPath": path, "readOnly": True} for name, path in paths.items()]
    return [*mounts, {"name": "tmp", "mountPath": "/tmp"}] if door == "nginx" else mounts


def volumes(facts: DeployFacts, overlay: str) -> list[dict[str, Any]]:
    """Of the pod, for the door alone. The account's token is in no other container."""
    door = facts.door(overlay)
    found: list[dict[str, Any]] = []
    if facts.ends_tls(overlay):
        name = facts.serving_secret if overlay == "openshift" else facts.public_secret
        found.append({"name": "tls", "secret": {"secretName": name}})
    if facts.has_proxy:
        found.append({"name": "sign-in", "secret": {"secretName": facts.sign_in_secret}})
    if door == "oauth-proxy":
        found.append({"name": "token", "projected": {"sources": _token()}})
    if door == "nginx":
        found.append({"name": "nginx", "configMap": {"name": f"{facts.name}-nginx"}})
        found.append({"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}})
    return found


def _token() -> list[dict[str, Any]]:
    """What Kubernetes mounts by itself where a pod asks for its account's token."""
    field = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", **field}]}},
    ]


def _cookie_secret(facts: DeployFacts) -> dict[str, Any]:
    """Not a file: oauth2-proxy reads one from 7.12 on, and checked no cookie by it at first."""
    reference = {"name": facts.sign_in_secret, "key": "cookie-secret"}
    return {"name": "OAUTH2_PROXY_COOKIE_SECRET", "valueFrom": {"secretKeyRef": reference}}


def account_annotations(facts: DeployFacts) -> dict[str, str]:
    """Makes the ServiceAccount an OAuth client that may send people back to our Route."""
    reference = {
        "kind": "OAuthRedirectReference",
        "apiVersion": "v1",
        "reference": {"kind": "Route", "name": facts.name},
    }
    text = json.dumps(reference, separators=(",", ":"))
    return {f"serviceaccounts.openshift.io/oauth-redirectreference.{facts.name}": text}


def oauth_proxy(facts: DeployFacts, tls: bool) -> list[str]:  # noqa: ARG001 - it always ends TLS
    """Arguments of OpenShift's proxy: whoever has an account in the cluster may come in."""
    return [
        "--provider=openshift",
        f"--openshift-service-account={facts.name}",
        "--openshift-ca=/etc/pki/tls/cert.pem",
        f"--openshift-ca={TOKEN}/ca.crt",
        "--http-address=",
        f"--https-address=:{DOOR_PORT}",
        f"--tls-cert={TLS}/tls.crt",
        f"--tls-key={TLS}/tls.key",
        f"--upstream={UPSTREAM}",
        f"--upstream-timeout={ANSWER_SECONDS}s",
        "--proxy-websockets=false",
        "--email-domain=*",
        f"--cookie-secret-file={SIGN_IN}/cookie-secret",
        f"--cookie-expire={COOKIE_HOURS}h0m0s",
        "--cookie-samesite=lax",
        "--pass-user-headers=true",
        "--pass-basic-auth=false",
        "--pass-access-token=false",
        "--skip-provider-button=true",
    ]


def oauth2_proxy(facts: DeployFacts, tls: bool) -> list[str]:
    """Arguments of oauth2-proxy: whoever the issuer gives a token to may come in."""
    listen = [f"--http-address=0.0.0.0:{DOOR_PORT}"]
    if tls:
        listen = [
            "--http-address=",
            f"--https-address=0.0.0.0:{DOOR_PORT}",
            f"--tls-cert-file={TLS}/tls.crt",
            f"--tls-key-file={TLS}/tls.key",
            "--tls-min-version=TLS1.2",
        ]
    return [
        "--provider=oidc",
        f"--oidc-issuer-url={facts.oidc_issuer}",
        f"--client-id={facts.oidc_client}",
        f"--client-secret-file={SIGN_IN}/client-secret",
        f"--redirect-url=https://{facts.host}/oauth2/callback",
        "--code-challenge-method=S256",
        *listen,
        "--reverse-proxy=true",
        f"--upstream={UPSTREAM}/",
        f"--upstream-timeout={ANSWER_SECONDS}s",
        "--flush-interval=5ms",
        "--proxy-websockets=false",
        "--api-route=^/(api|v1)/",
        "--email-domain=*",
        f"--cookie-expire={COOKIE_HOURS}h",
        "--cookie-samesite=lax",
        "--cookie-secure=true",
        "--pass-user-headers=true",
        "--pass-basic-auth=false",
        "--skip-provider-button=true",
        "--request-logging=false",
    ]
