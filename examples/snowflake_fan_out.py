"""Many queries at once, whatever the number of workers.

Every query is submitted by a worker within a second or two. The worker is then free for the next task, and the
triggerer waits for all of them over one Snowflake session. Two workers are enough for any number of queries.

Needs the Airflow connection `snowflake_default`. `SYSTEM$WAIT` stands for a query that takes its time.
Trigger it with other parameters to change how long the queries run (seconds).
"""

from __future__ import annotations

from airflow.sdk import dag, task

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

QUERIES = 24


def query(position: int) -> str:
    """Return SQL that runs the longer, the higher its position."""
    seconds = "{{ params.shortest + (params.longest - params.shortest) * %d // %d }}"
    return f"SELECT SYSTEM$WAIT({seconds % (position, QUERIES - 1)}) AS answer"


@dag(schedule=None, catchup=False, tags=["snowflake"], params={"shortest": 20, "longest": 90}, doc_md=__doc__)
def snowflake_fan_out():
    queries = SnowflakeOperator.partial(task_id="query").expand(sql=[query(n) for n in range(QUERIES)])

    @task
    def collect(answers):
        print(f"{len(answers)} queries answered; the last one: {answers[-1]}")

    collect(queries.output)


snowflake_fan_out()
