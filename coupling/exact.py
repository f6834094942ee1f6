"""The exact mode: a surrogate that only ever predicts where the fine scale has to look next."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coupling.agreement import collective_over
from coupling.anchors import Anchors, secant
from coupling.contract import Array, Closure, ClosureSpec, Response, usable
from coupling.gate import Gate
from coupling.ledger import Ledger
from coupling.proposal import accepted, proposed
from coupling.tangent_choice import TangentChoice

_FADING = 0.1
_TINY = 1e-300


class ExactLevels:
    """Both levels of a fine scale with a surrogate: the anchored models of :mod:`coupling.anchors` and exact sweeps.

    A point is modelled by the surrogate as long as that predicted the fine scale's last answers better than the plain
    model, the gate accepts it and its numbers are finite; so a bad surrogate is out after one sweep, point by point.
    The tangent of the fine scale is asked for where it saves time (:mod:`coupling.tangent_choice`).

    A row of state is one of the fine scale's, followed by the point's anchor.

    Ledger: counts ``exact/sweeps``, ``exact/points`` (swept), ``exact/tangents`` (asked for), ``exact/learned points``
    (modelled by the surrogate, at a sweep), ``surrogate/faults`` and ``surrogate/non-finite points``
    (:mod:`coupling.proposal`); phases ``surrogate``, ``fine``.

    Args:
        fine: any closure; one that can sweep (:class:`coupling.two_level.SweepingClosure`) is spared most of its work.
        surrogate: of the same components. Its state, where it has one, is the fine scale's.
        gate: where the surrogate may be used at all.
        ledger: where the work is entered.
    """

    def __init__(self, fine: Closure, surrogate: Closure, gate: Gate, ledger: Ledger) -> None:
        self.fine, self.surrogate, self.gate, self.ledger = fine, surrogate, gate, ledger
        self.own = fine.spec.state_size
        self.spec: ClosureSpec = replace(fine.spec, state_size=self.own + Anchors.size(fine.spec.k, fine.spec.m))
        self._reference: Array | None = None
        self._choice = TangentChoice()
        self._keeps_answer = surrogate.spec.state_size == 0 and collective_over(surrogate) is None
        self._last: tuple[Array, float, Response] | None = None

    def initial_state(self, n: int) -> Array:
        """States (n, s) anchored at the fine scale's answer in the reference state, which is solved once."""
        if self._reference is None:
            g = np.array([self.spec.reference])
            state = self.fine.initial_state(1)
            answer = self.fine.evaluate(g, state, 0.0)
            nothing = np.zeros((1, self.spec.m)), np.zeros((1, self.spec.m, self.spec.k))
            start = Anchors(g, *nothing, *nothing, np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1))
            rows = self._anchored(g, replace(answer, state=state), start, state, 0.0, None)
            anchors = self._unpack(rows)
            self._reference = replace(anchors, errors=start.errors, doubt=start.doubt).pack()
        own = self.fine.initial_state(n)
        rows = np.tile(self._reference, (n, 1))
        return rows if own is None else np.hstack([own, rows])

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response:
        """The fine scale's full answer, which anchors the model too."""
        assert state is not None
        with self.ledger.phase("fine"):
            answer = self.fine.evaluate(gradient, self._own(state), dt, self._own(hint))
        rows = self._anchored(gradient, answer, self._unpack(state), state, dt, None)
        return replace(answer, state=rows)

    def model(
        self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None, *, learned: bool
    ) -> Response:
        """Anchored model at n points; see :class:`coupling.two_level.TwoLevel`."""
        assert state is not None
        anchors = self._anchors(state, hint)
        step = gradient - anchors.gradient
        flux, tangent = anchors.plain(step), anchors.tangent.copy()
        if learned and (answer := self._ask(gradient, state, dt, hint)) is not None:
            use = self._accepted(gradient, answer) & _better(anchors.errors)
            flux[use] = (answer.flux + anchors.correction(step))[use]
            tangent[use] = (answer.tangent + anchors.slope)[use]
        return Response(flux, tangent, np.zeros(len(gradient), np.int8), state if hint is None else hint)

    def sweep(
        self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None, *, tolerance: float
    ) -> Response:
        """Exact fluxes at n points; see :class:`coupling.two_level.TwoLevel`."""
        assert state is not None
        anchors = self._anchors(state, hint)
        wanted = self._choice.among(anchors.doubt[:, 0 if hint is None else 1])
        self.ledger.count("exact/sweeps")
        self.ledger.count("exact/points", len(gradient))
        self.ledger.count("exact/tangents", int(wanted.sum()))
        own = self._own(state), dt, self._own(hint)
        started = time.perf_counter()
        with self.ledger.phase("fine"):
            if (sweep := _sweep_of(self.fine)) is not None:
                answer = sweep(gradient, *own, tolerance=tolerance, tangent=wanted)
            else:
                answer = replace(self.fine.evaluate(gradient, *own), uncertainty=np.zeros(len(gradient)))
        self._choice.learn(len(gradient), int(wanted.sum()), time.perf_counter() - started)
        rows = self._anchored(gradient, answer, anchors, state, dt, hint)
        return replace(answer, state=rows, tangent=np.ascontiguousarray(self._unpack(rows).tangent))

    def _anchored(
        self, gradient: Array, answer: Response, last: Anchors, state: Array | None, dt: float, hint: Array | None
    ) -> Array:
        """Rows of state anchored at the answers; points that failed keep their anchors."""
        step = gradient - last.gradient
        error_now = np.zeros(len(gradient)) if answer.uncertainty is None else answer.uncertainty
        noise = error_now + last.noise
        relative = noise / np.maximum(np.linalg.norm(last.tangent, axis=(1, 2)), _TINY)
        told = np.asarray(np.isfinite(answer.tangent).all(axis=(1, 2)))
        plain = answer.flux - last.plain(step)
        tangent = last.tangent + secant(step, plain, relative, symmetric=self.spec.symmetric)
        tangent = np.where(told[:, None, None], answer.tangent, tangent)
        mismatch, slope = last.mismatch, last.slope
        errors = np.linalg.norm(plain, axis=1)[:, None] * [2.0, 1.0] + _FADING * last.errors
        learned: NDArray[np.bool_] = np.zeros(len(gradient), bool)
        left = plain
        surrogate = self._ask(gradient, state, dt, hint)
        if surrogate is not None:
            use = self._accepted(gradient, surrogate)
            mismatch = answer.flux - surrogate.flux
            left = mismatch - last.correction(step)
            slope = last.slope + secant(step, left, relative, symmetric=self.spec.symmetric)
            slope = np.where(told[:, None, None], answer.tangent - surrogate.tangent, slope)
            errors[use, 0] = (np.linalg.norm(left, axis=1) + _FADING * last.errors[:, 0])[use]
            learned = _better(errors)
            self.ledger.count("exact/learned points", int(learned.sum()))
            tangent = np.where((learned & ~told)[:, None, None], surrogate.tangent + slope, tangent)
        change = np.linalg.norm(answer.flux - last.flux, axis=1)
        error = np.where(learned, np.linalg.norm(left, axis=1), np.linalg.norm(plain, axis=1))
        now = np.maximum(error - 2.0 * noise, 0.0) / np.maximum(change, _TINY)
        doubt = np.column_stack(
            [now if hint is None else last.doubt[:, 0], np.where(told, 0.0, np.maximum(now, _TINY))]
        )
        new = Anchors(gradient, answer.flux, tangent, mismatch, slope, errors, doubt, error_now)
        rows = np.where(usable(answer.status)[:, None], _finite(new.pack()), last.pack())
        return rows if answer.state is None else np.hstack([answer.state, rows])

    def _ask(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response | None:
        """The surrogate's response, None where it has none.

        A sweep asks where the model has just converged, and the model goes on from there: the last answer is kept.
        """
        if self._last is not None and dt == self._last[1] and np.array_equal(gradient, self._last[0]):
            return self._last[2]
        own = (self._own(state), dt, self._own(hint)) if self.surrogate.spec.state_size else (None, dt, None)
        with np.errstate(all="ignore"):
            answer = proposed(self.surrogate, gradient, *own, ledger=self.ledger, instead="the plain model goes on")
        if self._keeps_answer and answer is not None:
            self._last = gradient.copy(), dt, answer
        return answer

    def _accepted(self, gradient: Array, answer: Response) -> NDArray[np.bool_]:
        return accepted(self.gate, gradient, answer, ledger=self.ledger)

    def _anchors(self, state: Array, hint: Array | None) -> Anchors:
        """The latest anchors; slopes from secants, learnt in ever smaller steps, serve their own increment only."""
        if hint is not None:
            return self._unpack(hint)
        anchors = self._unpack(state)
        return replace(anchors, slope=np.where(anchors.told[:, None, None], anchors.slope, 0.0))

    def _unpack(self, rows: Array) -> Anchors:
        return Anchors.unpack(rows[:, self.own :], self.spec.k, self.spec.m)

    def _own(self, rows: Array | None) -> Array | None:
        return None if rows is None or not self.own else np.ascontiguousarray(rows[:, : self.own])


def _sweep_of(fine: Closure) -> Callable[..., Response] | None:
    """The method of a :class:`coupling.two_level.SweepingClosure`, None where the fine scale is none."""
    sweep: Callable[..., Response] | None = getattr(fine, "sweep", None)
    return sweep


def _better(errors: Array) -> NDArray[np.bool_]:
    """Where the learned model was clearly better than the plain one, or neither is known."""
    return np.asarray(2.0 * errors[:, 0] <= errors[:, 1])


def _finite(rows: Array) -> Array:
    """What a surrogate said that is no number, as zero: its point is not modelled by it."""
    return np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
