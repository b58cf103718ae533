"""What a task waits for, in the words of OpenLineage."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astronomer.deferral.lineage import Told

__all__ = ["awaits", "file_read"]

_RULES = {
    frozenset({"success"}): "EXECUTE_ON_SUCCESS",
    frozenset({"failed"}): "EXECUTE_ON_FAILURE",
}


def awaits(
    dag_id: str, task_ids: Iterable[str], allowed_states: Collection[str], namespace: str | None = None
) -> Told:
    """Each job that has to end first. Not its run: how often that was cleared, and which try it is, nobody here knows.

    :param task_ids: none of them: the whole Dag.
    :param namespace: of the other Airflow; ``None`` is this one's.
    """
    from airflow.providers.openlineage import conf
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.facet_v2 import job_dependencies_run as facet

    states = frozenset(str(getattr(state, "value", state)) for state in allowed_states)
    upstream = [
        facet.JobDependency(
            job=facet.JobIdentifier(namespace or conf.namespace(), name),
            dependency_type="IMPLICIT_DEPENDENCY",
            sequence_trigger_rule="FINISH_TO_START",
            status_trigger_rule=_RULES.get(states, "EXECUTE_EVERY_TIME"),
        )
        for name in [f"{dag_id}.{task_id}" for task_id in task_ids] or [dag_id]
    ]
    return OperatorLineage(run_facets={"jobDependencies": facet.JobDependenciesRunFacet(upstream)})


def file_read(path: str) -> Told:
    """A file of this machine, or of one of its mounts."""
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset

    return OperatorLineage(inputs=[Dataset(namespace="file", name=path)])
