"""A local Snowflake account.

fakesnow (DuckDB) runs the SQL. Round it are the parts that a client which waits for queries depends on: logins with
passwords, key pairs, OAuth and programmatic access tokens; sessions whose tokens expire and are renewed; asynchronous
queries that pass through QUEUED, RESUMING_WAREHOUSE, BLOCKED and RUNNING; requests of several statements; transactions
and table locks; cancelling; query history; the list form of the status request; and the SQL API v2::

    with SnowflakeLab(speed=10) as lab:
        os.environ.update(lab.client_env())
        connection = snowflake.connector.connect(**lab.connect_args())
        connection.cursor().execute_async("call system$wait(30)")  # takes three seconds
        lab.faults.storm(60)
        lab.expire_sessions()

A comment in a statement scripts its states, in lab seconds::

    /* lab: queued=0.5 resuming=1 blocked=1 restarted=1 running=3 status=RUNNING end=SUCCESS */ select 1

Where it deviates from Snowflake:

SQL
    - What fakesnow does not know is an error, usually 000002, 001003 or 000603. There are no stored procedures, tasks,
      streams or file formats beyond fakesnow's, and ACCOUNT_USAGE is empty.
    - Names are resolved when a statement runs, so an unknown table is reported after the queue, not before; syntax errors
      are reported before it. Error messages have Snowflake's number, SQLSTATE and wording, but often position 0.
    - Columns of expressions without an alias are named as fakesnow names them.
    - Of Snowflake Scripting there is ``EXECUTE IMMEDIATE`` of one statement, or of one block of plain statements with one
      ``EXCEPTION WHEN OTHER THEN``, ``RAISE`` and ``RETURN``: no variables, branches, loops or other handlers.
    - SYSTEM$ functions take constants only, and are WAIT, CANCEL_QUERY, CANCEL_ALL_QUERIES, ABORT_SESSION and
      ABORT_TRANSACTION.

Transactions
    - UPDATE, DELETE, MERGE and TRUNCATE of one table exclude each other until the transaction ends, even where Snowflake
      would find that they touch different partitions; INSERT and COPY never wait. Deadlocks are not detected: LOCK_TIMEOUT
      ends them. An idle transaction is never aborted by itself.
    - A reader inside a transaction sees the data as of its first statement until one of its statements fails, after which
      the transaction is replayed; Snowflake reads what is committed when each statement starts. The replay calls functions
      such as RANDOM again.
    - One transaction cannot write to two databases.

Queries and sessions
    - Statements of one session that reach the database run one after the other; only their waits overlap.
    - STATEMENT_TIMEOUT_IN_SECONDS of a request with several statements limits each of them and all together.
    - Asynchronous queries outlive their client: ABORT_DETACHED_QUERY is accepted and ignored, and so are
      STATEMENT_QUEUED_TIMEOUT_IN_SECONDS and every parameter that only formats output. Results are kept until ``expire_results()``.
    - A cancelled or failed request with several statements keeps the ids of those it started; the status entry has none.
    - requestId is remembered for each session only, and by the SQL API for each user.
    - Every user may use every role of the account and every warehouse; a role hides nothing.
    - Results come in one inline chunk. The list form of the status request is undocumented by Snowflake: its order, newest
      first, and its default ``max`` of 100 are this package's guess.
    - The reason why a JWT was refused is in ``SnowflakeLab.logins``, not in SYSTEM$GET_LOGIN_FAILURE_DETAILS.

SQL API
    - ``statementHandles`` are in the answer of a finished request only. Rows are split into partitions by number, not size.
    - A warehouse that does not exist is refused at once with 422 and 390201.
"""

from __future__ import annotations

from astronomer.lab.snowflake.client import LabClient
from astronomer.lab.snowflake.lab import SnowflakeLab

__all__ = ["LabClient", "SnowflakeLab"]
