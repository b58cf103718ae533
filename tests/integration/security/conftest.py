"""The local services with credentials that are hard to mask, and an Airflow that has run every case on them."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from astronomer.lab.databricks import DatabricksLab
from astronomer.lab.snowflake import SnowflakeLab
from tests.integration.core.deployments import Gateway, RealDeployment
from tools.demo.environment import KEPT

ROOT = Path(__file__).resolve().parents[3]
HARD = "p@ss w/ö\"'%+\\"
"""A password with everything that some encoding changes."""

VARIABLE = 'V4r p@ss/ö"+='
"""A secret for SQL, which it may stand in between quotes."""
VARIABLE_NAME = "the variable"


@dataclass
class Ran:
    """An Airflow that has run all cases.

    :param home: all that it has written.
    :param environment: of its process.
    :param secrets: name -> value, beside those in the environment.
    """

    home: Path
    environment: dict[str, str]
    output: str
    secrets: dict[str, str] = field(repr=False, default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """What did not end as it should, at the end of the output."""
        return self.output.partition("ENDED\n")[2].splitlines()


def _key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


def connections(
    snowflake: SnowflakeLab, databricks: DatabricksLab, gateway: Gateway, deployment: RealDeployment
) -> dict[str, Any]:
    """Every way to log in, and some that are refused, by connection id."""
    sf, db = snowflake.airflow_connection, databricks.airflow_connection
    pem = base64.b64encode(snowflake.private_key_file.read_bytes()).decode()
    text = sf(auth="key_pair", private_key_content=pem)
    del text["extra"]["private_key_file"]
    stranger = sf(auth="key_pair", private_key_content=base64.b64encode(_key().encode()).decode())
    del stranger["extra"]["private_key_file"]
    wrong = {"password": f"wrong {HARD}"}
    nowhere = sf()
    nowhere["extra"]["port"] = 1
    air = {"conn_type": "Astro Cloud", "host": gateway.url}
    return {
        "sf_password": sf(),
        "sf_key": sf(auth="key_pair"),
        "sf_key_text": text,
        "sf_key_locked": sf(auth="key_pair_encrypted"),
        "sf_oauth": sf(auth="oauth"),
        "sf_pat": sf(auth="pat"),
        "sf_wrong": sf() | wrong,
        "sf_wrong_key": stranger,
        "sf_wrong_pat": sf(auth="pat") | {"password": "pat-" + secrets.token_urlsafe(32)},
        "sf_nowhere": nowhere,
        "db_pat": db(),
        "db_oauth": db(auth="oauth"),
        "db_wrong": db() | {"password": "dapi" + secrets.token_hex(16)},
        "db_wrong_oauth": db(auth="oauth") | wrong,
        "air_login": air | {"login": "reader", "password": deployment.passwords["reader"]},
        "air_token": air | {"password": deployment.token()},
        "air_wrong": air | {"login": "reader", **wrong},
        "air_wrong_token": air | {"password": secrets.token_urlsafe(40)},
    }


def environment(home: Path, known: dict[str, Any]) -> dict[str, str]:
    """All variables of an Airflow of its own."""
    settings = {
        "CORE__DAGS_FOLDER": home / "dags",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__UNIT_TEST_MODE": True,
        "CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "LOGGING__BASE_LOG_FOLDER": home / "logs",
        "LOGGING__LOGGING_LEVEL": "DEBUG",
        "API__SECRET_KEY": secrets.token_urlsafe(32),
        "API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
    }
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "SNOWFLAKE_HOME": str(home),
        "SNOWFLAKE_DISABLE_PLATFORM_DETECTION": "true",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
        "AIRFLOW_VAR_MY_PASSWORD": VARIABLE,
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(one) for name, one in known.items()},
    }


@pytest.fixture(scope="session")
def ran(tmp_path_factory):
    """What an Airflow has written that ran every case once."""
    labs = tmp_path_factory.mktemp("labs")
    home = tmp_path_factory.mktemp("airflow")
    with (
        RealDeployment(tmp_path_factory.mktemp("deployment")).running() as deployment,
        Gateway(deployment.url) as gateway,
        SnowflakeLab(directory=labs) as snowflake,
        DatabricksLab(directory=labs) as databricks,
    ):
        snowflake.rotate_password(HARD)
        deployment.run("done")
        deployment.set("done", _run="success")
        variables = environment(home, connections(snowflake, databricks, gateway, deployment))
        variables |= {
            **snowflake.client_env(),
            "LAB_CA": str(snowflake.ca_file),
            "LAB_SNOWFLAKE": snowflake.url,
            "LAB_DATABRICKS": databricks.url,
        }
        with (home / "output.log").open("w") as output:
            subprocess.run(
                [sys.executable, "-m", "tests.integration.security.program"],
                cwd=ROOT,
                env=variables,
                stdout=output,
                stderr=output,
                timeout=280,
                check=False,
            )
        known = {VARIABLE_NAME: VARIABLE}
        for service, lab in (("Snowflake", snowflake), ("Databricks", databricks)):
            known |= {
                f"{service}: {what} {n}": value for n, (value, what) in enumerate(lab.secrets().items())
            }
        known |= {f"deployment: token {n}": one for n, one in enumerate(sorted(set(gateway.tokens) - {""}))}
        yield Ran(home, variables, (home / "output.log").read_text(), known)
