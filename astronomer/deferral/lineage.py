"""What operators tell OpenLineage, beside what the stock operators tell.

The provider is optional: it alone calls these methods, so whatever needs it is imported within them.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from astronomer.deferral.job import Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

    from astronomer.deferral.in_triggerer import InTriggerer
    from astronomer.deferral.job import JobStatus, RemoteJob

    Told: TypeAlias = OperatorLineage[Any, Any]

__all__ = ["REMOTE_JOB", "Lineage", "collected_queries", "emit_queries", "job_in_xcom", "parse_sql"]

REMOTE_JOB = "astronomer_remoteJob"
"""The run facet that names what a task has waited for: its name, page and last known state."""

log = logging.getLogger(__name__)

_START, _COMPLETE, _FAILURE = (
    f"get_openlineage_facets_on_{when}" for when in ("start", "complete", "failure")
)


class Lineage:
    """Stands before the stock operator among the base classes, and adds to what it tells; it takes nothing away."""

    in_triggerer: InTriggerer | None = None

    asks_stock = True
    """Whether the stock operator's part is told; ``False`` where ours is all of it, and better."""

    stock_lineage_failed = False
    """Whether the stock operator could not tell its part of the last event."""

    _asking_stock = False

    # What a family adds.

    @abstractmethod
    def last_seen(self) -> tuple[RemoteJob, JobStatus | None] | None:
        """The remote job of this try, with what is known of it; ``None`` while there is none."""

    def remembered(self, task_instance: Any) -> RemoteJob | None:
        """The remote job of a failed try of which this process has seen nothing: Airflow itself has ended it."""
        return None

    def external_query(self, job: Any) -> tuple[str, str] | None:
        """The id of a remote job, and the OpenLineage namespace of where it runs."""
        return None

    def own_lineage(self) -> Told | None:
        """Datasets and facets that follow from the arguments, before and after the job alike."""
        return None

    def end_of_lineage(self, task_instance: Any, lineage: Told, failed: bool) -> None:
        """More that is to be told once the task has ended.

        :param lineage: what is told of the task itself.
        :param failed: whether this try of the task has failed.
        """

    def query_failed(self, otherwise: bool) -> bool:
        """Whether the last query did not succeed. Its job tells: a task may also be skipped for a query that failed.

        :param otherwise: what holds where the end of the job is not known.
        """
        _, status = self.last_seen() or (None, None)
        return otherwise if status is None else status.phase is not Phase.SUCCEEDED

    # What the provider asks.

    def get_openlineage_facets_on_start(self) -> Told:
        """What is known before the job is."""
        if self._asking_stock:  # which calls this itself: its failure has to be its own
            return cast("Told", cast("Any", super()).get_openlineage_facets_on_start())
        return self._lineage((_START,))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Told:
        """What is known of a task that succeeded, or was skipped."""
        return self._ended((_COMPLETE, _START), task_instance)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Told:
        """What is known of a task that failed."""
        return self._ended((_FAILURE, _COMPLETE, _START), task_instance)

    def _ended(self, names: tuple[str, ...], task_instance: Any) -> Told:
        lineage = self._lineage(names, task_instance)
        _try(lambda: self.end_of_lineage(task_instance, lineage, _FAILURE in names))
        return lineage

    def _lineage(self, names: tuple[str, ...], task_instance: Any = None) -> Told:
        """The stock operator's, and then ours; neither is lost for what is wrong with the other."""
        from airflow.providers.openlineage.extractors import OperatorLineage

        if self.in_triggerer is not None:
            from astronomer.deferral import _compat_collector

            # The thread is the provider's, which reads the collector when this has returned.
            _compat_collector.bind(self.in_triggerer.lineage)
        behind = super()
        name = next((name for name in names if hasattr(behind, name)), None)
        about = () if name == _START else (task_instance,)
        self._asking_stock = True
        told = _try(lambda: getattr(behind, name)(*about)) if name and self.asks_stock else None
        self._asking_stock = False
        self.stock_lineage_failed = name is not None and told is None
        lineage: Told = OperatorLineage().merge(told or OperatorLineage())
        _add(lineage, _try(self.own_lineage))
        _add(lineage, _try(lambda: self._remote_job(task_instance if _FAILURE in names else None)))
        if name is None and (lineage.inputs or lineage.outputs):
            _try(lambda: _add_declared(lineage, self, task_instance))
        return lineage

    def _remote_job(self, failed: Any) -> Told | None:
        """What is told of the job.

        :param failed: the task instance, if it is one that failed.
        """
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.facet_v2 import RunFacet, external_query_run

        job, status = self.last_seen() or (None, None)
        if job is None and failed is not None and self.in_triggerer is None:
            job = self.remembered(failed)
        if job is None:
            return None
        said = {
            "name": job.name,
            "url": (status and status.url) or getattr(job, "url", None),
            "state": status and (status.raw or status.phase.value),
        }
        told = RunFacet().with_additional_properties(**{name: one for name, one in said.items() if one})
        facets: dict[str, Any] = {REMOTE_JOB: told}
        if (query := self.external_query(job)) is not None:
            query_id, source = query
            facets["externalQuery"] = external_query_run.ExternalQueryRunFacet(query_id, source)
        return OperatorLineage(run_facets=facets)


def parse_sql(sql: str | Iterable[str], database: DatabaseInfo, schema: str | None) -> Told:
    """The tables that a text reads and writes, and the text itself, without asking the database.

    :param database: where it runs; its scheme is the dialect.
    :param schema: of tables that name none.
    """
    from airflow.providers.openlineage.sqlparser import SQLParser

    parser = SQLParser(dialect=database.scheme, default_schema=schema)
    lineage: Told = parser.generate_openlineage_metadata_from_sql(
        sql=sql if isinstance(sql, str) else list(sql),
        hook=cast("Any", None),  # nobody is asked
        database_info=database,
        use_connection=False,
    )
    return lineage


def collected_queries() -> dict[str, str]:
    """The texts of the queries that hooks have run in this process, by their ids."""
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector
    from airflow.providers.common.sql.hooks.lineage import SqlJobHookLineageExtra as Extra

    collector = cast("Any", get_hook_lineage_collector)()
    extras = [one for one in collector.collected_assets.extra if one.key == Extra.KEY.value]
    told = [(one.value.get(Extra.VALUE__JOB_ID.value), one.value) for one in extras]
    return {str(key): str(value.get(Extra.VALUE__SQL_STATEMENT.value) or "") for key, value in told if key}


def job_in_xcom(task_instance: Any) -> dict[str, Any] | None:
    """The fields of the job that a trigger without a worker has started in this try."""
    from astronomer.deferral.xcom_memory import XCOM_KEY

    found = task_instance.xcom_pull(
        task_ids=task_instance.task_id, key=XCOM_KEY, map_indexes=task_instance.map_index
    )
    if not isinstance(found, Mapping) or found.get("try_number") != task_instance.try_number:
        return None  # also what is encoded twice: an event has pushed it, at the end of a success
    return cast("dict[str, Any] | None", found.get("job"))


def emit_queries(
    task_instance: Any,
    queries: Mapping[str, str],
    lineage: Told,
    database: DatabaseInfo,
    *,
    last_failed: bool,
) -> None:
    """Tell of each query by a START and an end of its own, under the task; all of them have its tables.

    Where there are none, the provider itself tells of those that hooks have run in this process.

    :param queries: their texts, by their ids in the database.
    :param lineage: that of the task.
    :param last_failed: whether the last one did not succeed; those before it did.
    """
    from airflow.providers.openlineage.api import emit_query_lineage
    from airflow.providers.openlineage.sqlparser import SQLParser
    from openlineage.client.facet_v2 import sql_job

    known = {} if lineage.inputs or lineage.outputs else collected_queries()
    for number, (query_id, text) in enumerate(queries.items(), 1):
        if query_id in known:
            continue
        emit_query_lineage(
            query_id=query_id,
            query_source_namespace=SQLParser.create_namespace(database),
            inputs=lineage.inputs,
            outputs=lineage.outputs,
            is_successful=not last_failed or number < len(queries),
            job_name=f"{task_instance.dag_id}.{task_instance.task_id}.query.{number}",
            task_instance=task_instance,
            additional_job_facets={"sql": sql_job.SQLJobFacet(query=SQLParser.normalize_sql(text))},
        )


def _add(lineage: Told, more: Told | None) -> None:
    """Add what is not told yet."""
    if more is None:
        return
    for old, new in ((lineage.inputs, more.inputs), (lineage.outputs, more.outputs)):
        known = {(one.namespace, one.name) for one in old}
        old += [one for one in new if (one.namespace, one.name) not in known]
    lineage.run_facets = {**more.run_facets, **lineage.run_facets}
    lineage.job_facets = {**more.job_facets, **lineage.job_facets}


def _add_declared(lineage: Told, task: Any, task_instance: Any) -> None:
    """The task's inlets and outlets, which the provider adds only where nobody tells of any dataset."""
    from airflow.providers.openlineage.extractors import ExtractorManager, OperatorLineage

    declared: Told = OperatorLineage()
    manager = cast("Any", ExtractorManager)()
    manager.extract_inlets_and_outlets(declared, task, task_instance)
    _add(lineage, declared)


def _try(step: Callable[[], Any]) -> Any:
    """Lineage is not worth a task, and one part of it not the others."""
    try:
        return step()
    except Exception as error:
        log.warning("A part of the lineage is missing: %s: %s", type(error).__name__, error)
        log.debug("The lineage that is missing", exc_info=True)
        return None
