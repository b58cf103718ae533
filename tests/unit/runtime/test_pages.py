"""The commands of the pages on Kubernetes and on queues, which need a cluster, fit Airflow and the files."""

from __future__ import annotations

import re

import yaml
from airflow.cli import cli_parser
from airflow.configuration import retrieve_configuration_description

from astronomer.runtime.versions import Manifest
from tests.docs.pages import PAGES, ROOT, blocks
from tests.image.kubernetes import VERBS
from tests.unit.runtime.manifests import FOLDER, HOME, QUEUES, deployment, load, merged


def commands():
    """The commands of the two pages that cannot be run without a cluster."""
    pages = ("docs/howto/kubernetes.md", "docs/howto/triggerer-queues.md")
    text = "".join(block.body for block in blocks() if block.page in pages and block.language == "sh")
    parts = re.split(r"\n|\|", text.replace("\\\n", " "))
    return [part.split() for part in parts if part.strip()]


def test_the_commands_of_the_pages_fit_airflow():
    mine = [command[1:] for command in commands() if command[0] == "airflow"]
    queues = {cli_parser.get_parser().parse_args(command).queues and command[-1] for command in mine}
    assert queues == {None, *QUEUES, merged("values-queues.yaml")["workers"]["celery"]["queue"]}


def test_the_commands_of_the_pages_fit_the_files():
    words = [word for command in commands() for word in command]
    files = {word.partition("=")[2] or word for word in words if word.endswith(".yaml")}
    assert files == {path.name for path in FOLDER.iterdir()}
    assert {command[0] for command in commands()} == {"airflow", "export", "helm", "kubectl", "sed"}
    sets = {words[at + 1].partition("=")[0] for at, word in enumerate(words) if word.startswith("--set")}
    assert sets == {"podTemplate", "images.airflow.repository", "images.airflow.tag"}
    for command in commands():
        if command[0] == "sed":
            assert command[1:-1] in [
                ["-i", f"s,{HOME},{load('values-runtime.yaml')['airflowHome']},g"],
                *(
                    ["-e", f"s/snowflake/{queue}/g", "-e", f"s/SNOWFLAKE/{queue.upper()}/g"]
                    for queue in QUEUES
                ),
            ]


def test_the_pages_create_each_secret():
    created = {
        (command[4], command[-1].removeprefix("--from-file=").partition("=")[0])
        for command in commands()
        if command[:3] == ["kubectl", "create", "secret"]
    }
    named = set()
    for _, env in references(merged("values.yaml", "values-celery.yaml"), deployment()):
        named.add((env["name"], env["key"]))
    values = merged("values.yaml", "values-celery.yaml")
    named |= {
        (values["data"]["metadataSecretName"], "connection"),
        (values["data"]["brokerUrlSecretName"], "connection"),
        (values["fernetKeySecretName"], "fernet-key"),
        (values["apiSecretKeySecretName"], "api-secret-key"),
        (values["jwtSecretName"], "jwt-secret"),
    }
    assert created == named


def test_the_page_on_executors_fits_the_image_and_airflow():
    page = "".join(block.body for block in blocks() if block.page == "docs/howto/runtime-executors.md")
    template = (ROOT / "runtime" / "pod_template.yaml").read_text()
    (pod,) = yaml.safe_load(template)["spec"]["containers"]
    (config_map,) = re.findall(r"kubectl create configmap (\S+)", page)
    assert pod["envFrom"] == [{"configMapRef": {"name": config_map, "optional": True}}]
    words = " ".join((ROOT / "docs" / "howto" / "runtime-executors.md").read_text().split())
    assert f"allowed to {', '.join(VERBS[:-1])} and {VERBS[-1]} pods" in words, (
        "the rights with which it is tried"
    )
    described = retrieve_configuration_description(include_providers=True)
    named = re.findall(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)=", page)
    assert len(named) >= 7
    for section, option in named:
        assert option.lower() in described[section.lower()]["options"]


def test_the_pages_name_the_newest_release():
    newest = Manifest.read(ROOT / "runtime" / "versions.json").newest()
    named = {
        tag for page in PAGES for tag in re.findall(r"astronomer-runtime:(\d[\w.]*-\d+)", page.read_text())
    }
    assert named == {str(newest.tag)}


def references(*documents):
    """Each secretKeyRef."""
    for document in documents:
        if isinstance(document, dict):
            yield from (item for item in document.items() if item[0] == "secretKeyRef")
            yield from references(*document.values())
        elif isinstance(document, list):
            yield from references(*document)
