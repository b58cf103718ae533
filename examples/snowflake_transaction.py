"""Several statements that are committed together, and a result that the next task reads.

With `autocommit=False` the statements run in order, in one session and one transaction: all of them count, or none.
The task holds no worker while they run. `handler` makes what the task returns out of a cursor, as with the stock
operator.

Needs the Airflow connection `snowflake_default`, with a database and schema in which it may create a table.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

TABLE = "airflow_example_accounts"


def as_dicts(cursor):
    """Called with a cursor on the result of each statement; the task returns the last one."""
    names = [column.name.lower() for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@dag(schedule=None, catchup=False, tags=["snowflake"], params={"seconds": 20}, doc_md=__doc__)
def snowflake_transaction():
    open_accounts = SnowflakeOperator(
        task_id="open_accounts",
        sql=f"""
            CREATE OR REPLACE TABLE {TABLE} (name VARCHAR, balance INTEGER);
            INSERT INTO {TABLE} VALUES ('savings', 100), ('rent', 0);
        """,
        split_statements=True,
    )

    transfer = SnowflakeOperator(
        task_id="transfer",
        autocommit=False,
        parameters={"amount": 40},
        sql=f"""
            UPDATE {TABLE} SET balance = balance - %(amount)s WHERE name = 'savings';
            SELECT SYSTEM$WAIT({{{{ params.seconds }}}});
            UPDATE {TABLE} SET balance = balance + %(amount)s WHERE name = 'rent';
            SELECT name, balance FROM {TABLE} ORDER BY name;
        """,
        split_statements=True,
        handler=as_dicts,
    )

    @task
    def report(balances):
        for row in balances:
            print(f"{row['name']}: {row['balance']}")

    open_accounts >> transfer
    report(transfer.output)


snowflake_transaction()
