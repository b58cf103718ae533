"""One real API server for each kind of database."""

from __future__ import annotations

from importlib.metadata import version

import httpx
import pytest

from astronomer.lab.issuer import IssuerServer
from tests.integration.runtime.deployment import Deployment
from tools.servers import postgres


@pytest.fixture(scope="session", autouse=True)
def _airflow():
    if not version("apache-airflow-core").startswith("3.3."):
        pytest.skip("the security manager is for Airflow 3.3")


@pytest.fixture(scope="session")
def issuer():
    with IssuerServer("this.deployment") as issuer:
        yield issuer


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def deployment(request, issuer, tmp_path_factory):
    home = tmp_path_factory.mktemp("runtime")
    if request.param == "sqlite":
        with Deployment(home, issuer).running() as deployment:
            yield deployment
        return
    if postgres.binaries() is None:
        pytest.skip("needs a PostgreSQL server")
    with postgres.started() as server:
        url = server.url.render_as_string(hide_password=False)
        with Deployment(home, issuer, url).running() as deployment:
            yield deployment


@pytest.fixture
def browser():
    with httpx.Client(timeout=60) as browser:
        yield browser
