"""Tasks that no worker runs: the triggerer submits each query, waits for it, and reads its result.

`start_from_trigger=True` is all it takes. `orders` is mapped, `total` reads what they have returned, in a template; the
links, the logs and the XComs are those of any other task. Only `report` needs a worker, because it is Python.

Needs the Airflow connection `snowflake_default`. `SYSTEM$WAIT` stands for a query that takes its time.
Trigger it with other parameters to change how long the queries run (seconds).
"""

from __future__ import annotations

from airflow.sdk import dag, task

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

REGIONS = ("Asia", "Europe", "Oceania")
WORKER_FREE = {"start_from_trigger": True}


@dag(
    schedule=None,
    catchup=False,
    tags=["snowflake"],
    params={"seconds": 10},
    default_args=WORKER_FREE,
    doc_md=__doc__,
)
def snowflake_worker_free():
    orders = SnowflakeOperator.partial(task_id="orders").expand(
        sql=[f"SELECT '{region}', SYSTEM$WAIT({{{{ params.seconds }}}})" for region in REGIONS]
    )

    total = SnowflakeOperator(
        task_id="total",
        sql="SELECT %(regions)s, CURRENT_DATE",
        parameters={
            "regions": "{{ ti.xcom_pull(task_ids='orders') | map('first') | map('first') | join(', ') }}"
        },
    )

    @task
    def report(rows):
        print("regions and day:", rows[0])

    orders >> total
    report(total.output)


snowflake_worker_free()
