"""The local platform."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import jwt
import pytest

from astronomer.lab.issuer import CLAIMS, IssuerServer, Platform
from astronomer.lab.server import PortInUseError


@pytest.fixture(scope="module")
def issuer():
    with IssuerServer() as issuer:
        yield issuer


def get(url, data=None):
    try:
        with urllib.request.urlopen(url, data, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


ASKED = {"redirect_uri": "http://localhost:8080/auth/callback", "response_mode": "form_post", "state": "s"}


@pytest.mark.parametrize("role", ["viewer", "editor", "admin"])
def test_its_tokens_are_verified_with_what_it_publishes(issuer, role):
    _, token = get(f"{issuer.url}/token?role={role}")
    [key] = jwt.PyJWKSet.from_json(get(f"{issuer.url}/jwks.json")[1]).keys
    said = jwt.decode(token, key, audience="airflow.localhost", issuer=issuer.url)
    assert said["roles"] == [role]
    assert tuple(said) == CLAIMS


def test_it_knows_no_other_role(issuer):
    assert get(f"{issuer.url}/token?role=root") == (400, "role is one of viewer, editor, admin")


def test_its_page_leads_back_with_a_token_in_a_form(issuer):
    asked = urllib.parse.urlencode({**ASKED, "state": '"><x'})
    status, page = get(f"{issuer.url}/login?{asked}")
    assert (status, "<x" in page) == (200, False)
    sent = {"redirect_uri": "http://localhost:8080/auth/callback", "state": "s", "role": "editor"}
    _, form = get(f"{issuer.url}/login", urllib.parse.urlencode(sent).encode())
    assert 'action="http://localhost:8080/auth/callback"' in form
    [token] = re.findall(r'name="access_token" value="([^"]+)"', form)
    assert jwt.decode(token, options={"verify_signature": False})["roles"] == ["editor"]


@pytest.mark.parametrize("mode", ["query", "fragment", ""])
def test_its_tokens_travel_in_a_form_alone(issuer, mode):
    status, said = get(f"{issuer.url}/login?{urllib.parse.urlencode({**ASKED, 'response_mode': mode})}")
    assert (status, said.startswith("response_mode must be form_post")) == (400, True)


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "http://localhost.evil.example:1/",
        "http://localhost:1@evil.example:1/",
        "",
        "//x",
        "http://[::1",
    ],
)
def test_its_tokens_stay_on_this_machine(issuer, target):
    sent = urllib.parse.urlencode({**ASKED, "redirect_uri": target, "role": "admin"})
    assert get(f"{issuer.url}/login?{sent}")[0] == 400
    assert get(f"{issuer.url}/login", sent.encode())[0] == 400


def test_it_publishes_no_private_part():
    for algorithm in ("RS256", "ES256", "EdDSA"):
        platform = Platform("i", "a", algorithm)
        assert not {"d", "p", "q", "k"} & set(platform.jwks()["keys"][0])


def test_a_new_key_replaces_the_old_one_or_stands_beside_it():
    platform = Platform("i", "a")
    first = platform.kid
    second = platform.rotate("ES256", keep=True)
    assert [key["kid"] for key in platform.jwks()["keys"]] == [first, second]
    third = platform.rotate()
    assert [key["kid"] for key in platform.jwks()["keys"]] == [third]


def test_a_port_that_is_taken_is_told(issuer):
    with pytest.raises(PortInUseError, match=str(issuer.port)):
        IssuerServer(port=issuer.port).start()


def test_it_listens_on_loopback_only(issuer):
    assert issuer._listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "told"),
    [("localhost", 200), ("127.0.0.1", 200), ("evil.example", 400), ("localhost.evil.example", 400)],
)
def test_a_name_of_somebody_elses_leads_nowhere(issuer, host, told):
    """A page of that name could read the answer, which has an admin's token."""
    address = f"http://127.0.0.1:{issuer.port}/token?role=admin"
    status, said = get(urllib.request.Request(address, headers={"host": f"{host}:{issuer.port}"}))
    assert (status, said.count(".")) == (told, 2 if told == 200 else 0)


def test_the_command_prints_what_to_paste_and_stops_on_a_signal():
    with subprocess.Popen(
        [sys.executable, "-m", "astronomer.lab", "issuer", "--airflow", "http://localhost:9999"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as running:  # fmt: skip
        try:
            lines = []
            while not (lines and "Ctrl-C" in lines[-1]):
                lines.append(running.stdout.readline())
                assert lines[-1], running.stderr.read()
            told = dict(shlex.split(line)[1].split("=", 1) for line in lines if line.startswith("export "))
            assert told["AIRFLOW__API__BASE_URL"] == "http://localhost:9999"
            assert json.loads(get(told["AIRFLOW__ASTRONOMER_RUNTIME__JWKS_URL"])[1])["keys"]
            port = urllib.parse.urlsplit(told["AIRFLOW__ASTRONOMER_RUNTIME__ISSUER"]).port
            second = subprocess.run(
                [sys.executable, "-m", "astronomer.lab", "issuer", "--port", str(port)],
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert (second.returncode, "already in use; choose another with --port" in second.stderr) == (
                1,
                True,
            )
        finally:
            running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
        assert running.stderr.read() == ""


def test_a_client_that_keeps_its_connection_does_not_hold_up_the_end():
    issuer = IssuerServer().start()
    connection = http.client.HTTPConnection("127.0.0.1", issuer.port, timeout=60)
    connection.request("GET", "/jwks.json")
    connection.getresponse().read()
    issuer.stop()
    assert not issuer._thread.is_alive()
    connection.close()
