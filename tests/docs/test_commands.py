"""Every command of the pages is either run here, or stands in the table of those that are run elsewhere."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time

from tests.docs.pages import PAGES, ROOT, blocks
from tools.commands import COMMANDS

UP = "python -m astronomer.lab up"

ELSEWHERE = {
    f"{UP} --port 18443": "tests/lab, on a port that is free",
    "make demo": ".ci/run, in its short form",
    "make demo KEEP=1": "tests of tools/demo; differs from the above in waiting for Ctrl-C",
    "make chaos SHORT=1": ".ci/run, on Celery",
    "make chaos EXECUTOR=celery": ".ci/run, in its short form",
    "make chaos": "by hand, some faults at a time, where the numbers in benchmarks/README.md come from",
    'make chaos ARGS="--list"': "tests/unit/test_chaos.py",
    'make chaos ARGS="--only people"': "by hand, as all of them",
    "make demo-celery": "by hand; .ci/run breaks the same servers by `make chaos`, and tests/unit/test_servers.py starts them",
    "make test": ".ci/run, with LONG=1, which is what runs this",
    "make bench FAMILY=databricks": "by hand, where the numbers in benchmarks/README.md come from",
    "make image": "by hand, before `make image-test`: it needs root or Docker, and takes minutes",
    "make image-test": "by hand, after `make image`",
    'make image-test ARGS="-k local"': "a part of `make image-test`",
    'make image-test ARGS="-k celery"': "a part of `make image-test`",
    'make image-test ARGS="-k kubernetes"': "a part of `make image-test`",
    "docker build -t orders runtime/sample-project": "tests/image/test_project.py builds the same folder",
    "buildah build -t orders runtime/sample-project": "tests/image/test_project.py builds the same folder",
    "podman run --rm orders airflow runtime version": "tests/image/test_contents.py, in the image that orders is from",
    "docker build --secret id=pip,src=$HOME/.config/pip/pip.conf -t orders .": "tests/image/test_private_index.py",
    "airflow runtime-auth roles": "tests/integration/runtime/test_start.py",
    "airflow runtime-auth check-token < token.txt": "tests/integration/runtime/test_start.py",
    "python -m astronomer.lab issuer": "tests/lab/test_issuer.py",
    'curl -H "Authorization: Bearer $TOKEN" https://my-deployment.example.com/api/v2/dags': "tests/integration/runtime/test_sessions.py",
    'curl -X POST -H "Authorization: Bearer $TOKEN" https://my-deployment.example.com/auth/token': "tests/integration/runtime/test_sessions.py",
    "airflowctl auth login --api-url https://my-deployment.example.com --skip-keyring": "tests/integration/runtime/test_airflowctl.py",
    "airflowctl dags list": "tests/integration/runtime/test_airflowctl.py",
    "docker run --rm astronomer-runtime:3.3-1 airflow runtime version": "tests/image/test_contents.py",
    "docker run --rm astronomer-runtime:3.3-1 pip freeze": "tests/image/test_contents.py",
    "airflow runtime version": "tests/unit/runtime/test_runtime_cli.py",
    "airflow runtime versions": "tests/unit/runtime/test_runtime_cli.py",
    "airflow runtime version --output json": "tests/unit/runtime/test_runtime_cli.py",
    **{
        f"airflow triggerer{queues}": "tests/integration/queues/test_triggerer_queues.py, for the queue of snowflake"
        for queues in ("", " --queues default", " --queues snowflake", " --queues databricks")
    },
    "airflow celery worker --queues default,snowflake,databricks": "make demo-celery starts it so",
    'pip install -c constraints/airflow-3.3.txt ".[all,celery]"': "make demo-celery installs these extras from the checkout",
    "airflow providers list": "tests/unit/test_package.py",
    "airflow config list --section astronomer_providers --defaults": "tests/unit/test_package.py",
    "airflow standalone": "make demo starts the same four parts, one by one",
    'pip install -c constraints/airflow-3.3.txt ".[core,databricks,snowflake]"': "make demo installs so, from the checkout",
    "python -c 'from tests.integration.lineage.schemas import derived; print(*derived(), sep=\"\\n\")' > urls.txt": "by hand",
    '(cd "$OPENLINEAGE_SPEC" && xargs -n 1 curl -fsSO) < urls.txt': "by hand, with a network",
    "python -m pytest tests/integration -k lineage": "make test runs all of them; with OPENLINEAGE_SPEC by hand",
    "source .venv/bin/activate": "make demo creates it; a shell's own command",
}
"""Command -> where it is run."""

IN_A_CLUSTER = ("kubectl ", "helm ", "sed -e s/snowflake/", "sed -i s,/opt/airflow,")
"""What needs a Kubernetes cluster: tests/unit/runtime/test_kubernetes.py renders and checks the files that they name."""


def commands() -> list[tuple[str, str]]:
    """(command, where it stands), without comments and settings of variables."""
    found = []
    for block in blocks():
        if block.language not in {"bash", "sh"}:
            continue
        text = block.body.replace("\\\n", " ")
        for line in text.splitlines():
            command = re.sub(r"\s+# .*$", "", line).strip()
            if command and not command.startswith(("#", "export ", "mkdir ", *IN_A_CLUSTER)):
                found.append((command, str(block)))
    return found


def test_every_command_is_run_somewhere():
    here = {UP, "python -m astronomer.deferral._compat"}
    unknown = [f"{where}: {command}" for command, where in commands() if command not in here | set(ELSEWHERE)]
    assert not unknown


def test_the_table_names_no_command_that_no_page_has():
    assert set(ELSEWHERE) <= {command for command, _ in commands()}


def test_every_make_target_exists():
    named = {
        name
        for page in PAGES
        for name in re.findall(r"^make ([\w-]+)|`make ([\w-]+)", page.read_text(), re.MULTILINE)
    }
    targets = {one or other for one, other in named}
    assert {"demo", "test", "docs"} <= targets
    assert targets <= set(COMMANDS)


def test_what_airflow_lacks():
    command = [sys.executable, "-W", "ignore", "-m", "astronomer.deferral._compat"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "\nlacks: " in f"\n{told}"


def test_the_local_services_start_and_stop():
    command = [sys.executable, "-m", "astronomer.lab", "up"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            told = _read_until(process, "# Ctrl-C stops it.", seconds=40)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    exported = re.findall(r"^export (\w+)=", told, re.MULTILINE)
    connections = {"AIRFLOW_CONN_DATABRICKS_DEFAULT", "AIRFLOW_CONN_SNOWFLAKE_DEFAULT"}
    assert set(exported) == connections | {"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"}
    pages = [(ROOT / f"docs/howto/local-{one}.md").read_text() for one in ("databricks", "snowflake")]
    assert not [name for name in exported if not any(name in page for page in pages)]


def _read_until(process, word, seconds):
    told, until = "", time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while word not in told:
            assert time.monotonic() < until, told
            assert process.poll() is None, told
            if selector.select(1.0):
                told += os.read(process.stdout.fileno(), 65536).decode()
    return told
