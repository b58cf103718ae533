"""The remote side: weather, credentials, and jobs that somebody else ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tools.chaos.faults import Fault
from tools.chaos.scene import STEPS, Scene

GROUP = "Remote"
STORM = 60.0
TEN_MINUTES = 600.0
HOUR = 3600.0
TAKEN_UP = 5.0  # until what begins in a triggerer has begun
REFUSED = {401, 403}


def weather(scene: Scene, _kills: int, *, kind: str, seconds: float = STORM, **fault: Any) -> None:
    """All requests to both services are disturbed for a while: those of tasks that wait, and those that begin a job."""
    scene.until_deferred()
    for lab in (scene.world.snowflake, scene.world.databricks):
        lab.add_fault(kind, seconds=seconds, **fault)
    scene.world.note(f"{kind} {fault}")
    scene.go_on(seconds, feed=True)
    scene.remote.look()
    for lab in (scene.world.snowflake, scene.world.databricks):
        for one in lab.requests(scene.began):
            if one["fault"]:
                scene.hits.add(scene.remote.side(one))


def expire(scene: Scene, _kills: int) -> None:
    """All sessions and tokens expire in mid-wait."""
    if not scene.until_deferred():
        return
    since = time.time()
    scene.world.snowflake.expire_sessions()
    scene.world.databricks.expire_tokens()
    time.sleep(5.0)
    scene.world.snowflake.expire_masters()
    scene.world.note("credentials expired")
    scene.go_on(20.0)
    # Stock has no sessions and no OAuth tokens: a key pair for Snowflake, and a personal token.
    refused = sum(one["status"] in REFUSED for one in scene.world.databricks.requests(since))
    scene.hits.add("ours", 2 + refused)


def rotate(scene: Scene, _kills: int) -> None:
    """Passwords and tokens are changed in mid-wait, and 20 s later in Airflow's connections; no job ends in between.

    Within the half minute, that is, after which a third refused login would lock the user, and ours give up.
    """
    scene.until_deferred()
    scene.go_on(TAKEN_UP)
    if any(wait.state != "deferred" for wait in scene.all_waits()):
        return  # what logs in now has a reason to fail
    password = f"Rotated-{scene.random.randrange(10**9)}"
    scene.world.snowflake.rotate_password(password)
    scene.world.snowflake.expire_masters()
    token, secret = scene.world.databricks.rotate_token(), scene.world.databricks.rotate_secret()
    scene.world.databricks.expire_tokens()
    scene.world.note("credentials rotated")
    scene.go_on(20.0)
    changed = {"snowflake_default": password, "databricks_default": token, "databricks_oauth": secret}
    for name, new in changed.items():
        connection = scene.world.services.change_connection(name, password=new)
        scene.world.ask(scene.world.airflow.edit_connection, name, connection)
    scene.hits.add("ours", 2)
    scene.hits.add("stock")


def skew(scene: Scene, _kills: int) -> None:
    """Databricks is an hour ahead from before a job begins: to one that runs, a jump would be an hour that has passed."""
    scene.world.databricks.advance(HOUR)
    scene.remote.ahead += HOUR
    scene.world.note("an hour ahead")
    scene.hit()
    scene.until_deferred()


def unknown(scene: Scene, _kills: int) -> None:
    """For half a minute jobs are in a state that no client knows."""
    with scene.disturbed("rewrite", "poll", old='"RUNNING"', new='"HIBERNATING"'):
        scene.world.note("unknown states")
        scene.go_on(30.0)
        scene.remote.look()
        for one in scene.disturbers(
            "poll", scene.began
        ):  # an answer that was not changed counts as undisturbed
            scene.hits.add(scene.remote.side(one))


def end_jobs(scene: Scene, _kills: int, *, how: Callable[[Scene, str], bool], what: str) -> None:
    """Somebody ends each job on the remote side; its task may fail, or start the work once more."""
    scene.until_deferred()
    for wait, job in scene.active_jobs():
        if how(scene, job.id):
            wait.ended_jobs.add(job.id)
            wait.expected = frozenset({"success", "failed"})
            scene.world.note(f"{what} {job.id}")
            scene.hits.add(wait.side)
    scene.remote.look()  # what was deleted is gone from now on


def cancel(scene: Scene, job_id: str) -> bool:
    """Do what the vendor's page does."""
    scene.remote.end(scene.remote.jobs[job_id])
    return True


def delete(scene: Scene, job_id: str) -> bool:
    """Delete a run; nothing else can be deleted."""
    kind, _, number = job_id.partition(":")
    if kind != "run":
        return False
    scene.world.databricks.delete_run(int(number))
    return True


SUBMITS_AND_POLLS = "|".join(STEPS[step][1] for step in ("submit", "poll"))
FAULTS = (
    Fault(
        GROUP,
        "429 for a minute",
        partial(weather, kind="status", status=429, retry_after=2.0, rate=0.9),
        seconds=30,
        steady=True,
    ),
    Fault(
        *(GROUP, "503 for a minute", partial(weather, kind="status", status=503, rate=0.9)),
        seconds=30,
        steady=True,
    ),
    Fault(
        *(GROUP, "503 for ten minutes"),
        partial(weather, kind="status", status=503, seconds=TEN_MINUTES),
        seconds=30,
        steady=True,
    ),
    Fault(GROUP, "connections reset", partial(weather, kind="reset", rate=0.6), seconds=30, steady=True),
    Fault(
        GROUP,
        "answers lost",
        partial(weather, kind="lose_answer", rate=0.4, path=SUBMITS_AND_POLLS),
        seconds=30,
        steady=True,
    ),
    Fault(
        *(GROUP, "slow answers", partial(weather, kind="late", rate=0.5, delay=5.0)), seconds=30, steady=True
    ),
    Fault(GROUP, "credentials expired", expire, seconds=45, steady=True),
    Fault(GROUP, "credentials rotated", rotate, seconds=180, steady=True),
    Fault(GROUP, "unknown states", unknown, seconds=20, steady=True),
    Fault(GROUP, "job cancelled remotely", partial(end_jobs, how=cancel, what="cancelled"), seconds=90),
    Fault(GROUP, "job deleted remotely", partial(end_jobs, how=delete, what="deleted"), seconds=60),
    Fault(GROUP, "clock an hour ahead", skew, seconds=20, steady=True),
)
