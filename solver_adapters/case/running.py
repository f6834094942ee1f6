"""Stepping a case to its full load, and keeping what was computed whatever ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from mpi4py import MPI

from coupling.errors import TwoscaleError
from coupling.interrupts import Interrupts
from coupling.ledger import Ledger, ledgers, merged
from solver_adapters.case.building import Parts, Problem, complete
from solver_adapters.case.interruption import Interruptible, RunInterrupted
from solver_adapters.case.outputs import Fields, History
from solver_adapters.fenicsx import StepRecord, load_steps


@dataclass
class Result:
    """What a run left.

    Args:
        problem: in the state of its last converged step.
        folder: of the results.
        records: of the converged steps.
        rows: of history.csv.
        seconds: wall time of the load steps, output included.
        ledger: of all ranks.
        error: what ended it before the full load, None where that was reached.
        interrupted: whether that was Ctrl-C.
    """

    problem: Problem
    folder: Path
    records: list[StepRecord] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    error: TwoscaleError | None = None
    interrupted: bool = False


def step_case(
    parts: Parts, comm: MPI.Comm, folder: Path, interrupts: Interrupts, on_step: Callable[[StepRecord], None]
) -> Result:
    """Step a case from load factor 0 to 1 and write fields and history into its folder (collective).

    A step that fails for good, a disk that is full, or a signal to one of the ranks ends the run on all of them; steps
    that had converged are in the result, and their output is complete but for what the disk refused.

    Args:
        parts: of the case.
        comm: its communicator.
        folder: for the results; it must be there.
        interrupts: active context.
        on_step: called on every rank after each converged step.

    Raises:
        CaseError: the parts do not make a problem.
    """
    problem = complete(parts, comm, folder, lambda closure: Interruptible(closure, interrupts))
    result, output = Result(problem, folder), parts.file.case.output
    fields, history = Fields(problem, folder, output.fields), History(problem, folder / "history.csv")
    result.rows = history.rows
    history.add(None)

    def keep(record: StepRecord) -> None:
        result.records.append(record)
        history.add(record)
        fields.write(record.load)
        on_step(record)
        if comm.allreduce(int(interrupts.seen)) and record.load < 1.0:
            raise RunInterrupted("interrupted")

    start = time.perf_counter()
    try:
        steps = parts.file.case.steps
        with closing(fields):
            load_steps(
                problem.solver,
                parts.apply_load,
                steps=steps.count,
                duration=steps.duration,
                min_step=steps.min_step,
                predictor=steps.predictor,
                on_step=keep,
            )
    except TwoscaleError as error:
        result.error = error
        result.interrupted = bool(comm.allreduce(int(interrupts.seen)))
    finally:
        result.seconds = time.perf_counter() - start
    result.ledger = merged(comm, problem.solver.ledger, *ledgers(problem.closure))
    return result
