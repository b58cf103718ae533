"""A Dag that others wait for: a task, a task group, and a mapped task.

It knows nothing of those who wait. They name it in sensors of theirs: in this Airflow (`external_waiters`), or in
another one (`external_deployment`).

Needs no connection.
"""

from __future__ import annotations

import time

from airflow.sdk import dag, task, task_group


@dag(schedule=None, catchup=False, tags=["external"], params={"seconds": 5}, doc_md=__doc__)
def external_producer():
    @task
    def extract(params=None):
        time.sleep(float(params["seconds"]))

    @task
    def orders(params=None):
        time.sleep(float(params["seconds"]))

    @task
    def customers(params=None):
        time.sleep(float(params["seconds"]))

    @task_group
    def clean():
        orders()
        customers()

    @task
    def load(table):
        print(f"{table}: loaded")

    extract() >> clean() >> load.expand(table=["orders", "customers", "orders_by_customer"])


external_producer()
