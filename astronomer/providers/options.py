"""The configuration options of this distribution, as Airflow learns of them."""

from __future__ import annotations

from typing import Any

__all__ = ["CONFIG"]

_FIRST = "2.0.0a1"


def _option(description: str, kind: str, default: float | str, *, example: float | str) -> dict[str, Any]:
    """One option: the schema takes numbers, but Airflow writes and compares defaults as strings."""
    return {
        "description": description + "\n",
        "version_added": _FIRST,
        "type": kind,
        "example": str(example),
        "default": str(default),
    }


WAITING = {
    "poll_interval": _option(
        "Seconds between two looks at the remote jobs of one connection.",
        "float",
        5.0,
        example=10.0,
    ),
    "outage_tolerance": _option(
        "Seconds a remote service may be unreachable before its jobs are reported lost. "
        "They are not cancelled.",
        "float",
        3600.0,
        example=7200.0,
    ),
    "quick_wait": _option(
        "Seconds the worker waits for a quick job before it defers. 0 defers at once.",
        "float",
        1.5,
        example=0.0,
    ),
    "cancel_confirm_timeout": _option(
        "Seconds to wait for the remote service to confirm a cancel.",
        "float",
        60.0,
        example=120.0,
    ),
    "databricks_requests_per_second": _option(
        "Requests a second that one process sends to one Databricks workspace, to begin with. It "
        "slows down when the workspace complains, and speeds up to at most twice as many, or 25.",
        "float",
        10.0,
        example=5.0,
    ),
    "airflow_conn_id": _option(
        "An Airflow connection (type Astro Cloud) to this deployment's own REST API. With it, sensors on "
        "other Dags ask about all Dags with one request per look, over the API server instead of the "
        "triggerer's supervisor.",
        "string",
        "",
        example="this_airflow",
    ),
    "worker_free": _option(
        "Whether tasks start in the triggerer, and need no worker, where their operator is not told. What "
        "only a worker can do for a task is found when its Dag is parsed; it then starts in a worker.",
        "boolean",
        False,
        example=True,
    ),
    "worker_free_threads": _option(
        "Threads of one triggerer that render, submit and read results for tasks without a worker; as many more "
        "tell listeners.",
        "integer",
        8,
        example=16,
    ),
    "worker_free_result_bytes": _option(
        "The largest result, as JSON, that a triggerer reads for a task without a worker. A larger one is "
        "read by a worker.",
        "integer",
        49152,
        example=16384,
    ),
    "waits_folder": _option(
        "Where a triggerer keeps, in small files, what it waits for: ids of jobs and of tasks, no secrets. "
        "The next triggerer that sees the folder ends the jobs of tasks that were ended while none ran, so "
        "put it where it outlives the triggerer. By default astronomer_waits in AIRFLOW_HOME.",
        "string",
        "",
        example="/opt/airflow/logs/astronomer_waits",
    ),
    "poll_threads": _option(
        "Threads of one triggerer for remote clients that block.", "integer", 4, example=8
    ),
}

_URL = "https://platform.example.com"
RUNTIME = {
    "issuer": _option("Who signs the platform's tokens: their claim iss.", "string", "", example=_URL),
    "audience": _option(
        "Whom the platform's tokens are for: their claim aud is this, or has it.",
        "string",
        "",
        example="my-deployment.example.com",
    ),
    "jwks_url": _option(
        "Where the platform publishes its public keys: https, or http on this machine. This or public_key_file.",
        "string",
        "",
        example=f"{_URL}/jwks.json",
    ),
    "public_key_file": _option(
        "The platform's public key as a PEM file, which is read again when it changes.",
        "string",
        "",
        example="/etc/runtime/platform.pem",
    ),
    "algorithms": _option(
        "The signatures that are accepted, each only with a key made for it.",
        "string",
        "RS256,ES256,EdDSA",
        example="ES256",
    ),
    "max_token_lifetime": _option(
        "Seconds from iat to exp; a token that lives longer is refused.", "float", 3600.0, example=900.0
    ),
    "leeway": _option("Seconds that clocks may differ.", "float", 30.0, example=5.0),
    "jwks_max_age": _option(
        "Seconds after which the platform's keys are asked for again.", "float", 300.0, example=60.0
    ),
    "jwks_min_interval": _option(
        "Seconds between two questions for the platform's keys, whatever tokens name.",
        "float",
        10.0,
        example=5.0,
    ),
    "jwks_max_stale": _option(
        "Seconds for which known keys count while none can be had.", "float", 3600.0, example=600.0
    ),
    "deployment_id": _option(
        "The name of this deployment in the tokens' claim deployments.", "string", "", example="my-deployment"
    ),
    "role_map": _option(
        "Roles of the platform and what they are here, as JSON.", "string", "", example='{"MEMBER": "viewer"}'
    ),
    "role_permissions": _option(
        "A JSON file with roles of your own, made of permissions.",
        "string",
        "",
        example="/etc/runtime/roles.json",
    ),
    "login_url": _option(
        "The platform's page to log in. Without one, a proxy or a client brings the tokens.",
        "string",
        "",
        example=f"{_URL}/login",
    ),
    "logout_url": _option(
        "The platform's page that ends the session there.", "string", "", example=f"{_URL}/logout"
    ),
    "versions_url": _option(
        "A newer list of Runtime releases: https://, file:/// or the path of a file. Empty: nobody is asked.",
        "string",
        "",
        example="https://example.com/versions.json",
    ),
    "check_interval": _option(
        "Seconds that an answer from versions_url is good for, also one that failed.",
        "float",
        86400.0,
        example=604800.0,
    ),
}

CONFIG = {
    "astronomer_providers": {
        "description": "How deferrable operators of astronomer-providers wait. An operator argument wins over these.",
        "options": WAITING,
    },
    "astronomer_runtime": {
        "description": "The security manager and the versions of a Runtime image.",
        "options": RUNTIME,
    },
}
