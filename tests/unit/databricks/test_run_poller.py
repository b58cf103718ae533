"""Many runs asked about in few requests: the list says what goes on, and ``runs/get`` decides."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astronomer.deferral import CredentialsRejected, Hub, Pacing, Phase, Transient, clock, watch
from astronomer.deferral.testing import FakeClock
from astronomer.providers.databricks import states
from astronomer.providers.databricks.errors import RequestRejected
from astronomer.providers.databricks.jobs.poller import RunPoller
from astronomer.providers.databricks.jobs.run import DatabricksRun
from tests.unit.databricks.workspace import CANCEL, GET, LIST, Piece, Workspace


@pytest.fixture
def workspace():
    return Workspace()


def run(main):
    return FakeClock().run(main)


def job_for(entry, **fields):
    return DatabricksRun(
        entry.run_id, "conn", job_id=entry.job_id, started_at=int(entry.started * 1000) / 1000, **fields
    )


def poller_of(workspace):
    return RunPoller(DatabricksRun(0, "conn"), workspace.client())


def count(workspace):
    """How many lists and gets, since the last count."""
    found = len(workspace.asked(LIST)), len(workspace.asked(GET))
    workspace.requests.clear()
    return found


async def started(workspace, number, job_ids=(1, 2), apart=1.0, **fields):
    """Runs that start one after the other."""
    entries = []
    for index in range(number):
        entries.append(workspace.start(job_ids[index % len(job_ids)], **fields))
        await asyncio.sleep(apart)
    return entries


class TestTheList:
    def test_it_answers_for_25_at_once(self, workspace):
        async def main():
            jobs = [job_for(entry) for entry in await started(workspace, 60)]
            answers = await poller_of(workspace).poll(jobs)
            assert {status.phase for status in answers.values()} == {Phase.ACTIVE}
            assert set(answers) == set(jobs)
            assert count(workspace) == (3, 0)

        run(main)

    def test_what_it_does_not_name_is_asked_for(self, workspace):
        async def main():
            entries = await started(workspace, 50)
            for number, code in ((3, "SUCCESS"), (30, "RUN_EXECUTION_ERROR")):
                workspace.end(entries[number].run_id, code)
            answers = await poller_of(workspace).poll([job_for(entry) for entry in entries])
            phases = [answers[job_for(entry)].phase for entry in entries]
            assert (phases[3], phases[30]) == (Phase.SUCCEEDED, Phase.FAILED)
            assert phases.count(Phase.ACTIVE) == 48
            assert count(workspace) == (2, 2)

        run(main)

    def test_the_runs_of_others_are_looked_over(self, workspace):
        async def main():
            entries = await started(workspace, 30)
            await started(workspace, 100, apart=0.01)
            answers = await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert len(answers) == 30
            assert count(workspace) == (6, 0)

        run(main)

    def test_one_wait_does_without_it(self, workspace):
        async def main():
            job = job_for(workspace.start())
            assert (await poller_of(workspace).poll([job]))[job].phase is Phase.ACTIVE
            assert count(workspace) == (0, 1)

        run(main)

    def test_where_all_belong_to_one_job_only_its_runs_are_listed(self, workspace):
        async def main():
            await started(workspace, 200, job_ids=(5,), apart=0.0)
            entries = await started(workspace, 30, job_ids=(7,))
            await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert [content["job_id"] for content in workspace.asked(LIST)] == [7, 7]
            workspace.requests.clear()
            entries.append(workspace.start(8))
            await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert all("job_id" not in content for content in workspace.asked(LIST))

        run(main)

    def test_it_ends_where_everything_is_older_than_what_is_looked_for(self, workspace):
        async def main():
            await started(workspace, 100, apart=0.01)
            await asyncio.sleep(1000.0)
            entries = await started(workspace, 40, apart=1.0)
            workspace.end(entries[0].run_id)
            await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert count(workspace) == (2, 1)

        run(main)

    def test_but_not_where_a_start_is_unknown_or_near(self, workspace):
        async def main():
            await started(workspace, 100, apart=0.01)
            await asyncio.sleep(30.0)
            entries = await started(workspace, 20, apart=0.01)
            workspace.end(entries[0].run_id)
            await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert count(workspace) == (5, 1)
            await asyncio.sleep(1000.0)
            newer = await started(workspace, 20, apart=0.01)
            jobs = [DatabricksRun(entry.run_id, "conn") for entry in newer]
            workspace.end(newer[0].run_id)
            await poller_of(workspace).poll(jobs)
            assert count(workspace) == (6, 1)

        run(main)

    def test_a_page_that_is_stale_ends_nothing_and_hides_nothing(self, workspace):
        """It shows a run that has ended as active, and one that has just started not at all."""

        async def main():
            workspace.staleness = 60.0
            entries = await started(workspace, 30, apart=10.0)
            workspace.end(entries[0].run_id, "RUN_EXECUTION_ERROR")
            jobs = [job_for(entry) for entry in entries]
            poller = poller_of(workspace)
            answers = await poller.poll(jobs)
            assert {answers[job].phase for job in jobs} == {Phase.ACTIVE}
            await asyncio.sleep(60.0)
            assert (await poller.poll(jobs))[jobs[0]].phase is Phase.FAILED

        run(main)

    def test_what_it_calls_ended_is_asked_for(self, workspace):
        """It may be the end of an attempt that Databricks itself repeats."""

        async def main():
            entries = await started(workspace, 10)
            listed = workspace._runs_list

            def with_an_end(**content):
                answer = listed(**content)
                answer["runs"][0]["status"] = {
                    "state": "TERMINATED",
                    "termination_details": {"code": "RUN_EXECUTION_ERROR"},
                }
                return answer

            workspace._runs_list = with_an_end
            answers = await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert {status.phase for status in answers.values()} == {Phase.ACTIVE}
            assert count(workspace) == (1, 1)

        run(main)

    def test_runs_that_come_and_go_in_mid_sweep_are_no_matter(self, workspace):
        """Tokens are offsets in the worst case: who ends shifts others to a page that was read already."""

        async def main():
            entries = await started(workspace, 100)
            jobs = [job_for(entry) for entry in entries]

            def churn(request):
                if request.path == LIST:
                    number = len(workspace.asked(LIST))
                    workspace.end(entries[-3 * number].run_id)
                    if number % 2:
                        workspace.start(3)

            workspace.before = churn
            answers = await poller_of(workspace).poll(jobs)
            workspace.before = lambda request: None
            ended = [job for job in jobs if not workspace.runs[job.run_id].active(workspace.now)]
            assert len(ended) >= 4
            assert set(answers) == set(jobs)
            wrong = [job for job in jobs if answers[job].done and job not in ended]
            assert wrong == []

        run(main)

    def test_a_run_that_the_list_does_not_count_as_active_is_asked_for(self, workspace):
        """BLOCKED is not named among the states that ``active_only`` covers."""

        async def main():
            entries = await started(workspace, 10)
            hidden = workspace.start(1)
            jobs = [job_for(entry) for entry in [*entries, hidden]]
            hidden.active_as = "BLOCKED"
            listed = workspace._runs_list

            def without(**content):
                answer = listed(**content)
                answer["runs"] = [one for one in answer["runs"] if one["run_id"] != hidden.run_id]
                return answer

            workspace._runs_list = without
            status = (await poller_of(workspace).poll(jobs))[jobs[-1]]
            assert (status.phase, status.raw) == (Phase.ACTIVE, "BLOCKED")

        run(main)

    def test_a_page_without_runs(self, workspace):
        async def main():
            entries = await started(workspace, 3)
            for entry in entries:
                workspace.end(entry.run_id)
            answers = await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert {status.phase for status in answers.values()} == {Phase.SUCCEEDED}
            assert count(workspace) == (1, 3)

        run(main)


class TestItsCost:
    @pytest.mark.parametrize("mine", [2, 10, 60])
    def test_with_too_many_of_others_it_is_left_and_tried_again_ever_more_seldom(self, workspace, mine):
        async def main():
            entries = await started(workspace, mine, apart=0.01)
            await started(workspace, 3000, apart=0.0)
            jobs, poller, costs = [job_for(entry) for entry in entries], poller_of(workspace), []
            for _ in range(4 * mine):
                answers = await poller.poll(jobs)
                assert set(answers) == set(jobs)
                costs.append(count(workspace))
            assert costs[0] == (mine, mine)
            assert set(costs) == {(mine, mine), (0, mine)}
            assert costs.count((mine, mine)) == math.ceil(4 * mine / (mine + 1))

        run(main)

    def test_a_poll_is_never_dearer_than_two_requests_for_each(self, workspace):
        async def main():
            entries = await started(workspace, 40, apart=0.0)
            await started(workspace, 500, apart=0.0)
            poller = poller_of(workspace)
            for ended in range(0, 40, 5):
                for entry in entries[ended : ended + 5]:
                    workspace.end(entry.run_id)
                await poller.poll([job_for(entry) for entry in entries[ended:]])
                assert sum(count(workspace)) <= 2 * (40 - ended)

        run(main)

    def test_when_the_others_have_gone_it_pays_again(self, workspace):
        async def main():
            entries = await started(workspace, 30, apart=0.0)
            others = await started(workspace, 600, apart=0.0)
            jobs, poller = [job_for(entry) for entry in entries], poller_of(workspace)
            assert await poller.poll(jobs)
            assert count(workspace) == (26, 0)
            for other in others:
                workspace.end(other.run_id)
            assert await poller.poll(jobs)
            assert count(workspace) == (2, 0)

        run(main)

    def test_the_next_poll_is_put_off_by_what_this_one_has_cost(self, workspace):
        async def main():
            entries = await started(workspace, 100)
            jobs, poller = [job_for(entry) for entry in entries], poller_of(workspace)
            await poller.poll(jobs)
            assert poller.least_interval == pytest.approx(4 / 5.0)
            for entry in entries[:20]:
                workspace.end(entry.run_id)
            await poller.poll(jobs)
            assert poller.least_interval == pytest.approx((4 + 20) / 5.0)
            await poller.poll(jobs[:1])
            assert poller.least_interval == pytest.approx(1 / 5.0)

        run(main)

    def test_a_sweep_over_a_slow_line_ends_in_time(self, workspace):
        """The hub gives a poll two minutes; a list of 400 pages must not take them all, every time."""

        async def main():
            entries = await started(workspace, 4000, apart=0.0)
            jobs, poller = [job_for(entry) for entry in entries], poller_of(workspace)
            workspace.latency = 1.0
            began, known = clock.now(), set()
            for _ in range(3):
                known |= set(await poller.poll(jobs))
            assert clock.now() - began <= 3 * 90.0
            assert len(known) >= 1000

        run(main)

    @given(st.integers(1, 80), st.integers(0, 400), st.data())
    @settings(max_examples=60)
    def test_whatever_there_is_all_are_answered_for_and_rightly(self, mine, others, data):
        workspace = Workspace()

        async def main():
            entries = await started(workspace, mine, apart=0.1)
            await started(workspace, others, apart=0.1)
            poller = poller_of(workspace)
            for _ in range(4):
                for entry in data.draw(st.lists(st.sampled_from(entries), max_size=5)):
                    workspace.end(entry.run_id, data.draw(st.sampled_from(["SUCCESS", "CLUSTER_ERROR"])))
                answers = await poller.poll([job_for(entry) for entry in entries])
                for entry in entries:
                    phase = answers[job_for(entry)].phase
                    assert (phase is Phase.ACTIVE) is entry.active(workspace.now)
                assert sum(count(workspace)) <= 2 * mine

        run(main)


class TestTasksOfOneRun:
    """Members of a workflow: one request for all tasks of their run."""

    @staticmethod
    def member(parent, key, number=0, **fields):
        return DatabricksRun(number, "conn", parent_run_id=parent.run_id, task_key=key, **fields)

    def test_one_request_for_each_run(self, workspace):
        async def main():
            jobs = []
            for _ in range(3):
                parent = workspace.start()
                parent.tasks = [Piece(n, workspace.now, key=f"t{n}") for n in range(20)]
                jobs += [self.member(parent, f"t{n}", n) for n in range(20)]
            answers = await poller_of(workspace).poll(jobs)
            assert set(answers) == set(jobs)
            assert count(workspace) == (0, 3)

        run(main)

    def test_what_kept_a_run_from_being_seen_is_told_for_each_of_its_tasks(self, workspace):
        async def main():
            parents = [workspace.start(), workspace.start()]
            parents[0].tasks = [Piece(n, workspace.now, key=f"t{n}") for n in range(3)]
            parents[1].tasks = [Piece(n, workspace.now, key=f"t{n}") for n in range(3)]
            jobs = [self.member(parent, f"t{n}", n) for parent in parents for n in range(3)]
            poller = poller_of(workspace)
            workspace.weather[GET] = [None, RequestRejected(400, "ODD", "so")]
            answers = await poller.poll(jobs)
            assert set(answers) == set(jobs[:3])
            assert [str(poller.unanswered[job]) for job in jobs[3:]] == [
                "RequestRejected: HTTP 400: ODD so"
            ] * 3

        run(main)

    def test_tasks_beyond_the_first_hundred(self, workspace):
        async def main():
            parent = workspace.start()
            parent.tasks = [Piece(n, workspace.now, key=f"t{n}") for n in range(250)]
            parent.tasks[240].ends = workspace.now
            jobs = [self.member(parent, f"t{n}", n) for n in range(250)]
            answers = await poller_of(workspace).poll(jobs)
            assert [job.task_key for job in jobs if answers[job].done] == ["t240"]
            assert count(workspace) == (0, 3)

        run(main)

    def test_the_newest_attempt_counts(self, workspace):
        async def main():
            parent = workspace.start()
            now = workspace.now
            parent.tasks = [
                Piece(2, now, key="a", attempt=1),
                Piece(1, now, now, "RUN_EXECUTION_ERROR", key="a", attempt=0),
            ]
            job = self.member(parent, "a", 1)
            assert (await poller_of(workspace).poll([job]))[job].phase is Phase.ACTIVE

        run(main)

    @pytest.mark.parametrize(
        ("attempts", "retries", "parent_ended", "phase"),
        [
            (1, 0, False, Phase.FAILED),
            (1, 1, False, Phase.ACTIVE),
            (2, 1, False, Phase.FAILED),
            (5, -1, False, Phase.ACTIVE),
            (1, 1, True, Phase.FAILED),
            (1, -1, True, Phase.FAILED),
        ],
    )
    def test_databricks_own_retries_are_waited_for(self, workspace, attempts, retries, parent_ended, phase):
        async def main():
            parent = workspace.start()
            now = workspace.now
            parent.tasks = [
                Piece(n, now, now, "RUN_EXECUTION_ERROR", key="a", attempt=n) for n in range(attempts)
            ]
            if parent_ended:
                workspace.end(parent.run_id, "RUN_EXECUTION_ERROR")
            job = self.member(parent, "a", 1, task_retries=retries)
            assert (await poller_of(workspace).poll([job]))[job].phase is phase

        run(main)

    def test_a_task_that_succeeded_has_ended_whatever_retries_it_has_left(self, workspace):
        async def main():
            parent = workspace.start()
            parent.tasks = [Piece(1, workspace.now, workspace.now, key="a")]
            job = self.member(parent, "a", 1, task_retries=-1)
            assert (await poller_of(workspace).poll([job]))[job].phase is Phase.SUCCEEDED

        run(main)

    def test_a_task_that_the_run_does_not_show(self, workspace):
        async def main():
            parent = workspace.start()
            job = self.member(parent, "a", 1)
            poller = poller_of(workspace)
            assert (await poller.poll([job]))[job].phase is Phase.ACTIVE
            workspace.end(parent.run_id)
            status = (await poller.poll([job]))[job]
            assert (status.phase, status.message) == (Phase.FAILED, "The run has no task 'a'.")

        run(main)

    def test_a_run_that_is_gone_is_gone_for_all(self, workspace):
        async def main():
            parent = workspace.start()
            parent.deleted = True
            jobs = [self.member(parent, key) for key in "ab"]
            answers = await poller_of(workspace).poll(jobs)
            assert [answers[job].raw for job in jobs] == ["deleted", "deleted"]

        run(main)


class TestRepairs:
    def test_the_repair_is_waited_for_and_not_the_run(self, workspace):
        async def main():
            entry = workspace.start()
            workspace.end(entry.run_id, "RUN_EXECUTION_ERROR")
            entry.repairs = [Piece(9, workspace.now)]
            job, poller = job_for(entry, repair_id=9), poller_of(workspace)
            assert (await poller.poll([job]))[job].phase is Phase.ACTIVE
            workspace.end(entry.run_id)
            assert (await poller.poll([job]))[job].phase is Phase.SUCCEEDED
            assert [content["include_history"] for content in workspace.asked(GET)] == [True, True]

        run(main)

    def test_a_later_repair_by_somebody_else_does_not_change_this_one(self, workspace):
        async def main():
            entry = workspace.start()
            now = workspace.now
            entry.repairs = [Piece(9, now, now, "CLUSTER_ERROR"), Piece(10, now)]
            job = job_for(entry, repair_id=9)
            status = (await poller_of(workspace).poll([job]))[job]
            assert (status.phase, status.url) == (Phase.FAILED, f"https://workspace/run/{entry.run_id}")

        run(main)

    def test_a_history_that_does_not_show_it_yet(self, workspace):
        async def main():
            entry = workspace.start()
            job = job_for(entry, repair_id=9)
            assert (await poller_of(workspace).poll([job]))[job].phase is Phase.ACTIVE

        run(main)


class TestRunsThatCannotBeSeen:
    @pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
    def test_one_that_has_just_started_may_not_be_there_yet(self, skew):
        workspace = Workspace(skew=skew)

        async def main():
            entry = workspace.start()
            entry.deleted = True
            job, poller = job_for(entry), poller_of(workspace)
            await asyncio.sleep(60.0)
            status = (await poller.poll([job]))[job]
            assert (status.phase, status.raw) == (Phase.ACTIVE, "not listed yet")
            await asyncio.sleep(65.0)
            status = (await poller.poll([job]))[job]
            assert (status.phase, status.raw) == (Phase.FAILED, "deleted")
            assert "somebody has deleted it" in status.message

        run(main)

    @pytest.mark.parametrize(
        "answer",
        [
            RequestRejected(404, "ENDPOINT_NOT_FOUND", "No API found"),
            RequestRejected(404, "", "Not Found"),
            RequestRejected(404, "RESOURCE_DOES_NOT_EXIST", "Endpoint does not exist"),
            RequestRejected(404, "RESOURCE_DOES_NOT_EXIST", "Workspace 101 does not exist or is being moved"),
        ],
        ids=str,
    )
    def test_a_path_that_is_not_found_says_nothing_of_the_run(self, workspace, answer):
        async def main():
            job = job_for(workspace.start())
            poller = poller_of(workspace)
            await asyncio.sleep(300.0)
            workspace.weather[GET] = [answer]
            workspace.weather[LIST] = [answer]
            with pytest.raises(Transient, match="did not find"):
                await poller.poll([job])
            assert (await poller.poll([job]))[job].phase is Phase.ACTIVE

        run(main)

    @pytest.mark.parametrize(
        "answer",
        [
            RequestRejected(404, "RESOURCE_DOES_NOT_EXIST", "Run 101 does not exist."),
            RequestRejected(400, "INVALID_PARAMETER_VALUE", "Run 101 does not exist."),
            RequestRejected(400, "INVALID_PARAMETER_VALUE", "Run: 101 in job: 7 doesn't exist."),
        ],
        ids=str,
    )
    def test_one_that_is_gone_was_deleted(self, workspace, answer):
        def refuse(effect):
            raise answer

        async def main():
            job = job_for(workspace.start())
            await asyncio.sleep(300.0)
            workspace.around = refuse
            status = (await poller_of(workspace).poll([job]))[job]
            assert (status.phase, status.raw) == (Phase.FAILED, "deleted")

        run(main)

    @pytest.mark.parametrize(
        "words",
        ["no", "Workspace 101 does not exist or is being moved", "User a@b does not exist in this workspace"],
    )
    def test_one_that_may_not_be_viewed_may_still_run(self, workspace, words):
        async def main():
            job = job_for(workspace.start())
            await asyncio.sleep(300.0)
            workspace.weather[GET] = [RequestRejected(403, "PERMISSION_DENIED", words)]
            status = (await poller_of(workspace).poll([job]))[job]
            assert (status.phase, status.raw) == (Phase.LOST, "hidden")
            assert "CAN_VIEW" in status.message

        run(main)

    @pytest.mark.parametrize("words", ["what?", "Run 1010 does not exist.", "The owner does not exist"])
    def test_any_other_refusal_leaves_it_as_it_was(self, workspace, words):
        async def main():
            jobs = [job_for(entry) for entry in await started(workspace, 3)]
            for job in jobs:
                workspace.end(job.run_id)
            await asyncio.sleep(300.0)
            workspace.weather[GET] = [RequestRejected(400, "ODD", words)]
            assert len(await poller_of(workspace).poll(jobs)) == 2
            workspace.weather[GET] = [RequestRejected(400, "ODD", words)]
            with pytest.raises(RequestRejected):
                await poller_of(workspace).poll(jobs[:1])

        run(main)

    def test_an_unknown_state_counts_as_running_and_is_told_once(self, workspace, caplog, monkeypatch):
        monkeypatch.setattr(states, "_unknown_seen", set())

        async def main():
            entries = await started(workspace, 30, active_as="MEDITATING")
            poller = poller_of(workspace)
            for _ in range(3):
                answers = await poller.poll([job_for(entry) for entry in entries])
                assert {status.phase for status in answers.values()} == {Phase.ACTIVE}
            assert count(workspace) == (6, 0)

        with caplog.at_level(logging.WARNING):
            run(main)
        assert [record.getMessage() for record in caplog.records] == [
            "Databricks reports the unknown run state 'MEDITATING'; it counts as running"
        ]


class TestWeather:
    def test_in_the_middle_of_a_sweep_what_is_known_is_kept(self, workspace):
        async def main():
            entries = await started(workspace, 60)
            workspace.weather[LIST] = [None, Transient("503")]
            answers = await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert len(answers) == 60
            assert count(workspace) == (2, 35)

        run(main)

    def test_at_its_beginning_nothing_is_known(self, workspace):
        async def main():
            entries = await started(workspace, 60)
            workspace.weather[LIST] = [Transient("503")]
            with pytest.raises(Transient):
                await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert count(workspace) == (1, 0)

        run(main)

    @pytest.mark.parametrize(
        "trouble", [Transient("429", retry_after=30.0), CredentialsRejected("expired")], ids=["429", "401"]
    )
    def test_a_workspace_that_asks_to_be_left_alone_is_left_alone(self, workspace, trouble):
        async def main():
            entries = await started(workspace, 60)
            workspace.weather[LIST] = [None, trouble]
            with pytest.raises(type(trouble)):
                await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert count(workspace) == (2, 0)

        run(main)

    def test_among_the_gets_what_is_known_is_kept(self, workspace):
        async def main():
            entries = await started(workspace, 30)
            for entry in entries[:20]:
                workspace.end(entry.run_id)
            workspace.weather[GET] = [None] * 8 + [Transient("503")] * 8
            answers = await poller_of(workspace).poll([job_for(entry) for entry in entries])
            assert len(answers) == 10 + 8
            assert count(workspace) == (1, 16)

        run(main)


class TestCancel:
    def test_a_run_that_goes_on(self, workspace):
        async def main():
            entry = workspace.start()
            await poller_of(workspace).cancel(job_for(entry))
            assert workspace.active == []

        run(main)

    def test_one_that_has_ended_takes_no_notice(self, workspace):
        async def main():
            entry = workspace.start(runs_for=0.0)
            await poller_of(workspace).cancel(job_for(entry))
            await poller_of(workspace).cancel(DatabricksRun(4711, "conn"))

        run(main)

    def test_again_while_it_ends_is_harmless(self, workspace):
        async def main():
            workspace.cancel_takes = 30.0
            entry = workspace.start()
            job, poller = job_for(entry), poller_of(workspace)
            for _ in range(2):
                await poller.cancel(job)
                await asyncio.sleep(15.0)
            status = (await poller.poll([job]))[job]
            assert (status.phase, len(workspace.asked(CANCEL))) == (Phase.CANCELLED, 2)

        run(main)

    @pytest.mark.parametrize(
        "answer",
        [
            RequestRejected(403, "PERMISSION_DENIED", "no CAN_MANAGE_RUN"),
            RequestRejected(403, "PERMISSION_DENIED", "User a@b does not exist"),
            RequestRejected(404, "RESOURCE_DOES_NOT_EXIST", "Endpoint does not exist"),
            RequestRejected(400, "INVALID_STATE", "The workspace is already being moved"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("until_started", [False, True])
    def test_any_other_refusal_is_told(self, workspace, answer, until_started):
        async def main():
            entry = workspace.start()
            workspace.weather[CANCEL] = [answer]
            with pytest.raises(RequestRejected) as told:
                await poller_of(workspace).cancel(job_for(entry, until_started=until_started))
            assert told.value is answer

        run(main)

    def test_a_refusal_is_told_where_the_run_cannot_be_seen_either(self, workspace):
        async def main():
            entry = workspace.start()
            refusal = RequestRejected(403, "PERMISSION_DENIED", "User a@b does not exist")
            workspace.weather[CANCEL] = workspace.weather[GET] = [refusal] * 2
            with pytest.raises(RequestRejected):
                await poller_of(workspace).cancel(job_for(entry))

        run(main)

    def test_one_that_is_not_there_yet_is_asked_again(self, workspace):
        async def main():
            entry = workspace.start()
            entry.deleted = True
            with pytest.raises(Transient, match="not there yet"):
                await poller_of(workspace).cancel(job_for(entry))

        run(main)


class TestItsClient:
    def test_a_borrowed_one_is_left_open(self, workspace):
        async def main():
            poller = poller_of(workspace)
            await poller.poll([job_for(workspace.start())])
            await poller.close()
            assert workspace.closed == 0

        run(main)

    def test_one_of_its_own_is_opened_once_and_closed_once(self, workspace):
        async def main():
            entries = await started(workspace, 20)
            for entry in entries:
                workspace.end(entry.run_id)
            poller = job_for(entries[0]).poller()
            await poller.close()
            await asyncio.gather(*(poller.poll([job_for(entry)]) for entry in entries))
            await poller.close()
            await poller.close()
            assert (workspace.clients, workspace.closed) == (1, 1)

        with workspace.in_place():
            run(main)


class TestAnotherWorkspace:
    """The connection was edited while the run goes on: its id means nothing in the other workspace."""

    def test_nobody_is_asked_about_it_there(self, workspace):
        async def main():
            job = job_for(workspace.start(), address="https://elsewhere")
            poller = RunPoller(job, workspace.client())
            for ask in (poller.poll([job]), poller.cancel(job)):
                with pytest.raises(
                    CredentialsRejected, match=r"https://workspace, but .* in https://elsewhere"
                ):
                    await ask
            assert workspace.requests == []

        run(main)

    def test_the_wait_ends_and_does_not_call_the_run_failed(self, workspace):
        async def main():
            job = job_for(workspace.start(), address="https://elsewhere")
            outcome = await watch(job, hub=Hub(lambda job: RunPoller(job, workspace.client())))
            assert outcome.status.phase is Phase.LOST
            assert "https://elsewhere" in outcome.status.message

        run(main)

    def test_one_whose_workspace_is_not_known_is_asked_about(self, workspace):
        async def main():
            for address in ("", "https://workspace"):
                job = job_for(workspace.start(), address=address)
                poller = RunPoller(job, workspace.client())
                assert (await poller.poll([job]))[job].phase is Phase.ACTIVE

        run(main)


class TestOnTheHub:
    """The poller and the engine together."""

    def test_a_thousand_waits_keep_to_their_share_and_see_every_end(self, workspace):
        async def main():
            workspace.latency = 0.05
            entries = await started(workspace, 1000, apart=0.0, runs_for=0.0)
            for number, entry in enumerate(entries):
                entry.ends = workspace.now + 30.0 + number
            hub = Hub(lambda job: poller_of(workspace), Pacing())
            began = clock.now()
            outcomes = await asyncio.gather(*(watch(job_for(entry), hub=hub) for entry in entries))
            assert {outcome.status.phase for outcome in outcomes} == {Phase.SUCCEEDED}
            rate = len(workspace.requests) / (clock.now() - began)
            assert rate <= 5.5, "more than half of what the client may send"
            gets = len(workspace.asked(GET))
            assert gets <= 1030

        run(main)

    def test_a_newcomer_is_asked_for_at_once_while_the_poller_rests(self, workspace):
        async def main():
            entries = await started(workspace, 1000, apart=0.0)
            hub = Hub(lambda job: poller_of(workspace), Pacing(gather=0.0, jitter=0.0))
            waits = [asyncio.ensure_future(watch(job_for(entry), hub=hub)) for entry in entries]
            await asyncio.sleep(1.0)
            assert count(workspace) == (40, 0)
            quick = workspace.start(runs_for=0.0)
            assert (await watch(job_for(quick), hub=hub)).status.phase is Phase.SUCCEEDED
            assert count(workspace) == (0, 1)
            assert not any(wait.done() for wait in waits)

        run(main)


def test_how_log_lines_call_it():
    assert DatabricksRun(1, "conn").name == "Databricks run 1"
    assert DatabricksRun(1, "conn", parent_run_id=2, task_key="a").name == "Databricks task 'a' of run 2"


def test_waits_on_one_connection_share_a_poller():
    one, two = DatabricksRun(1, "conn"), DatabricksRun(2, "conn", job_id=5, parent_run_id=3)
    assert one.connection_key == two.connection_key
    assert one.connection_key != DatabricksRun(1, "other").connection_key
    assert DatabricksRun.from_dict(two.to_dict() | {"of_next_year": 1}) == two
