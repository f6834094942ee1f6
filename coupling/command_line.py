"""The command ``twoscale``: a table of commands, each a function that typer turns into one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import typer

from coupling.serving.loading import named

COMMANDS = {
    "info": "coupling.info:info",
    "rve": "solver_adapters.rve.command:rve",
    "sample": "surrogates.sample_command:sample",
    "train": "surrogates.train_command:train",
    "check": "surrogates.check_command:check",
    "run": "solver_adapters.case.command:run",
    "export": "surrogates.export_command:export",
    "serve": "coupling.serving.cli:serve",
}
"""Name of a command → ``module:function``. The modules of all commands are imported for ``twoscale --help``: packages
that may be missing, or are slow to import, belong into the function."""

_TYPED = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""Where typer's completion scripts put the line typed so far: the first in bash, the second in other shells."""


def app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The application with the named commands."""
    application = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")

    @application.callback(
        epilog="Exit codes: 0 done; 1 it could not be done, or something is wrong; 2 wrong command; 130 interrupted."
    )
    def twoscale() -> None:
        """Trained surrogates inside the solution loop of concurrent multiscale runs."""

    for name in names:
        application.command(name)(named(COMMANDS[name]))
    return application


def main() -> None:
    """Run, or complete, the command that the command line names; only its module is imported."""
    app(needed(sys.argv[1:], os.environ))(prog_name="twoscale")


def needed(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterable[str]:
    """Names of the commands that a command line, or one that a shell asks to complete, is about: one or all."""
    typed = next((environment[name] for name in _TYPED if name in environment), None)
    words = arguments if typed is None else typed.split()[1:]
    first = next((word for word in words if not word.startswith("-")), None)
    return [first] if first in COMMANDS else COMMANDS
