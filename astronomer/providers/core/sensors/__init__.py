"""Sensors. The modules here are addresses that Dags import from."""
