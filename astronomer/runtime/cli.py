"""The commands ``airflow runtime …``: their names only, because every ``airflow`` command imports this."""

from __future__ import annotations

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

__all__ = ["get_cli_commands"]


def get_cli_commands() -> list[CLICommand]:
    """The commands that this distribution adds to Airflow's, by the key ``cli`` of its provider info."""
    return [
        GroupCommand(
            name="runtime",
            help="Versions of the Runtime image",
            subcommands=(
                ActionCommand(
                    name="version",
                    help="What this image is, and what is to be known about it",
                    func=lazy_load_command("astronomer.runtime.commands.version"),
                    args=(ARG_OUTPUT, ARG_VERBOSE),
                ),
                ActionCommand(
                    name="versions",
                    help="Every Runtime release that is known, with the end of its maintenance",
                    func=lazy_load_command("astronomer.runtime.commands.versions"),
                    args=(ARG_OUTPUT, ARG_VERBOSE),
                ),
            ),
        )
    ]
