"""``twoscale run``: a whole FE² case from a file."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from coupling.agreement import together
from coupling.errors import CaseError, MissingPackageError, TwoscaleError
from coupling.interrupts import Interrupts
from coupling.terminal import answer, errors_told


def _schema(wanted: bool) -> None:
    if wanted:
        with errors_told():
            from solver_adapters.case.schema import Case

            print(json.dumps(Case.model_json_schema(), indent=2, ensure_ascii=False))
        raise typer.Exit


def _example(wanted: bool) -> None:
    if wanted:
        print(resources.files("solver_adapters.case").joinpath("example.toml").read_text(encoding="utf-8"), end="")
        raise typer.Exit


def run(
    case: Annotated[Path, typer.Argument(metavar="CASE.toml", help="the case file")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="for the results, in place of output.folder")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="only check the case: build everything, solve nothing")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", callback=_schema, is_eager=True, help="print the JSON schema of case files")
    ] = False,
    example: Annotated[
        bool, typer.Option("--example", callback=_example, is_eager=True, help="print a case file with comments")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False,
) -> None:
    """Run a whole FE² case: mesh, RVE, closure, loads and outputs from one file.

    Results are in the folder CASE-results beside the file unless it names another: fields for Paraview and history.csv
    grow with every load step, summary.json and report.html come at the end. After Ctrl-C or a step that does not
    converge they hold what was computed until then. Mistakes in the file are told all at once, with their lines.

    [b]Exit code[/b]: 1 where the case is wrong or did not reach its full load, 130 after Ctrl-C.

    [b]Examples[/b]:

    twoscale run --example > cook.toml

    twoscale run cook.toml --check

    mpirun -n 4 twoscale run cook.toml --out results
    """
    try:
        from mpi4py import MPI
    except ImportError as error:
        with errors_told():
            raise MissingPackageError(f"a run needs mpi4py ({error}): twoscale info tells how") from error
    comm = MPI.COMM_WORLD
    with errors_told(rank=comm.rank), _ended_together(comm):
        _run(comm, case, out, check=check, as_json=as_json)


@contextmanager
def _ended_together(comm: Any) -> Iterator[None]:
    """End all ranks where one fails in a way that the others do not hear of."""
    try:
        yield
    except (TwoscaleError, KeyboardInterrupt, typer.Exit):
        raise
    except Exception:
        if comm.size > 1:
            traceback.print_exc()
            comm.Abort(1)
        raise


def _run(comm: Any, path: Path, out: Path | None, *, check: bool, as_json: bool) -> None:
    """Check or run a case (collective)."""
    try:
        from solver_adapters.case.building import prepare
        from solver_adapters.case.outputs import written_to
        from solver_adapters.case.reading import CaseFile
        from solver_adapters.case.running import step_case
        from solver_adapters.case.summary import size, summary, table, write_page, write_summary
    except MissingPackageError:
        raise
    except ImportError as error:
        raise MissingPackageError(f"a run needs DOLFINx and meshio ({error}): twoscale info tells how") from error
    with Interrupts() as interrupts:
        file = together(comm, lambda: CaseFile(path))
        parts = prepare(file, comm)
        if check:
            values = {"file": str(path), "sound": True, **size(parts)}
            if comm.rank == 0:
                answer(values, [_checked(values)], as_json=as_json)
            return
        folder = out or file.beside(file.case.output.folder or f"{path.stem}-results")
        together(comm, lambda: _make(folder) if comm.rank == 0 else None)
        with Progress(console=Console(stderr=True), disable=comm.rank > 0 or not sys.stderr.isatty()) as bar:
            task = bar.add_task(path.stem, total=1.0)
            result = step_case(parts, comm, folder, interrupts, lambda step: bar.update(task, completed=step.load))
        values = summary(result)

        def tell() -> None:
            with written_to(folder):
                write_summary(values, folder)
                if file.case.output.report:
                    write_page(values, result.rows, folder)
            answer(values, [table(values)], as_json=as_json)

        together(comm, tell if comm.rank == 0 else lambda: None)
    if result.interrupted:
        reached = f"interrupted at load factor {result.rows[-1]['load']:g}, results until there are in {folder}"
        raise KeyboardInterrupt(reached)
    if result.error is not None:
        raise result.error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaseError(f"the folder for results cannot be made: {error}") from error


def _checked(values: dict[str, Any]) -> Table:
    table = Table(show_header=False, title=f"{escape(values['file'])} is sound")
    for name, value in values.items():
        if name not in ("file", "sound"):
            table.add_row(name.replace("_", " "), escape(_shown(value)))
    return table


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
