"""Triggers. Their class paths are stored in Airflow's database."""
