"""SQL on a Databricks warehouse: several statements in order, parameters, and rows for the next task.

`orders` runs its statements one after the other and waits for them without a worker; a statement that is over within
seconds never defers. `count` returns rows as the stock operator does, and `report` reads them.

Needs the Airflow connection `databricks_default`, with the warehouse's `http_path` in its extra, and a schema in which
it may create a table.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from astronomer.providers.databricks.operators.databricks_sql import DatabricksSqlOperator

TABLE = "airflow_example_orders"


@dag(schedule=None, catchup=False, tags=["databricks"], params={"rows": 1000}, doc_md=__doc__)
def databricks_sql():
    orders = DatabricksSqlOperator(
        task_id="orders",
        sql=[
            f"CREATE OR REPLACE TABLE {TABLE} (id BIGINT, amount DECIMAL(10, 2))",
            f"INSERT INTO {TABLE} SELECT id, id * 1.5 FROM range({{{{ params.rows }}}}) AS t(id)",
        ],
    )

    count = DatabricksSqlOperator(
        task_id="count",
        sql=f"SELECT count(*) AS orders, sum(amount) AS total FROM {TABLE} WHERE id > :least",
        parameters={"least": 10},
    )

    @task
    def report(answer):
        print("orders and total:", answer)

    orders >> count
    report(count.output)


databricks_sql()
