"""The command ``twoscale``: a table of commands, each a function that typer turns into one."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer

from coupling.serving.loading import named

COMMANDS = {
    "info": "coupling.info:info",
    "rve": "solver_adapters.rve.command:rve",
    "sample": "surrogates.sample_command:sample",
    "train": "surrogates.train_command:train",
    "check": "surrogates.check_command:check",
    "export": "surrogates.export_command:export",
    "serve": "coupling.serving.cli:serve",
}
"""Name of a command → ``module:function``. The modules of all commands are imported for ``twoscale --help``: packages
that may be missing, or are slow to import, belong into the function."""


def app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The application with the named commands."""
    application = typer.Typer(
        no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode="rich"
    )

    @application.callback(
        epilog="Exit codes: 0 done; 1 it could not be done, or something is wrong; 2 wrong command; 130 interrupted."
    )
    def twoscale() -> None:
        """Trained surrogates inside the solution loop of concurrent multiscale runs."""

    for name in names:
        application.command(name)(named(COMMANDS[name]))
    return application


def main() -> None:
    """Run the command that the command line names; only its module is imported."""
    first = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    app([first] if first in COMMANDS else COMMANDS)(prog_name="twoscale")
