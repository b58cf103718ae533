"""One token, at most one run that was meant; and older runs under it are told from new ones."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from astronomer.deferral import CredentialsRejected, Transient, clock
from astronomer.deferral.testing import FakeClock
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.submission import Submission
from tests.unit.databricks.workspace import GET, LIST, RUN_NOW, Lost, Workspace

BODY = {"job_id": 7, "notebook_params": {"day": "1"}}
SKEWS = [-3600.0, 0.0, 3600.0]
WEATHER = [
    Transient("503"),
    Transient("429", retry_after=45.0),
    Lost(),
    Lost(Transient("504")),
    Lost(Transient("429", retry_after=5.0)),
]


def link(token, number):
    return hashlib.sha256(f"{token}:{number}".encode()).hexdigest()


class Desk:
    """A workspace, and somebody who submits there."""

    def __init__(self, skew=3600.0):
        self.workspace = Workspace(skew=skew)
        self.workspace.jobs[7] = "job"
        self.seen, self.ended = [], []

    async def end(self, run_id):
        self.ended.append(run_id)
        self.workspace.end(run_id, "USER_CANCELED")

    async def submit(self, token="t", **options):
        submission = Submission(self.workspace.client(), RUN_NOW, BODY, token, **options)
        run = await submission.run(self.seen.append, self.end)
        return run["run_id"]

    async def before(self, token="t", *, code=None, age=300.0):
        """A run that an earlier process started under a token, and what became of it."""
        run_id = (await self.workspace.client().post(RUN_NOW, {**BODY, "idempotency_token": token}))["run_id"]
        await asyncio.sleep(age / 2)
        if code is not None:
            self.workspace.end(run_id, code)
        await asyncio.sleep(age / 2)
        return run_id

    @property
    def tokens(self):
        return [body["idempotency_token"] for body in self.workspace.asked(RUN_NOW)]


@pytest.fixture(params=SKEWS)
def desk(request):
    return Desk(request.param)


def run(main):
    return FakeClock().run(main)


def test_one_run_and_the_request_as_it_was_given(desk):
    run_id = run(desk.submit)
    assert list(desk.workspace.runs) == [run_id]
    assert desk.workspace.asked(RUN_NOW) == [{**BODY, "idempotency_token": "t"}]
    assert (desk.seen, desk.ended) == ([run_id], [])
    assert desk.workspace.asked(LIST) == []


@pytest.mark.parametrize("trouble", WEATHER)
@pytest.mark.parametrize("path", [RUN_NOW, GET, LIST])
@pytest.mark.parametrize("resumed", [False, True])
def test_weather_starts_no_second_run(desk, path, trouble, resumed):
    desk.workspace.weather[path] = [trouble, Transient("503"), trouble]
    since = {"since": 0.0} if resumed else {}
    run_id = run(lambda: desk.submit(**since))
    assert list(desk.workspace.runs) == [run_id]


def test_a_run_that_ended_while_its_answers_were_lost_is_the_one(desk):
    """Also when it failed: it is this attempt's, and its failure is to be reported."""
    desk.workspace.script = [{"runs_for": 3.0, "code": "RUN_EXECUTION_ERROR"}]
    desk.workspace.weather[RUN_NOW] = [Lost()] * 5
    run_id = run(desk.submit)
    assert list(desk.workspace.runs) == [run_id]


def test_an_outage_without_end_is_raised(desk):
    desk.workspace.weather[RUN_NOW] = [Transient("503")] * 1000
    with pytest.raises(Transient):
        run(lambda: desk.submit(tolerance=600.0))
    assert desk.workspace.runs == {}


def test_a_login_that_is_refused_is_not_repeated(desk):
    desk.workspace.weather[RUN_NOW] = [CredentialsRejected("locked")] * 2
    with pytest.raises(CredentialsRejected):
        run(desk.submit)
    assert len(desk.workspace.asked(RUN_NOW)) == 1


def test_a_refused_request_is_raised_and_starts_nothing(desk):
    del desk.workspace.jobs[7]
    with pytest.raises(RequestRejected, match="does not exist"):
        run(desk.submit)
    assert len(desk.workspace.asked(RUN_NOW)) == 1


@pytest.mark.parametrize(
    "error", [RequestRejected(403, "PERMISSION_DENIED", "may not view"), RequestRejected(404, "", "")]
)
def test_a_run_that_may_not_be_seen_was_started_all_the_same(desk, error):
    desk.workspace.weather[GET] = [error]
    run_id = run(desk.submit)
    assert list(desk.workspace.runs) == [run_id]
    assert desk.seen == [run_id]


class TestResumed:
    """An earlier try of the same attempt may have submitted."""

    @pytest.mark.parametrize("code", [None, "SUCCESS", "SUCCESS_WITH_FAILURES"])
    def test_its_run_is_followed_while_it_goes_on_and_when_it_has_succeeded(self, desk, code):
        async def main():
            since = clock.now()
            first = await desk.before(code=code)
            assert await desk.submit(since=since) == first

        run(main)
        assert len(desk.workspace.runs) == 1

    @pytest.mark.parametrize("code", ["RUN_EXECUTION_ERROR", "USER_CANCELED", "TIMEDOUT", "SKIPPED"])
    def test_one_that_failed_is_followed_by_a_new_one(self, desk, code):
        async def main():
            since = clock.now()
            first = await desk.before(code=code)
            second = await desk.submit(since=since)
            assert second != first
            assert await desk.submit(since=since) == second

        run(main)
        assert desk.tokens[1:3] == ["t", link("t", 1)]
        assert len(desk.workspace.runs) == 2

    def test_one_that_failed_just_now_too(self, desk):
        """Within the two seconds that the clock of the server cannot tell apart."""

        async def main():
            since = clock.now()
            first = await desk.before(code="RUN_EXECUTION_ERROR", age=0.5)
            assert await desk.submit(since=since) != first

        run(main)

    def test_there_is_none(self, desk):
        async def main():
            foreign = desk.workspace.start()
            await asyncio.sleep(100.0)
            assert await desk.submit(since=clock.now() - 50.0) != foreign.run_id

        run(main)
        assert desk.tokens == ["t"]

    def test_one_that_failed_many_times_unseen(self, desk):
        async def main():
            since = clock.now()
            for number in range(5):
                await desk.before("t" if number == 0 else link("t", number), code="CLUSTER_ERROR")
            await desk.submit(since=since)

        run(main)
        assert len(desk.workspace.runs) == 6

    def test_the_chain_has_an_end(self, desk):
        async def main():
            since = clock.now()
            for number in range(100):
                await desk.before("t" if number == 0 else link("t", number), code="CLUSTER_ERROR")
            with pytest.raises(RequestRejected, match="100 runs of this task have failed unseen"):
                await desk.submit(since=since)

        run(main)
        assert len(desk.workspace.runs) == 100

    def test_clocks_of_workers_differ_by_seconds(self, desk):
        async def main():
            since = clock.now() + 8.0  # of a worker whose clock is ahead
            first = await desk.before()
            assert await desk.submit(since=since) == first

        run(main)

    @pytest.mark.parametrize("code", [None, "SUCCESS"])
    def test_what_is_older_than_the_attempt_is_ended_and_replaced(self, desk, code):
        """The Dag run was deleted and made again, and the worker died before it had submitted."""

        async def main():
            first = await desk.before(code=code)
            since = clock.now()
            await asyncio.sleep(300.0)
            second = await desk.submit(since=since)
            assert second != first
            assert desk.workspace.active == [second]
            await asyncio.sleep(300.0)
            assert await desk.submit(since=since) == second

        run(main)
        assert len(desk.workspace.runs) == 2


class TestAnotherLife:
    """No earlier try has submitted: what is there is of a Dag run that was deleted."""

    @pytest.mark.parametrize("code", [None, "SUCCESS", "RUN_EXECUTION_ERROR"])
    def test_it_is_ended_and_replaced(self, desk, code):
        async def main():
            first = await desk.before(code=code)
            second = await desk.submit()
            assert second != first
            assert desk.workspace.active == [second]
            assert desk.ended == ([first] if code is None else [])

        run(main)

    def test_a_run_that_was_deleted_in_databricks(self, desk):
        async def main():
            first = await desk.before(code="SUCCESS")
            desk.workspace.runs[first].deleted = True
            second = await desk.submit()
            assert second != first

        run(main)
        assert desk.tokens == ["t", "t", link("t", 1)]

    def test_any_other_complaint_about_the_request_is_raised(self, desk):
        desk.workspace.weather[RUN_NOW] = [
            RequestRejected(400, "INVALID_PARAMETER_VALUE", "idempotency_token is too long"),
        ]
        with pytest.raises(RequestRejected, match="too long"):
            run(desk.submit)


class TestInherited:
    """Submits whose answer nobody heard before the task was cleared."""

    def test_their_run_is_ended_before_the_new_one_starts(self, desk):
        async def main():
            first = await desk.before("old")
            second = await desk.submit("new", inherited="old")
            assert (desk.ended, desk.workspace.active) == ([first], [second])

        run(main)
        assert desk.workspace.history[-1][1] == []

    def test_also_under_a_users_token(self, desk):
        async def main():
            first = await desk.before("mine")
            second = await desk.submit("mine", inherited="mine", shared=True)
            assert (desk.ended, desk.workspace.active) == ([first], [second])

        run(main)

    @pytest.mark.parametrize("code", ["SUCCESS", "RUN_EXECUTION_ERROR"])
    def test_one_that_has_ended_is_left(self, desk, code):
        async def main():
            first = await desk.before("old", code=code)
            assert await desk.submit("new", inherited="old") != first

        run(main)
        assert desk.ended == []

    def test_where_there_is_none_their_token_starts_the_new_one(self, desk):
        run_id = run(lambda: desk.submit("new", inherited="old"))
        assert desk.tokens == ["old"]
        assert list(desk.workspace.runs) == [run_id]

    def test_which_a_retry_finds_again(self, desk):
        async def main():
            since = clock.now()
            await asyncio.sleep(1.0)
            first = await desk.submit("new", inherited="old")
            await asyncio.sleep(100.0)
            assert await desk.submit("new", inherited="old", since=since) == first

        run(main)

    def test_also_where_their_run_was_not_the_first_under_the_token(self, desk):
        async def main():
            await desk.before("old", code="RUN_EXECUTION_ERROR")
            second = await desk.before(link("old", 1))
            third = await desk.submit("new", inherited="old")
            assert (desk.ended, desk.workspace.active) == ([second], [third])

        run(main)

    def test_one_that_was_started_just_now_is_ended_all_the_same(self, desk):
        async def main():
            first = await desk.before("old", age=0.5)
            assert await desk.submit("new", inherited="old") != first
            assert desk.ended == [first]

        run(main)


class TestSharedTokens:
    """The user chose the token, and others may use it, too."""

    def test_the_run_of_another_is_followed_while_it_goes_on(self, desk):
        async def main():
            first = await desk.before()
            assert await desk.submit(shared=True) == first

        run(main)

    @pytest.mark.parametrize("code", ["SUCCESS", "RUN_EXECUTION_ERROR"])
    def test_one_that_has_ended_is_followed_by_a_new_one(self, desk, code):
        async def main():
            first = await desk.before(code=code)
            second = await desk.submit(shared=True)
            assert second != first
            assert await desk.submit(shared=True) == second

        run(main)
        assert desk.ended == []

    def test_one_of_before_a_clear_does_not_pass_for_the_new_one(self, desk):
        """The first run under the token has succeeded, the task was cleared, and then a worker died."""

        async def main():
            first = await desk.before(code="SUCCESS")
            since = clock.now()
            second = await desk.submit(shared=True)
            await asyncio.sleep(60.0)
            assert await desk.submit(shared=True, since=since) == second != first

        run(main)
