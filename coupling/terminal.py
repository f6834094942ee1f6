"""What the commands of ``twoscale`` share: where words go, how errors are told, exit codes.

0: done, and nothing is wrong. 1: it could not be done, or the answer is no; standard error says why. 2: the command
line is wrong. 130: interrupted. Standard output carries the answer alone, so that ``--json`` can be piped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coupling.errors import TwoscaleError

INTERRUPTED = 130


@contextmanager
def errors_told(*, rank: int = 0) -> Iterator[None]:
    """End the command with one sentence on standard error and exit code 1, or 130, instead of a traceback.

    Errors of the program itself, all but :class:`TwoscaleError` and OSError, pass. Of several ranks, rank 0 speaks.
    """
    try:
        yield
    except (TwoscaleError, OSError) as error:
        if rank == 0:
            say(f"[red]{escape(str(error))}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        if rank == 0:
            say("[yellow]" + escape(str(error) or "interrupted"))
        raise typer.Exit(INTERRUPTED) from error


def world_rank() -> int:
    """Number of this process among those that mpirun started together, 0 where mpi4py is not installed."""
    try:
        from mpi4py import MPI
    except ImportError:
        return 0
    return int(MPI.COMM_WORLD.rank)


def say(words: str) -> None:
    """Write to standard error, with rich's markup."""
    Console(stderr=True, soft_wrap=True).print(words, highlight=False)


def answer(values: dict[str, Any], tables: Sequence[Table], *, as_json: bool) -> None:
    """Write values as JSON, or tables, to standard output."""
    if as_json:
        print(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
        return
    console = Console()
    for table in tables:
        console.print(table)


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Finite numbers that commas separate.

    Raises:
        typer.BadParameter: naming the option and the text.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        wish = f"expected numbers separated by commas without blanks, such as 0.9,0.9,-0.1, got {text!r}"
        raise typer.BadParameter(wish, param_hint=option) from error
    if not all(abs(value) < float("inf") for value in values):
        raise typer.BadParameter(f"expected finite numbers, got {text!r}", param_hint=option)
    return values
