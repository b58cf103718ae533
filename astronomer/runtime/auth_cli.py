"""The commands ``airflow runtime-auth …``: their names only, because every ``airflow`` command imports this."""

from __future__ import annotations

from airflow.cli.cli_config import ActionCommand, CLICommand, GroupCommand, lazy_load_command

__all__ = ["get_cli_commands"]


def get_cli_commands() -> list[CLICommand]:
    """The commands of the security manager, by the key ``cli`` of the provider info."""
    return [
        GroupCommand(
            name="runtime-auth",
            help="Explain the security manager of Runtime",
            subcommands=(
                ActionCommand(
                    name="check-token",
                    help="Read a token from standard input and tell whose it is, or why it is refused",
                    description="Read a token from standard input, never from the command line, which others see.",
                    func=lazy_load_command("astronomer.runtime.auth_commands.check_token"),
                    args=(),
                ),
                ActionCommand(
                    name="roles",
                    help="Tell what each role may do, and the platform's names for it",
                    func=lazy_load_command("astronomer.runtime.auth_commands.show_roles"),
                    args=(),
                ),
            ),
        )
    ]
