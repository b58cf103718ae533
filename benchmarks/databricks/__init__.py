"""Waiting for Databricks runs in a triggerer: this package's trigger beside the stock one."""
