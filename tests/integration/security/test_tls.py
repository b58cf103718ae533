"""Every client refuses a server whose certificate nobody here has signed, and says what to do."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from astronomer.deferral import JobError, Transient
from astronomer.deferral._compat import PlainConnection
from astronomer.lab.databricks import DatabricksLab
from astronomer.lab.snowflake import SnowflakeLab
from astronomer.providers.core.hooks.deployment import DeploymentClient
from astronomer.providers.databricks.hooks import unified, verification
from astronomer.providers.databricks.hooks.client import DatabricksClient
from astronomer.providers.databricks.sql.route import Place
from astronomer.providers.snowflake.hooks.session import SnowflakeSession
from astronomer.providers.snowflake.hooks.sql_api import ReadSqlApiHook, SqlApiClient
from astronomer.providers.snowflake.hooks.stock import ReadHook

ROOT = Path(__file__).resolve().parents[3]
CANNOT = "verification cannot be switched off"


def plain(fields):
    named = {name: fields.get(name) for name in ("login", "password", "host", "port", "schema")}
    return PlainConnection("c", **named, extra_dejson=fields.get("extra") or {})


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    """Local services of an authority that is trusted nowhere."""
    folder = tmp_path_factory.mktemp("strangers")
    with SnowflakeLab(directory=folder) as snowflake, DatabricksLab(directory=folder) as databricks:
        yield snowflake, databricks


@pytest.fixture(autouse=True)
def _strangers(monkeypatch):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
    verification._warn.cache_clear()


@pytest.mark.parametrize(
    "extra", [{}, {"insecure_mode": True}, {"ocsp_fail_open": True}, {"verify": False, "ssl": False}], ids=str
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the connector's, of its insecure_mode
def test_a_session_of_snowflake(labs, extra):
    snowflake, _ = labs
    session = SnowflakeSession(ReadHook(plain(snowflake.airflow_connection(**extra))), patience=1)
    with pytest.raises(Transient, match=f"REQUESTS_CA_BUNDLE.*{CANNOT}"):
        session.open()
    assert not snowflake.requests.select(".*")


@pytest.mark.parametrize("extra", [{}, {"insecure_mode": True, "verify": False}], ids=str)
async def test_the_sql_api(labs, extra):
    snowflake, _ = labs
    client = SqlApiClient(ReadSqlApiHook(plain(snowflake.airflow_connection(auth="key_pair", **extra))))
    with pytest.raises(Transient, match=f"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE.*{CANNOT}"):
        await client.look("01b2")
    await client.close()


@pytest.mark.parametrize("auth", ["pat", "oauth"])
@pytest.mark.parametrize(
    "extra", [{}, {"_tls_no_verify": True, "skip_verify": True, "verify": False}], ids=str
)
async def test_databricks(labs, auth, extra):
    _, databricks = labs
    client = DatabricksClient(plain(databricks.airflow_connection(auth=auth, **extra)))
    with pytest.raises(Transient, match=f"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE.*{CANNOT}"):
        await client.get("2.2/jobs/list")
    await client.close()


async def test_databricks_by_its_sdk(labs):
    """The SDK's own requests are verified too, whatever the extra says."""
    _, databricks = labs
    connection = databricks.airflow_connection(
        auth="oauth", auth_type="oauth-m2m", skip_verify=True, retry_timeout_seconds=1
    )
    del connection["extra"]["service_principal_oauth"]
    client = DatabricksClient(plain(connection))
    with pytest.raises((Transient, JobError)):
        await client.get("2.2/jobs/list")
    await client.close()
    assert not databricks.requests.select(".*")


@pytest.mark.parametrize("extra", [{}, {"verify": False, "ssl": False, "insecure_mode": True}], ids=str)
async def test_another_deployment(labs, extra):
    _, databricks = labs
    client = DeploymentClient(PlainConnection("c", "me", "word", databricks.url, None, None, extra))
    with pytest.raises(Transient, match=f"CERTIFICATE_VERIFY_FAILED.*`ca_file` in the extra.*{CANNOT}"):
        await client.runs(most=1)
    await client.close()


class TestExtras:
    def test_the_sdk_is_not_told_to_skip_it(self, caplog):
        connection = PlainConnection(
            "c", "id", "s", "h", None, None, {"auth_type": "oauth-m2m", "skip_verify": True}
        )
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert "skip_verify" not in unified.arguments(connection, "https://h")
        (said,) = [one.getMessage() for one in caplog.records]
        assert "takes no notice of 'skip_verify'" in said
        assert "REQUESTS_CA_BUNDLE" in said

    @pytest.mark.parametrize("extra", [{"_tls_no_verify": True}, {"_tls_verify_hostname": False}], ids=str)
    def test_what_the_connector_is_told_is_said_once(self, caplog, extra):
        place = Place({"http_path": "/sql/1.0/warehouses/abc", **extra})
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                place.reason_for_connector(["select 1"])
        (said,) = [one.getMessage() for one in caplog.records]
        assert "go without verification" in said
        assert next(iter(extra)) in said

    @pytest.mark.parametrize(
        "extra", [{}, {"_tls_no_verify": False}, {"_tls_verify_hostname": True}], ids=str
    )
    def test_nothing_is_said_without_a_reason(self, caplog, extra):
        Place({"http_path": "/sql/1.0/warehouses/abc", **extra}).reason_for_connector(["select 1"])
        assert not caplog.records


OFF = re.compile(
    r"verify\s*=\s*False|verify_ssl\s*=\s*False|ssl\s*=\s*False|CERT_NONE|check_hostname\s*=\s*False"
    r"|_create_unverified_context|insecure_mode\"?\]?\s*[=:]\s*True|skip_verify\"?\]?\s*[=:]\s*True|no_verify\"?\]?\s*[=:]\s*True"
)


def test_no_line_switches_verification_off():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("astronomer", "tools", "examples")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OFF.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "requests.get(url, verify=False)",
        "TCPConnector(ssl=False)",
        "context.verify_mode = ssl.CERT_NONE",
        "context.check_hostname = False",
        "ssl._create_unverified_context()",
        'parameters["insecure_mode"] = True',
        '{"skip_verify": True}',
    ],
)
def test_such_a_line_would_be_found(line):
    assert OFF.search(line)
