"""The commands of the pages on Kubernetes and on queues, which need a cluster, fit Airflow and the files."""

from __future__ import annotations

import re

from airflow.cli import cli_parser

from tests.docs.pages import blocks
from tests.unit.runtime.manifests import FOLDER, QUEUES, deployment, merged


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
                ["-e", f"s/snowflake/{queue}/g", "-e", f"s/SNOWFLAKE/{queue.upper()}/g"] for queue in QUEUES
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


def references(*documents):
    """Each secretKeyRef."""
    for document in documents:
        if isinstance(document, dict):
            yield from (item for item in document.items() if item[0] == "secretKeyRef")
            yield from references(*document.values())
        elif isinstance(document, list):
            yield from references(*document)
