"""What a Runtime image adds to Airflow."""
