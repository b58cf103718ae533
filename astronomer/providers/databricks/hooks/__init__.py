"""The client of a workspace, and how it logs in."""

THREAD_NAME = "astronomer-databricks"
"""How the threads of synchronous functions are called."""
