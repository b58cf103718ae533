"""Every Python snippet of the pages is run.

- ``test: dag``: a Dag file; ``dag.test()`` runs it, against the local Snowflake.
- ``test: task``: operators; each is run in order. With ``returns=``, the last one has to return that.
- ``test: databricks``: likewise, against the local workspace.
- ``test: parse``: operators that need what is not here; they are only made.
- ``test: pytest``: a test module; its tests are run.
- no mark: run as it stands. The snippets of one page share their names, from top to bottom.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from airflow.sdk import DAG

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag

from tests.docs.pages import PAGES, ROOT, blocks
from tests.docs.world import Run, environment, new_context

SNIPPETS = [block for block in blocks() if block.language == "python"]
SHARED = [
    page
    for page in PAGES
    if any(one.page == str(page.relative_to(ROOT)) and one.kind != "dag" for one in SNIPPETS)
]


@pytest.mark.parametrize("page", SHARED, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets(page, lab, workspace, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "snippet"}
    with environment({}):
        _run_page(page, names)


def _run_page(page, names):
    for block in (one for one in SNIPPETS if one.page == str(page.relative_to(ROOT)) and one.kind != "dag"):
        code = compile("\n" * block.line + block.body, page, "exec")
        if block.kind == "pytest":
            mine: dict[str, object] = {"__name__": "test_page"}
            exec(code, mine)
            for test in [value for name, value in mine.items() if name.startswith("test_")]:
                test()
        elif block.kind in ("task", "databricks", "parse"):
            with DAG("orders", schedule=None) as dag:
                exec(code, names)
            result = None
            for task in dag.tasks if block.kind != "parse" else []:
                result = Run(new_context()).of(task)
            if (expected := block.argument("returns")) is not None:
                assert result == ast.literal_eval(expected), block
        else:
            assert block.mark == "", f"{block}: unknown mark {block.mark}"
            exec(code, names)


@pytest.fixture(scope="module")
def database():
    from airflow.utils.db import initdb

    initdb()


@pytest.mark.filterwarnings("default")  # what Airflow warns about in dag.test() is Airflow's
@pytest.mark.parametrize("block", [one for one in SNIPPETS if one.kind == "dag"], ids=str)
def test_dags(block, lab, database):
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])  # dag.test() looks for the file there
    folder.mkdir(exist_ok=True)
    file = folder / f"{Path(block.page).stem}_{block.line}.py"
    file.write_text(block.body)
    bag = DagBag(file, load_op_links=False)
    assert bag.import_errors == {}
    (dag,) = bag.dags.values()
    assert dag.test().state == "success", block
