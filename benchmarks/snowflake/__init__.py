"""Waiting for Snowflake in a triggerer: this package's trigger beside the stock one."""
