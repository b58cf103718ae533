"""What an image says of itself, and what is in it."""

import json
import os

import pytest
from packaging.requirements import Requirement

from tests.image.conftest import ROOT
from tools.image.engine import ImageError

LOOK = """
import importlib.metadata, json, os, platform
print(json.dumps({
    "uid": os.getuid(), "python": platform.python_version(), "debian": open("/etc/debian_version").read().strip(),
    "user": os.environ.get("HOME"), "writable": [path for path in os.environ["LOOK"].split() if os.access(path, os.W_OK)],
    "installed": {one.metadata["Name"].lower(): one.version for one in importlib.metadata.distributions()},
}))
"""
WRITABLE = (
    "/usr/local/airflow /usr/local/airflow/dags /usr/local/airflow/logs /usr/local/airflow/astronomer_waits"
)


@pytest.fixture(scope="module")
def inside(engine, release, images):
    from tools.image.__main__ import tag
    from tools.image.container import Container

    places = f"{WRITABLE} /opt/runtime /opt/runtime/venv/bin /usr /etc"
    done = Container(engine, tag(release, "onbuild")).run("python", "-c", LOOK, variables={"LOOK": places})
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def test_labels_tell_the_versions(images, release):
    for config in images.values():
        labels = config["Labels"]
        assert labels["io.astronomer.docker.runtime.version"] == str(release.tag)
        assert labels["org.opencontainers.image.version"] == str(release.tag)
        assert labels["io.astronomer.docker.airflow.version"] == release.airflow
        assert labels["io.astronomer.docker.distro"] == "debian"


def test_both_variants_run_as_a_user_under_an_init_with_a_health_check(images):
    for config in images.values():
        assert config["User"] == "50000", "a kubelet cannot tell that a name is not root's"
        assert config["Entrypoint"][0] == "tini"
        assert config["Healthcheck"]["Test"] == ["CMD", "/opt/runtime/bin/healthcheck"]


def test_only_the_default_variant_takes_a_project(images):
    assert not images["base"].get("OnBuild")
    steps = " ".join(images["onbuild"]["OnBuild"])
    assert all(word in steps for word in ("packages.txt", "requirements.txt", "COPY --chown=astro:0 . ."))


def test_the_versions_are_those_of_the_release(inside, release):
    assert inside["installed"]["apache-airflow"] == release.airflow
    assert inside["installed"]["astronomer-providers"] == release.package
    assert inside["python"].startswith(f"{release.python}.")
    assert inside["debian"].partition(".")[0] == release.debian


def test_the_providers_are_those_of_the_release_and_those_that_were_asked_for(inside, release):
    lines = (ROOT / "runtime" / "requirements.txt").read_text().splitlines()
    asked = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    assert set(release.providers) == asked - {"apache-airflow"}
    assert release.providers == {name: inside["installed"].get(name) for name in release.providers}


def test_every_pin_is_installed_and_nothing_else(inside):
    lines = (ROOT / "runtime" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    installed = {name.replace("_", "-").replace(".", "-"): one for name, one in inside["installed"].items()}
    extra = {"astronomer-providers", "pip"}
    assert {name.replace(".", "-"): one for name, one in pins.items()} == {
        name: one for name, one in installed.items() if name not in extra
    }


def test_no_image_of_another_python_gets_the_tag(engine, release, images):
    from tools.image.__main__ import build

    other = release.model_copy(update={"python": "3.12"})
    told = (
        rf"BASE_IMAGE has Python {release.python}, Debian {release.debian}; this release has Python 3\.12, "
    )
    with pytest.raises(ImageError, match=told):
        build(engine, other, os.environ.get("BASE_IMAGE") or None)


def test_its_user_writes_where_airflow_does_and_nowhere_else(inside):
    assert (inside["uid"], inside["writable"]) == (50_000, WRITABLE.split())


def test_pip_keeps_its_airflow_and_another_environment_may_have_another(container):
    steps = "python -m venv /tmp/own; for one in pip /tmp/own/bin/pip; do $one config list; done"
    done = container.run("sh", "-c", steps)
    assert done.stdout.count("constraint") == 1, done.stdout
    assert "global.constraint='/opt/runtime/pins.txt'" in done.stdout


def test_pip_freeze_shows_the_version(container, release):
    done = container.run("pip", "freeze")
    assert f"astronomer-providers=={release.package}" in done.stdout.splitlines()


def test_it_knows_its_own_release(container, release):
    done = container.run("airflow", "runtime", "version", "--output", "json")
    assert json.loads(done.stdout[done.stdout.index("{") :])["runtime"] == str(release.tag), done.stdout


def test_the_chart_s_probes_find_the_entrypoint(container, release):
    probe = (
        "CONNECTION_CHECK_MAX_COUNT=0 AIRFLOW__LOGGING__LOGGING_LEVEL=ERROR exec /entrypoint airflow version"
    )
    assert container.run("sh", "-c", probe).stdout.splitlines()[-1] == release.airflow


def test_the_bill_of_materials_has_both_kinds_of_packages(container, inside):
    document = json.loads(container.run("cat", "/opt/runtime/sbom.cdx.json").stdout)
    found = {one["purl"].partition("?")[0] for one in document["components"] if "purl" in one}
    assert document["bomFormat"] == "CycloneDX"
    python = {one.lower().replace("_", "-") for one in found if one.startswith("pkg:pypi/")}
    assert {f"pkg:pypi/{name}@{one}".replace("_", "-") for name, one in inside["installed"].items()} <= python
    lines = container.run("dpkg-query", "--show", "--showformat", "${Package}\\n").stdout.split()
    debian = {one.partition("@")[0] for one in found if one.startswith("pkg:deb/")}
    assert {f"pkg:deb/debian/{name}".replace("+", "%2B") for name in lines} <= debian


@pytest.mark.parametrize(
    "name",
    [
        "core.sensors.external_task.ExternalTaskSensor",
        "databricks.operators.databricks.DatabricksRunNowOperatorAsync",
        "snowflake.operators.snowflake.SnowflakeOperatorAsync",
    ],
)
def test_the_operators_can_be_imported(container, name):
    module, _, attribute = name.rpartition(".")
    done = container.run("python", "-c", f"from astronomer.providers.{module} import {attribute}")
    assert done.returncode == 0, done.stdout
