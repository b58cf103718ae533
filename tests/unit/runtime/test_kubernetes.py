"""The files in runtime/kubernetes are what Airflow, its chart and Kubernetes take."""

from __future__ import annotations

import copy
import json
import subprocess
import uuid

import jsonschema
import pytest
import yaml
from airflow.cli import cli_parser
from airflow.configuration import retrieve_configuration_description
from airflow.executors import workloads
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_utils import get_base_pod_from_template
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator, workload_to_command_args
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

from tests.unit.runtime.manifests import (
    FOLDER,
    HOME,
    QUEUES,
    check_limits,
    check_no_secret,
    check_pod,
    check_values,
    deployment,
    known,
    load,
    merged,
    rendered,
)

VALUES = [
    ("values.yaml",),
    ("values.yaml", "values-queues.yaml"),
    ("values.yaml", "values-celery.yaml"),
    ("values.yaml", "values-celery.yaml", "values-queues.yaml"),
    ("values.yaml", "values-runtime.yaml"),
    ("values.yaml", "values-celery.yaml", "values-queues.yaml", "values-runtime.yaml"),
]
FORGED_KEY = "Zm9yZ2VkLWtleS1vZi1leGFjdGx5LTMyLWJ5dGVzISE="
IMAGE = {"WORKER_CONTAINER_REPOSITORY": "registry.example.org/mine", "WORKER_CONTAINER_TAG": "7"}


def task(queue="default"):
    """What the executor is given for a task."""
    ti = workloads.TaskInstanceDTO(
        id=uuid.UUID(int=7),
        task_id="load",
        dag_id="orders",
        run_id="manual__1",
        try_number=2,
        map_index=-1,
        dag_version_id=uuid.UUID(int=8),
        pool_slots=1,
        priority_weight=1,
        queue=queue,
    )
    bundle = workloads.BundleInfo(name="dags-folder")
    return workloads.ExecuteTask(
        ti=ti, dag_rel_path="orders.py", bundle_info=bundle, token="", log_path="a.log"
    )


@pytest.fixture
def template_file(tmp_path):
    """What the chart mounts into the scheduler."""
    (path := tmp_path / "pod_template_file.yaml").write_text(rendered("pod_template.yaml"))
    return str(path)


@pytest.fixture
def pod(monkeypatch, template_file):
    """The pod that the KubernetesExecutor makes of the template for a task."""
    for name, value in IMAGE.items():
        monkeypatch.setenv(f"AIRFLOW__KUBERNETES_EXECUTOR__{name}", value)

    def make(override=None):
        config = KubeConfig()
        template = get_base_pod_from_template(template_file, config)
        workload = task()
        made = PodGenerator.construct_pod(
            namespace="airflow",
            scheduler_job_id="1",
            pod_id="orders-load-abc",
            dag_id=workload.ti.dag_id,
            task_id=workload.ti.task_id,
            kube_image=config.kube_image,
            try_number=workload.ti.try_number,
            date=None,
            run_id=workload.ti.run_id,
            args=workload_to_command_args(workload),
            pod_override_object=override,
            base_worker_pod=template,
            with_mutation_hook=True,
        )
        return ApiClient().sanitize_for_serialization(made)

    return make


def test_pod_template_is_a_pod(template_file):
    template = load("pod_template.yaml")
    known("V1Pod", template)
    check_pod(template["spec"])
    check_no_secret(template)
    assert PodGenerator.deserialize_model_file(template_file).kind == "Pod"


def test_the_pod_of_a_task(pod):
    made = pod()
    known("V1Pod", made)
    check_pod(made["spec"])
    (container,) = made["spec"]["containers"]
    assert container["image"] == "registry.example.org/mine:7", "the placeholder is replaced"
    assert container["args"][:3] == ["python", "-m", "airflow.sdk.execution_time.execute_workload"]
    assert workloads.ExecuteTask.model_validate_json(container["args"][-1]).key == task().key
    assert {env["name"]: env["value"] for env in container["env"]} == {
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW_IS_K8S_EXECUTOR_POD": "True",
    }, "a task has no database, no key and no connection"
    assert made["spec"]["restartPolicy"] == "Never"
    assert made["metadata"]["namespace"] == "airflow"
    assert made["metadata"]["labels"]["release"] == "airflow"
    assert made["metadata"]["labels"]["dag_id"] == "orders"


def test_a_task_may_ask_for_more(pod):
    """What docs/howto/kubernetes.md shows."""
    resources = k8s.V1ResourceRequirements(requests={"memory": "4Gi"}, limits={"memory": "4Gi"})
    container = k8s.V1Container(name="base", resources=resources)
    made = pod(k8s.V1Pod(spec=k8s.V1PodSpec(containers=[container])))
    plain = pod()
    (more,) = made["spec"]["containers"]
    assert more.pop("resources")["limits"]["memory"] == "4Gi"
    plain["spec"]["containers"][0].pop("resources")
    assert made["spec"] == plain["spec"], "and everything else is as before"


@pytest.mark.parametrize("files", VALUES, ids=" ".join)
def test_the_chart_takes_the_values(files):
    values = merged(*files)
    check_values(values)
    check_no_secret(values)
    assert values["triggerer"]["replicas"] >= 2
    for component in ("triggerer", "apiServer", "scheduler", "dagProcessor"):
        check_limits(values[component]["resources"])
    assert not values["createUserJob"]["enabled"], "its password would be `admin`"
    pod = {"securityContext": values["securityContexts"]["pod"]}
    assert pod["securityContext"] == load("pod_template.yaml")["spec"]["securityContext"]


@pytest.mark.parametrize("files", VALUES, ids=" ".join)
def test_airflow_has_each_option(files):
    described = retrieve_configuration_description(include_providers=True)
    for section, options in merged(*files)["config"].items():
        for name, value in options.items():
            kind = described[section]["options"][name]["type"]
            if kind == "boolean":
                assert value in {"True", "False"}
            else:
                {"integer": int, "float": float, "string": str}[kind](value)


def test_the_image_is_one_for_all():
    image = load("values.yaml")["images"]["airflow"]
    name = f"{image['repository']}:{image['tag']}"
    assert load("pod_template.yaml")["spec"]["containers"][0]["image"] == name
    assert deployment()["spec"]["template"]["spec"]["containers"][0]["image"] == name
    assert load("values.yaml")["airflowVersion"] == image["tag"]


def mounts(container):
    """Where what is mounted, but for the folder of logs."""
    return {one["name"]: one["mountPath"] for one in container["volumeMounts"]}


def test_the_values_of_a_runtime_image_fit_the_image():
    values, dockerfile = (
        merged("values.yaml", "values-runtime.yaml"),
        (FOLDER.parent / "Dockerfile").read_text(),
    )
    home = values["airflowHome"]
    assert f"AIRFLOW_HOME={home} " in dockerfile
    assert "/opt/airflow" not in json.dumps(values)
    (mount,) = values["triggerer"]["extraVolumeMounts"]
    assert values["config"]["astronomer_providers"]["waits_folder"] == mount["mountPath"] == f"{home}/waits"
    (variable,) = values["env"]
    assert f"{variable['name']}=/opt/runtime/pod_template.yaml" in dockerfile, (
        "which the chart's has to replace"
    )
    assert variable["value"] == f"{home}/pod_templates/pod_template_file.yaml"
    (container,) = load("pod_template.yaml", home)["spec"]["containers"]
    assert mounts(container) == {"config": f"{home}/airflow.cfg", "logs": f"{home}/logs"}
    text = (FOLDER / "triggerer-queue.yaml").read_text().replace(HOME, home)
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    assert mounts(container) == {
        "config": f"{home}/airflow.cfg",
        "logs": f"{home}/logs",
        "waits": mount["mountPath"],
    }


def test_the_chart_s_probes_and_sidecars_find_their_programs_in_a_runtime_image():
    assert "ln -s /opt/runtime/bin/entrypoint /entrypoint" in (FOLDER.parent / "Dockerfile").read_text()
    values = merged("values.yaml", "values-runtime.yaml")
    for component in ("triggerer", "scheduler", "dagProcessor"):
        shell, flag, command = values[component]["logGroomerSidecar"]["args"]
        assert (shell, flag) == ("bash", "-c"), "the image has no /clean-logs"
        subprocess.run([shell, "-n", flag, command], check=True)


@pytest.mark.parametrize("queue", QUEUES)
def test_triggerers_of_a_queue(queue):
    document = deployment(queue)
    known("V1Deployment", document)
    spec = document["spec"]["template"]["spec"]
    check_pod(spec)
    check_no_secret(document)
    assert document["metadata"]["name"] == f"airflow-triggerer-{queue}"
    (container,) = spec["containers"]
    shell, _, command = container["args"]
    assert shell == "bash"
    parser = cli_parser.get_parser()
    assert parser.parse_args(command.removeprefix("exec airflow ").split()).queues == queue.split()
    parser.parse_args(container["livenessProbe"]["exec"]["command"][1:])
    (connections,) = container["envFrom"]
    assert connections["secretRef"]["name"] == f"airflow-connections-{queue}"


def test_triggerers_of_a_queue_are_as_those_of_the_chart():
    mine, chart = deployment()["spec"], load("values.yaml")
    spec = mine["template"]["spec"]
    assert mine["replicas"] == chart["triggerer"]["replicas"]
    assert mine["strategy"] == chart["triggerer"]["strategy"]
    assert spec["terminationGracePeriodSeconds"] == chart["triggerer"]["terminationGracePeriodSeconds"]
    assert spec["containers"][0]["resources"] == chart["triggerer"]["resources"]
    assert spec["securityContext"] == chart["securityContexts"]["pod"]
    named = {env["valueFrom"]["secretKeyRef"]["name"] for env in spec["containers"][0]["env"]}
    keys = [name for name in chart if name.endswith("SecretName") and name != "jwtSecretName"]
    assert named == {chart["data"]["metadataSecretName"], *(chart[name] for name in keys)}, (
        "a triggerer signs no token"
    )


def test_every_queue_has_workers_and_triggerers():
    assert merged("values-queues.yaml")["workers"]["celery"]["queue"].split(",") == [
        "default",
        "snowflake",
        "databricks",
    ]


def change(document, path, value):
    """A copy in which that is another value; ``...`` takes it away."""
    changed = copy.deepcopy(document)
    *way, last = path
    inner = changed
    for step in way:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return changed


BASE = ("spec", "containers", 0)
BROKEN_PODS = {
    "no such field": ((*BASE, "imge"), "registry.example.org/mine"),
    "an image that is not a text": ((*BASE, "image"), {"repository": "mine"}),
    "a literal connection": ((*BASE, "env", 0), {"name": "AIRFLOW_CONN_A", "value": "{}"}),
    "a password in a URL": ((*BASE, "env", 0, "value"), "postgresql://airflow:airflow@db/airflow"),
    "a key": ((*BASE, "env", 0, "value"), FORGED_KEY),
    "root": (("spec", "securityContext", "runAsUser"), 0),
    "more rights": ((*BASE, "securityContext", "allowPrivilegeEscalation"), True),
    "all capabilities": ((*BASE, "securityContext", "capabilities"), ...),
    "no limit": ((*BASE, "resources", "limits", "memory"), ...),
    "a folder of the node": (("spec", "volumes", 1), {"name": "logs", "hostPath": {"path": "/"}}),
    "a token of the cluster": (("spec", "automountServiceAccountToken"), True),
}


@pytest.mark.parametrize("broken", BROKEN_PODS.values(), ids=BROKEN_PODS)
def test_a_broken_pod_is_found(broken):
    template = change(load("pod_template.yaml"), *broken)
    with pytest.raises((AssertionError, ValueError, KeyError)):
        check_all_of_pod(template)


def check_all_of_pod(template):
    known("V1Pod", template)
    check_pod(template["spec"])
    check_no_secret(template)


BROKEN_VALUES = {
    "no such value": (("triggerer", "replica"), 2),
    "no such section": (("extraObjects",), []),
    "a text for a number": (("triggerer", "replicas"), "2"),
    "a literal key": (("fernetKey",), FORGED_KEY),
    "a key for a name": (("fernetKeySecretName",), FORGED_KEY),
    "a password": (("data", "metadataConnection"), {"pass": "airflow"}),
    "a secret in the configuration": (("config", "api_auth"), {"jwt_secret": "secret"}),
    "a literal connection": (("triggerer", "env", 0), {"name": "AIRFLOW_CONN_A", "value": "{}"}),
    "a wrong image": (("images", "airflow"), "registry.example.org/mine:7"),
    "a wrong field of Kubernetes": (("triggerer", "resources", "limit"), {"memory": "1Gi"}),
}


@pytest.mark.parametrize("broken", BROKEN_VALUES.values(), ids=BROKEN_VALUES)
def test_broken_values_are_found(broken):
    values = change(load("values.yaml"), *broken)
    with pytest.raises((AssertionError, ValueError, jsonschema.ValidationError)):
        check_all_of_values(values)


def check_all_of_values(values):
    check_values(values)
    check_no_secret(values)


def test_what_is_changed_is_what_breaks():
    """Unchanged, both pass the same checks."""
    check_all_of_pod(json.loads(json.dumps(load("pod_template.yaml"))))
    check_all_of_values(load("values.yaml"))
