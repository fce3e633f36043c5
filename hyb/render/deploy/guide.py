"""APPLY.md: which command to run where. Pure text from the facts; no path of this machine, no time."""

from __future__ import annotations

from hyb.render.deploy.base import SECRETS
from hyb.render.deploy.facts import DeployFacts

TITLES = {
    "openshift": "OpenShift",
    "nginx": "Kubernetes with an NGINX ingress controller",
    "gateway": "Kubernetes with a Gateway",
    "loadbalancer": "Kubernetes with a load balancer",
}


def guide(facts: DeployFacts) -> str:
    """The whole APPLY.md."""
    ways = [_way(facts, overlay) for overlay in facts.overlays]
    more = [*([] if facts.has_proxy else [_host(facts)]), *([_monitoring(facts)] if facts.monitoring else [])]
    return "\n".join([_top(facts), _secrets(facts), *ways, _check(facts), *more])


def _top(facts: DeployFacts) -> str:
    if facts.model_in_cluster:
        before = f"The model `{facts.model_host}` must run in the namespace."
    else:
        before = f"First the link must be applied: its Listener makes the Service `{facts.model_host}`."
    return f"""\
# Apply the chat page `{facts.name}`

The page is `https://{facts.host}/`, its pods run in the namespace `{facts.namespace}`, and they call
`http://{facts.model_host}:{facts.model_port}`. {before}

No file here holds a secret: they can be committed. Write them anew rather than edit them; changes of your own belong
into an overlay beside this folder.
"""


def _secrets(facts: DeployFacts) -> str:
    make = "kubectl create secret"
    n = f"-n {facts.namespace}"
    lines = [f"{make} generic {facts.key_secret} {n} --from-file=api-key=KEYFILE"]
    notes = ["KEYFILE holds the model's API key, one line."]
    if facts.model_secret:
        lines, notes = [], [f"`{facts.model_secret}`, with the model's key, is the model's own and there already."]
    if facts.sign_in == "code":
        lines.append(f"{make} generic {facts.code_secret} {n} --from-file=access-code=CODEFILE")
        notes.append("CODEFILE holds the access code, 8 characters or more.")
    if facts.has_proxy:
        client = " --from-file=client-secret=CLIENTFILE" if facts.sign_in == "oidc" else ""
        lines.append("(umask 077; openssl rand -hex 16 | tr -d '\\n' > COOKIEFILE)")
        lines.append(f"{make} generic {facts.sign_in_secret} {n} --from-file=cookie-secret=COOKIEFILE{client}")
    if facts.sign_in == "oidc":
        notes.append(f"CLIENTFILE holds the secret of the client `{facts.oidc_client}`, without a line's end.")
        notes.append(f"The issuer must know the address `https://{facts.host}/oauth2/callback`.")
    if facts.tls_secret or {"nginx", "loadbalancer"} & set(facts.overlays):
        lines.append(f"{make} tls {facts.public_secret} {n} --cert=CERTFILE --key=TLSFILE")
        notes.append(f"CERTFILE and TLSFILE are certificate and key of `{facts.host}`.")
    if facts.pull_secret:
        lines.append(f"{make} generic {facts.pull_secret} {n} --type=kubernetes.io/dockerconfigjson \\")
        lines.append("  --from-file=.dockerconfigjson=AUTHFILE")
        notes.append("AUTHFILE is the registry's, as `podman login --authfile` writes it.")
    told, text = "\n".join(notes), "\n".join(f"    {line}" for line in lines)
    return f"## 1. Secrets\n\nOnce, from files of mode 0600, with `kubectl` or `oc`.\n{told}\n\n{text}\n"


def _way(facts: DeployFacts, overlay: str) -> str:
    command = "oc" if overlay == "openshift" else "kubectl"
    return f"""\
## 2. {TITLES[overlay]}

{WAYS[overlay](facts)}

    {command} apply -k overlays/{overlay}
    {command} rollout status deployment/{facts.name} -n {facts.namespace}
"""


def _openshift(facts: DeployFacts) -> str:
    if facts.tls_secret:
        own = f"The Route takes its certificate from the Secret `{facts.tls_secret}` (OpenShift 4.19 or newer)."
    else:
        own = f"The router's own certificate must be good for `{facts.host}`; if not, give hyb `--tls-secret`."
    return (
        f"{own}\nThe ingress controllers must run in the network of pods. Where they run in the hosts' (bare metal),"
        "\n`networkpolicy-entrance` and `networkpolicy-links` need one more namespace, that with the label"
        "\n`policy-group.network.openshift.io/host-network`."
    )


def _nginx(facts: DeployFacts) -> str:
    legacy = "\n\n**ingress-nginx has had no support since March 2026: plan to leave it.**"
    return (
        f"The controller serves the class `{facts.ingress_class}` and runs in the namespace"
        f" `{facts.ingress_namespace}`:"
        f"\nfrom there alone the page can be reached.{legacy if facts.legacy_ingress_nginx else ''}"
    )


def _gateway(facts: DeployFacts) -> str:
    return (
        f"The Gateway `{facts.gateway_namespace}/{facts.gateway}` has a listener `{facts.gateway_listener}` for HTTPS,"
        f"\nwhich takes routes of this namespace for `{facts.host}`, and its pods run in `{facts.gateway_namespace}`."
        "\nLimits by client address are the Gateway's matter; the chat's own hold."
    )


def _loadbalancer(facts: DeployFacts) -> str:
    return f"`{facts.host}` must lead to the address of the Service `{facts.name}-public`. TLS ends in the pod."


WAYS = {"openshift": _openshift, "nginx": _nginx, "gateway": _gateway, "loadbalancer": _loadbalancer}


def _check(facts: DeployFacts) -> str:
    ready = "the process lives" if facts.page_only else "the model answers"
    n = f"-n {facts.namespace}"
    closed = "404, or the sign-in" if facts.has_proxy else "404"
    return f"""\
## 3. Check

    kubectl get pods {n} -l app.kubernetes.io/instance={facts.name}    # ready: {ready}
    curl -sS https://{facts.host}/api/status
    curl -sS -o /dev/null -w '%{{http_code}}\\n' https://{facts.host}/metrics    # {closed}
    kubectl run stranger {n} --rm -i --restart=Never --image=IMAGE_WITH_CURL -- \\
      curl -m 5 http://{facts.model_host}:{facts.model_port}/v1/models    # must time out

`kubectl logs {n} deployment/{facts.name} -c chat` says why the model can't be reached.
"""


def _host(facts: DeployFacts) -> str:
    secrets = [(facts.key_secret, "KEYFILE", "model/api-key")]
    secrets += [(facts.code_secret, "CODEFILE", "access/access-code")] if facts.sign_in == "code" else []
    make = "".join(f"    podman secret create {name} {file}\n" for name, file, _ in secrets)
    give = "".join(f"      --secret {name},target={SECRETS}/{path},mode=0444 \\\n" for name, _, path in secrets)
    return f"""\
## 4. Or a host without a cluster

`host/nginx.conf` goes to `/etc/nginx/conf.d/{facts.name}.conf`, certificate and key to
`/etc/nginx/tls/{facts.host}.crt` and `.key`; then `nginx -t && systemctl reload nginx`.
The chat runs behind it on loopback, with `host/chat.env`:

{make}    podman run -d --name {facts.name} --network=host --read-only --cap-drop=all \\
      --security-opt=no-new-privileges --env-file host/chat.env \\
{give}      {facts.image}

There the model answers at `127.0.0.1:{facts.model_port}`: a Skupper Listener, or the model itself.
"""


def _monitoring(facts: DeployFacts) -> str:
    secret = f" (Secret `{facts.name}-observer`, entry `htpasswd`, by `htpasswd -B -c`)"
    password = "" if "openshift" in facts.overlays else secret
    return f"""\
## Monitoring

The overlays bring it along: Prometheus in the namespace `{facts.monitoring}` measures the page and Skupper's
router, and has the alerts. On OpenShift, user workload monitoring must be on. Grafana: its sidecar finds the ConfigMap
`{facts.name}-dashboard`, or import `monitoring/dashboard.json`.

`monitoring/private-host/` is for a Prometheus on the private host, and `monitoring/observer/` shows the traffic of all
sites to who signs in. With Red Hat's operator, or with the Helm chart{password}:

    kubectl apply -f monitoring/observer/networkobserver.yaml
    helm install skupper-network-observer oci://quay.io/skupper/helm/network-observer --version 2.2.1 \\
      -n {facts.namespace} -f monitoring/observer/values.yaml
"""
