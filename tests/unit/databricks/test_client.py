"""The client on virtual time: one token, one budget, one session for all who share it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astronomer.deferral import CredentialsRejected, Transient, clock
from astronomer.deferral.testing import FakeClock
from astronomer.providers.databricks.errors import NothingDone, RequestRejected
from astronomer.providers.databricks.hooks import client as client_module
from astronomer.providers.databricks.hooks.budget import RequestBudget
from astronomer.providers.databricks.hooks.client import DatabricksClient
from tests.effort import examples
from tests.unit.databricks.fakes import HOST, SECRET, Workspace, answer, connection, pat, principal

RUN = "2.2/jobs/runs/get"
CANCEL = "2.2/jobs/runs/cancel"
INVALID = answer(403, {"error_code": "403", "message": "Invalid access token."})


def on_time(main):
    return FakeClock().run(main)


def new(workspace, read=None, **arguments):
    return workspace.put_behind(DatabricksClient(read or principal(), **arguments))


def test_a_request_says_what_it_is_told():
    async def main():
        client = new(Workspace(), pat())
        filters = {"statement_ids": ["a", "b"], "warehouse_ids": None}
        asked = await client.get(RUN, run_id=7, active_only=True, page_token=None, filter_by=filters)
        ordered = await client.post(CANCEL, {"run_id": 7})
        return client, asked, ordered, clock.now() - client.server_time < 1

    client, asked, ordered, same_time = on_time(main)
    assert client.address == f"https://{HOST}"
    assert asked["path"] == "/api/2.2/jobs/runs/get"
    assert asked["content"]["params"] == [
        ["run_id", "7"],
        ["active_only", "true"],
        ["filter_by.statement_ids", "a"],
        ["filter_by.statement_ids", "b"],
    ]
    assert ordered["content"] == {"json": {"run_id": 7}}
    assert same_time


def test_a_pat_is_sent_as_it_is():
    async def main():
        workspace = Workspace()
        await new(workspace, pat("dapi-1234567\n")).get(RUN)
        return workspace.headers

    assert on_time(main) == [{"Authorization": "Bearer dapi-1234567"}]


@pytest.mark.parametrize("value", ["dapi-123\n4567", "dapi-123\r\n4567", "dapi-\x00"])
def test_a_token_that_no_header_may_hold(value):
    with pytest.raises(CredentialsRejected, match="line break") as caught:
        DatabricksClient(pat(value))
    assert "dapi" not in str(caught.value)


# Tokens.


def test_500_requests_at_once_fetch_one_token():
    async def main():
        workspace = Workspace()
        client = new(workspace, budget=RequestBudget(25.0))
        await asyncio.gather(*(client.get(RUN, run_id=one) for one in range(500)))
        return len(workspace.logins), len(workspace.asked)

    assert on_time(main) == (1, 500)


def test_a_waiter_that_is_cancelled_leaves_the_others_their_token():
    async def main():
        workspace = Workspace(latency=5)
        client = new(workspace)
        tasks = [asyncio.ensure_future(client.get(RUN)) for _ in range(3)]
        await asyncio.sleep(1)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(one) for one in answers], len(workspace.logins)

    assert on_time(main) == ([asyncio.CancelledError, dict, dict], 1)


@pytest.mark.parametrize(("lives", "again_after"), [(3600.0, 3540), (40.0, 30)])
def test_a_token_is_fetched_anew_before_it_expires(lives, again_after):
    async def main():
        workspace = Workspace(token_seconds=lives, latency=0)
        client = new(workspace)
        for _ in range(int(again_after) + 2):
            await client.get(RUN)
            await asyncio.sleep(1)
        return [at - workspace.logins[0] for at in workspace.logins]

    assert on_time(main) == [0, pytest.approx(again_after, abs=1)]


class TestTokensOfAProcess:
    """What one event loop has fetched serves the next."""

    @staticmethod
    def ask(workspace, seconds, read=None):
        async def main():
            await new(workspace, read).get(RUN)
            return len(workspace.logins)

        return FakeClock(1_800_000_000.0 + seconds).run(main)

    def test_serve_until_a_minute_before_their_end(self, kept):
        workspace = Workspace(token_seconds=3600)
        assert [self.ask(workspace, at) for at in (0, 3500, 3550, 7000, 7200)] == [1, 1, 2, 2, 3]
        assert len(kept) == 1

    def test_are_dropped_when_refused(self, kept):
        workspace = Workspace()
        self.ask(workspace, 0)
        workspace.alive.clear()
        assert self.ask(workspace, 10) == 2
        assert [workspace.headers[at]["Authorization"] for at in (1, 2)] == [
            "Bearer oauth-1",
            "Bearer oauth-2",
        ]
        assert self.ask(workspace, 20) == 2
        workspace.alive.clear()
        workspace.login_script = [answer(401, {"error": "invalid_client"})]
        with pytest.raises(CredentialsRejected):
            self.ask(workspace, 30)
        assert kept == {}

    def test_are_not_trusted_by_whom_one_was_refused(self, kept):
        async def main():
            workspace = Workspace()
            one, two = new(workspace), new(workspace)
            await one.get(RUN)
            kept.clear()  # as when both have fetched at the same time
            await two.get(RUN)
            workspace.alive.clear()
            await one.get(RUN)
            return len(workspace.logins)

        assert on_time(main) == 3

    def test_are_each_principals_own(self, kept):
        workspace = Workspace()
        self.ask(workspace, 0)
        assert self.ask(workspace, 1, principal(host="adb-2.azuredatabricks.net")) == 2
        workspace.secret = "another-0123456789"
        assert self.ask(workspace, 2, principal(workspace.secret)) == 3
        assert len(kept) == 3
        self.ask(workspace, 5000, principal(workspace.secret))
        assert len(kept) == 1, "those that have ended stay"

    def test_are_no_pats(self, kept):
        self.ask(Workspace(), 0, pat())
        assert kept == {}

    def test_are_not_shown(self, kept):
        self.ask(Workspace(), 0)
        assert "oauth-1" not in repr(kept)
        assert SECRET not in repr(kept)


def test_a_token_that_ends_too_early_is_fetched_anew_once_for_all():
    async def main():
        workspace = Workspace()
        client = new(workspace, budget=RequestBudget(25.0))
        await client.get(RUN)
        workspace.alive.clear()
        answers = await asyncio.gather(*(client.get(RUN) for _ in range(50)))
        return len(workspace.logins), len(answers)

    assert on_time(main) == (2, 50)


def test_who_hears_late_that_a_token_was_refused_does_not_drop_the_new_one():
    async def main():
        workspace = Workspace()
        credentials = new(workspace)._credentials
        old = await credentials.headers()
        assert credentials.renew(old)
        fresh = await credentials.headers()
        assert credentials.renew(old)
        return await credentials.headers() is fresh is not old, len(workspace.logins)

    assert on_time(main) == (True, 2)


def test_a_token_that_is_refused_twice_is_refused():
    async def main():
        workspace = Workspace(script=[INVALID] * 10)
        with pytest.raises(CredentialsRejected, match="Invalid access token"):
            await new(workspace).get(RUN)
        return len(workspace.logins), len(workspace.asked)

    assert on_time(main) == (2, 2)


def test_a_pat_that_is_refused_is_not_tried_again():
    async def main():
        workspace = Workspace(script=[INVALID] * 10)
        with pytest.raises(CredentialsRejected):
            await new(workspace, pat()).get(RUN)
        return len(workspace.asked)

    assert on_time(main) == 1


@pytest.mark.parametrize(
    ("login", "kind"),
    [
        (answer(401, {"error": "invalid_client"}), CredentialsRejected),
        (answer(400, {"error": "invalid_request"}), CredentialsRejected),
        (answer(404, b"no such page"), Transient),
        (answer(200, {"token_type": "Bearer"}), CredentialsRejected),
        (answer(200, b"<html>"), Transient),
        (answer(503, b""), Transient),
        (answer(429, b"", headers={"Retry-After": "20"}), NothingDone),
        (Transient("reset"), Transient),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:60],
)
def test_a_token_endpoint_that_gives_none(login, kind):
    async def main():
        workspace = Workspace(login_script=[login])
        client = new(workspace)
        with pytest.raises(Transient) as caught:
            await client.get(RUN)
        await asyncio.sleep(30)
        await client.get(RUN)
        return caught.value, len(workspace.logins)

    error, logins = on_time(main)
    assert type(error) is kind
    assert logins == 2


# Weather.


def test_a_retry_after_closes_the_whole_client():
    async def main():
        workspace = Workspace(script=[answer(429, {}, headers={"Retry-After": "30"})])
        client = new(workspace, pat())
        refusals = []
        for request in (client.get(RUN), client.get(RUN), client.post(CANCEL, {"run_id": 1})):
            with pytest.raises(Transient) as caught:
                await request
            refusals.append(caught.value.retry_after)
        sent = len(workspace.asked)
        await asyncio.sleep(refusals[-1])
        await client.get(RUN)
        return refusals, sent, client.budget.questions.rate

    refusals, sent, rate = on_time(main)
    assert sent == 1
    assert all(29 < one <= 33 for one in refusals)
    assert rate == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize(("status", "kind"), [(429, NothingDone), (503, Transient)])
def test_only_what_was_turned_away_or_not_sent_has_certainly_not_been_done(status, kind):
    async def main():
        client = new(Workspace(script=[answer(status, {}, headers={"Retry-After": "30"})]), pat())
        for expected in (kind, NothingDone):
            with pytest.raises(Transient) as caught:
                await client.post(RUN, {})
            assert type(caught.value) is expected
            assert caught.value.final

    on_time(main)


def test_requests_in_the_queue_hear_it_too():
    async def main():
        throttled = answer(429, {}, headers={"Retry-After": "30"})
        workspace = Workspace(script=[throttled] * 100)
        client = new(workspace, pat())
        answers = await asyncio.gather(*(client.get(RUN) for _ in range(100)), return_exceptions=True)
        return len(workspace.asked), answers, client.budget.questions.rate

    sent, answers, rate = on_time(main)
    assert sent <= 6
    assert all(isinstance(one, Transient) and one.final for one in answers)
    assert rate == 5.0  # halved once for all of them


def test_a_503_without_retry_after_closes_nothing():
    async def main():
        client = new(Workspace(script=[503]), pat())
        with pytest.raises(Transient) as caught:
            await client.get(RUN)
        return caught.value.retry_after, await client.get(RUN)

    assert on_time(main)[0] is None


def test_a_refused_request_says_why():
    async def main():
        body = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run 7 does not exist."}
        with pytest.raises(RequestRejected) as caught:
            await new(Workspace(script=[answer(404, body)]), pat()).get(RUN, run_id=7)
        return caught.value

    error = on_time(main)
    assert (error.status, error.error_code) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert error.message == "Run 7 does not exist."


def test_cancels_pass_by_a_hundred_questions():
    async def main():
        workspace = Workspace(latency=2)
        client = new(workspace, pat())
        asking = [asyncio.ensure_future(client.get(RUN)) for _ in range(100)]
        await asyncio.sleep(1)
        began = clock.now()
        await client.post(CANCEL, {"run_id": 1})
        await client.post("2.0/sql/statements/0193-ab/cancel", {})
        took = clock.now() - began
        for one in asking:
            one.cancel()
        return took

    assert on_time(main) == pytest.approx(4.0)


# Sharing.


@pytest.fixture
def connections(monkeypatch):
    """The Airflow connections there are, by id; reading one takes a moment."""
    known = {"one": pat("dapi-0123456789", conn_id="one"), "two": pat("dapi-0123456789", conn_id="two")}

    async def read(conn_id):
        await asyncio.sleep(0.1)
        if conn_id not in known:
            raise client_module.AirflowNotFoundException(conn_id)
        return known[conn_id]

    monkeypatch.setattr(client_module, "read_connection", read)
    return known


def test_connections_of_one_principal_share_a_client(connections):
    connections["other"] = pat("dapi-of-another")
    connections["elsewhere"] = pat(host="elsewhere")

    async def main():
        one, two, other, elsewhere = await asyncio.gather(
            *map(DatabricksClient.shared, ("one", "two", "other", "elsewhere"))
        )
        assert one is two
        assert len({one, other, elsewhere}) == 3
        # The quotas are the workspace's, whoever asks.
        assert one.budget is other.budget is not elsewhere.budget

    on_time(main)


def test_the_last_to_close_closes(connections):
    async def main():
        workspace = Workspace()
        clients = await asyncio.gather(*(DatabricksClient.shared("one") for _ in range(10)))
        workspace.put_behind(clients[0])
        for client in clients[:-1]:
            await client.close()
        open_till_then = workspace.closed
        still_shared = await DatabricksClient.shared("two")
        assert still_shared is clients[0]
        await clients[0].close()
        await clients[0].close()
        afterwards = await DatabricksClient.shared("one")
        return open_till_then, workspace.closed, afterwards is clients[0]

    assert on_time(main) == (0, 1, False)


def test_a_rotated_token_makes_a_new_client(connections):
    async def main():
        old = await DatabricksClient.shared("one")
        connections["one"] = pat("dapi-rotated")
        new_one = await DatabricksClient.shared("one")
        return old is new_one, old.budget is new_one.budget

    assert on_time(main) == (False, True)


def test_a_client_that_was_refused_is_not_handed_out_again(connections):
    async def main():
        old = await DatabricksClient.shared("one")
        workspace = Workspace(script=[INVALID])
        workspace.put_behind(old)
        with pytest.raises(CredentialsRejected):
            await old.get(RUN)
        fresh = await DatabricksClient.shared("one")
        assert fresh is not old
        await old.close()
        assert await DatabricksClient.shared("one") is fresh  # closing the old one takes nothing from the new
        return workspace.closed

    assert on_time(main) == 1


def test_an_opening_that_is_cancelled_leaves_no_reference(connections):
    async def main():
        tasks = [asyncio.ensure_future(DatabricksClient.shared("one")) for _ in range(5)]
        await asyncio.sleep(0.05)
        for task in tasks[:4]:
            task.cancel()
        client = await tasks[4]
        workspace = Workspace()
        workspace.put_behind(client)
        await client.close()
        return workspace.closed

    assert on_time(main) == 1


def test_each_loop_has_clients_of_its_own(connections):
    async def main():
        return await DatabricksClient.shared("one")

    first = on_time(main)
    assert on_time(main) is not first


def test_a_loop_that_is_gone_leaves_no_client_behind(connections):
    async def main():
        client = await DatabricksClient.shared("one")
        client.loop = asyncio.get_running_loop()  # as its session does
        return weakref.ref(client)

    left = on_time(main)
    on_time(main)
    gc.collect()
    assert left() is None


def test_a_connection_that_is_gone(connections):
    async def main():
        with pytest.raises(CredentialsRejected, match="'three' is gone"):
            await DatabricksClient.shared("three")

    on_time(main)


def test_a_connection_that_makes_no_sense(connections):
    connections["one"] = connection(conn_id="one", host=None)

    async def main():
        with pytest.raises(CredentialsRejected, match="'one': it names no host"):
            await DatabricksClient.shared("one")

    on_time(main)


# Secrets.

TEXT = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)
BODIES = st.sampled_from(["error_code", "message", "error", "error_description"])


@settings(
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from([200, 302, 400, 401, 403, 404, 429, 500]), BODIES, TEXT, TEXT, st.booleans())
def test_no_secret_is_in_any_error_or_log(caplog, status, name, before, after, at_login):
    """Not even where a server repeats what it was sent."""
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    stolen = f"{before} {SECRET} oauth-1 oauth-123456 {after}"
    body = answer(status, {name: stolen, "x": 1} if status != 200 else json.dumps([stolen]).encode())
    body.headers["Location"] = f"https://x/?{SECRET}"

    async def main():
        workspace = Workspace(**{"login_script" if at_login else "script": [body] * 4})
        workspace.alive["oauth-123456"] = float("inf")
        client = new(workspace)
        said = [repr(client), repr(client.budget), repr(client.__dict__)]
        for _ in range(2):
            with contextlib.suppress(RequestRejected):
                try:
                    await client.get(RUN)
                except (Transient, RequestRejected) as error:
                    said += [repr(error), str(error), repr(error.__cause__), repr(vars(error))]
        return said

    for text in [*on_time(main), caplog.text]:
        assert SECRET not in text
