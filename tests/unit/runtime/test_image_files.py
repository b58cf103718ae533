"""What goes into the image, as far as it can be tried outside of one."""

import re
import runpy
import socket
from pathlib import Path

import pytest
import yaml

from astronomer.runtime.versions import Manifest

RUNTIME = Path(__file__).parents[3] / "runtime"
ENTRYPOINT, HEALTH, PROJECT = (
    runpy.run_path(str(RUNTIME / "bin" / name)) for name in ("entrypoint", "healthcheck", "install-project")
)
PINS = {"apache-airflow": "3.3.2", "apache-airflow-core": "3.3.2", "astronomer-providers": "2.0.0"}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql+psycopg2://user:password@db:6432/airflow", ("db", 6432)),
        ("postgresql://db/airflow", ("db", 5432)),
        ("postgresql://user:S3cr/et9@db:5432/a", ("db", 5432)),
        ("postgresql://user:12/ss@db/a", ("db", 5432)),
        ("postgresql://user:a[b#c@db:1/a", ("db", 1)),
        ("postgresql://user:p@[::1]:5433/a", ("::1", 5433)),
        ("redis://:password@broker/0", ("broker", 6379)),
        ("rediss://broker:7000/0?ssl_cert_reqs=required", ("broker", 7000)),
        ("sentinel://h1:26379;sentinel://h2:26379", None),
        ("sqlite:////tmp/airflow.db", None),
        ("", None),
    ],
)
def test_a_server_is_found_in_its_url(url, found):
    assert ENTRYPOINT["address"](url) == found


def started(monkeypatch, *command, **variables):
    """What the entrypoint becomes."""
    became = []
    main = ENTRYPOINT["main"]
    for name, value in {"AIRFLOW_HOME": "/nowhere", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(main.__globals__["os"], "execvp", lambda program, words: became.append(words))
    main(list(command))
    return became


class TestWaiting:
    @pytest.fixture
    def nobody(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            yield f"127.0.0.1:{probe.getsockname()[1]}"  # bound, and not listening

    def test_a_server_that_is_there_is_not_waited_for(self, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"postgresql://127.0.0.1:{server.getsockname()[1]}/a"
            became = started(monkeypatch, "airflow", "scheduler", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url)
        assert became == [["airflow", "scheduler"]]

    def test_one_that_does_not_come_ends_the_start(self, monkeypatch, nobody):
        with pytest.raises(SystemExit, match=f"The database at {nobody} cannot be reached"):
            started(
                monkeypatch,
                *("airflow", "triggerer"),
                AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"postgresql://user:hidden@{nobody}/a",
                ASTRONOMER_WAIT_SECONDS="0.01",
            )

    @pytest.mark.parametrize(
        ("command", "seconds"),
        [(("airflow", "db", "migrate"), "1"), (("bash",), "1"), (("airflow", "celery", "worker"), "0")],
    )
    def test_some_do_not_wait(self, monkeypatch, nobody, command, seconds):
        url = f"postgresql://{nobody}/a"
        variables = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url, "ASTRONOMER_WAIT_SECONDS": seconds}
        assert started(monkeypatch, *command, **variables) == [list(command)]

    def test_only_who_speaks_to_the_broker_waits_for_it(self, monkeypatch, nobody):
        variables = {"AIRFLOW__CELERY__BROKER_URL": f"redis://{nobody}/0", "ASTRONOMER_WAIT_SECONDS": "0.01"}
        assert started(monkeypatch, "airflow", "api-server", **variables)
        with pytest.raises(SystemExit, match="Celery broker"):
            started(monkeypatch, "airflow", "celery", "worker", **variables)

    def test_a_secret_that_is_not_shared_is_named(self, monkeypatch, capsys):
        started(monkeypatch, "airflow", "api-server", AIRFLOW__CORE__FERNET_KEY_CMD="cat key")
        said = capsys.readouterr().err
        assert "AIRFLOW__API_AUTH__JWT_SECRET is not set" in said
        assert "FERNET" not in said


@pytest.mark.parametrize(
    ("words", "port"),
    [(["--port", "9090"], "9090"), (["--port=9090"], "9090"), (["-p", "1"], "1"), (["--workers", "2"], None)],
)
def test_the_health_check_reads_options(words, port):
    assert HEALTH["option"](words, "-p", "--port") == port


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("apache-airflow==3.2.0", True),
        ("apache-airflow_core ~= 3.1.0", True),
        ("apache-airflow @ https://example.com/a.whl", True),
        ("astronomer-providers<2", True),
        ("apache-airflow==3.2.0; python_version < '3.9'", False),
        ("apache-airflow[amazon]>=3", False),
        ("apache-airflow==3.3.*", False),
        ("apache-airflow-providers-http==1.0", False),
        ("--index-url https://example.com/simple", False),
        ("-r more.txt", False),
    ],
)
def test_another_airflow_is_refused_before_anything_is_installed(line, refused):
    assert (PROJECT["refusal"](line, PINS) is not None) is refused


def test_the_dockerfile_builds_the_newest_release_by_itself():
    release = Manifest.read(RUNTIME / "versions.json").newest()
    written = dict(re.findall(r"^ARG (\w+)=(\S+)", (RUNTIME / "Dockerfile").read_text(), re.MULTILINE))
    assert written["RUNTIME_VERSION"] == str(release.tag)
    assert written["AIRFLOW_VERSION"] == release.airflow
    assert written["BASE_IMAGE"] == f"debian:{release.debian_name}-slim"


def test_the_pod_has_the_places_of_the_image():
    pod = yaml.safe_load((RUNTIME / "pod_template.yaml").read_text())
    first = pod["spec"]["containers"][0]
    home = re.search(r"AIRFLOW_HOME=(\S+)", (RUNTIME / "Dockerfile").read_text())[1]
    assert f"{home}/logs" in {one["mountPath"] for one in first["volumeMounts"]}
    assert first["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["securityContext"]["runAsUser"] == 50_000
