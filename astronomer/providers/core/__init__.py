"""Waiting for Airflow itself, here or elsewhere, and for files."""
