"""What goes into the image, as far as it can be tried outside of one."""

import re
import runpy
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from astronomer.runtime.versions import Manifest
from tools.image.__main__ import build

RUNTIME = Path(__file__).parents[3] / "runtime"
DOCKERFILE = (RUNTIME / "Dockerfile").read_text()
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


class TestAModuleOfTheProject:
    @pytest.mark.parametrize("program", ["python", "python3", "/opt/runtime/venv/bin/python3.13"])
    def test_python_does_not_look_for_it_first(self, monkeypatch, program):
        assert started(monkeypatch, program, "-m", "celery", "-A", "x") == [
            [program, "-P", "-m", "celery", "-A", "x"]
        ]

    @pytest.mark.parametrize("options", [("-u", "-m"), ("-um",), ("-X", "dev", "-Wignore", "-m")])
    def test_not_with_options_either(self, monkeypatch, options):
        assert started(monkeypatch, "python", *options, "x") == [["python", "-P", *options, "x"]]

    @pytest.mark.parametrize(
        "command",
        [
            ("python", "script.py"),
            ("python", "-u", "script.py", "-m"),
            ("python", "-c", "-m"),
            ("python", "-W", "-m"),
            ("python", "-", "-m"),
            ("python",),
            ("pythonic", "-m", "x"),
            ("airflow", "-m"),
        ],
    )
    def test_other_commands_stay_as_they_are(self, monkeypatch, command):
        assert started(monkeypatch, *command) == [list(command)]

    @pytest.mark.skipif(
        sys.version_info < (3, 11), reason="an earlier Python has no -P; that of the image does"
    )
    def test_it_takes_nobodys_place(self, tmp_path):
        (tmp_path / "json.py").write_text("print('of the project')")
        entrypoint = [sys.executable, RUNTIME / "bin" / "entrypoint"]
        command = [sys.executable, "-m", "json.tool", "--help"]
        done = subprocess.run(
            [*entrypoint, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith("usage: "), done.stdout + done.stderr


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

    @pytest.mark.parametrize(
        "command",
        [
            ("airflow", "triggerer"),
            ("/opt/runtime/venv/bin/airflow", "triggerer"),
            ("airflow", "db", "migrate"),
        ],
    )
    def test_one_that_does_not_come_ends_the_start(self, monkeypatch, nobody, command):
        with pytest.raises(SystemExit, match=f"The database at {nobody} cannot be reached"):
            started(
                monkeypatch,
                *command,
                AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"postgresql://user:hidden@{nobody}/a",
                ASTRONOMER_WAIT_SECONDS="0.01",
            )

    @pytest.mark.parametrize(
        ("command", "seconds"),
        [(("airflow", "version"), "1"), (("bash",), "1"), (("airflow", "celery", "worker"), "0")],
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
        assert "AIRFLOW__API__SECRET_KEY is not set: logs of running tasks and triggers" in said
        assert "FERNET" not in said

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ("api-server", "JWT_SECRET SECRET_KEY FERNET_KEY"),
            ("scheduler", "JWT_SECRET SECRET_KEY FERNET_KEY"),
            ("standalone", "JWT_SECRET SECRET_KEY FERNET_KEY"),
            ("triggerer", "SECRET_KEY FERNET_KEY"),
            ("dag-processor", "FERNET_KEY"),
            ("celery worker", "SECRET_KEY"),
            ("db migrate", ""),
        ],
    )
    def test_each_server_is_told_of_what_it_uses(self, monkeypatch, capsys, words, told):
        started(monkeypatch, "airflow", *words.split())
        assert re.findall(r"__([A-Z]+_[A-Z]+) is not set", capsys.readouterr().err) == told.split()

    def test_a_pair_of_keys_is_as_good_as_a_secret(self, monkeypatch, capsys):
        started(monkeypatch, "airflow", "scheduler", AIRFLOW__API_AUTH__JWT_PRIVATE_KEY_PATH="/run/jwt.pem")
        assert "JWT" not in capsys.readouterr().err

    def test_also_in_the_file(self, monkeypatch, capsys, tmp_path):
        (tmp_path / "airflow.cfg").write_text("[api_auth]\njwt_private_key_path = /run/jwt.pem\n")
        started(monkeypatch, "airflow", "scheduler", AIRFLOW_HOME=str(tmp_path))
        assert "JWT" not in capsys.readouterr().err

    def test_a_secret_may_bear_its_former_name(self, monkeypatch, capsys):
        started(monkeypatch, "airflow", "api-server", AIRFLOW__WEBSERVER__SECRET_KEY="of-a-test")
        assert "SECRET_KEY" not in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("written", "told"),
        [
            ("[core]\nfernet_key = abc\n", False),
            ("[core]\nfernet_key_secret = path\n", False),
            ("[core]\nfernet_key =\nexecutor = LocalExecutor\n", True),
            ("# fernet_key = abc\n", True),
        ],
    )
    def test_a_key_that_is_empty_is_none(self, monkeypatch, capsys, tmp_path, written, told):
        (tmp_path / "airflow.cfg").write_text(written)
        variables = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__FERNET_KEY": ""}
        started(monkeypatch, "airflow", "scheduler", **variables)
        assert ("plain text" in capsys.readouterr().err) is told


@pytest.mark.parametrize(
    ("words", "port"),
    [(["--port", "9090"], "9090"), (["--port=9090"], "9090"), (["-p", "1"], "1"), (["--workers", "2"], None)],
)
def test_the_health_check_reads_options(words, port):
    assert HEALTH["option"](words, "-p", "--port") == port


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tini -- /opt/runtime/bin/entrypoint airflow scheduler", ["scheduler"]),
        ("tini -- bash -c airflow db migrate && exec airflow api-server -p 1", ["api-server", "-p", "1"]),
        ("tini -- airflow celery worker -H w1@%h", ["celery", "worker", "-H", "w1@%h"]),
        ("tini -- /opt/runtime/venv/bin/airflow triggerer", ["triggerer"]),
        ("tini -- bash -c exec airflow scheduler; true", ["scheduler", "true"]),
        (
            "tini -- bash -c cd /usr/local/airflow; airflow api-server -p 1; true",
            ["api-server", "-p", "1", "true"],
        ),
        ("tini -- airflow db migrate", []),
        ("sleep 600", []),
    ],
)
def test_the_health_check_finds_the_server(line, found):
    assert HEALTH["server"](line.split()) == found


class TestTheHealthOfAnApiServer:
    @pytest.fixture
    def asked(self, monkeypatch):
        """(port, path, host, TLS) of the question; settings are those of [api]."""
        scope, asked = HEALTH["api_server"].__globals__, []
        self.settings = {"port": "8080", "host": "0.0.0.0"}  # what Airflow has

        def get(port, path, *, host, tls):
            asked.append((port, path, host, tls))
            return 200, b'{"metadatabase": {"status": "healthy"}}'

        monkeypatch.setitem(scope, "setting", lambda _section, key: self.settings.get(key))
        monkeypatch.setitem(scope, "get", get)
        return asked

    @pytest.mark.parametrize(
        ("words", "question"),
        [
            ("", (8080, "/api/v2/monitor/health", "127.0.0.1", False)),
            ("-p 9090 --host 10.0.0.7", (9090, "/api/v2/monitor/health", "10.0.0.7", False)),
            ("-H 0.0.0.0", (8080, "/api/v2/monitor/health", "127.0.0.1", False)),
            ("-H ::", (8080, "/api/v2/monitor/health", "::1", False)),
            ("--ssl-cert c --ssl-key k", (8080, "/api/v2/monitor/health", "127.0.0.1", True)),
            ("--apps execution", (8080, "/execution/health", "127.0.0.1", False)),
        ],
    )
    def test_its_options_say_where_it_is(self, asked, words, question):
        assert HEALTH["api_server"](["api-server", *words.split()])
        assert asked == [question]

    def test_its_settings_too(self, asked):
        self.settings |= {"ssl_cert": "c", "host": "10.0.0.7"}
        assert HEALTH["api_server"](["api-server"])
        assert asked == [(8080, "/api/v2/monitor/health", "10.0.0.7", True)]


@pytest.mark.parametrize(
    ("words", "name"),
    [("", "celery@vm.example.com"), ("-H w1@%h", "w1@vm.example.com"), ("--celery-hostname=w2", "celery@w2")],
)
def test_a_worker_is_pinged_by_the_name_that_celery_gives_it(monkeypatch, words, name):
    pinged = []
    monkeypatch.setitem(HEALTH["works"].__globals__, "ends_well", lambda *command: pinged.append(command[-1]))
    monkeypatch.setattr("celery.utils.nodenames.gethostname", lambda: "vm.example.com")
    HEALTH["works"](["celery", "worker", *words.split()])
    assert pinged == [name]


def test_one_without_remote_control_is_looked_for_by_that_name(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL", "False")
    monkeypatch.setitem(
        HEALTH["works"].__globals__, "ends_well", lambda *_: pytest.fail("it does not answer")
    )
    titled = "import sys; from celery.platforms import set_mp_process_title as title; title('celeryd', '-active-', sys.argv[1])"
    name = f"w{secrets.token_hex(4)}@here"
    words = ["celery", "worker", "-H", name]
    assert not HEALTH["works"](words)
    with subprocess.Popen(
        [sys.executable, "-c", f"{titled}; print(); input()", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        worker.stdout.readline()
        assert HEALTH["works"](words)
        assert not HEALTH["works"](["celery", "worker", "-H", name[:-1]])
        worker.communicate(b"\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_powershell_is_read(tmp_path, encoding):
    (file := tmp_path / "packages.txt").write_bytes("jq  # für JSON\r\n\r\nless\r\n".encode(encoding))
    assert PROJECT["lines"](file) == ["jq", "less"]


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("apache-airflow==3.2.0", True),
        ("apache-airflow_core ~= 3.1.0", True),
        ("apache-airflow @ https://example.com/a.whl", True),
        ("apache-airflow==3.2.0 --hash=sha256:00", True),
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


def test_nor_is_one_with_hashes_in_the_next_lines_had(tmp_path, monkeypatch):
    """As pip-compile writes it."""
    monkeypatch.setitem(PROJECT["main"].__globals__, "pinned", lambda: PINS)
    (tmp_path / "requirements.txt").write_text(
        "apache-airflow==3.2.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
    )
    with pytest.raises(SystemExit, match=r"'apache-airflow==3\.2\.0' asks for another apache-airflow than"):
        PROJECT["main"](tmp_path)


def test_the_dockerfile_builds_the_newest_release_by_itself():
    release = Manifest.read(RUNTIME / "versions.json").newest()
    written = dict(re.findall(r"^ARG (\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
    assert written["RUNTIME_VERSION"] == str(release.tag)
    assert written["AIRFLOW_VERSION"] == release.airflow
    assert written["BASE_IMAGE"] == f"debian:{release.debian_name}-slim"
    assert (written["PYTHON"], written["DEBIAN"]) == (release.python, release.debian)


class Engine:
    """Builds nothing, and remembers what it was told."""

    name = "a test"

    def __init__(self):
        self.told = []

    def build(self, build):
        self.told.append(build)
        return subprocess.CompletedProcess([], 0, "")

    def config(self, tag):
        return {"OnBuild": ["a step"]}

    def size(self, tag):
        return 0


def test_so_does_the_command(capsys):
    release, engine = Manifest.read(RUNTIME / "versions.json").newest(), Engine()
    build(engine, release.model_copy(update={"python": "3.12", "debian": "12"}), "python:3.12-slim")
    known = set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE))
    for one in engine.told:
        assert set(one.arguments) <= known
        assert (one.arguments["PYTHON"], one.arguments["DEBIAN"]) == ("3.12", "12")


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="needs a Debian")
@pytest.mark.parametrize("other", [{}, {"PYTHON": "2.7"}, {"DEBIAN": "7"}])
def test_no_tag_stands_for_another_python_or_debian(tmp_path, other):
    (step,) = re.findall(r"^RUN (found=(?:.*\\\n)+.*)$", DOCKERFILE, re.MULTILINE)
    (tmp_path / "python3").symlink_to(sys.executable)
    here = {
        "PYTHON": ".".join(map(str, sys.version_info[:2])),
        "DEBIAN": Path("/etc/debian_version").read_text().strip().partition(".")[0],
    }
    variables = {**here, **other, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", step], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == bool(other)
    wanted = "Python {PYTHON}, Debian {DEBIAN}"
    said = f"BASE_IMAGE has {wanted.format(**here)}; this release has {wanted.format(**variables)}.\n"
    assert done.stderr == (said if other else "")


def test_pip_holds_the_image_s_environment_to_its_pins_and_no_other():
    (made,) = re.findall(r"(printf .+) > /opt/runtime/venv/pip\.conf", DOCKERFILE)
    told = subprocess.run(["sh", "-c", made], capture_output=True, text=True, check=True).stdout
    assert told == f"[global]\nconstraint = {PROJECT['PINS']}\n"
    assert "PIP_CONSTRAINT" not in DOCKERFILE.partition("AS base")[2]


def test_users_are_numbers():
    """A kubelet that runs nobody as root refuses a name."""
    recipe = (RUNTIME.parent / "docs" / "howto" / "runtime-image.md").read_text()
    for text in (DOCKERFILE, recipe):
        users = re.findall(r"^(?:ONBUILD )?USER (\S+)$", text, re.MULTILINE)
        assert set(users) == {"root", "50000"}
        assert users[-1] == "50000"
    assert "useradd --uid 50000 --gid 0 " in DOCKERFILE


def test_the_pod_has_the_places_of_the_image():
    pod = yaml.safe_load((RUNTIME / "pod_template.yaml").read_text())
    first = pod["spec"]["containers"][0]
    home = re.search(r"AIRFLOW_HOME=(\S+)", DOCKERFILE)[1]
    assert f"{home}/logs" in {one["mountPath"] for one in first["volumeMounts"]}
    assert first["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["securityContext"]["runAsUser"] == 50_000
