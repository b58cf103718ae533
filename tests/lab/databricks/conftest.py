"""A workspace for the tests of this folder; this process trusts it, see ``tests/lab/conftest.py``."""

from __future__ import annotations

import json

import pytest
import requests

from astronomer.lab.databricks import DatabricksLab
from tests.lab.conftest import until

WAIT = "/lab/wait"


class Refused(Exception):
    """The workspace answered with an error."""

    def __init__(self, answer: requests.Response) -> None:
        super().__init__(answer.status_code, answer.text)
        self.status = answer.status_code
        self.headers = answer.headers
        self.body = json.loads(answer.text or "{}")
        self.code = self.body.get("error_code")
        self.message = self.body.get("message", "")


class Api:
    """The workspace's API without any client library; ``session`` is that of the ``http`` fixture."""

    session: requests.Session

    def __init__(self, lab: DatabricksLab) -> None:
        self.lab = lab

    def get(self, path: str, **arguments):
        return self._answered(
            self.session.get(self._url(path), params=arguments, headers=self._headers(), timeout=60)
        )

    def post(self, path: str, **arguments):
        return self._answered(
            self.session.post(self._url(path), json=arguments, headers=self._headers(), timeout=60)
        )

    def _url(self, path: str) -> str:
        return f"{self.lab.url}/api/{path}"

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.lab.token}"}

    def _answered(self, answer: requests.Response):
        if not answer.ok:
            raise Refused(answer)
        return answer.json()

    # -- what the tests do all the time --------------------------------------------------------------------------------

    def submit(self, *tasks, **more) -> int:
        return self.post("2.2/jobs/runs/submit", tasks=list(tasks), **more)["run_id"]

    def create(self, *tasks, **more) -> int:
        return self.post("2.2/jobs/create", tasks=list(tasks), **more)["job_id"]

    def run(self, run_id: int, **arguments):
        return self.get("2.2/jobs/runs/get", run_id=run_id, **arguments)

    def ended(self, run_id: int):
        """Wait for a run's end and return it."""
        until(lambda: self.lab.runs[run_id].ended)
        return self.run(run_id)

    def output(self, run: dict, key: str):
        """Return the output of the newest attempt of a task."""
        task = [one for one in run["tasks"] if one["task_key"] == key][-1]
        return self.get("2.2/jobs/runs/get-output", run_id=task["run_id"])


def wait(key: str = "a", *after: str, seconds: float = 0, fail: str = "", result: str = "", **more):
    """Return a task that only waits, after others."""
    parameters = {
        "seconds": str(seconds),
        **({"fail": fail} if fail else {}),
        **({"result": result} if result else {}),
    }
    task = {"task_key": key, "notebook_task": {"notebook_path": WAIT, "base_parameters": parameters}, **more}
    return {**task, "depends_on": [{"task_key": one} for one in after]} if after else task


def states(run: dict) -> dict[str, str]:
    """Return the result, or the life cycle, of the newest attempt of each task."""
    return {
        one["task_key"]: one["state"].get("result_state", one["state"]["life_cycle_state"])
        for one in run["tasks"]
    }


@pytest.fixture(scope="module", autouse=True)
def http(trust):
    """One session for all requests of a module, closed at its end."""
    with requests.Session() as session:
        Api.session = session
        yield session


@pytest.fixture(scope="module")
def kind_of_lab():
    return DatabricksLab


@pytest.fixture(scope="module")
def module_lab(make_lab):
    return make_lab(quotas=False)


@pytest.fixture
def lab(module_lab):
    """A workspace without quotas, quiet and with an empty request log."""
    module_lab.faults.clear()
    module_lab.requests.clear()
    yield module_lab
    module_lab.faults.clear()
    module_lab.quotas.factor = 0


@pytest.fixture
def api(lab):
    return Api(lab)
