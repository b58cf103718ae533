"""Tasks without a worker: what a whole Airflow spends on a task, with workers and without them."""
