"""A local Databricks workspace.

The Jobs API 2.0 to 2.2, SQL statements, warehouses and query history, and OAuth, on the loopback interface. Tasks really
run: notebooks and Python files as processes, SQL on DuckDB, with dependencies, retries, timeouts, queues and repairs::

    with DatabricksLab() as lab:
        os.environ.update(lab.client_env())
        client = databricks.sdk.WorkspaceClient(host=lab.url, token=lab.token)
        lab.workspace_directory.joinpath("hello.py").write_text("print('hello')")
        hello = SparkPythonTask("/hello.py")
        client.jobs.submit(tasks=[SubmitTask("hello", spark_python_task=hello)]).result()
        lab.faults.storm(60)
        lab.expire_tokens()

The notebook ``/lab/wait`` waits for ``seconds`` without a process, then returns ``result`` or fails with ``fail``; thousands
may wait at once (``lab.seed(10_000)``). The clock can be advanced: ``lab.advance(3600)`` returns when everything that
happens within an hour has happened, each thing at its own time.

Where it deviates from Databricks:

Jobs and runs
    - Who asks is checked, what they may do is not: every principal may do everything, and access control lists are
      accepted and not kept. ``run_as``, notifications, schedules, triggers and health rules have no effect.
    - There are no clusters: tasks start at once unless ``startup_seconds`` says otherwise, and any cluster id or
      specification will do. Libraries and environments are not installed.
    - Kinds of task other than ``notebook_task``, ``spark_python_task``, ``sql_task`` (file or query), ``run_job_task`` and
      ``condition_task`` are accepted, and fail with FEATURE_DISABLED when they run. ``git_source`` is not checked out.
    - A workspace path is looked up in ``workspace_directory``; one that begins with ``/`` and is not there is a file of
      this machine. ``dbutils`` has widgets, ``notebook.exit`` and ``jobs.taskValues``; there is no Spark, and magic
      commands are comments.
    - Text of messages, and the rule by which a run with several bad tasks says so, follow examples, not a specification.
      The deprecated ``life_cycle_state`` of tasks that were never run is SKIPPED: a guess.
    - Page tokens are positions: when runs start or end between two pages, a run may be shown twice or not at all.
      Databricks does not say how its own behave.
    - A run or job that does not exist is answered 400 INVALID_PARAMETER_VALUE, as older versions of the API were seen to
      do. Unknown fields are kept and shown, not refused.
    - Idempotency tokens hold for the whole workspace and for ever. Cancelling is TERMINATING for ``cancel_seconds``.

SQL
    - Statements run on DuckDB, translated by sqlglot: the usual SELECT, DML, MERGE, DDL, SHOW, DESCRIBE, USE and SET work;
      functions that only Spark has do not. OPTIMIZE, VACUUM, GRANT and the like are accepted without effect, as are table
      properties and locations; partitions are remembered and not stored apart. ``INSERT ... PARTITION`` is not known.
    - ``lab_wait(seconds)`` in a statement makes it wait on the workspace's clock before it does anything.
    - A cancelled statement has no error in its status. Whether its result has gone is told as CLOSED, and the chunks are
      then answered 404; the texts of these answers, of a foreign principal's 403 and of refused arguments are guesses.
    - In JSON and CSV, binary values are hexadecimal and scalars inside arrays, maps and structs are strings: both guesses.
    - Stopping to poll does not end a statement and fetching does not close it, as the API's reference says;
      ``lab.sql.neglect_seconds`` and ``lab.sql.consume_inline`` make them, as older texts say.
    - The connector's Thrift protocol carries its rows inline and knows sessions, statements and nothing about metadata;
      a cluster is any name. Settings are kept for the session and have no effect.

Access and limits
    - Quotas are token buckets of one second of the workspace's clock; Retry-After is in whole seconds. The real shape is
      not documented. Limits of tasks running at once and of jobs per hour are not enforced.
    - OAuth tokens are opaque. Token exchange accepts ``credentials.subject_token`` only.
    - Nothing outlives ``stop()`` but the files of ``workspace_directory``.
"""

from __future__ import annotations

from astronomer.lab.databricks.client import LabClient
from astronomer.lab.databricks.lab import DatabricksLab

__all__ = ["DatabricksLab", "LabClient"]
