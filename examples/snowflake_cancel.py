"""A long query to cancel.

While `long_query` is deferred, mark it as failed in the Airflow UI, or clear it. The triggerer then cancels the query
on Snowflake and waits for the confirmation; the "Snowsight" link on the task's page shows that it is gone. Without a
user's help the task's `execution_timeout` ends the query in the same way.

Needs the Airflow connection `snowflake_default`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator


@dag(schedule=None, catchup=False, tags=["snowflake"], params={"seconds": 1800}, doc_md=__doc__)
def snowflake_cancel():
    SnowflakeOperator(
        task_id="long_query",
        sql="SELECT SYSTEM$WAIT({{ params.seconds }})",
        execution_timeout=timedelta(hours=1),
    )


snowflake_cancel()
