"""Databricks: operators, sensors, and what they wait with."""
