"""Read by each Python of the Airflow that is tried: the clients of the SQL API know no address but Snowflake's own."""

import json
import os

from astronomer.lab.dns import redirected

_redirection = redirected(json.loads(os.environ.get("ASTRONOMER_CHAOS_HOSTS", "{}")))
_redirection.__enter__()  # in force as long as it is referred to
