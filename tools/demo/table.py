"""The tasks as a live table on a terminal, and as a line now and then elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.demo.board import Board, Task

COLOURS = {
    "success": "green",
    "failed": "red",
    "deferred": "magenta",
    "running": "bright_green",
    "queued": "yellow",
}
EVERY = 10.0
ORDER = ("running", "deferred", "queued", "scheduled")
FRAME = 7  # lines of a table that are not tasks: title, borders, head, caption


def table(board: Board, elapsed: float, most: int | None = None, *, over: bool = False) -> Table:
    """Return the tasks with their states.

    :param elapsed: seconds since the Dags were triggered.
    :param most: rows there is room for; what is under way comes before what has ended.
    :param over: whether nothing is waited for any more.
    """
    rows, hidden = fit(board.rows(), most)
    found = Table(
        title=f"{clock(elapsed)}  {counts(board)}", title_justify="left", expand=False, pad_edge=False
    )
    found.add_column("Task", no_wrap=True)
    found.add_column("State", no_wrap=True)
    if not over:
        found.add_column("Waits for", no_wrap=True, overflow="ellipsis", max_width=48)
    found.add_column("Snowflake query", no_wrap=True)
    found.add_column("Waited", justify="right", no_wrap=True)
    dag = ""
    for task in rows:
        if task.dag != dag:
            dag = task.dag
            found.add_section()
        name, state, waits_for, *rest = _cells(task, board.now)
        found.add_row(name, state, *([] if over else [waits_for]), *rest)
    if hidden:
        found.caption = f"and {hidden} more, for which the window is too low"
        found.caption_justify = "left"
    return found


def fit(rows: list[Task], most: int | None) -> tuple[list[Task], int]:
    """Return the most telling rows, in their order, and how many were left out."""
    if most is None or len(rows) <= most:
        return rows, 0
    rank = {state: number for number, state in enumerate(ORDER)}
    by_interest = sorted(rows, key=lambda task: (task.ended, rank.get(task.state, len(rank))))
    kept = {task.key for task in by_interest[: max(1, most)]}
    return [task for task in rows if task.key in kept], len(rows) - len(kept)


def room(console: Console, board: Board) -> int:
    """Return how many rows fit into the window, below each other with a rule between two Dags."""
    dags = len({task.dag for task in board.tasks.values()})
    return max(3, console.size.height - FRAME - dags)


def counts(board: Board) -> str:
    found = board.counts()
    return (
        f"{len(board.tasks)} tasks: {found['running']} on a worker, {found['waiting']} waiting without one, "
        f"{found['to come']} to come, {found['ended']} ended"
    )


def ended_line(task: Task, now: float) -> str:
    """Return what to say when a task has ended."""
    waited = task.seconds_waited(now)
    after = f" after waiting {waited:.0f} s for {task.query or 'an answer'}" if waited else ""
    return f"{task.dag}.{task.name}: {task.state}{after}"


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"


def _cells(task: Task, now: float) -> tuple[Text, Text, Text, Text, Text]:
    waited = task.seconds_waited(now)
    return (
        Text(f"{task.dag.removeprefix('snowflake_')}.{task.name}"),
        Text(task.state if task.state != "none" else "–", style=COLOURS.get(task.state, "dim")),
        Text(task.waits_for),
        Text(task.query or "", style="" if task.state == "deferred" else "dim"),
        Text(f"{waited:.0f} s" if waited else ""),
    )
