"""The tasks as a live table on a terminal, and as a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

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
RULES = 14  # columns of rules and blanks, with five columns of text
WAITS_FOR = (11, 48)  # least and most columns for what a task waits for


def table(
    board: Board, elapsed: float, most: int | None = None, *, width: int = 160, over: bool = False
) -> Table:
    """Return the tasks with their states.

    :param elapsed: seconds since the Dags were triggered.
    :param most: rows there is room for; what is under way comes before what has ended.
    :param width: columns there is room for.
    :param over: whether nothing is waited for any more.
    """
    rows, hidden = fit(board.rows(), most)
    cells = [_cells(task, board.now) for task in rows]
    found = Table(title=f"{clock(elapsed)}  {counts(board)}", title_justify="left", pad_edge=False)
    found.add_column("Task", no_wrap=True)
    found.add_column("State", no_wrap=True)
    if not over:
        found.add_column("Waits for", no_wrap=True)
    found.add_column("Remote job", no_wrap=True, min_width=15)
    found.add_column("Waited", justify="right", no_wrap=True)
    _shorten(cells, width + (WAITS_FOR[0] + 3 if over else 0))
    dag = vendor = ""
    for task, (name, state, waits_for, *rest) in zip(rows, cells, strict=True):
        if task.dag != dag:
            dag = task.dag
            found.add_section()
            if dag.partition("_")[0] != vendor:
                vendor = dag.partition("_")[0]
                found.add_row(Text(vendor.capitalize(), style="bold"))
        found.add_row(name, state, *([] if over else [waits_for]), *rest)
    if hidden:
        found.caption = f"and {hidden} more, for which the window is too low"
        found.caption_justify = "left"
    return found


def _shorten(cells: Sequence[tuple[Text, ...]], width: int) -> None:
    """Cut what a person can do without, so that names, states and times stay whole: SQL first, then ids."""
    least, most = WAITS_FOR
    others = [max((row[column].cell_len for row in cells), default=0) for column in (0, 1, 3)]
    left = width - RULES - sum(others) - len("Waited")
    if left < least:
        for row in cells:
            row[3].truncate(others[2] - (least - left), overflow="ellipsis")
        left = least
    for row in cells:
        row[2].truncate(min(left, most), overflow="ellipsis")


def fit(rows: list[Task], most: int | None) -> tuple[list[Task], int]:
    """Return the most telling rows, in their order, and how many were left out."""
    if most is None or len(rows) <= most:
        return rows, 0
    rank = {state: number for number, state in enumerate(ORDER)}
    by_interest = sorted(rows, key=lambda task: (task.ended, rank.get(task.state, len(rank))))
    kept = {task.key for task in by_interest[: max(1, most)]}
    return [task for task in rows if task.key in kept], len(rows) - len(kept)


def room(console: Console, board: Board) -> int:
    """Return how many rows fit into the window, below each other with a rule between two Dags and a line for each vendor."""
    dags = {task.dag for task in board.tasks.values()}
    vendors = {dag.partition("_")[0] for dag in dags}
    return max(3, console.size.height - FRAME - len(dags) - len(vendors))


def counts(board: Board) -> str:
    found = board.counts()
    return (
        f"{len(board.tasks)} tasks: {found['running']} on a worker, {found['waiting']} waiting without one, "
        f"{found['to come']} to come, {found['ended']} ended"
    )


def ended_line(task: Task, now: float) -> str:
    """Return what to say when a task has ended."""
    waited = task.seconds_waited(now)
    after = f" after waiting {waited:.0f} s for {task.waited_for}" if waited else ""
    return f"{task.dag}.{task.name}: {task.state}{after}"


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"


def _cells(task: Task, now: float) -> tuple[Text, Text, Text, Text, Text]:
    waited = task.seconds_waited(now)
    return (
        Text(f"{task.dag.partition('_')[2]}.{task.name}"),
        Text(task.state if task.state != "none" else "–", style=COLOURS.get(task.state, "dim")),
        Text(task.waits_for),
        Text(task.job or "", style="" if task.state == "deferred" else "dim"),
        Text(f"{waited:.0f} s" if waited else ""),
    )
