"""A task's process is asked to end, over Airflow's own line to its supervisor, whatever it is doing."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager

import msgspec
import pytest
from airflow.sdk.execution_time import comms, task_runner

from astronomer.deferral import Phase, in_process
from astronomer.deferral.testing import ScriptedOperator, ScriptedService
from tests.unit.deferral.fakes import FakeTaskInstance, MemoryStore, context_of

pytestmark = pytest.mark.skipif(
    not hasattr(comms, "GetTaskStateStore"), reason="before Airflow 3.3 a worker asks nobody"
)


class Supervisor:
    """The other end of the line: knows the task's state, and may keep an answer to itself for a while."""

    def __init__(self, state):
        self.state = state
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self._line, self.own = socket.socketpair()
        self._decoder = msgspec.msgpack.Decoder(comms._RequestFrame)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with self._line:
            while length := self._line.recv(4, socket.MSG_WAITALL):
                size = int.from_bytes(length, "big")
                request = self._decoder.decode(self._line.recv(size, socket.MSG_WAITALL))
                self.asked.set()
                self.answers.wait(20)
                self._line.sendall(comms._ResponseFrame(request.id, self._answer(request.body)).as_bytes())

    def _answer(self, body):
        if body["type"] == "GetVariable":
            return {"type": "VariableResult", "key": body["key"], "value": "of the main thread"}
        states = body["states"]
        return {"type": "TICount", "count": int(states is None or self.state in states)}


@contextmanager
def worker(state):
    """This process is the one of a task that waits for a job, with Airflow's handler of SIGTERM."""
    service = ScriptedService("signals")
    task = ScriptedOperator(task_id="task", service="signals")
    task._memory(context_of(FakeTaskInstance(), MemoryStore()))
    task._job = service.start("a", runs_for=1e6)
    supervisor = Supervisor(state)
    before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            task_runner, "SUPERVISOR_COMMS", comms.CommsDecoder(socket=supervisor.own), raising=False
        )
        try:
            yield service, supervisor
        finally:
            signal.signal(signal.SIGTERM, before)
            supervisor.own.close()


@pytest.mark.parametrize(("state", "cancels"), [("failed", ["a"]), ("running", []), ("up_for_retry", [])])
def test_between_two_questions(state, cancels):
    with worker(state) as (service, _):
        os.kill(os.getpid(), signal.SIGTERM)
        assert service.cancels == cancels


@pytest.mark.parametrize(("state", "phase"), [("failed", Phase.CANCELLED), ("running", Phase.ACTIVE)])
def test_in_the_middle_of_a_question(state, phase, monkeypatch):
    """The handler does not wait for the line that it holds up itself; and nobody gets an answer of another's."""
    monkeypatch.setattr(in_process, "_ASKING", 0.1)
    with worker(state) as (service, supervisor):
        supervisor.answers.clear()

        def signals():
            supervisor.asked.wait(20)
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Timer(0.5, supervisor.answers.set).start()

        threading.Thread(target=signals, daemon=True).start()
        found = task_runner.SUPERVISOR_COMMS.send(comms.GetVariable(key="v"))
        assert found.value == "of the main thread"
        killers = [one for one in threading.enumerate() if one.name.endswith("(end)")]
        for killer in killers:
            killer.join(20)
        assert len(killers) == 1
        assert service.status("a").phase is phase
