"""The same run twice, classically and accelerated: timed, told as a table, written as a page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from coupling import Closure, Ledger, together
from coupling.files import write_atomically
from coupling.guess import Predictor
from coupling.ledger import ledgers, merged
from coupling.report import write_report
from solver_adapters.fenicsx import MultiscaleProblem, StepRecord, load_steps

COUNTS = {
    "closure calls": "closure/calls",
    "point evaluations": "closure/points",
    "  of these RVE solves": "rve/points",
    "micro Newton iterations": "rve/newton iterations",
    "micro factorisations": "rve/factorisations",
    "macro Newton iterations": "macro/iterations",
}
"""Rows of a table, and where the ledger has them."""


@dataclass(frozen=True)
class Timed:
    """The load steps of a run: wall time, records, and the work of macro problem, closure and RVE over all ranks."""

    seconds: float
    records: list[StepRecord]
    ledger: Ledger

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "seconds": self.seconds,
            "counts": self.ledger.counts,
            "seconds_by_phase": self.ledger.seconds,
        }


def timed_steps(
    problem: MultiscaleProblem,
    closure: Closure,
    apply_load: Callable[[float], None],
    *,
    steps: int,
    title: str,
    predictor: str | Predictor = "linear",
    on_step: Callable[[StepRecord], None] = lambda record: None,
) -> Timed:
    """Step a problem to its full load, with a progress bar on rank 0 where it has a title (collective)."""
    comm = problem.comm
    with Progress(disable=comm.rank > 0 or not title) as bar:
        task = bar.add_task(title, total=1.0)

        def tell(record: StepRecord) -> None:
            on_step(record)
            bar.update(task, completed=record.load)

        start = time.perf_counter()
        records = load_steps(problem, apply_load, steps=steps, predictor=predictor, on_step=tell)
        seconds = time.perf_counter() - start
    return Timed(seconds, records, merged(comm, problem.ledger, *ledgers(closure)))


def work_table(
    title: str,
    classical: Timed,
    accelerated: Timed,
    *,
    training: Mapping[str, float],
    results: Sequence[tuple[str, str, str]],
    checks: Sequence[tuple[str, str]],
) -> Table:
    """The comparison as a table.

    Args:
        title: of the table.
        classical: the run with the RVE alone.
        accelerated: the run with the surrogate in front of it.
        training: seconds of each preparation that the surrogate needed.
        results: rows of a name and what either run gave.
        checks: rows of a name and what was found.
    """
    runs = classical, accelerated
    table = Table("", "classical FE²", "accelerated", title=title)
    table.add_row("wall time", *(f"{run.seconds:.3g} s" for run in runs))
    for name, count in COUNTS.items():
        table.add_row(name, *(f"{run.ledger.counts.get(count, 0)}" for run in runs))
    for row in results:
        table.add_row(*row)
    table.add_section()
    saved, cost = classical.seconds - accelerated.seconds, sum(training.values())
    table.add_row("speed-up", "", f"{classical.seconds / accelerated.seconds:.0f} times")
    table.add_row("cost of the surrogate", "", ", ".join(f"{name} {s:.1f} s" for name, s in training.items()))
    table.add_row("break-even after", "", f"{cost / saved:.2g} runs" if saved > 0 else "never")
    for name, found in checks:
        table.add_row(name, "", found)
    return table


def write_results(
    comm: MPI.Comm,
    out: Path,
    summary: Mapping[str, Any],
    table: Table,
    *,
    title: str,
    introduction: str,
    figures: Sequence[tuple[Path, str]],
) -> None:
    """Print the table; write ``summary.json`` and ``report.html`` (collective, by rank 0)."""

    def write() -> None:
        write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_report(out / "report.html", title, introduction, table, figures)
        console = Console()
        console.print(table)
        console.print(f"{out / 'report.html'}: everything on one page")

    together(comm, write if comm.rank == 0 else lambda: None)
