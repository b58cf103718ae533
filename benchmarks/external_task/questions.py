"""What a triggerer asks about other Dags, seen from the database."""

from __future__ import annotations

import re
from collections import Counter

__all__ = ["questions"]

# What the execution API executes once, and a triggerer never, for each question about other Dags: GetTICount and
# GetDRCount; GetTaskStates for tasks and, after another look at the whole run, for groups; GetDagRunState.
_QUESTION = re.compile(
    r"SELECT count\(\*\) AS count_1\s+FROM (?P<counted>task_instance|dag_run)\s+WHERE (?P=counted)\.dag_id = "
    r"|SELECT task_instance\.id, .*\sFROM task_instance JOIN dag_run .*"
    r"WHERE task_instance\.dag_id = \$\d+ AND task_instance\.task_id IN "
    r"|SELECT dag_run\.state\s+FROM dag_run\s+WHERE dag_run\.dag_id = ",
    re.DOTALL,
)


def questions(statements: Counter[str]) -> int:
    """How many questions about other Dags these statements have answered."""
    return sum(calls for query, calls in statements.items() if _QUESTION.match(query))
