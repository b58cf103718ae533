"""The job that a workflow of Airflow tasks becomes in Databricks.

Source: docs.databricks.com/api/workspace/jobs/create, .../reset and .../list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astronomer.providers.databricks.hooks.client import DatabricksClient

__all__ = ["put_job"]

_PAGE = 25


async def put_job(client: DatabricksClient, settings: Mapping[str, Any]) -> int:
    """The id of the job with the name in ``settings``, which now has these settings.

    It is made when there is none, so a repetition after a lost answer finds it. Of several the newest is taken.

    :param settings: as ``jobs/create`` takes them; an ``access_control_list`` replaces the job's permissions, unless
        it is empty.
    :raises RequestRejected: Databricks takes no such job.
    """
    job_id = await _newest_named(client, str(settings["name"]))
    if job_id is None:
        return int((await client.post("2.2/jobs/create", settings))["job_id"])
    if access := settings.get("access_control_list"):
        await client.patch(f"2.0/permissions/jobs/{job_id}", {"access_control_list": access})
    await client.post("2.2/jobs/reset", {"job_id": job_id, "new_settings": dict(settings)})
    return job_id


async def _newest_named(client: DatabricksClient, name: str) -> int | None:
    token = None
    while True:
        page = await client.get("2.2/jobs/list", name=name, limit=_PAGE, page_token=token)
        for job in page.get("jobs") or []:
            if job["settings"]["name"] == name:  # the filter takes capitals for small letters
                return int(job["job_id"])
        token = page.get("next_page_token")
        if not token:
            return None
