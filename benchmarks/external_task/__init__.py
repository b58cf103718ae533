"""Tasks of other Dags: what waiting for them costs a triggerer and the database behind it."""
