"""A project on the image: what its build installs, and what it refuses."""

import shutil

import pytest

from tests.image.conftest import ROOT, built
from tools.image.__main__ import tag
from tools.image.container import Container

SAMPLE = ROOT / "runtime" / "sample-project"


@pytest.fixture(scope="module")
def project(engine, images, tmp_path_factory):
    """The sample, with a file of secrets beside it."""
    folder = tmp_path_factory.mktemp("project") / "sample"
    shutil.copytree(SAMPLE, folder)
    (folder / ".env").write_text("PASSWORD=not-for-the-image\n")
    with built(engine, folder, "astronomer-runtime-sample") as done:
        assert done.returncode == 0, done.stdout[-3000:]
        yield Container(engine, "astronomer-runtime-sample")


def test_the_sample_is_for_the_newest_release(release):
    assert (SAMPLE / "Dockerfile").read_text() == f"FROM astronomer-runtime:{release.tag}\n"


def test_packages_and_requirements_are_there(project):
    done = project.run("sh", "-c", "jq --version && python -c 'import humanize; print(humanize.__version__)'")
    assert done.stdout.startswith("jq-1."), done.stdout


def test_the_project_belongs_to_its_user_and_secrets_stay_outside(project):
    done = project.run(
        "stat", "--format", "%U %n", "dags/orders.py", "include/orders.py", "plugins/project.py"
    )
    assert done.stdout.split()[::2] == ["astro"] * 3, done.stdout
    assert project.run("test", "-e", ".env").returncode == 1


def test_nothing_of_a_project_takes_the_place_of_an_installed_module(engine, release, images, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM {tag(release, 'onbuild')}\n")
    for name in ("packages.txt", "requirements.txt"):
        (tmp_path / name).write_text("")
    for name in ("airflow/__init__.py", "secrets.py", "json.py", "celery.py", "mine.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"print('of the project: {name}')\n")
    with built(engine, tmp_path, "astronomer-runtime-shadow") as done:
        assert done.returncode == 0, done.stdout[-3000:]
        container = Container(engine, "astronomer-runtime-shadow")
        said = container.run("airflow", "version").stdout
        assert release.airflow in said
        assert "of the project" not in said
        for module in ("airflow.sdk.execution_time.execute_workload", "celery"):  # of a pod, and of a probe
            told = container.run("python", "-m", module, "--help")
            assert "usage: " in told.stdout.lower(), told.stdout
            assert "of the project" not in told.stdout
        assert "mine.py" in container.run("python", "-P", "-c", "import mine").stdout


def test_its_dag_runs(project):
    variables = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////tmp/airflow.db",
        "AIRFLOW_CONN_FS_DEFAULT": '{"conn_type": "fs"}',
    }
    steps = (
        "airflow db migrate > /dev/null && airflow dags reserialize > /dev/null && airflow dags test orders"
    )
    done = project.run("sh", "-c", steps, variables=variables)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "state=success" in done.stdout or "success state" in done.stdout, done.stdout[-3000:]


def test_its_plugin_is_found(project):
    variables = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////tmp/airflow.db"}
    done = project.run("airflow", "plugins", "--output", "plain", variables=variables)
    assert "project" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("apache-airflow==3.2.0", "asks for another apache-airflow than the 3.3.2"),
        ("Apache_Airflow[celery] ~= 3.1.0", "asks for another Apache_Airflow than the 3.3.2"),
        ("apache-airflow-core<3", "asks for another apache-airflow-core"),
        ("apache-airflow @ https://example.com/airflow.whl", "asks for another apache-airflow"),
        ("astronomer-providers==1.19.4", "asks for another astronomer-providers"),
        ("apache-airflow-providers-fab<2", "cannot be installed beside apache-airflow 3.3.2"),
        ("python-slugify<5", "does not fit together"),
    ],
)
def test_another_airflow_is_refused(engine, release, images, tmp_path, line, told):
    (tmp_path / "Dockerfile").write_text(f"FROM {tag(release, 'onbuild')}\n")
    (tmp_path / "packages.txt").write_text("")
    (tmp_path / "requirements.txt").write_text(f"{line}\n")
    with built(engine, tmp_path, "astronomer-runtime-refused") as done:
        assert done.returncode != 0
        assert told in done.stdout, done.stdout[-3000:]


def test_also_in_a_dockerfile_of_its_own(engine, release, images, tmp_path):
    steps = f"FROM {tag(release, 'base')}\nUSER root\nRUN pip install apache-airflow==3.2.0\n"
    (tmp_path / "Dockerfile").write_text(steps)
    with built(engine, tmp_path, "astronomer-runtime-refused") as done:
        assert done.returncode != 0
        assert f"(constraint) apache-airflow=={release.airflow}" in done.stdout, done.stdout[-3000:]


@pytest.mark.parametrize("line", ["apache-airflow", "apache-airflow[amazon]>=3", "# apache-airflow==2.0"])
def test_the_same_airflow_is_welcome(engine, release, images, tmp_path, line):
    (tmp_path / "Dockerfile").write_text(f"FROM {tag(release, 'onbuild')}\n")
    (tmp_path / "packages.txt").write_text("# nothing\n")
    (tmp_path / "requirements.txt").write_text(f"{line}\n")
    with built(engine, tmp_path, "astronomer-runtime-welcome") as done:
        assert done.returncode == 0, done.stdout[-3000:]
