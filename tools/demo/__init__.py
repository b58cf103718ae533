"""`make demo`: real Dags on a real Airflow against the local Snowflake, watched and summed up."""
