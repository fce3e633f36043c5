"""The chat page in a cluster, as a folder for kustomize, and NGINX for a host that has none.

    facts       all that the documents say, as plain data
    base        Deployment, Service, ServiceAccount, ConfigMap, HorizontalPodAutoscaler, PodDisruptionBudget
    policies    who may reach whom
    route, ingress, gateway, loadbalancer    the four ways in, an overlay each
    door        what stands before the page in its pod: a proxy that asks people to sign in, or NGINX that ends TLS
    nginx       one description of NGINX: a site on a host, or that container
    kustomize   which file says what: the whole folder
    guide       APPLY.md

Pure. Secrets are named and never written. No time, no random name: the same facts give the same bytes.
"""
