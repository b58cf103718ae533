"""The demo from the first process to the last number."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
from rich.console import Console
from rich.live import Live

from tools.demo import summary, table
from tools.demo.airflow import Airflow
from tools.demo.backend import SCHEDULER, TRIGGERER, WORKER
from tools.demo.board import Board, Task, epoch
from tools.demo.leaks import leaks
from tools.demo.plan import MID_WAIT, PLANS, Plan
from tools.demo.processes import local_ports
from tools.demo.remote import Job, Service
from tools.demo.services import Services

LOOK_EVERY = 1.5
GIVE_UP = 1200.0
CANCEL_WITHIN = 60.0


@dataclass
class Run:
    """All Dags from their start to the end of the last task."""

    services: Services
    remote: Sequence[Service]
    airflow: Airflow
    console: Console
    short: bool = False
    board: Board = field(default_factory=Board)
    triggerer_ports: set[int] = field(default_factory=set)
    cancelled_at: dict[str, float] = field(default_factory=dict)
    elsewhere: dict[str, tuple[str, str]] = field(default_factory=dict)
    started: float = 0.0

    def go(self) -> summary.Facts:
        """Trigger the Dags, watch them, do what users would do meanwhile; returns what was seen."""
        for dag_id in PLANS:
            self.airflow.unpause(dag_id)
        triggered = {dag_id: plan for dag_id, plan in PLANS.items() if plan.triggered}
        moment = dt.datetime.now(dt.timezone.utc).isoformat()  # one for all, by which sensors find runs
        for dag_id, plan in triggered.items():
            self.airflow.trigger(dag_id, plan.parameters(short=self.short), moment)
        self.started = time.time()
        self.console.print(f"Triggered {len(triggered)} Dags: {', '.join(triggered)}")
        self._watch()
        seconds = time.time() - self.started
        self.console.print(table.table(self.board, seconds, over=True, width=self.console.width))
        return self._facts(seconds)

    def _watch(self) -> None:
        live = Live(console=self.console, refresh_per_second=4, transient=True)
        if self.console.is_terminal:
            with live:
                self._until_ended(live)
        else:
            self._until_ended(None)

    def _until_ended(self, live: Live | None) -> None:
        expected = sum(plan.tasks for plan in PLANS.values())
        said = time.monotonic()
        while True:
            ended = self._look()
            elapsed = time.time() - self.started
            if live is not None:
                rows, width = table.room(self.console, self.board), self.console.width
                live.update(table.table(self.board, elapsed, rows, width=width))
            else:
                for task in ended:
                    self.console.print(f"{table.clock(elapsed)}  {table.ended_line(task, self.board.now)}")
                if time.monotonic() - said > table.EVERY:
                    said = time.monotonic()
                    self.console.print(f"{table.clock(elapsed)}  {table.counts(self.board)}")
            if self.board.counts()["ended"] >= expected or elapsed > GIVE_UP:
                return
            time.sleep(LOOK_EVERY)

    def _look(self) -> list[Task]:
        """Ask Airflow and the services once; returns the tasks that have ended since."""
        self.services.processes.check()
        try:
            ended = self.board.update(self.airflow.task_instances(), time.time())
            self._find_jobs()
            self._cancel()
            self._start_elsewhere()
        except httpx.TransportError:  # a busy machine; a server that has ended is noticed above
            return []
        self.board.see_jobs(self._jobs())
        for service in self.remote:
            port = int(service.url.rpartition(":")[2])
            for triggerer in self.services.first.programs(TRIGGERER):
                self.triggerer_ports |= local_ports(triggerer.process.pid, port)
        return ended

    def _jobs(self) -> list[Job]:
        return [job for service in self.remote for job in service.jobs()]

    def _find_jobs(self) -> None:
        for task in self.board.tasks.values():
            if task.service and task.job is None and (task.state == "deferred" or task.ended):
                task.job = self.airflow.job_id(task.instance, task.service)

    def _in_mid_wait(self) -> Iterator[tuple[Task, Plan]]:
        now = time.time()
        for task in self.board.tasks.values():
            if task.state == "deferred" and task.seconds_waited(now) >= MID_WAIT:
                yield task, PLANS[task.dag]

    def _cancel(self) -> None:
        """Be the user who marks tasks as failed while they wait."""
        for task, plan in self._in_mid_wait():
            if task.instance["task_id"] == plan.cancel and task.dag not in self.cancelled_at:
                clicked = time.time()
                self.airflow.mark_failed(task.instance)
                self.cancelled_at[task.dag] = clicked
                self.console.print(f"Marked {task.dag}.{task.name} as failed, as a user would, in mid-wait.")

    def _start_elsewhere(self) -> None:
        """Be the other Airflow's user, who starts a run when a task here waits for it already."""
        other = self.services.other
        for task, plan in self._in_mid_wait():
            if other and plan.elsewhere and task.dag not in self.elsewhere:
                other.user.unpause(plan.elsewhere)
                conf = PLANS[plan.elsewhere].parameters(short=self.short)
                self.elsewhere[task.dag] = plan.elsewhere, other.user.trigger(plan.elsewhere, conf)
                self.console.print(
                    f"Triggered {plan.elsewhere} in the other Airflow; {task.dag}.{task.name} waits for it."
                )

    def _facts(self, seconds: float) -> summary.Facts:
        cancelled = self._cancelled()
        return summary.Facts(
            board=self.board,
            stints=self._stints(),
            sides=[summary.Side(one.name, one.jobs(), one.requests(), one.login) for one in self.remote],
            triggerer_ports=self.triggerer_ports,
            left_open=[what for one in self.remote for what in one.left_open()],
            seconds=seconds,
            cancelled=cancelled,
            elsewhere=self._other_runs(),
            leaks=self._leaks(),
        )

    def _leaks(self) -> list[str]:
        """Search all that was written for every credential that was used."""
        airflows = {one.called("Airflow"): one for one in self.services.deployments}
        return leaks(
            self.services.places,
            {name: one.environment for name, one in airflows.items()},
            {one.name: one.client for one in self.remote},
            passwords={f"password of {name}": one.installation.password for name, one in airflows.items()},
            databases=self.services.backend.databases(),
            folders=self.services.backend.folders(),
        )

    def _other_runs(self) -> dict[str, summary.OtherRun]:
        """Ask the other Airflow what became of its runs; by the Dag here that has waited."""
        found = {}
        for waiting, (dag_id, run_id) in self.elsewhere.items():
            if self.services.other:
                run = self.services.other.user.run(dag_id, run_id)
                ended = run["end_date"]
                found[waiting] = summary.OtherRun(str(run["state"]), epoch(ended) if ended else None)
        return found

    def _cancelled(self) -> dict[str, float]:
        """Wait for the end of what was cancelled; returns seconds from the click to the end, by job."""
        ids = {
            task.job: task.dag for task in self.board.tasks.values() if PLANS[task.dag].cancel and task.job
        }
        found: dict[str, float] = {}
        until = time.monotonic() + CANCEL_WITHIN
        while len(found) < len(self.cancelled_at) and time.monotonic() < until:
            for job in self._jobs():
                if job.id in ids and job.ended and job.id not in found:
                    found[job.id] = job.ended - self.cancelled_at[ids[job.id]]
            if len(found) < len(self.cancelled_at):
                time.sleep(LOOK_EVERY)
        return found

    def _stints(self) -> list[float]:
        """Read how long the workers were busy, once the last one has said so."""
        logs = [one.log for part in (SCHEDULER, WORKER) for one in self.services.first.programs(part)]
        found: list[float] = []
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            text = "\n".join(log.read_text(errors="replace") for log in logs)
            before, found = found, summary.stints(text)
            if found and len(found) == len(before):
                break
            time.sleep(2 * LOOK_EVERY)
        return found
