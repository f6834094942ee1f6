"""One sweep over the RVEs of many points: exact fluxes from stale factors, tangents only where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coupling.anchors import product
from coupling.contract import Array
from coupling.ledger import Ledger
from solver_adapters.rve.cell_problem import CellProblem
from solver_adapters.rve.factor import SymmetricFactor, refined
from solver_adapters.rve.guesses import FluctuationGuesses, Starts
from solver_adapters.rve.memory import Memory
from solver_adapters.rve.modified_newton import DEFECT, LARGEST_DEFECT, Start, modified_newton, strain_error
from solver_adapters.rve.renewing_newton import renewing_newton
from solver_adapters.rve.shared_factors import SharedFactors

_LARGEST_REMAINDER = 0.2  # its fourth power is the relative error of the tangent
_LARGEST_REMAINDER_WITH_HISTORY = 0.02  # plastic stiffnesses are soft in some directions, where it means more
_ROUND_OFF = 1e-15
_PROBED = 32  # one of so many guessed points
_PROBE = 1e-6  # length of the step
_LEAST_DEFECT = 1e-4
_TOO_MUCH = 3.0
_TOLD = 0.03  # defect of a sensitivity up to which it counts as told by a guess
_FAR = 1e-9  # relative change of the gradient from which on the sensitivity may be corrected by a secant


@dataclass(frozen=True)
class Swept:
    """Outcome of a sweep: flux T (n, m), NaN where a point failed; tangent, NaN where none was computed; flux error."""

    flux: Array
    tangent: Array
    error: Array


class Sweep:
    """Sweeps over the RVEs of one problem.

    Args:
        problem: the RVE problem.
        products: gives K X; its own factor is not used.
        reference: gradient of the reference state.
        scale: norm of the tangent there.
        ledger: counts ``rve/corrections``, ``rve/factorisations``, ``rve/LU factorisations``, ``rve/tangents``,
            ``rve/sensitivities refused`` (told with guesses, and found wrong).
        guesses: guessed starts, or None.
    """

    def __init__(
        self,
        problem: CellProblem,
        products: SymmetricFactor,
        reference: Array,
        scale: float,
        ledger: Ledger,
        guesses: FluctuationGuesses | None,
    ) -> None:
        self.problem, self.scale, self.ledger, self.guesses = problem, scale, ledger, guesses
        self.factors = SharedFactors(problem, reference, ledger)
        self._products = products
        self._linear = self._linear_response(reference) if len(problem.history) and problem.linear else None
        self._largest_remainder = _LARGEST_REMAINDER_WITH_HISTORY if len(problem.history) else _LARGEST_REMAINDER
        self._random = np.random.default_rng(0)

    def __call__(self, gradient: Array, memory: Memory, tangent: NDArray[np.bool_], tolerance: float) -> Swept:
        """Sweep over points at gradients (n, k), and bring their memory there, in place.

        Args:
            gradient: (n, k).
            memory: where each point was, with the history that the increment starts with; points that fail stay there.
            tangent: (n,) where the tangent and the sensitivity are computed; elsewhere a new factor tells both, a guess
                the latter, or a secant corrects it.
            tolerance: permitted error of the flux.
        """
        step = gradient - memory.gradient
        length = np.linalg.norm(step, axis=1)
        if self._linear is not None:
            memory.sensitivity[:] = self._linear[1]
        starts, S, error = self._starts(gradient, memory)
        least, left = (np.where(starts.guessed, 0.0, known) for known in (memory.defect, memory.error))
        w, start = starts.fluctuation, Start(gradient, starts, S, length, error, least, left)
        options: dict[str, Any] = {
            "tolerance": max(tolerance / self.scale, _ROUND_OFF),
            "scale": self.scale,
            "ledger": self.ledger,
        }
        tangents: Array = np.full((len(gradient), self.problem.spec.m, self.problem.spec.k), np.nan)
        if len(self.problem.history):
            found, tangents = renewing_newton(self.problem, self.factors, start, memory.history, **options)
            if self._linear is not None:
                tangents[~found.failed] = self._linear[0]
        else:
            found = modified_newton(self.problem, self.factors, start, **options)
        responded = np.isfinite(tangents[:, 0, 0])
        good = ~found.failed
        new = good & (starts.guessed | responded)
        if new.any():
            rows = slice(None) if new.all() else new
            memory.sensitivity[rows] = S[rows]
        told = (starts.guessed | (least > 0.0)) & (found.defect <= _TOLD)
        for known, now in ((memory.defect, found.defect), (memory.error, found.left)):
            known[good] = np.where(told, now, 0.0)[good]
        far = good & ~tangent & ~new & (length > _FAR * np.linalg.norm(gradient, axis=1))
        far &= (found.defect < LARGEST_DEFECT) & (found.defect > least)  # else it would say what the last w lacked
        secant = (found.fluctuation - w)[far] / length[far, None] ** 2
        memory.sensitivity[far] += secant[:, :, None] * step[far, None, :]
        memory.fluctuation[good], memory.gradient[good] = found.fluctuation[good], gradient[good]
        for i in np.flatnonzero(good & tangent & ~responded):
            solved = self._respond(gradient[i], found.fluctuation[i], memory.history[i], found.which[i])
            if solved is not None:
                tangents[i], memory.sensitivity[i] = solved
        if len(self.problem.history):
            for i in np.flatnonzero(good):
                memory.history[i] = self.problem.updated(gradient[i], found.fluctuation[i], memory.history[i])
        return Swept(found.flux, tangents, found.error)

    def _starts(self, gradient: Array, memory: Memory) -> tuple[Starts, Array, Array]:
        """Where the iterations start, sensitivities S (n, N, k), and their errors at points that start from a guess."""
        error = np.full(len(gradient), np.nan)
        if self.guesses is None or self._linear is not None:
            return Starts.usual(gradient, memory), memory.sensitivity, error
        starts = self.guesses.starts(gradient, memory)
        guessed = starts.guessed
        if not guessed.any():
            return starts, memory.sensitivity, error
        if guessed.all():
            return starts, *self._sensitivities(gradient, starts.fluctuation, starts.residual, memory)
        g, w, r = gradient[guessed], starts.fluctuation[guessed], starts.residual[guessed]
        S = memory.sensitivity.copy()
        S[guessed], error[guessed] = self._sensitivities(g, w, r, memory.rows(guessed))
        return starts, S, error

    def _sensitivities(self, gradient: Array, w: Array, residual: Array, memory: Memory) -> tuple[Array, Array]:
        """Those at guesses w with residuals r (n, N), and their errors, at least that of the worst probe."""
        assert self.guesses is not None
        S, error = self.guesses.sensitivities(gradient, w, memory)
        found, said = self._probed(gradient, w, memory, residual, S, error)
        if (found <= _TOO_MUCH * said).all():
            return S, np.maximum(error, found.max() / DEFECT)
        self.ledger.count("rve/sensitivities refused", len(S))
        return self.guesses.sensitivities(gradient, w, memory, ask=False)

    def _probed(
        self, gradient: Array, w: Array, memory: Memory, residual: Array, S: Array, error: Array
    ) -> tuple[Array, Array]:
        """What sensitivities S (n, N, k) err by at a few points in random directions t, and what was said of that (c,).

        S t − dw/dg t = K⁻¹ dr/dt along (t, S t), by one more residual r(g + εt, w + εSt) each.
        """
        n, k = gradient.shape
        rows = self._random.choice(n, size=-(-n // _PROBED), replace=False)
        t = self._random.normal(size=(len(rows), k))
        t *= _PROBE / np.linalg.norm(t, axis=1, keepdims=True)
        there, changed = w[rows] + product(S[rows], t), np.empty((len(rows), w.shape[1]))
        for i, row in enumerate(rows):
            self.problem.residual(gradient[row] + t[i], there[i], changed[i], memory.history[row])
        changed -= residual[rows]
        nearest = self.factors.nearest(gradient[rows])
        length = np.linalg.norm(gradient[rows] - memory.gradient[rows], axis=1)
        error = np.maximum(error[rows], self._size(residual[rows], nearest) / length)
        found, said = self._size(changed, nearest) / _PROBE, np.maximum(DEFECT * error, _LEAST_DEFECT)
        return np.asarray(found), np.asarray(said)

    def _size(self, residual: Array, which: NDArray[np.intp]) -> Array:
        """Errors (n,) of fields with residuals r (n, N) in units of strain."""
        return strain_error(residual, self.factors.solve(which, residual), self.problem.volume * self.scale)

    def _linear_response(self, reference: Array) -> tuple[Array, Array]:
        """Condensed tangent (m, k) and sensitivity (N, k) of a linear problem, by the factor of its stiffness."""
        system = self.problem.linearise(reference, np.zeros(self.problem.n), self.problem.history.virgin)
        B = system.right
        X = self.factors.solve(np.zeros(B.shape[1], dtype=np.intp), np.ascontiguousarray(B.T)).T
        return system.condensed(np.asarray(B.T @ X / self.problem.volume))[1], -X[:, 1:]

    def _refined(self, columns: Array, which: int) -> tuple[Array, Array] | None:
        def solve(columns: Array) -> Array:
            return self.factors.solve(np.full(columns.shape[1], which), columns.T).T

        return refined(columns, solve, self._products.product, largest=self._largest_remainder)

    def _respond(self, gradient: Array, fluctuation: Array, history: Array, which: int) -> tuple[Array, Array] | None:
        """Condensed tangent (m, k) and sensitivity (N, k), None under a border or where the factor is too far away."""
        if self.problem.border is not None:
            return None
        system = self.problem.linearise(gradient, fluctuation, history)
        self.ledger.count("rve/tangents")

        answer = self._refined(system.right, which)
        if answer is None and len(self.problem.history):
            try:
                answer = self._refined(system.right, self.factors.renewed(gradient))
            except ArithmeticError:
                return None
        if answer is None:
            return None
        X, G = answer
        _, tangent = system.condensed(np.asarray(G / self.problem.volume))
        return tangent, -X[:, 1:]
