"""Warm starts for any petsc4py SNES or TS, in one line.

    warm_start(snes, "quadratic", parameter=lambda: load)     # before the loop of solves that you have already
    warm_start(ts, "dmd")                                     # before ts.solve(u)

Each solve then starts from the prediction of the converged ones before it, if the true residual there is lower than at
the standard start, that is at the vector passed to ``solve`` (after the user's own ``setInitialGuess``, if any). Where
the residual at the standard start is not a number, or the function raises there, any guess where it is one is used.
Residual, Jacobian, line search, monitors, options, field splits and the number of ranks stay the user's own, and so
does the answer: it meets the tolerance that it would have met from the standard start.

What the guard cannot know is whether an iteration that starts with a lower residual also converges, and to the
same one of several solutions. A solve that failed from a guess is therefore repeated from the standard start before
anybody hears of it: the caller of ``snes.solve``, or the TS, which would reject the step or give up. The guard cannot
help where an iteration from a guess comes to a point at which a function of the user raises: that ends the solve, as
always in PETSc, and the tolerances that were meant for it stay until the next solve or :meth:`WarmStart.remove`.

Options, under the prefix of the SNES, override the arguments: see :class:`WarmStartOptions`.

For guesses of linear solves PETSc has ``-ksp_guess_type fischer`` and ``pod``, which can be used at the same time:
those act on the corrections inside a Newton iteration, these on where it starts. PETSc forgets what they know whenever
the matrix changes, so that they help with ``-snes_lag_jacobian`` only. Under ``-snes_ksp_ew`` it is the linear
iterations that a warm start saves.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType

from petsc4py import PETSc

import numpy as np

from coupling.contract import Array
from coupling.errors import ContractError
from coupling.guarded_predictor import GuardedPredictor
from coupling.guess import Predictor
from coupling.ledger import Ledger
from coupling.predictors import create_predictor
from solver_adapters.warm_starts.borrowed import Borrowed
from solver_adapters.warm_starts.end_of_solve import AtEnd, at_end, set_at_end
from solver_adapters.warm_starts.initial_guess import InitialGuess, apply_guess, set_guess
from solver_adapters.warm_starts.options import TYPES, WarmStartOptions
from solver_adapters.warm_starts.projection import ProjectionPredictor
from solver_adapters.warm_starts.tangent import TangentPredictor
from solver_adapters.warm_starts.time_steps import time_of_unknown
from solver_adapters.warm_starts.tolerance import StartTolerance
from solver_adapters.warm_starts.trials import trials
from solver_adapters.warm_starts.vectors import TrialResidual, owned, set_owned

__all__ = ["WarmStart", "WarmStartOptions", "warm_start"]

Parameter = Callable[[], float | Sequence[float]]


def warm_start(
    solver: PETSc.SNES | PETSc.TS,
    predictor: Predictor | str = "linear",
    *,
    parameter: Parameter | None = None,
    ledger: Ledger | None = None,
) -> WarmStart:
    """Let a solver start from predicted solutions from now on (collective).

    Args:
        solver: a SNES, or a TS of type beuler, cn, theta, bdf, alpha or alpha2; with its function and options set.
        predictor: "previous", "linear", "quadratic", "tangent", "projection", "pod", "dmd", "edmd" or "none", or any
            object of :class:`coupling.guess.Predictor`.
        parameter: gives the load factor, time or parameters of the solve that begins, the same on all ranks. By default
            the number of converged solves so far; a TS gives its time.
        ledger: where the outcomes are entered, a new one by default.

    Returns:
        The handle to view and to remove it; also a context manager that removes it at the end.

    Raises:
        ContractError: the arguments, the options or the type of the TS do not fit.
        MissingPackageError: "dmd" and "edmd" need PyDMD.
    """
    ledger = Ledger() if ledger is None else ledger
    if not isinstance(solver, PETSc.TS):
        return WarmStart(solver, predictor, parameter=parameter, ledger=ledger)
    if parameter is not None:
        raise ContractError("a TS gives the time itself: leave parameter out")
    if solver.getType() is not None:
        time_of_unknown(solver)
    return WarmStart(solver.getSNES(), predictor, ts=solver, ledger=ledger)


class WarmStart:
    """Warm starts on one SNES; made by :func:`warm_start`, which says what its arguments are.

    Attributes:
        type: name of the predictor.
        predictor: the predictor, None for "none".
        ledger: counts of coupling.guess and coupling.guarded_predictor under the name "snes", on rank 0.
        used: whether the last solve started from the guess.
    """

    def __init__(
        self,
        snes: PETSc.SNES,
        predictor: Predictor | str,
        *,
        parameter: Parameter | None = None,
        ts: PETSc.TS | None = None,
        ledger: Ledger,
    ) -> None:
        if np.issubdtype(PETSc.ScalarType, np.complexfloating):
            raise ContractError("warm starts are for real numbers, this PETSc was built with complex ones")
        self._snes, self._ts = Borrowed(snes), None if ts is None else Borrowed(ts)
        self._parameter, self.ledger = parameter, ledger
        self._comm = snes.getComm().tompi4py()
        self.options = WarmStartOptions.read(snes.getOptionsPrefix())
        self.type, self.predictor = self._chosen(predictor)
        self._guarded = (
            None
            if self.predictor is None
            else GuardedPredictor(self.predictor, comm=self._comm, ledger=ledger, name="snes")
        )
        self._tolerance = StartTolerance(self._snes)
        self._residual: TrialResidual | None = None
        self._solves = 0
        self._known: Array = np.zeros(1)
        self._standard: Array = np.zeros(0)
        self._strict: bool | None = None
        self._suspended = self.used = False
        self._theirs: InitialGuess = snes.getInitialGuess()
        self._their_end: AtEnd = at_end(snes)
        snes.setInitialGuess(self._start)
        set_at_end(snes, self._end)

    def remove(self) -> None:
        """Give the SNES back as it was found, if it still exists: its initial guess and tolerances (collective).

        Two calls stay, once a solve each, which do nothing and which PETSc has no way to take back alone: where there
        was no initial guess, of a function that leaves x as it is (:func:`.initial_guess.set_guess`; petsc4py's
        ``getInitialGuess()`` is None again), and of a converged reason view, one of the five that a SNES takes
        (:func:`.end_of_solve.set_at_end`). So do attributes, ``twoscale_…`` of ``snes.getDict()``, which keep alive
        what PETSc calls. An initial guess that C code has set cannot be seen from petsc4py: it is not asked while this
        one is in its place, nor after.
        """
        if self._snes.exists:
            self._release()
            snes = self._snes()
            if _function_of(snes.getInitialGuess()) == self._start:
                set_guess(self._theirs, snes)
            if at_end(snes) == self._end:
                set_at_end(snes, self._their_end)
        if self._residual is not None:
            self._residual.destroy()
            self._residual = None

    def __enter__(self) -> WarmStart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def view(self, viewer: PETSc.Viewer | None = None) -> None:
        """Print type, parameter and counts, in the manner of ``-snes_view`` (collective)."""
        snes = self._snes()
        viewer = PETSc.Viewer.STDOUT(snes.getComm()) if viewer is None else viewer
        prefix = snes.getOptionsPrefix()
        given = "time of the TS" if self._ts is not None else "given" if self._parameter else "number of the solve"
        counts = self.ledger.counts
        viewer.printfASCII(f"Warm start of SNES Object:{f' ({prefix})' if prefix else ''}\n")
        viewer.pushASCIITab()
        viewer.printfASCII(f"type: {self.type}\n")
        viewer.printfASCII(f"parameter: {given}\n")
        for what in ("guesses used", "guesses refused", "guesses missing", "guesses failed", "predictor faults"):
            viewer.printfASCII(f"{what}: {counts.get(f'snes/{what}', 0)}\n")
        viewer.popASCIITab()

    def _chosen(self, given: Predictor | str) -> tuple[str, Predictor | None]:
        chosen = self.options.type or given
        if isinstance(chosen, Predictor):
            return type(chosen).__name__, chosen
        if chosen not in TYPES:
            names = ", ".join(TYPES)
            raise ContractError(f"predictor must be one of {names}, or have predict and observe, got {chosen!r}")
        if chosen == "none":
            return chosen, None
        if chosen == "tangent":
            return chosen, TangentPredictor(self._snes)
        window, rank = self.options.window, self.options.rank
        if chosen == "projection":
            return chosen, ProjectionPredictor(self._snes, comm=self._comm, rank=rank or 8, window=window or 24)
        return chosen, create_predictor(chosen, comm=self._comm, rank=rank, window=window)

    def _start(self, snes: PETSc.SNES, x: PETSc.Vec) -> None:
        """SNES's initial guess: x holds what was passed to its solve."""
        if self._suspended:
            return
        self._release()
        apply_guess(self._theirs, snes, x)
        self._standard, self.used = owned(x), False
        if self._guarded is None:
            return
        if self._ts is not None:
            ts = self._ts()
            self._guarded.learn(np.array([ts.getTime()]), owned(ts.getSolution()))
        self._known = self._parameters()
        if self._residual is None:
            self._residual = TrialResidual(x.duplicate(), self._comm)
        self._residual.bounds.clear()
        with trials(snes) as evaluate:
            residual = partial(self._residual.of, evaluate=evaluate)
            start, self.used = self._guarded.start(self._known, self._standard, residual)
        if self.used:
            set_owned(x, start)
            (at_standard, _), (_, at_guess) = self._residual.bounds
            self._tolerance.hold(at_standard, at_guess)
            self._hold_strictness(False)
        if self.options.monitor:
            self._tell()

    def _end(self) -> None:
        """The solve has ended."""
        self._suspended, raised, snes = True, False, self._snes()
        if self.used and snes.getConvergedReason() < 0:
            raised = not self._repeated()
        self._release()
        if self._their_end is not None:
            self._their_end()
        self._suspended = False
        if raised:  # what it was cannot be raised from here: let PETSc raise an error in its place
            self._hold_strictness(True)
        if snes.getConvergedReason() > 0 and self._guarded is not None and self._ts is None:
            self._guarded.learn(self._known, owned(snes.getSolution()))
            self._solves += 1
        if self.options.view:
            self.view()

    def _repeated(self) -> bool:
        """Solve again, from the standard start; False where a function of the user raised."""
        self._count("guesses failed")
        self._tolerance.release()
        snes = self._snes()
        x, reason = snes.getSolution(), snes.getConvergedReason()
        set_owned(x, self._standard)
        try:
            snes.solve(snes.getRhs() or None, x)
        except Exception:
            traceback.print_exc()
            snes.setConvergedReason(reason)
            return False
        return True

    def _hold_strictness(self, strict: bool) -> None:
        snes = self._snes()
        self._strict = snes.getErrorIfNotConverged()
        snes.setErrorIfNotConverged(strict)

    def _release(self) -> None:
        """Give the SNES its tolerances and its strictness back."""
        self._tolerance.release()
        if self._strict is not None:
            self._snes().setErrorIfNotConverged(self._strict)
            self._strict = None

    def _parameters(self) -> Array:
        if self._ts is not None:
            return np.array([time_of_unknown(self._ts())])
        return np.atleast_1d(np.array(self._parameter() if self._parameter else self._solves, dtype=np.float64))

    def _tell(self) -> None:
        where = ", ".join(f"{v:g}" for v in self._known)
        assert self._residual is not None
        told = "no guess"
        if self._residual.bounds:
            (at_standard, _), (_, at_guess) = self._residual.bounds
            told = f"|F| {at_standard:.6e}, at the guess {at_guess:.6e}"
        snes = self._snes()
        tabs = "  " * (snes.getTabLevel() + 1)
        start = "guess" if self.used else "standard"
        PETSc.Sys.Print(f"{tabs}warm start ({self.type}) at {where}: {told}: {start}", comm=snes.getComm())

    def _count(self, what: str) -> None:
        if self._comm.rank == 0:
            self.ledger.count(f"snes/{what}")


def _function_of(guess: InitialGuess) -> Callable[..., None] | None:
    return None if guess is None else guess[0]
