"""Whether what a sensor waits for exists in another deployment at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.standard.exceptions import (
    ExternalDagNotFoundError,
    ExternalTaskGroupNotFoundError,
    ExternalTaskNotFoundError,
)

from astronomer.deferral._compat import AirflowException
from astronomer.providers.core.hooks.deployment_errors import Refused
from astronomer.providers.core.jobs.deployment import DeploymentWait

if TYPE_CHECKING:
    from astronomer.providers.core.hooks.deployment import DeploymentClient

__all__ = ["check_existence"]


async def check_existence(client: DeploymentClient, job: DeploymentWait) -> None:
    """Fail if what is waited for does not exist.

    :raises ExternalDagNotFoundError: there is no such Dag; likewise for a task and a group.
    """
    at = f"in the deployment at {client.address}"
    try:
        await client.get("dags", job.dag_id)
    except Refused as refused:
        raise _said(
            refused, ExternalDagNotFoundError, f"The external DAG {job.dag_id} does not exist {at}."
        ) from refused
    for task_id in job.task_ids:
        try:
            await client.get("dags", job.dag_id, "tasks", task_id)
        except Refused as refused:
            text = f"The external task {task_id} in DAG {job.dag_id} does not exist {at}."
            raise _said(refused, ExternalTaskNotFoundError, text) from refused
    if job.group_id:
        try:
            await client.tasks_of_group(job.dag_id, "~", job.group_id)
        except Refused as refused:
            text = f"The external task group {job.group_id!r} in DAG {job.dag_id!r} does not exist {at}."
            raise _said(refused, ExternalTaskGroupNotFoundError, text) from refused


def _said(refused: Refused, missing: type[Exception], text: str) -> Exception:
    """What a refusal means to a person."""
    if refused.status == 404:
        return missing(text)
    return AirflowException(f"The deployment refused a question: {refused}")
