"""Without settings nobody gets in, because nothing starts; and Airflow's command explains tokens."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from astronomer.lab.issuer import IssuerServer
from tests.integration.runtime.deployment import ROOT, Deployment

pytestmark = [pytest.mark.xdist_group("runtime-command"), pytest.mark.timeout(400)]

MANAGER = "astronomer.runtime.auth_manager.RuntimeAuthManager"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """Run Airflow's command with the security manager and other settings."""
    home = tmp_path_factory.mktemp("command")
    with IssuerServer("this.deployment") as issuer:

        def run(*arguments, typed=None, **settings):
            deployment = Deployment(home, issuer, settings=settings)
            command = [sys.executable, "-W", "ignore", "-m", "airflow", *arguments]
            return subprocess.run(
                command, cwd=ROOT, env=deployment.environment(), input=typed, capture_output=True, text=True,
                check=False, timeout=200,
            )  # fmt: skip

        run.issuer = issuer
        run.home = home
        yield run


def without(*names):
    return {f"AIRFLOW__ASTRONOMER_RUNTIME__{name}": "" for name in names}


def test_an_api_server_without_settings_does_not_start_and_says_what_is_missing(airflow):
    ended = airflow("api-server", "--port", "1", **without("ISSUER", "AUDIENCE", "JWKS_URL"))
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    for name in ("issuer is missing", "audience is missing", "jwks_url and public_key_file are both missing"):
        assert name in said


@pytest.fixture(scope="module")
def database(airflow):
    program = "from tests.integration.runtime import server; server.fill()"
    deployment = Deployment(airflow.home, airflow.issuer)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT, env=deployment.environment(), check=True, capture_output=True, timeout=200,
    )  # fmt: skip


def test_the_command_tells_whose_token_it_is(airflow, database):
    told = airflow("runtime-auth", "check-token", typed=airflow.issuer.platform.token("editor"))
    assert told.returncode == 0, told.stdout + told.stderr
    assert "accepted: edgar@example.com (user-editor)" in told.stdout
    assert "roles: editor" in told.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"aud": "other"}, "audience"), ({"roles": ["x"]}, "role: none of its roles is known here")],
)
def test_and_why_it_is_refused(airflow, database, changes, words):
    token = airflow.issuer.platform.token("editor", **changes)
    told = airflow("runtime-auth", "check-token", typed=f"Bearer {token}\n")
    assert told.returncode == 1
    assert f"refused: {words}" in told.stdout
    assert "what to do: " in told.stdout
    assert not any(part in told.stdout + told.stderr for part in token.split("."))


def test_and_that_it_cannot_be_told(airflow):
    told = airflow(
        "runtime-auth", "check-token", typed=airflow.issuer.platform.token(),
        AIRFLOW__ASTRONOMER_RUNTIME__JWKS_URL="http://localhost:1/jwks",
    )  # fmt: skip
    assert told.returncode == 2
    assert "cannot be told: no usable answer from http://localhost:1/jwks" in told.stdout


@pytest.mark.long
def test_nor_while_the_database_is_away(airflow):
    token = airflow.issuer.platform.token()
    nowhere = "postgresql+psycopg2://nobody:the-password@localhost:1/none"
    for database in (nowhere, f"sqlite:///{airflow.home}/empty.db"):
        told = airflow(
            "runtime-auth", "check-token", typed=token, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=database
        )
        assert told.returncode == 2, told.stdout + told.stderr
        assert "cannot be told: the metadata database could not be asked: " in told.stdout
        assert "the-password" not in told.stdout + told.stderr


@pytest.mark.long
def test_nor_of_a_session_where_its_key_is_not(airflow, database):
    session = Deployment(airflow.home, airflow.issuer).session(airflow.issuer.platform.token())
    without_a_key = airflow("runtime-auth", "check-token", typed=session, AIRFLOW__API_AUTH__JWT_SECRET="")
    assert without_a_key.returncode == 2, without_a_key.stdout + without_a_key.stderr
    assert "[api_auth] jwt_secret is not set here" in without_a_key.stdout
    with_another = airflow("runtime-auth", "check-token", typed=session)
    assert with_another.returncode == 1
    assert "refused: foreign" in with_another.stdout


def test_the_command_tells_what_a_role_may(airflow, tmp_path):
    file = tmp_path / "roles.json"
    file.write_text(
        '{"operator": {"includes": "viewer", "permissions": ["pool:*", "custom_view.Costs:GET"]}}'
    )
    told = airflow("runtime-auth", "roles", AIRFLOW__ASTRONOMER_RUNTIME__ROLE_PERMISSIONS=str(file))
    assert told.returncode == 0, told.stdout + told.stderr
    operator = told.stdout.partition("operator, for the platform's operator:")[2]
    assert "  pool: GET POST PUT DELETE\n" in operator
    assert "  custom_view.Costs: GET\n" in operator
    assert "connection" not in operator


def test_the_command_says_what_is_missing(airflow):
    told = airflow("runtime-auth", "roles", **without("ISSUER"))
    assert told.returncode == 2
    assert "cannot be told: RuntimeAuthManager cannot start" in told.stdout
    assert "Traceback" not in told.stdout + told.stderr


@pytest.mark.long
def test_it_waits_for_a_platform_that_is_not_there_yet(airflow):
    """It starts, says 503 to everybody, and lets people in once the platform answers; and writes all of it down."""
    airflow.issuer.answer = None
    with IssuerServer("this.deployment") as late:
        from starlette.responses import PlainTextResponse

        late.answer = PlainTextResponse("starting", 503)
        settings = {
            "AIRFLOW__ASTRONOMER_RUNTIME__JWKS_MIN_INTERVAL": "1",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",  # the audit log has none
        }
        with Deployment(airflow.home / "late", late, settings=settings).running() as deployment:
            token = late.platform.token("viewer")
            assert deployment.status(token) == 503
            assert deployment.status(token, "POST", "/auth/token") == 503
            assert deployment.status(token, path="/api/v2/auth/logout") == 503, "not ended, and it says so"
            assert deployment.status("a.b.c") == 403
            assert deployment.status(None) == 401
            late.answer = None
            time.sleep(1.1)
            assert deployment.status(token) == 200
            assert deployment.status(token, "POST", "/auth/token") == 201
            events = [(one["event"], one.get("reason"), one["path"]) for one in deployment.audit]
        assert events.count(("token refused", "keys unavailable", "/api/v2/auth/logout")) == 1
        assert events[-1] == ("token exchanged", None, "/auth/token")
