"""Ask another Airflow 3 deployment about its Dag runs and task instances."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from astronomer.deferral._compat import BaseHook, plain_connection
from astronomer.providers.core.hooks.deployment_errors import Refused

if TYPE_CHECKING:
    from astronomer.providers.core.hooks.deployment import DeploymentClient

__all__ = ["AstroHook"]

T = TypeVar("T")


class AstroHook(BaseHook):
    """A few questions to the public REST API v2 of another deployment; for sensors, see ``ExternalDeploymentSensor``.

    The methods are those of 1.x; those with ``_a_`` are coroutines. All may raise ``Transient`` (the deployment is out
    of reach), ``CredentialsRejected`` (its child: check the connection) and ``Refused`` (the login may not see it).

    :param astro_cloud_conn_id: the Airflow connection that leads to the deployment.
    """

    conn_name_attr = "astro_cloud_conn_id"
    default_conn_name = "astro_cloud_default"
    conn_type = "Astro Cloud"
    hook_name = "Astro Cloud"

    def __init__(self, astro_cloud_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.astro_cloud_conn_id = astro_cloud_conn_id

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """How the form of a connection looks."""
        return {
            "hidden_fields": ["port", "schema"],
            "relabeling": {
                "host": "Deployment URL",
                "login": "User, or client id",
                "password": "API token; or password, or client secret",
            },
            "placeholders": {
                "host": "https://clm0123456789.astronomer.run/d0123456",
                "login": "leave empty for an API token",
                "extra": '{"token_url": "for a client", "scope": "", "audience": "", "ca_file": ""}',
            },
        }

    def get_conn(self) -> tuple[str, str]:
        """The deployment's URL, and a token that is good now."""

        async def ask(client: DeploymentClient) -> tuple[str, str]:
            headers = await client.headers()
            return client.address, headers["Authorization"].removeprefix("Bearer ")

        return self._run(ask)

    def get_dag_runs(self, external_dag_id: str) -> list[dict[str, Any]]:
        """The active runs of a Dag, the one that was due last at first; no more than a hundred."""

        async def ask(client: DeploymentClient) -> list[dict[str, Any]]:
            return await client.runs(
                dag_ids=[external_dag_id], states=["running", "queued"], order_by="-run_after", most=100
            )

        return self._run(ask)

    def get_dag_run(self, external_dag_id: str, dag_run_id: str) -> dict[str, Any] | None:
        """A Dag run; ``None`` when there is none."""
        return self._run(lambda client: client.run(external_dag_id, dag_run_id))

    async def get_a_dag_run(self, external_dag_id: str, dag_run_id: str) -> dict[str, Any] | None:
        """A Dag run; ``None`` when there is none."""
        return await self._once(lambda client: client.run(external_dag_id, dag_run_id))

    def get_task_instance(
        self, external_dag_id: str, dag_run_id: str, external_task_id: str
    ) -> dict[str, Any] | None:
        """The instance of a task that is not mapped; ``None`` when there is none."""
        return self._run(lambda client: _task(client, external_dag_id, dag_run_id, external_task_id))

    async def get_a_task_instance(
        self, external_dag_id: str, dag_run_id: str, external_task_id: str
    ) -> dict[str, Any] | None:
        """The instance of a task that is not mapped; ``None`` when there is none."""
        return await self._once(lambda client: _task(client, external_dag_id, dag_run_id, external_task_id))

    def test_connection(self) -> tuple[bool, str]:
        """Whether the deployment answers, and lets us read Dag runs."""

        async def ask(client: DeploymentClient) -> str:
            await client.runs(most=1)
            return str((await client.get("version")).get("version"))

        try:
            return True, f"Airflow {self._run(ask)} answers"
        except Exception as error:  # noqa: BLE001  # the form shows what it is
            return False, str(error)

    def _run(self, ask: Callable[[DeploymentClient], Awaitable[T]]) -> T:
        # Read here, because a worker's supervisor cannot be asked asynchronously in every version of Airflow.
        return asyncio.run(_ask(self.get_connection(self.astro_cloud_conn_id), ask))

    async def _once(self, ask: Callable[[DeploymentClient], Awaitable[T]]) -> T:
        return await _ask(await self.aget_connection(self.astro_cloud_conn_id), ask)


async def _ask(connection: Any, ask: Callable[[DeploymentClient], Awaitable[T]]) -> T:
    """Over a session of its own."""
    from astronomer.providers.core.hooks.deployment import DeploymentClient

    client = DeploymentClient(plain_connection(connection))
    try:
        return await ask(client)
    finally:
        await client.close()


async def _task(client: DeploymentClient, dag_id: str, run_id: str, task_id: str) -> dict[str, Any] | None:
    try:
        return await client.get("dags", dag_id, "dagRuns", run_id, "taskInstances", task_id)
    except Refused as refused:
        if refused.status != 404:
            raise
        return None
