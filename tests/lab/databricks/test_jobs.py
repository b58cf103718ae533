"""Jobs and lists: what is kept, and in which pages it is shown."""

import itertools

import pytest
import requests

from tests.lab.databricks.conftest import Api, Refused, wait


class TestJobs:
    def test_what_was_created_is_shown(self, api):
        job_id = api.create(wait(), name="shown", tags={"a": "b"}, max_concurrent_runs=3)
        job = api.get("2.2/jobs/get", job_id=job_id)
        assert (job["job_id"], job["creator_user_name"]) == (job_id, "lab@example.com")
        assert job["settings"]["tags"] == {"a": "b"}
        assert job["settings"]["queue"] == {"enabled": True}
        [task] = job["settings"]["tasks"]
        assert (task["task_key"], task["run_if"]) == ("a", "ALL_SUCCESS")

    def test_update_merges_tasks_by_key_and_reset_replaces_all(self, api):
        job_id = api.create(wait("a"), wait("b"), name="u", description="d")
        api.post(
            "2.2/jobs/update",
            job_id=job_id,
            new_settings={"name": "v", "tasks": [wait("b", "a"), wait("c")]},
            fields_to_remove=["description", "tasks/a_nonexistent"],
        )
        settings = api.get("2.2/jobs/get", job_id=job_id)["settings"]
        assert [one["task_key"] for one in settings["tasks"]] == ["a", "b", "c"]
        assert (settings["name"], "description" in settings) == ("v", False)
        api.post("2.2/jobs/reset", job_id=job_id, new_settings={"tasks": [wait("z")]})
        settings = api.get("2.2/jobs/get", job_id=job_id)["settings"]
        assert ([one["task_key"] for one in settings["tasks"]], settings["name"]) == (["z"], "Untitled")
        with pytest.raises(Refused, match="new_settings"):
            api.post("2.2/jobs/reset", job_id=job_id)

    def test_a_deleted_job_is_gone_but_its_runs_stay(self, api):
        job_id = api.create(wait())
        run_id = api.post("2.2/jobs/run-now", job_id=job_id)["run_id"]
        api.ended(run_id)
        api.post("2.2/jobs/delete", job_id=job_id)
        assert api.run(run_id)["job_id"] == job_id
        for path, method in (("get", api.get), ("delete", api.post), ("run-now", api.post)):
            with pytest.raises(Refused) as refused:
                method(f"2.2/jobs/{path}", job_id=job_id)
            assert (refused.value.status, refused.value.message) == (400, f"Job {job_id} does not exist.")

    def test_lists_by_name_and_in_pages(self, make_lab):
        api = Api(make_lab(quotas=False))
        assert api.get("2.2/jobs/list") == {}
        assert api.get("2.1/jobs/list") == {"has_more": False}
        ids = [api.create(wait(), name=f"job {number % 2}") for number in range(7)]
        first = api.get("2.2/jobs/list", limit=5)
        assert [job["job_id"] for job in first["jobs"]] == ids[::-1][:5]
        assert "tasks" not in first["jobs"][0]["settings"]
        rest = api.get("2.2/jobs/list", limit=5, page_token=first["next_page_token"], expand_tasks="true")
        assert [job["job_id"] for job in rest["jobs"]] == ids[::-1][5:]
        assert "tasks" in rest["jobs"][0]["settings"]
        assert "next_page_token" not in rest
        assert [job["job_id"] for job in api.get("2.2/jobs/list", name="JOB 1")["jobs"]] == [
            ids[5],
            ids[3],
            ids[1],
        ]
        with pytest.raises(Refused, match="limit"):
            api.get("2.2/jobs/list", limit=101)

    def test_the_format_of_one_task(self, api):
        task = {"notebook_task": {"notebook_path": "/lab/wait"}, "timeout_seconds": "60", "new_cluster": {}}
        run_id = api.post("2.2/jobs/runs/submit", run_name="old style", **task)["run_id"]
        run = api.ended(run_id)
        assert (run["format"], len(run["tasks"])) == ("SINGLE_TASK", 1)
        assert api.get("2.0/jobs/runs/get-output", run_id=run_id)["notebook_output"] == {}
        job_id = api.post("2.0/jobs/create", name="old", **task)["job_id"]
        assert api.get("2.0/jobs/get", job_id=job_id)["settings"]["tasks"][0]["task_key"] == "old"
        run_id = api.post("2.0/jobs/run-now", job_id=str(job_id))["run_id"]
        assert api.ended(run_id)["state"]["result_state"] == "SUCCESS"

    def test_the_output_of_a_run_with_named_tasks_is_refused(self, api):
        run_id = api.submit(wait())
        api.ended(run_id)
        with pytest.raises(Refused, match="runs with multiple tasks is not supported") as refused:
            api.get("2.2/jobs/runs/get-output", run_id=run_id)
        assert refused.value.status == 400

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"notebook_params": {"a": "b"}, "jar_params": ["c"]}, "together"),
            ({"python_params": ["x" * 10_001]}, "exceeds 10000 bytes"),
            ({"only": ["z"]}, "Unknown tasks in"),
            ({"job_parameters": []}, None),
            ({"job_parameters": ["a"]}, "to be an object"),
        ],
    )
    def test_parameters_are_checked(self, lab, api, arguments, message):
        job_id = api.create(wait())
        if message is None:
            assert api.post("2.2/jobs/run-now", job_id=job_id, **arguments)["run_id"] in lab.runs
        else:
            with pytest.raises(Refused, match=message):
                api.post("2.2/jobs/run-now", job_id=job_id, **arguments)

    def test_a_job_without_tasks_cannot_run(self, api):
        job_id = api.create()
        with pytest.raises(Refused, match="has no tasks"):
            api.post("2.2/jobs/run-now", job_id=job_id)

    def test_only_some_tasks(self, api):
        job_id = api.create(wait("a", fail="x"), wait("b", "a"))
        run = api.ended(api.post("2.2/jobs/run-now", job_id=job_id, only=["b"])["run_id"])
        assert [one["state"]["result_state"] for one in run["tasks"]] == ["DISABLED", "SUCCESS"]


@pytest.fixture(scope="module")
def populated(make_lab):
    """60 runs a second apart: two in three have ended, every fifth is of one job."""
    lab = make_lab(quotas=False, speed=1e-6)
    api = Api(lab)
    job_id = api.create(wait(seconds=1e9), max_concurrent_runs=100)
    ids = []
    for number in range(60):
        ids += lab.seed(
            1, seconds=1e9 if number % 3 == 0 else 0.5, job_id=job_id if number % 5 == 0 else None
        )
        lab.advance(1)
    return lab, api, ids, job_id


class TestLists:
    def pages(self, api, version="2.2", **arguments):
        found, token = [], {}
        while True:
            page = api.get(f"{version}/jobs/runs/list", **arguments, **token)
            found.append([run["run_id"] for run in page.get("runs", [])])
            if "next_page_token" not in page:
                return found
            token = {"page_token": page["next_page_token"]}

    def all(self, api, **arguments):
        return list(itertools.chain.from_iterable(self.pages(api, **arguments)))

    def test_active_runs_newest_first(self, populated):
        _, api, ids, _ = populated
        assert self.pages(api, active_only="true", limit=7) == [
            ids[::-1][2::3][:7],
            ids[::-1][2::3][7:14],
            ids[::-1][2::3][14:],
        ]
        assert self.all(api, completed_only="true") == [one for at, one in enumerate(ids) if at % 3][::-1]

    def test_pages_of_all(self, populated):
        _, api, ids, _ = populated
        assert [len(page) for page in self.pages(api)] == [20, 20, 20]
        assert [len(page) for page in self.pages(api, active_only="true", limit=19)] == [19, 1]
        assert [len(page) for page in self.pages(api, limit=0)] == [25, 25, 10]
        assert self.all(api, limit=25) == ids[::-1]
        second = api.get(
            "2.2/jobs/runs/list",
            limit=25,
            page_token=api.get("2.2/jobs/runs/list", limit=25)["next_page_token"],
        )
        first = api.get("2.2/jobs/runs/list", limit=25, page_token=second["prev_page_token"])
        assert [run["run_id"] for run in first["runs"]] == ids[::-1][:25]

    def test_has_more_is_gone_in_2_2(self, populated):
        _, api, _, _ = populated
        assert api.get("2.1/jobs/runs/list")["has_more"] is True
        assert api.get("2.1/jobs/runs/list", offset=50)["has_more"] is False
        assert "has_more" not in api.get("2.2/jobs/runs/list")

    def test_filters(self, populated):
        lab, api, ids, job_id = populated
        assert self.all(api, job_id=job_id) == ids[::5][::-1]
        assert self.all(api, job_id=job_id, active_only="true") == ids[::15][::-1]
        assert self.all(api, run_type="JOB_RUN") == ids[::5][::-1]
        assert self.pages(api, job_id=1) == [[]]
        since, until = (lab.runs[ids[at]].start_time for at in (10, 20))
        assert self.all(api, start_time_from=since, start_time_to=until, limit=4) == ids[10:21][::-1]
        assert self.all(api, start_time_from=since + 1, start_time_to=until - 1) == ids[11:20][::-1]

    def test_tasks_only_if_asked_for(self, populated):
        _, api, _, _ = populated
        assert "tasks" not in api.get("2.2/jobs/runs/list", limit=1)["runs"][0]
        assert len(api.get("2.2/jobs/runs/list", limit=1, expand_tasks="true")["runs"][0]["tasks"]) == 1

    def test_arguments_of_a_get_may_come_in_its_body(self, populated):
        lab, _, ids, _ = populated
        headers = {"authorization": f"Bearer {lab.token}"}
        body = {"active_only": True, "limit": 1}
        answer = requests.get(
            f"{lab.url}/api/2.1/jobs/runs/list", json=body, headers=headers, timeout=60
        ).json()
        assert [run["run_id"] for run in answer["runs"]] == [ids[57]]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"limit": 26}, "Invalid limit 26"),
            ({"limit": -1}, "Invalid limit -1"),
            ({"limit": "many"}, "to be a number"),
            ({"offset": 10_001}, "Invalid offset"),
            ({"active_only": "true", "completed_only": "true"}, "cannot both be true"),
            ({"page_token": "other"}, "Invalid page token"),
        ],
    )
    def test_wrong_arguments(self, populated, arguments, message):
        _, api, _, _ = populated
        with pytest.raises(Refused, match=message) as refused:
            api.get("2.2/jobs/runs/list", **arguments)
        assert (refused.value.status, refused.value.code) == (400, "INVALID_PARAMETER_VALUE")

    def test_tasks_come_in_pages_of_100(self, lab, api):
        run_id = api.submit(
            *(wait(f"t{number}") for number in range(150)), job_clusters=[{"job_cluster_key": "c"}]
        )
        api.ended(run_id)
        first = api.run(run_id)
        assert (len(first["tasks"]), len(first["job_clusters"])) == (100, 1)
        second = api.run(run_id, page_token=first["next_page_token"])
        assert [task["task_key"] for task in second["tasks"]] == [f"t{number}" for number in range(100, 150)]
        assert ("next_page_token" in second, "job_clusters" in second) == (False, False)
        [listed] = [
            one
            for one in api.get("2.2/jobs/runs/list", expand_tasks="true")["runs"]
            if one["run_id"] == run_id
        ]
        assert (len(listed["tasks"]), listed["has_more"]) == (100, True)

    def test_runs_are_forgotten_after_60_days(self, make_lab):
        lab = make_lab(quotas=False)
        api = Api(lab)
        ended = api.submit(wait(), idempotency_token="old")
        api.ended(ended)
        lab.advance(61 * 24 * 3600)
        assert api.get("2.2/jobs/runs/list") == {}
        with pytest.raises(Refused, match="does not exist"):
            api.run(ended)
        with pytest.raises(Refused, match="was deleted"):
            api.submit(wait(), idempotency_token="old")

    def test_deleted_runs_are_gone(self, lab, api):
        run_id = api.submit(wait(seconds=60))
        with pytest.raises(Refused, match="active"):
            api.post("2.2/jobs/runs/delete", run_id=run_id)
        lab.advance(61)
        task_id = api.run(run_id)["tasks"][0]["run_id"]
        assert api.run(task_id)["parent_run_id"] == run_id
        api.post("2.2/jobs/runs/delete", run_id=run_id)
        for gone in (run_id, task_id):
            with pytest.raises(Refused, match="does not exist"):
                api.run(gone)

    def test_a_run_that_is_deleted_while_it_goes_on_never_comes_back(self, make_lab):
        lab = make_lab(quotas=False)
        api = Api(lab)
        job_id = api.create(wait(seconds=60))
        first, second, third = (api.post("2.2/jobs/run-now", job_id=job_id)["run_id"] for _ in range(3))
        lab.delete_run(second)
        lab.delete_run(first)
        assert [run["run_id"] for run in api.get("2.2/jobs/runs/list")["runs"]] == [third]
        lab.advance(3600)
        assert [run["run_id"] for run in api.get("2.2/jobs/runs/list", completed_only="true")["runs"]] == [
            third
        ]
        assert lab.runs[third].state.result == "SUCCESS"
