"""What a worker reads once a query has ended: its results, its error, and the ids that lineage needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.sql.hooks.handlers import get_row_count, return_single_query_results
from airflow.providers.common.sql.hooks.lineage import send_sql_hook_lineage
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from snowflake.connector.errors import Error, ProgrammingError

from astronomer.deferral import Attempt, JobStatus, Transient
from astronomer.deferral._compat import AirflowFailException
from astronomer.deferral.in_triggerer import lineage_sender
from astronomer.providers.snowflake import statements
from astronomer.providers.snowflake.hooks.session import RESULT_GONE, SnowflakeSession
from astronomer.providers.snowflake.jobs.query import SnowflakeQuery

if TYPE_CHECKING:
    from astronomer.deferral.in_triggerer import InTriggerer

__all__ = ["check_serialisable", "explain", "find_query", "ids_of", "ids_of_failed", "process", "read"]


_ALL = 10_000  # entries of one session; a block is its oldest, and the list is newest first


def find_query(session: SnowflakeSession, attempt: Attempt) -> str | None:
    """The query that an attempt started, if it did: in its own session, else by its tag.

    A session of ours runs one thing, so the query that began first in it is the one; the statements of a block
    come after the block itself.

    :raises Transient: Snowflake could not be asked.
    """
    session_id = attempt.notes.get("session_id")
    if session_id is not None:
        entries = session.entries(session_id=session_id, max=_ALL)
        mine = [one for one in entries if str(one.get("sessionId")) == str(session_id)]
        if mine:
            first = min(mine, key=lambda one: (one.get("startTime") or 0, -len(str(one.get("sqlText")))))
            return str(first["id"])
    return _find_by_tag(session, attempt.submit_key)


def _find_by_tag(session: SnowflakeSession, submit_key: str) -> str | None:
    """Needs a warehouse and a database; without them there is no such history to look into."""
    question = (
        "SELECT query_id FROM TABLE(information_schema.query_history_by_user(result_limit => 10000)) "
        "WHERE CONTAINS(query_tag, %s) ORDER BY start_time LIMIT 1"
    )
    try:
        with session.open().cursor() as cursor:
            row = cursor.execute(question, (submit_key,)).fetchone()
    except ProgrammingError as error:
        session.hook.log.warning(
            "The query history could not be searched for an earlier submit: %s", error.msg
        )
        return None
    except Error as error:
        raise Transient(str(error.msg)) from error
    return None if row is None else str(row[0])


def read(
    operator: SQLExecuteQueryOperator,
    hook: Any,
    session: SnowflakeSession,
    job: SnowflakeQuery,
    ids: list[str],
    handler: Callable[[Any], Any] | None,
    in_triggerer: InTriggerer | None = None,
) -> Any:
    """What ``SnowflakeHook.run`` returns, for queries that have run already.

    Leaves ``query_ids`` and ``descriptions`` on the hook, as the stock hook does, and reports each statement to
    the lineage collector once.

    :param ids: of the statements, in order.
    :param in_triggerer: where there is no worker: results have to be small.
    :raises AirflowFailException: Snowflake no longer has the results.
    """
    send = lineage_sender(in_triggerer, send_sql_hook_lineage)
    try:
        hook.query_ids = ids
        texts = _texts(operator, len(ids))
        results, descriptions = [], []
        for query_id, text in zip(ids, texts, strict=True):
            if handler is None:
                send(context=hook, sql=text, sql_parameters=operator.parameters, job_id=query_id)
                continue
            cursor = session.cursor_on(query_id)
            if in_triggerer is not None:
                in_triggerer.no_more_than(_size(cursor), f"the result of {query_id}")
            send(context=hook, sql=text, sql_parameters=operator.parameters, cur=cursor, job_id=query_id)
            if (row_count := get_row_count(cursor)) is not None:
                operator.log.info("Rows affected: %s", row_count)
            results.append(hook._make_common_data_structure(handler(cursor)))
            descriptions.append(cursor.description)
    except ProgrammingError as error:
        if error.errno != RESULT_GONE:
            raise
        raise AirflowFailException(
            f"{job.name} succeeded, but Snowflake no longer has its result (kept for 24 hours). A retry would not "
            f"run it again; clear the task to do so. See {job.url}"
        ) from error
    if handler is None:
        return None
    if _single(operator):
        hook.descriptions = descriptions[-1:]
        return results[-1]
    hook.descriptions = descriptions
    return results


def _size(cursor: Any) -> int:
    """How many bytes a result has at least: two for each of its cells."""
    return 2 * int(cursor.rowcount or 0) * max(1, len(cursor.description or ()))


def process(operator: SQLExecuteQueryOperator, hook: Any, output: Any) -> Any:
    """The last step of the stock operator's ``execute``."""
    if _single(operator):
        return operator._process_output([output], hook.descriptions)[-1]
    result = operator._process_output(output, hook.descriptions)
    operator.log.info("result: %s", result)
    return result


def check_serialisable(result: Any, job: SnowflakeQuery) -> None:
    """Say which query's output cannot become an XCom, before Airflow says only which type cannot.

    :raises AirflowFailException: a retry would meet the same output.
    """
    from airflow.sdk.serde import serialize

    try:
        serialize(result)
    except Exception as error:
        raise AirflowFailException(
            f"{job.name} succeeded, but the handler's output cannot become an XCom: {error}. Return plain values from "
            "`handler` or `output_processor`, or set do_xcom_push=False; then clear the task to run it again."
        ) from error


def explain(
    session: SnowflakeSession, job: SnowflakeQuery, status: JobStatus
) -> tuple[JobStatus, ProgrammingError | None]:
    """The status of a failed query with the words that only its result has, and the connector's error."""
    try:
        session.cursor_on(job.query_id)
    except ProgrammingError as error:
        message = f"{error.raw_msg} (SQLSTATE {error.sqlstate or 'n/a'})"
        code = str(error.errno or status.code or "").zfill(6)
        return JobStatus(status.phase, status.raw, message, job.url, code=code), error
    return status, None


def ids_of(session: SnowflakeSession, job: SnowflakeQuery) -> list[str]:
    """The statements of a job that has succeeded, in order."""
    if not job.block:
        return [job.query_id]
    try:
        return session.statement_ids(job.query_id)[: job.statements]
    except ProgrammingError:  # its result is gone; whether that matters is for the reader to say
        return ids_of_failed(session, job)


def ids_of_failed(session: SnowflakeSession, job: SnowflakeQuery) -> list[str]:
    """The statements that ran in a block: its own result does not list them when it failed."""
    if not job.block or job.session_id is None:
        return [job.query_id]
    entries = session.entries(session_id=job.session_id, max=_ALL)
    mine = [
        one
        for one in entries
        if one.get("id") != job.query_id and str(one.get("sessionId")) == str(job.session_id)
    ]
    mine.reverse()  # the list is newest first, and its times are too coarse to order quick statements
    mine.sort(key=lambda one: one.get("startTime") or 0)
    return [str(one["id"]) for one in mine[: job.statements]] or [job.query_id]


def _texts(operator: SQLExecuteQueryOperator, count: int) -> Sequence[str]:
    """The statements' texts, for lineage; the whole text for each where they cannot be matched."""
    texts = statements.split(operator.sql, operator.split_statements is not False)
    if len(texts) == count:
        return texts
    whole = operator.sql if isinstance(operator.sql, str) else "; ".join(operator.sql)
    return [whole] * count


def _single(operator: SQLExecuteQueryOperator) -> bool:
    return bool(return_single_query_results(operator.sql, operator.return_last, operator.split_statements))
