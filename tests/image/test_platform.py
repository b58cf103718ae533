"""The security manager in the image, with the local issuer for a platform."""

import time

import httpx
import pytest

from astronomer.lab.issuer import IssuerServer
from tools.image.container import READ_ONLY
from tools.servers.owner import free_port
from tools.servers.postgres import started

STARTING = 180.0


@pytest.fixture
def deployment(container):
    """An API server of the image, and the platform whose tokens it takes."""
    url = f"http://localhost:{free_port()}"
    with started() as database, IssuerServer() as issuer:
        variables = {
            **issuer.settings(),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": url.rpartition(":")[2],
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": "of-a-test",
            "AIRFLOW__API_AUTH__JWT_SECRET": "of-a-test-of-a-test-of-a-test-of-a-test",
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url.render_as_string(hide_password=False),
        }
        done = container.run("airflow", "db", "migrate", variables=variables, options=READ_ONLY)
        assert done.returncode == 0, done.stdout
        with container.running("airflow", "api-server", variables=variables) as said:
            until = time.monotonic() + STARTING
            while not answers(url):
                assert time.monotonic() < until, said()
                time.sleep(0.5)
            yield url, issuer.platform


def answers(url):
    try:
        return httpx.get(f"{url}/api/v2/monitor/health", timeout=10).is_success
    except httpx.TransportError:
        return False


def test_roles_come_from_the_platform(deployment):
    url, platform = deployment

    def status(role, method, path, **more):
        headers = {"Authorization": f"Bearer {platform.token(role)}"} if role else {}
        return httpx.request(method, f"{url}/api/v2/{path}", headers=headers, timeout=60, **more).status_code

    pool = {"name": "of_a_test", "slots": 1}
    assert [status(role, "GET", "dags") for role in (None, "viewer", "editor", "admin")] == [
        401,
        200,
        200,
        200,
    ]
    assert [status(role, "GET", "connections") for role in ("viewer", "editor", "admin")] == [403, 403, 200]
    assert [status(role, "POST", "pools", json=pool) for role in ("viewer", "editor", "admin")] == [
        403,
        403,
        201,
    ]


def test_a_stranger_s_token_is_refused(deployment):
    url, platform = deployment
    token = platform.token("admin", aud="another-deployment")
    assert httpx.get(f"{url}/api/v2/dags", headers={"Authorization": f"Bearer {token}"}).status_code == 403
