"""The chat page in a cluster, as a folder for kustomize, and NGINX for a host that has none.

    facts       all that the documents say, as plain data
    base        Deployment, Service, ServiceAccount, ConfigMap, HorizontalPodAutoscaler, PodDisruptionBudget
    policies    who may reach whom
    route, ingress, gateway, loadbalancer    the four ways in, an overlay each
    signin      the proxy in the chat's pod that asks people who they are
    nginx       one description of NGINX: a site on a host, or the container that ends TLS in the pod
    kustomize   which file says what: the whole folder

Pure. Secrets are named and never written. No time, no random name: the same facts give the same bytes.
"""
