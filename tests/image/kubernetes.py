"""A Kubernetes that runs tasks in pods of the image, for an Airflow whose other programs are containers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.image.conftest import ROOT
from tools.image.container import PASSED
from tools.image.engine import Build, Engine
from tools.servers.kubernetes import Cluster, started

NAMESPACE, USER = "airflow", "scheduler"
VERBS = ("create", "get", "list", "watch", "patch", "delete")
"""What docs/howto/runtime-executors.md says that the scheduler has to be allowed."""

# What a task must not have, because it asks the API server; and its pod's template names its executor.
KEPT_FROM_TASKS = (
    "AIRFLOW_CONN_",
    "AIRFLOW_HOME",
    "AIRFLOW__API_AUTH__",
    "AIRFLOW__API__",
    "AIRFLOW__CORE__EXECUTOR",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__DATABASE__",
)


@dataclass
class Node:
    """The cluster, the image that it has, and the folder of the test that its pods see.

    :param seen: the Dags whose tasks had pods, and the image of those.
    """

    cluster: Cluster
    image: str
    folder: Path
    template: dict[str, Any] = field(init=False)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make the image's own template one for a node without a network of its own."""
        self.template = yaml.safe_load((ROOT / "runtime" / "pod_template.yaml").read_text())
        spec = self.template["spec"]
        spec["hostNetwork"] = True
        spec["volumes"].append({"name": "test", "hostPath": {"path": str(self.folder)}})
        spec["containers"][0]["volumeMounts"].append({"name": "test", "mountPath": str(self.folder)})

    def settings(self) -> dict[str, str]:
        """Return the variables by which the scheduler finds it; writes what they name."""
        (path := self.folder / "pod_template.yaml").write_text(yaml.safe_dump(self.template))
        repository, _, tag = self.image.rpartition(":")
        found = {
            "NAMESPACE": NAMESPACE,
            "IN_CLUSTER": "False",
            "CONFIG_FILE": str(self.cluster.kubeconfig(USER, self.folder)),
            "POD_TEMPLATE_FILE": str(path),
            "WORKER_CONTAINER_REPOSITORY": repository,
            "WORKER_CONTAINER_TAG": tag,
        }
        return {"AIRFLOW__CORE__EXECUTOR": "KubernetesExecutor"} | {
            f"AIRFLOW__KUBERNETES_EXECUTOR__{name}": value for name, value in found.items()
        }

    def admit(self) -> None:
        """Make the namespace, and let the scheduler do there what the page says."""
        about = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": USER}}
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": list(VERBS)}]
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": USER}
        subjects = [{"kind": "User", "name": USER, "apiGroup": "rbac.authorization.k8s.io"}]
        rights = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
        self.cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        self.cluster.ask("POST", f"{rights}/roles", {**about, "kind": "Role", "rules": rules})
        binding = {**about, "kind": "RoleBinding", "roleRef": role, "subjects": subjects}
        self.cluster.ask("POST", f"{rights}/rolebindings", binding)

    def tell_tasks(self, variables: Mapping[str, str]) -> None:
        """Write what a task has to know into the config map that the image's template names."""
        (source,) = self.template["spec"]["containers"][0]["envFrom"]
        told = {
            name: value
            for name, value in variables.items()
            if name.startswith(PASSED) and not name.startswith(KEPT_FROM_TASKS)
        }
        document = {"metadata": {"name": source["configMapRef"]["name"]}, "data": told}
        self.cluster.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", document)

    def look(self) -> int:
        """Note which tasks have a pod, which is deleted at its end; returns how many pods there are."""
        pods = self.cluster.pods(NAMESPACE)
        self.seen |= {
            (one["metadata"]["labels"]["dag_id"], one["spec"]["containers"][0]["image"]) for one in pods
        }
        return len(pods)


def saved(engine: Engine, tag: str, path: Path) -> Path:
    """Write an image into a file; Docker and podman agree in how."""
    subprocess.run(engine.execute("save", "--output", str(path), tag), check=True, capture_output=True)
    return path


@contextmanager
def node(engine: Engine, tag: str, folder: Path) -> Iterator[Node]:
    """Run a cluster of one node that has the image, for the block."""
    holder = Build(folder / "holder", "localhost/astronomer-test-pause:1")
    holder.context.mkdir()
    (holder.context / "Dockerfile").write_text(f'FROM {tag}\nENTRYPOINT ["sleep", "infinity"]\nCMD []\n')
    done = engine.build(holder)
    assert not done.returncode, done.stdout
    try:
        with started(holder.tag, [USER]) as cluster:
            for one in (holder.tag, tag):
                name = cluster.load(saved(engine, one, archive := folder / "image.tar"))
                archive.unlink()
            made = Node(cluster, name, folder)
            made.admit()
            yield made
    finally:
        engine.remove(holder.tag)
