"""The pods that the image asks for on the KubernetesExecutor; no cluster is needed to see them."""

import os
import shutil

import yaml

from tests.image.conftest import ROOT
from tools.image.container import USER, Container


def test_each_task_has_a_pod_of_this_image(engine, container, tmp_path):
    shutil.copytree(ROOT / "runtime" / "sample-project" / "dags", tmp_path / "dags")
    shutil.copytree(ROOT / "runtime" / "sample-project" / "include", tmp_path / "include")
    (tmp_path / "include" / "orders.py").write_text("def summary(count): return str(count)\n")
    for one in (tmp_path, *tmp_path.rglob("*")):
        os.chown(one, USER, 0)
    image = Container(engine, container.tag, [tmp_path])
    variables = {
        "AIRFLOW__CORE__EXECUTOR": "KubernetesExecutor",
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////tmp/airflow.db",
        "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": "airflow",
        "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_REPOSITORY": "astronomer-runtime",
        "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_TAG": container.tag.partition(":")[2],
        "PYTHONPATH": str(tmp_path),
    }
    render = f"airflow kubernetes generate-dag-yaml orders --logical-date 2026-01-01 --output-path {tmp_path}"
    steps = f"airflow db migrate > /dev/null && airflow dags reserialize > /dev/null && {render}"
    done = image.run("sh", "-c", steps, variables=variables)
    assert done.returncode == 0, done.stdout[-3000:]
    pods = [yaml.safe_load(path.read_text()) for path in tmp_path.rglob("*.yml")]
    assert {pod["metadata"]["labels"]["task_id"] for pod in pods} == {"deliver", "arrived", "count"}
    for pod in pods:
        first = pod["spec"]["containers"][0]
        assert (first["name"], first["image"]) == ("base", container.tag)
        assert pod["metadata"]["namespace"] == "airflow"
        assert {one["mountPath"] for one in first["volumeMounts"]} == {"/tmp", "/usr/local/airflow/logs"}
        assert first["envFrom"] == [{"configMapRef": {"name": "airflow-tasks", "optional": True}}]
