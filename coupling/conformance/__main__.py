"""``python -m coupling.conformance module:object``: exit code 0 conforms, 1 does not, 2 cannot be loaded."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coupling.conformance import Result, check
from coupling.contract import Closure

_OPTIONS: tuple[tuple[str, type, float, str], ...] = (
    ("samples", int, 12, "number of random gradients"),
    ("amplitude", float, 0.05, "their largest distance to the reference, in each component"),
    ("seed", int, 0, "of the random numbers"),
    ("dt", float, 1.0, "length of the increments"),
    ("tolerance", float, 1e-8, "relative error up to which two answers are the same"),
    ("tangent-tolerance", float, 1e-6, "relative error allowed between tangent and central differences"),
)


def load(address: str) -> Closure:
    """The closure at ``module:object``, where the object is one or makes one when called without arguments.

    Raises:
        ValueError: where that is not what is there.
    """
    module, colon, name = address.partition(":")
    if not colon or not name:
        raise ValueError(f"expected module:object, got {address!r}")
    found: Any
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        closure = found if isinstance(found, Closure) and not isinstance(found, type) else found()
    except Exception as error:  # user code may raise anything
        raise ValueError(f"cannot load {address}: {type(error).__name__}: {error}") from error
    if not isinstance(closure, Closure):
        raise ValueError(f"{address} gives a {type(closure).__name__}, which lacks spec, initial_state or evaluate")
    return closure


def main(arguments: list[str] | None = None) -> int:
    """Check the closure that the command line names and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m coupling.conformance", description="Does a closure keep the contract?"
    )
    parser.add_argument(
        "closure", metavar="module:object", help="a closure, or a function without arguments that makes one"
    )
    for name, kind, default, meaning in _OPTIONS:
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{meaning} (default {default})")
    options = parser.parse_args(arguments)
    try:
        closure = load(options.closure)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    results = check(closure, **{key: value for key, value in vars(options).items() if key != "closure"})
    Console().print(_table(f"{options.closure} ({type(closure).__name__})", results))
    return 0 if all(result.passed for result in results) else 1


def _table(title: str, results: list[Result]) -> Table:
    table = Table("check", "", "error", "", title=escape(title))
    for result in results:
        mark = "–" if not result.applies else "[green]✓[/]" if result.passed else "[bold red]✗[/]"
        figure = "" if result.figure is None else f"{result.figure:.1e}"
        table.add_row(result.name, mark, figure, escape(result.explanation))
    return table


if __name__ == "__main__":
    sys.exit(main())
