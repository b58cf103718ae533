"""A query that fails, and what a failure leaves behind: nothing.

The second statement of `load` has a typo. The task fails with Snowflake's own message, error number and query id in
its log. Because of `autocommit=False`, the row of the first statement is rolled back; `after_failure` counts the rows
to show it, and runs because of its trigger rule.

Needs the Airflow connection `snowflake_default`, with a database and schema in which it may create a table.
"""

from __future__ import annotations

from airflow.sdk import TriggerRule, dag, task

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

TABLE = "airflow_example_orders"


@dag(schedule=None, catchup=False, tags=["snowflake"], params={"seconds": 10}, doc_md=__doc__)
def snowflake_failure():
    prepare = SnowflakeOperator(task_id="prepare", sql=f"CREATE OR REPLACE TABLE {TABLE} (id INTEGER)")

    load = SnowflakeOperator(
        task_id="load",
        autocommit=False,
        sql=[
            f"INSERT INTO {TABLE} VALUES (1)",
            "SELECT SYSTEM$WAIT({{ params.seconds }})",
            f"INSERT INTO {TABLE}_with_a_typo VALUES (2)",
        ],
    )

    after_failure = SnowflakeOperator(
        task_id="after_failure",
        sql=f"SELECT COUNT(*) FROM {TABLE}",
        trigger_rule=TriggerRule.ALL_FAILED,
    )

    @task
    def report(answer):
        print(f"rows after the failed load: {answer[0][0]}")

    prepare >> load >> after_failure
    report(after_failure.output)


snowflake_failure()
