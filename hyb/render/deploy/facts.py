"""All that the documents of a deployed chat page say, and the few names that several of them share."""

from __future__ import annotations

from dataclasses import dataclass

OVERLAYS = ("openshift", "nginx", "gateway", "loadbalancer")
"""The ways from the internet to the page; each is a folder `overlays/NAME`."""
SIGN_IN = ("none", "code", "openshift", "oidc")
TLS = ("edge", "reencrypt")
ACCESS = ("route", "loadbalancer", "ingress-nginx", "nodeport", "local")
"""Skupper's access types: how the private host's router reaches the one in the namespace."""

PEOPLE_PORT, CLUSTER_PORT, DOOR_PORT = 8080, 9090, 8443
"""Of the pod: the page; probes and metrics; the container before the page that ends TLS or asks people who they are."""
ROUTER_PORTS = (1024, 5670)
"""Where Skupper puts listeners on its router's pods, whatever the Service's port: it counts up from 1024. The router's
own ports lie above: 5671 AMQP, 9090 metrics, 45671 and 55671 links."""
ROUTER_AMQP = 5671
LINK_PORTS = (55671, 45671)
"""Where the router listens for links: inter-router, edge."""
ROUTER = {"app.kubernetes.io/name": "skupper-router", "skupper.io/component": "router"}
"""Labels of Skupper's router pods."""
OPENSHIFT_INGRESS = (
    {"network.openshift.io/policy-group": "ingress"},
    {"policy-group.network.openshift.io/ingress": ""},
)
"""Labels of the namespace with OpenShift's ingress controllers; both forms are in use."""
OPENSHIFT_PODS = ("10.128.0.0/14",)
"""OpenShift's default network of pods."""
ANSWER_SECONDS = 610
"""A little longer than the chat's own limit for one answer: it's the chat that says so, and not a proxy that cuts."""
BODY_BYTES = 256 << 10
"""The chat's own limit for a request."""
RATE, BURST = 10, 40
"""Requests of one client a second, and how many more at once: a page is nine, and people have tabs."""


@dataclass(frozen=True)
class DeployFacts:
    """One chat page. Names are RFC 1123 labels, images are whole references by digest."""

    namespace: str
    image: str
    """The chat's (containers/chat)."""
    host: str
    """The name that people type: DNS, no wildcard, no address."""
    name: str = "chat"
    """Of everything here; the Service of the page, too."""
    model_host: str = "llm"
    """The Service that the chat calls: the link's Listener, or a served model in the same namespace."""
    model_port: int = 8000
    model: str = ""
    """Name of the model to ask for; "": the first that its server lists."""
    model_in_cluster: bool = False
    """The model's pods are in the namespace themselves (`hyb serve`, target kubernetes): no router is between."""
    model_secret: str = ""
    """Secret with the model's API key (entry `api-key`) where one is there already; "": `NAME-model-key`."""
    access: str = "route"
    """How links come in (one of ACCESS); says who may reach the router's link ports."""
    title: str = "Chat"
    note: str = ""
    openai: bool = False
    """Programs may use the chat's OpenAI pass-through."""
    sign_in: str = "none"
    sign_in_image: str = ""
    """oauth-proxy or oauth2-proxy; for `openshift` and `oidc`."""
    oidc_issuer: str = ""
    oidc_client: str = ""
    overlays: tuple[str, ...] = ("openshift",)
    tls: str = "edge"
    """Where the Route's TLS ends: `edge` at the router, `reencrypt` in the pod, too."""
    tls_secret: str = ""
    """Secret (kubernetes.io/tls) with the certificate of `host`; "": a Route uses the router's, others `NAME-tls`."""
    pull_secret: str = ""
    """Secret (kubernetes.io/dockerconfigjson) for a registry that asks who pulls."""
    nginx_image: str = ""
    """An NGINX that runs without root; ends TLS in the pod where no sign-in proxy does."""
    pod_network: tuple[str, ...] = ()
    """Networks of the cluster's pods: the ingress controllers there are believed when they say who asks."""
    ingress_class: str = ""
    ingress_namespace: str = "nginx-ingress"
    """Where the NGINX ingress controller's pods are."""
    legacy_ingress_nginx: bool = False
    """Annotations of ingress-nginx, which has had no support since March 2026."""
    gateway: str = ""
    gateway_namespace: str = ""
    gateway_listener: str = "https"
    parallel: int = 2
    """Questions that one pod lets through to the model at once."""
    replicas: int = 2
    """Pods at least."""
    max_replicas: int = 4
    page_only: bool = False
    """Pods are ready while the model is away: people see the page that says so, in place of the proxy's error."""
    monitoring: str = ""
    """Namespace of the Prometheus that measures the page; "": the overlays take no component `monitoring`."""

    @property
    def select(self) -> dict[str, str]:
        """Labels that pick the chat's pods, for ever: a Deployment's selector can't be changed."""
        return {"app.kubernetes.io/name": "hyb-chat", "app.kubernetes.io/instance": self.name}

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object."""
        more = {"app.kubernetes.io/component": "chat", "app.kubernetes.io/part-of": "hyb"}
        return {**self.select, **more, "app.kubernetes.io/managed-by": "hyb"}

    @property
    def key_secret(self) -> str:
        """Secret with the model's API key, entry `api-key`."""
        return self.model_secret or f"{self.name}-model-key"

    @property
    def code_secret(self) -> str:
        """Secret with the access code, entry `access-code`."""
        return f"{self.name}-access-code"

    @property
    def sign_in_secret(self) -> str:
        """Secret of the sign-in proxy: `cookie-secret`, and for OIDC `client-secret`."""
        return f"{self.name}-sign-in"

    @property
    def public_secret(self) -> str:
        """Secret with the certificate of `host`, where it is ours to give."""
        return self.tls_secret or f"{self.name}-tls"

    @property
    def serving_secret(self) -> str:
        """Secret with the certificate that OpenShift's service CA makes for the Service."""
        return f"{self.name}-serving-cert"

    @property
    def has_proxy(self) -> bool:
        """True when a proxy in the pod asks people to sign in."""
        return self.sign_in in ("openshift", "oidc")

    def ends_tls(self, overlay: str) -> bool:
        """True when TLS ends in the pod."""
        return overlay == "loadbalancer" or self.sign_in == "openshift" or self._reencrypts(overlay)

    def _reencrypts(self, overlay: str) -> bool:
        return overlay == "openshift" and self.tls == "reencrypt"

    def door(self, overlay: str) -> str:
        """The container before the page: `oauth-proxy`, `oauth2-proxy`, `nginx`, or "" for none."""
        if self.has_proxy:
            return "oauth-proxy" if self.sign_in == "openshift" else "oauth2-proxy"
        return "nginx" if self.ends_tls(overlay) else ""

    def web_port(self, overlay: str) -> int:
        """Port of the pod that the way in leads to."""
        return DOOR_PORT if self.door(overlay) else PEOPLE_PORT
