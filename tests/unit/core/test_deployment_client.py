"""The client on virtual time: one session, one login, and what each answer means."""

from __future__ import annotations

import asyncio
import base64
import logging

import pytest

from astronomer.deferral import CredentialsRejected, Transient
from astronomer.deferral.testing import FakeClock
from astronomer.providers.core.hooks import deployment_login
from astronomer.providers.core.hooks.deployment_errors import ConnectionUnusable, NoSuchApi, Refused
from astronomer.providers.core.hooks.deployment_login import Deployment as Where
from tests.unit.core.deployments import (
    PASSWORD,
    RUNS,
    TOKEN,
    URL,
    Deployment,
    connection,
    reply,
    with_password,
    with_token,
)

OAUTH = {"token_url": "https://login.example.com/oauth/token", "scope": "airflow", "audience": "them"}


@pytest.fixture(autouse=True)
def _no_tokens():
    deployment_login._kept.clear()


def on_time(main):
    return FakeClock().run(main)


def raised(main):
    """The error of a coroutine."""

    async def caught():
        try:
            await main()
        except Exception as error:  # noqa: BLE001  # whatever it is, the test looks at it
            return error
        raise AssertionError("it went well")

    return on_time(caught)


class TestAConnection:
    @pytest.mark.parametrize(
        ("fields", "address"),
        [
            ({"host": "https://airflow.example.com"}, "https://airflow.example.com"),
            ({"host": "https://airflow.example.com/orders/"}, "https://airflow.example.com/orders"),
            ({"host": "airflow.example.com/orders"}, "https://airflow.example.com/orders"),
            ({"host": "airflow.example.com", "port": 8443}, "https://airflow.example.com:8443"),
            ({"host": "https://airflow.example.com:8080", "port": 8443}, "https://airflow.example.com:8080"),
            ({"host": "http://localhost:8080"}, "http://localhost:8080"),
            ({"host": "localhost:8080", "schema": "http"}, "http://localhost:8080"),
        ],
    )
    def test_its_address(self, fields, address):
        assert Where.of(with_token(**fields)).address == address

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"password": "x" * 9, "host": None}, "its host must be the deployment's URL"),
            ({"password": "x" * 9, "host": "ftp://example.com"}, "its host must be"),
            ({"password": "x" * 9, "host": "https://me:secret@example.com"}, "without a user"),
            ({"password": "x" * 9, "host": "https://example.com/?a=b"}, "without a user, a query"),
            ({"password": "x" * 9, "host": "https://example.com:port"}, "'astro_cloud_default'"),
            ({}, "neither an API token"),
            ({"login": "reader"}, "a login, but no password"),
            ({"password": "x" * 9, "extra_dejson": OAUTH}, "no login"),
            ({"login": "i", "password": "x" * 9, "extra_dejson": {"scope": "a"}}, "no `token_url`"),
            ({"login": "i", "password": "x" * 9, "extra_dejson": {"token_url": "login"}}, "`token_url`"),
            (
                {"login": "i", "password": "x" * 9, "extra_dejson": {**OAUTH, "client_auth": "jwt"}},
                "basic or body",
            ),
            ({"password": "a\nb" * 3}, "line break"),
            ({"password": "x" * 9, "extra_dejson": {"ca_file": "/no/such"}}, "no file /no/such"),
        ],
    )
    def test_one_that_makes_no_sense(self, fields, said):
        with pytest.raises(ConnectionUnusable, match=said) as caught:
            Where.of(connection(**fields))
        assert "secret" not in str(caught.value)

    def test_its_secrets_are_not_shown(self):
        shown = [
            repr(made(read))
            for read in (with_token(), with_password())
            for made in (Where.of, Deployment().client)
        ]
        assert not [one for one in shown if TOKEN in one or PASSWORD in one]

    def test_a_token_in_the_extra(self):
        assert Where.of(connection(extra_dejson={"token": TOKEN})).token == TOKEN


class TestTokens:
    def test_an_api_token_is_sent_as_it_is(self):
        deployment = Deployment()
        on_time(lambda: deployment.client().runs(dag_ids=["a"]))
        assert deployment.logins == []

    def test_500_questions_at_once_log_in_once(self):
        async def main():
            client = deployment.client(with_password())
            await asyncio.gather(*(client.runs(dag_ids=["a"]) for _ in range(500)))

        deployment = Deployment()
        on_time(main)
        assert len(deployment.asked) == 500
        assert deployment.logins == [
            {"url": f"{URL}/auth/token", "headers": {}, "json": {"username": "reader", "password": PASSWORD}}
        ]

    @pytest.mark.parametrize(("lasts", "early"), [(3600.0, 50.0), (40.0, 9.0)])
    def test_a_token_is_fetched_anew_before_it_ends(self, lasts, early):
        async def main():
            client = deployment.client(with_password())
            for _ in range(1000):
                await client.runs(dag_ids=["a"])
                await asyncio.sleep(lasts / 100)

        deployment = Deployment(lasts=lasts, early=early)
        on_time(main)
        assert 10 <= len(deployment.logins) <= 14
        assert len(deployment.asked) == 1000  # none was refused

    @pytest.mark.parametrize("how", ["ended", "revoked"])
    def test_a_token_that_is_refused_is_fetched_anew_once(self, how):
        async def main():
            client = deployment.client(with_password())
            await client.runs(dag_ids=["a"])
            (token,) = set(deployment.alive) - {TOKEN}
            deployment.alive[token] = 0.0
            if how == "revoked":
                del deployment.alive[token]
            await asyncio.gather(*(client.runs(dag_ids=["a"]) for _ in range(50)))

        deployment = Deployment()
        on_time(main)
        assert len(deployment.logins) == 2
        assert len(deployment.asked) == 101

    def test_a_late_refusal_of_the_old_token_costs_no_other_login(self):
        async def main():
            client = deployment.client(with_password())
            await client.runs(dag_ids=["a"])
            (token,) = set(deployment.alive) - {TOKEN}
            del deployment.alive[token]
            await asyncio.gather(*(client.runs(dag_ids=["a"]) for _ in range(2)))

        deployment = Deployment(latency={4: 0.5})
        on_time(main)
        assert len(deployment.logins) == 2

    def test_one_that_is_refused_again_is_the_end(self):
        deployment = Deployment(script=[reply(401, {"detail": "no"}), reply(401, {"detail": "no"})])
        error = raised(lambda: deployment.client(with_password()).runs(dag_ids=["a"]))
        assert type(error) is CredentialsRejected
        assert "its login and password" in str(error)
        assert len(deployment.logins) == 2

    def test_an_api_token_that_is_refused_is_the_end(self):
        deployment = Deployment(alive={})
        error = raised(lambda: deployment.client().runs(dag_ids=["a"]))
        assert type(error) is CredentialsRejected
        assert "'astro_cloud_default'" in str(error)
        assert "API token" in str(error)
        assert len(deployment.asked) == 1

    def test_a_wrong_password(self):
        deployment = Deployment()
        error = raised(lambda: deployment.client(with_password("another-secret")).runs(dag_ids=["a"]))
        assert type(error) is CredentialsRejected
        assert "Invalid credentials" in str(error)
        assert "another-secret" not in str(error)
        assert deployment.asked == []

    @pytest.mark.parametrize("status", [400, 403, 404, 405, 422])
    def test_no_such_way_to_log_in(self, status):
        deployment = Deployment(script=[{"status": status, "body": {"detail": "Not Found"}}])
        error = raised(lambda: deployment.client(with_password()).headers())
        assert type(error) is CredentialsRejected

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_login_in_bad_weather(self, status):
        deployment = Deployment(script=[{"status": status, "body": b"<html>"}])
        error = raised(lambda: deployment.client(with_password()).headers())
        assert type(error) is Transient

    def test_what_is_no_token(self):
        for body in ({}, {"access_token": ""}, {"access_token": "a\r\nb"}):
            deployment = Deployment(script=[{"status": 200, "body": body}])
            error = raised(lambda one=deployment: one.client(with_password()).headers())
            assert "no access_token" in str(error)

    @pytest.mark.parametrize("way", ["basic", "body"])
    def test_an_oauth_client(self, way):
        extra = OAUTH | ({} if way == "basic" else {"client_auth": "body"})
        read = connection(login="the client", password=PASSWORD, extra_dejson=extra)
        deployment = Deployment(script=[{"status": 200, "body": {"access_token": TOKEN, "expires_in": 300}}])
        on_time(lambda: deployment.client(read).runs(dag_ids=["a"]))
        (login,) = deployment.logins
        form = {"grant_type": "client_credentials", "scope": "airflow", "audience": "them"}
        assert login["url"] == OAUTH["token_url"]
        if way == "body":
            assert login["data"] == {**form, "client_id": "the client", "client_secret": PASSWORD}
            assert login["headers"] == {}
        else:
            assert login["data"] == form
            told = base64.b64decode(login["headers"]["Authorization"].split()[1]).decode()
            assert told == f"the+client:{PASSWORD}"

    def test_two_loops_of_a_process_log_in_once(self):
        deployment = Deployment()
        for _ in range(2):
            on_time(lambda: deployment.client(with_password()).runs(dag_ids=["a"]))
        assert len(deployment.logins) == 1

    def test_a_token_with_too_few_rights_is_not_kept(self):
        deployment = Deployment(script=[reply(403, {"detail": "Forbidden"})])
        error = raised(lambda: deployment.client(with_password()).runs(dag_ids=["a"]))
        assert type(error) is CredentialsRejected
        assert "it may read Dags, Dag runs and task instances" in str(error)
        on_time(lambda: deployment.client(with_password()).runs(dag_ids=["a"]))
        assert len(deployment.logins) == 2

    def test_nothing_is_logged(self, caplog):
        deployment = Deployment()
        with caplog.at_level(logging.DEBUG):
            on_time(lambda: deployment.client(with_password()).runs(dag_ids=["a"]))
        assert PASSWORD not in caplog.text
        assert not [token for token in deployment.alive if token in caplog.text]


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "kind", "said"),
        [
            (reply(503, b"<html>Service unavailable"), Transient, "Service unavailable"),
            (reply(502, {"detail": "bad gateway"}), Transient, "bad gateway"),
            (reply(429, {"detail": "slow down"}), Transient, "slow down"),
            (reply(200, b"<html>maintenance"), Transient, "no JSON object"),
            (reply(200, b"[]"), Transient, "no JSON object"),
            (reply(403, b"<html>blocked"), Transient, "blocked"),
            (reply(400, b"<html>bad request"), Transient, "bad request"),
            (reply(404, b"<html>default backend - 404"), NoSuchApi, "without /api/v2"),
            (reply(404, {"detail": "Not Found"}), NoSuchApi, "an Airflow 2 is not enough"),
            (reply(404, {"detail": None, "title": "Not Found"}), NoSuchApi, "Airflow 2"),
            (reply(404, {"error": "API route not found"}), NoSuchApi, URL),
            (reply(405, {"detail": "Method Not Allowed"}), NoSuchApi, "Method Not Allowed"),
            (reply(302, b"", headers={"Location": "https://sso.example.com/login?code=s3cret"}), NoSuchApi, "sso.example.com"),
            (reply(404, {"detail": "The Dag with ID: `a` was not found"}), Refused, "`a`"),
            (reply(422, {"detail": "extra fields"}), Refused, "extra fields"),
            (reply(401, {"detail": "no"}), CredentialsRejected, "no"),
        ],
    )  # fmt: skip
    def test_what_they_mean(self, answer, kind, said):
        deployment = Deployment(script=[answer])
        error = raised(lambda: deployment.client().runs(dag_ids=["a"]))
        assert type(error) is kind
        assert said in str(error)
        assert "s3cret" not in str(error)

    @pytest.mark.parametrize(
        ("status", "headers", "pause"),
        [
            (429, {"Retry-After": "7"}, 7.0),
            (429, {}, 5.0),
            (503, {"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
            (503, {"Retry-After": "soon"}, None),
            (503, {"Retry-After": "nan"}, None),
            (500, {}, None),
        ],
    )
    def test_how_long_it_wants_to_be_left_alone(self, status, headers, pause):
        deployment = Deployment(script=[reply(status, {}, headers=headers)])
        error = raised(lambda: deployment.client().runs(dag_ids=["a"]))
        assert error.retry_after == (None if pause is None else pytest.approx(pause, abs=0.1))

    def test_a_run_that_may_not_be_seen(self):
        deployment = Deployment(script=[reply(403, {"detail": "Forbidden"})])
        error = raised(lambda: deployment.client().run("a", "r1"))
        assert type(error) is Refused
        assert error.status == 403

    @pytest.mark.parametrize("most", [1, 2, 7, 1000])
    def test_pages(self, most):
        deployment = Deployment(most=most)
        for number in range(7):
            deployment.start(f"r{number}")
        rows = on_time(lambda: deployment.client().runs(dag_ids=["orders"]))
        assert [row["dag_run_id"] for row in rows] == [f"r{number}" for number in range(7)]
        assert deployment.paths() == [RUNS] * -(-7 // most)

    def test_runs_that_end_between_two_pages(self):
        deployment = Deployment(most=2)
        for number in range(6):
            deployment.start(f"r{number}")
        deployment.on_question = lambda _: deployment.end(f"r{len(deployment.asked) - 1}")
        rows = on_time(lambda: deployment.client().runs(dag_ids=["orders"], states=["running"]))
        assert len(rows) < 6  # some were not seen, and it came to an end

    def test_all_there_is_is_never_asked_for(self):
        with pytest.raises(AssertionError):
            on_time(lambda: Deployment().client().runs(dag_ids=[]))

    def test_names_are_quoted(self):
        async def main():
            run_id = deployment.start("scheduled__2026-01-01T00:00:00+00:00", "a b")
            return await deployment.client().run("a b", run_id)

        deployment = Deployment()
        assert on_time(main)["dag_id"] == "a b"
        assert deployment.urls[-1].endswith(
            "/dags/a%20b/dagRuns/scheduled__2026-01-01T00%3A00%3A00%2B00%3A00"
        )

    @pytest.mark.parametrize(
        ("version", "works"), [("3.3.2", True), ("3.1.6+astro.1", True), ("3.1.5", False), ("3.0.6", False)]
    )
    def test_task_groups_need_a_version(self, version, works):
        deployment = Deployment(version=version, groups={"g": ("x", "y", "z")})
        deployment.start(x=None, y=None, z=[None, None])

        def ask():
            return deployment.client().tasks_of_group("orders", "r1", "g")

        if works:
            assert on_time(ask) == ("x", "y", "z")
        else:
            assert "name the tasks" in str(raised(ask))
