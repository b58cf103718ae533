"""A sensor that waits for a row which another task writes later.

The sensor asks from the triggerer, so that waiting for hours costs no worker. A new question is asked only when the
one before has been answered.

Needs the Airflow connection `snowflake_default`, with a database and schema in which it may create a table.
"""

from __future__ import annotations

from airflow.sdk import dag

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator
from astronomer.providers.snowflake.sensors.snowflake import SnowflakeSensor

TABLE = "airflow_example_arrivals"


@dag(schedule=None, catchup=False, tags=["snowflake"], params={"seconds": 40}, doc_md=__doc__)
def snowflake_sensor():
    prepare = SnowflakeOperator(task_id="prepare", sql=f"CREATE OR REPLACE TABLE {TABLE} (name VARCHAR)")

    wait_for_row = SnowflakeSensor(
        task_id="wait_for_row",
        sql=f"SELECT COUNT(*) FROM {TABLE} WHERE name = 'delivery'",
        poke_interval=5,
        timeout=600,
    )

    write_row = SnowflakeOperator(
        task_id="write_row",
        sql=f"SELECT SYSTEM$WAIT({{{{ params.seconds }}}}); INSERT INTO {TABLE} VALUES ('delivery')",
        split_statements=True,
    )

    read = SnowflakeOperator(task_id="read", sql=f"SELECT * FROM {TABLE}")

    prepare >> [wait_for_row, write_row]
    wait_for_row >> read


snowflake_sensor()
