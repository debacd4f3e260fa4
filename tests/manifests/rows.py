"""The table of who reaches whom: each row holds in every composition of the manifests.

A row names the components of which any one opens it; ALWAYS is open with the base alone, NEVER
stays closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.manifests.network import End, Json, allowed

ALWAYS, NEVER = ("base",), ()
RUN = {
    "pipelines.kubeflow.org/v2_component": "true",
    "workflows.argoproj.io/workflow": "ratchet-demo-x7k2p",
}
NODE = {
    "jobset.sigs.k8s.io/jobset-name": "ratchet-0a1b",
    "jobset.sigs.k8s.io/replicatedjob-name": "node",
    "app.kubernetes.io/part-of": "ratchet",
    "app.kubernetes.io/component": "train",
}
STORE = {
    "app.kubernetes.io/name": "ratchet-store",
    "app.kubernetes.io/part-of": "ratchet",
}
GC = {"app.kubernetes.io/name": "ratchet-gc", "app.kubernetes.io/part-of": "ratchet"}
MODEL = {
    "app.kubernetes.io/name": "ratchet-serve",
    "app.kubernetes.io/part-of": "ratchet",
}


def _pod(
    number: int, labels: dict[str, str], namespace: str = "ratchet", **of_namespace: str
) -> End:
    namespace_labels = {"kubernetes.io/metadata.name": namespace, **of_namespace}
    return End(f"10.244.1.{number}", namespace, labels, namespace_labels)


ENDS = {
    "run": _pod(1, RUN),
    "another run": _pod(2, RUN),
    "node": _pod(3, NODE),
    "another node": _pod(4, NODE),
    "store": _pod(5, STORE),
    "model": _pod(6, MODEL),
    "stray pod": _pod(7, {}),
    "gc": _pod(8, GC),
    "kubeflow's API": _pod(20, {"app": "ml-pipeline"}, "kubeflow"),
    "kubeflow's metadata": _pod(21, {"component": "metadata-grpc-server"}, "kubeflow"),
    "kubeflow's store": _pod(22, {"app": "seaweedfs"}, "kubeflow"),
    "kubeflow's database": _pod(23, {"app": "mysql"}, "kubeflow"),
    "model registry": _pod(24, {"component": "model-registry-server"}, "kubeflow"),
    "an API of that name elsewhere": _pod(25, {"app": "ml-pipeline"}, "other"),
    "DNS": _pod(30, {"k8s-app": "kube-dns"}, "kube-system"),
    "OpenShift's DNS": _pod(
        32, {"dns.operator.openshift.io/daemonset-dns": "default"}, "openshift-dns"
    ),
    "another system pod": _pod(31, {"k8s-app": "metrics-server"}, "kube-system"),
    "prometheus": _pod(40, {"app.kubernetes.io/name": "prometheus"}, "monitoring"),
    "grafana": _pod(41, {"app.kubernetes.io/name": "grafana"}, "monitoring"),
    "client": _pod(50, {}, "frontend", **{"ratchet.dev/client": "true"}),
    "stranger": _pod(51, RUN, "other"),
    "Kubernetes API": End("10.96.0.1"),
    "Kubernetes API on its node": End("172.18.0.2"),
    "node-local DNS": End("169.254.20.10"),
    "cloud's metadata": End("169.254.169.254"),
    "internet": End("52.216.10.10"),
    "intranet": End("192.168.7.7"),
}


class Row(NamedTuple):
    """One connection, and what opens it."""

    source: str
    target: str
    port: int
    opened_by: tuple[str, ...]
    protocol: str = "TCP"


ROWS = (
    Row("run", "DNS", 53, ALWAYS, "UDP"),
    Row("run", "DNS", 53, ALWAYS),
    Row("node", "DNS", 53, ALWAYS, "UDP"),
    Row("model", "DNS", 53, ALWAYS, "UDP"),
    Row("node", "node-local DNS", 53, ALWAYS, "UDP"),
    Row("run", "DNS", 8080, NEVER),
    Row("run", "OpenShift's DNS", 5353, ("openshift",), "UDP"),
    Row("node", "OpenShift's DNS", 5353, ("openshift",)),
    Row("store", "OpenShift's DNS", 53, NEVER),
    Row("run", "another system pod", 53, NEVER, "UDP"),
    Row("run", "internet", 53, NEVER, "UDP"),
    Row("run", "kubeflow's API", 8887, ALWAYS),
    Row("run", "kubeflow's API", 8888, NEVER),
    Row("run", "kubeflow's metadata", 8080, ALWAYS),
    Row("run", "kubeflow's store", 8333, ALWAYS),
    Row("run", "kubeflow's store", 9333, NEVER),
    Row("run", "kubeflow's database", 3306, NEVER),
    Row("run", "kubeflow's database", 8333, NEVER),
    Row("run", "kubeflow's database", 8080, NEVER),
    Row("run", "kubeflow's database", 8887, NEVER),
    Row("run", "an API of that name elsewhere", 8887, NEVER),
    Row("node", "kubeflow's API", 8887, NEVER),
    Row("node", "kubeflow's metadata", 8080, NEVER),
    Row("node", "kubeflow's store", 8333, NEVER),
    Row("run", "model registry", 8080, ("model-registry",)),
    Row("node", "model registry", 8080, NEVER),
    Row("run", "Kubernetes API", 443, ALWAYS),
    Row("run", "Kubernetes API on its node", 6443, ALWAYS),
    Row("run", "Kubernetes API on its node", 10250, NEVER),
    Row("node", "Kubernetes API", 443, NEVER),
    Row("node", "Kubernetes API on its node", 6443, NEVER),
    Row("store", "Kubernetes API", 443, NEVER),
    Row("model", "Kubernetes API", 443, NEVER),
    Row("stray pod", "Kubernetes API", 443, NEVER),
    Row("node", "another node", 29500, ALWAYS),
    Row("node", "another node", 32768, ALWAYS),
    Row("node", "another node", 60999, ALWAYS),
    Row("node", "another node", 22, NEVER),
    Row("node", "another node", 61000, NEVER),
    Row("run", "node", 29500, NEVER),
    Row("node", "run", 29500, NEVER),
    Row("stranger", "node", 29500, NEVER),
    Row("run", "store", 8333, ("object-store",)),
    Row("node", "store", 8333, ("object-store",)),
    Row("model", "store", 8333, ("object-store",)),
    Row("gc", "store", 8333, ("object-store",)),
    Row("gc", "store", 9333, NEVER),
    Row("gc", "DNS", 53, ALWAYS, "UDP"),
    Row("gc", "internet", 443, ("outside-store",)),
    Row("gc", "internet", 80, NEVER),
    Row("gc", "Kubernetes API", 443, NEVER),
    Row("gc", "kubeflow's store", 8333, NEVER),
    Row("run", "gc", 8080, NEVER),
    Row("run", "store", 9333, NEVER),
    Row("run", "store", 443, NEVER),
    Row("run", "store", 8888, NEVER),
    Row("run", "store", 9327, NEVER),
    Row("node", "store", 8080, NEVER),
    Row("stranger", "store", 8333, NEVER),
    Row("client", "store", 8333, NEVER),
    Row("run", "internet", 443, ("outside-store", "hub")),
    Row("node", "internet", 443, ("outside-store",)),
    Row("model", "internet", 443, ("outside-store",)),
    Row("store", "internet", 443, NEVER),
    Row("run", "internet", 80, NEVER),
    Row("node", "internet", 80, NEVER),
    Row("node", "intranet", 443, NEVER),
    Row("run", "intranet", 80, NEVER),
    Row("run", "cloud's metadata", 80, NEVER),
    Row("run", "cloud's metadata", 443, NEVER),
    Row("node", "cloud's metadata", 80, NEVER),
    Row("node", "cloud's metadata", 443, NEVER),
    Row("run", "another run", 8080, NEVER),
    Row("stranger", "run", 8080, NEVER),
    Row("store", "run", 8080, NEVER),
    Row("client", "model", 8080, ("kserve",)),
    Row("client", "model", 9090, NEVER),
    Row("stranger", "model", 8080, NEVER),
    Row("run", "model", 8080, NEVER),
    Row("prometheus", "store", 9327, ("prometheus",)),
    Row("prometheus", "model", 8080, ("prometheus",)),
    Row("prometheus", "store", 9333, NEVER),
    Row("prometheus", "run", 8080, NEVER),
    Row("prometheus", "node", 8080, NEVER),
    Row("grafana", "store", 9327, NEVER),
)


def network_findings(
    objects: Iterable[Json], components: Iterable[str]
) -> Iterator[str]:
    """Rows that a composition does not keep to. A pod that is not there yet is checked all the
    same: policies, not pods, are looked at."""
    policies, opened = list(objects), {"base", *components}
    for row in ROWS:
        expected = bool(opened & set(row.opened_by))
        found = allowed(
            policies, ENDS[row.source], ENDS[row.target], row.port, row.protocol
        )
        if found != expected:
            verdict = "reaches" if found else "does not reach"
            yield f"network: {row.source} {verdict} {row.target}, {row.protocol} {row.port}"
