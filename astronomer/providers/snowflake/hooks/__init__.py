"""Sessions and clients."""

THREAD_NAME = "astronomer-snowflake"
"""How the threads of the synchronous clients are called."""
