"""The command ``twoscale``: a table of commands, each a function that typer turns into one."""

from __future__ import annotations

import typer

from coupling.serving.loading import named

COMMANDS = {"serve": "coupling.serving.cli:serve"}
"""Name of a command → ``module:function``. The module is imported whenever ``twoscale`` runs: heavy imports belong into
the function."""


def app() -> typer.Typer:
    """The application with all commands."""
    application = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

    @application.callback()
    def twoscale() -> None:
        """Trained surrogates inside the solution loop of concurrent multiscale runs."""

    for name, address in COMMANDS.items():
        application.command(name)(named(address))
    return application


def main() -> None:
    """Run the command that the command line names."""
    app()(prog_name="twoscale")
