"""A tuning run as a Kubeflow TrainJob (Trainer 2.2 or newer), for several hosts or OpenShift.

The runtime is `torch-distributed`, which every installation of Kubeflow Trainer has: its job and its container are
called `node`, and it tells torchrun by PET_… variables how many processes there are and where the first one is. The
worker, its job.json and its image are those of a run on one host. Model, rows, checkpoints and the result stand on one
volume that all pods mount; so a job that was evicted goes on from its last checkpoint. The pods see each other, the
cluster's DNS, and nothing else.

Written for OpenShift's restricted-v2: no user id (OpenShift gives one), no capability, nothing writable but the volume
and scratch. Source: the API reference of trainer.kubeflow.org/v1alpha1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyb.render.dump import Document
from hyb.render.names import label_problem
from hyb.render.unit import GPU, reference_mistake

RUNTIME = "torch-distributed"
VOLUME = "/volume"
JOB = "/job"
LABEL = "io.hyb.tune"
SCRATCH = "/tmp"


@dataclass(frozen=True)
class TuneUnit:
    """`job`: the worker's job.json, its paths on `VOLUME`. `gpus`: of each of `nodes` pods; 0: two CPUs. `memory`:
    bytes of each pod."""

    name: str
    image: str
    claim: str
    job: Mapping[str, Any]
    nodes: int = 1
    gpus: int = 1
    processes: int = 1
    memory: int = 8 << 30
    env: Mapping[str, str] = field(default_factory=dict)


def mistakes(unit: TuneUnit) -> list[str]:
    """What a cluster would refuse."""
    named = [m for m in (label_problem(unit.name), label_problem(unit.claim), reference_mistake(unit.image)) if m]
    if not 1 <= unit.nodes <= 1000:
        named.append(f"{unit.nodes} pods: from 1 to 1000")
    return named


def documents(unit: TuneUnit) -> list[Document]:
    """ConfigMap with the job, NetworkPolicy and TrainJob, in the order in which they are applied."""
    return [_config(unit), _policy(unit), _trainjob(unit)]


def _metadata(unit: TuneUnit) -> dict[str, Any]:
    return {"name": unit.name, "labels": _labels(unit)}


def _labels(unit: TuneUnit) -> dict[str, str]:
    return {"app.kubernetes.io/name": unit.name, "app.kubernetes.io/managed-by": "hyb", LABEL: unit.name}


def _config(unit: TuneUnit) -> Document:
    text = json.dumps(unit.job, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(unit), "data": {"job.json": text}}


def _policy(unit: TuneUnit) -> Document:
    own = {"podSelector": {"matchLabels": {LABEL: unit.name}}}
    names = [{"protocol": p, "port": n} for n in (53, 5353) for p in ("UDP", "TCP")]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(unit),
        "spec": {
            "podSelector": {"matchLabels": {LABEL: unit.name}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [own]}],
            "egress": [{"to": [own]}, {"to": [{"namespaceSelector": {}}], "ports": names}],
        },
    }


def _trainjob(unit: TuneUnit) -> Document:
    amounts = {"memory": str(unit.memory), **({GPU: str(unit.gpus)} if unit.gpus else {"cpu": "2"})}
    env = {**unit.env, "HOME": SCRATCH, "XDG_CACHE_HOME": f"{SCRATCH}/.cache"}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(unit),
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": RUNTIME},
            "trainer": {
                "image": unit.image,
                "command": ["python3", "-P", "-m", "torch.distributed.run"],
                "args": ["-m", "hyb.workers.sft", f"{JOB}/job.json"],
                "env": [{"name": k, "value": v} for k, v in sorted(env.items())],
                "numNodes": unit.nodes,
                "numProcPerNode": unit.processes,
                "resourcesPerNode": {"requests": dict(amounts), "limits": dict(amounts)},
            },
            "runtimePatches": [{"manager": "hyb.io/tune", "trainingRuntimeSpec": {"template": {"spec": _patch(unit)}}}],
        },
    }


def _patch(unit: TuneUnit) -> dict[str, Any]:
    """What the pods have beyond the runtime's own: the volume, the job, scratch, and less rights."""
    mounts = {"work": VOLUME, "job": JOB, "scratch": SCRATCH, "shm": "/dev/shm"}
    container = {
        "name": "node",
        "volumeMounts": [
            {"name": n, "mountPath": p, **({"readOnly": True} if n == "job" else {})} for n, p in mounts.items()
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    volumes: list[dict[str, Any]] = [
        {"name": "work", "persistentVolumeClaim": {"claimName": unit.claim}},
        {"name": "job", "configMap": {"name": unit.name}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},  # NCCL's
    ]
    pod = {
        "metadata": {"labels": _labels(unit)},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": volumes,
        },
    }
    return {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": pod}}}]}


def guide(unit: TuneUnit, model: str, data: str, command: str) -> str:
    """What a person does with the folder. `model`, `data`: names in the store; `command`: that takes the result."""
    return f"""# Tune `{unit.name}` in a cluster

The cluster needs Kubeflow Trainer 2.2 or newer with its runtime `{RUNTIME}`, and a PersistentVolumeClaim
`{unit.claim}` that {"all pods can write (ReadWriteMany)" if unit.nodes > 1 else "a pod can write"}.
The image is `{unit.image}`.

1. Put model and rows on the volume, by way of any pod that mounts it at `{VOLUME}` (here `loader`):

       hyb show {model} --out model
       hyb show {data} --out data
       oc cp model loader:{VOLUME}/model
       oc cp data loader:{VOLUME}/data

2. Start it, and look at it:

       oc apply -f trainjob.yaml
       oc get trainjob {unit.name}
       oc logs -f -l {LABEL}={unit.name} --prefix

   A pod that was evicted goes on from the last checkpoint in `{VOLUME}/checkpoints`. It has ended well when
   `{VOLUME}/done.json` is there.

3. Take the result into the store of this host. It is refused when base, rows or settings were others:

       oc cp loader:{VOLUME}/out out
       oc cp loader:{VOLUME}/done.json done.json
       {command}
"""
