"""The exact mode: a surrogate that only ever predicts where the fine scale has to look next."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coupling.agreement import collective_over, together
from coupling.anchors import UNHEARD, Anchors, product, secant
from coupling.contract import Array, Closure, ClosureSpec, Response, check_response, usable
from coupling.gate import Gate
from coupling.ledger import Ledger
from coupling.proposal import accepted, proposed, taught
from coupling.surrogate_choice import SurrogateChoice
from coupling.tangent_choice import TangentChoice
from coupling.two_level import LearningSurrogate

_FADING = 0.1
_TURNED = 0.1  # of what the last tangent leaves of a change is left by that of the reference state
_TINY = 1e-300
_silent = np.errstate(over="ignore", invalid="ignore")  # points that failed, surrogates that overflow: all are checked


class ExactLevels:
    """Both levels of a fine scale with a surrogate: the anchored models of :mod:`coupling.anchors` and exact sweeps.

    A point is modelled by the surrogate as long as that predicted the fine scale's last answers better than the plain
    model, the gate accepts it and its numbers are finite; so a bad surrogate is out after one sweep, point by point.
    The tangent of the fine scale is asked for where it saves time (:mod:`coupling.tangent_choice`), and so is the
    surrogate (:mod:`coupling.surrogate_choice`), unless it is collective. Where a path with history turns, both models
    go on from the tangent of the reference state, if that explains what the fine scale answers.

    A surrogate that learns (:class:`coupling.two_level.LearningSurrogate`) is taught at the start of each increment
    what the last one has ended with.

    A row of state is one of the fine scale's, followed by the point's anchor.

    Ledger: counts ``exact/sweeps``, ``exact/points`` (swept), ``exact/tangents`` (asked for), ``exact/learned points``
    (modelled by the surrogate, at a sweep), ``surrogate/faults`` and ``surrogate/non-finite points``
    (:mod:`coupling.proposal`), ``exact/lessons`` (that changed its responses); phases ``surrogate``, ``fine``,
    ``learning``.

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
        self._tangents, self._surrogates = TangentChoice(), SurrogateChoice()
        self._is_local = collective_over(surrogate) is None
        self._last: tuple[Array, float, Response] | None = None
        self._unheard = self._unjudged = False
        self._origin: Array | None = None
        self._learner = surrogate if isinstance(surrogate, LearningSurrogate) else None

    def initial_state(self, n: int) -> Array:
        """States (n, s) without anchors yet: nothing is known of the fine scale before the first increment."""
        own = self.fine.initial_state(n)
        rows = Anchors.none(n, self.spec.k, self.spec.m)
        return rows if own is None else np.hstack([own, rows])

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response:
        """The fine scale's full answer, which anchors the model too."""
        assert state is not None
        last, own = self._anchors_in(state, dt), (self._own(state), dt, self._own(hint))
        answer, _ = self._solved(lambda: self.fine.evaluate(gradient, *own), len(gradient))
        rows, *_ = self._anchored(gradient, answer, last, state, dt, None)
        return replace(answer, state=rows)

    @_silent
    def model(
        self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None, *, learned: bool
    ) -> Response:
        """Anchored model at n points; see :class:`coupling.two_level.TwoLevel`."""
        assert state is not None
        anchors = self._anchors(state, dt, hint)
        step = gradient - anchors.gradient
        flux, tangent = anchors.plain(step), anchors.tangent.copy()
        if learned and (answer := self._ask(gradient, state, dt, hint)) is not None:
            use = self._accepted(gradient, answer) & _better(anchors.errors)
            flux[use] = (answer.flux + anchors.correction(step))[use]
            tangent[use] = (answer.tangent + anchors.slope)[use]
        return Response(flux, tangent, np.zeros(len(gradient), np.int8), state if hint is None else hint)

    def sweep(
        self,
        gradient: Array,
        state: Array | None,
        dt: float,
        hint: Array | None = None,
        *,
        tolerance: float,
        trial: bool = False,
    ) -> Response:
        """Exact fluxes at n points; see :class:`coupling.two_level.TwoLevel`."""
        assert state is not None
        anchors = self._anchors(state, dt, hint)
        if first := not trial and (hint is None or self._unjudged):
            self._begin_increment(self._unpack(state).gradient)
        doubt = anchors.doubt[:, 0 if hint is None else 1]
        wanted = np.zeros(len(gradient), dtype=bool) if trial else self._tangents.among(doubt)
        self.ledger.count("exact/sweeps")
        self.ledger.count("exact/points", len(gradient))
        self.ledger.count("exact/tangents", int(wanted.sum()))
        own = self._own(state), dt, self._own(hint)

        def ask() -> Response:
            if (sweep := _sweep_of(self.fine)) is not None:
                return sweep(gradient, *own, tolerance=tolerance, tangent=wanted)
            return replace(self.fine.evaluate(gradient, *own), uncertainty=np.zeros(len(gradient)))

        answer, seconds = self._solved(ask, len(gradient))
        rows, plain, learned = self._anchored(gradient, answer, anchors, state, dt, hint)
        if not trial:
            self._tangents.learn(len(gradient), int(wanted.sum()), seconds)
            if first and self._is_local:
                self._surrogates.judge(plain, learned, seconds)
        self._unjudged = trial
        return replace(answer, state=rows, tangent=np.ascontiguousarray(self._unpack(rows).tangent))

    def _begin_increment(self, origin: Array) -> None:
        repeated = self._origin is not None and np.array_equal(origin, self._origin)
        self._tangents.begin(repeated=repeated)
        self._origin = origin.copy()

    def _solved(self, ask: Callable[[], Response], n: int) -> tuple[Response, float]:
        """The fine scale's answer to n points and the seconds it took.

        Where ranks meet in the surrogate it raises on all of them or on none, so that nobody waits there.
        """

        def local() -> tuple[Response, float]:
            started = time.perf_counter()
            with self.ledger.phase("fine"):
                answer = ask()
            check_response(self.fine.spec, answer, n)
            return answer, time.perf_counter() - started

        return together(collective_over(self.surrogate), local)

    @_silent
    def _anchored(
        self, gradient: Array, answer: Response, last: Anchors, state: Array | None, dt: float, hint: Array | None
    ) -> tuple[Array, float, float]:
        """Rows of state anchored at the answers, and the largest doubts of the plain and the learned model.

        Points that failed keep their anchors.
        """
        step = gradient - last.gradient
        error_now = np.zeros(len(gradient)) if answer.uncertainty is None else answer.uncertainty
        noise = error_now + last.noise
        relative = noise / np.maximum(np.linalg.norm(last.tangent, axis=(1, 2)), _TINY)
        told = np.asarray(np.isfinite(answer.tangent).all(axis=(1, 2)))
        plain = learned = np.linalg.norm(answer.flux - last.plain(step), axis=1)
        tangent, turned = self._carried(step, answer.flux - last.flux, last.tangent)
        unexplained = answer.flux - last.flux - product(tangent, step)
        tangent = tangent + secant(step, unexplained, relative, symmetric=self.spec.symmetric)
        tangent = np.where(told[:, None, None], answer.tangent, tangent)
        mismatch, slope = last.mismatch, last.slope
        errors = (plain + _FADING * last.errors[:, 1])[:, None] * [2.0, 1.0]
        modelled: NDArray[np.bool_] = np.zeros(len(gradient), bool)
        surrogate = self._ask(gradient, state, dt, hint)
        self._unheard = surrogate is None and self._is_local  # a collective one may have spoken on other ranks
        if surrogate is None:
            errors[:, 0] = UNHEARD
        else:
            use = self._accepted(gradient, surrogate) & last.heard
            mismatch = answer.flux - surrogate.flux
            left = np.where(last.heard[:, None], mismatch - last.correction(step), 0.0)
            slope = last.slope + secant(step, left, relative, symmetric=self.spec.symmetric)
            slope = np.where((told | turned)[:, None, None], tangent - surrogate.tangent, slope)
            learned = np.where(use, np.linalg.norm(left, axis=1), plain)
            errors[use, 0] = (learned + _FADING * last.errors[:, 0])[use]
            modelled = use & _better(errors)
            self.ledger.count("exact/learned points", int(modelled.sum()))
            tangent = np.where((modelled & ~told)[:, None, None], surrogate.tangent + slope, tangent)
        change = np.maximum(np.linalg.norm(answer.flux - last.flux, axis=1), _TINY)
        doubts = [np.maximum(error - 2.0 * noise, 0.0) / change for error in (plain, learned)]
        now = np.where(modelled, doubts[1], doubts[0])
        now = np.where(turned, np.linalg.norm(unexplained, axis=1) / change, now)
        doubt = np.column_stack(
            [now if hint is None else last.doubt[:, 0], np.where(told, 0.0, np.maximum(now, _TINY))]
        )
        new = Anchors(gradient, answer.flux, tangent, mismatch, slope, errors, doubt, error_now).sound()
        good = usable(answer.status)
        rows = np.where(good[:, None], np.nan_to_num(new.pack(), posinf=0.0, neginf=0.0), last.pack())
        if answer.state is not None:
            rows = np.hstack([answer.state, rows])
        return rows, doubts[0][good].max(initial=0.0), np.minimum(*doubts)[good].max(initial=0.0)

    def _carried(self, step: Array, change: Array, tangent: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Tangents (n, m, k) for secants to correct: the last ones, and where a path has turned (n,) that at rest.

        With history, what flowed until then responds as in the reference state, whose tangent explains the change
        (n, m) of the flux ten times better.
        """
        if not self.spec.history or self._reference is None:
            return tangent, np.zeros(len(step), dtype=bool)
        at_rest = Anchors.unpack(self._reference, self.spec.k, self.spec.m).tangent
        left, left_at_rest = (np.linalg.norm(change - product(known, step), axis=1) for known in (tangent, at_rest))
        turned = np.asarray(left_at_rest < _TURNED * left)
        return np.where(turned[:, None, None], at_rest, tangent), turned

    def _ask(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response | None:
        """The surrogate's response, None where it has none.

        A sweep asks where the model has just converged, and the model goes on from there: the last answer is kept.
        """
        if not self._surrogates.asks:
            return None
        if self._last is not None and dt == self._last[1] and np.array_equal(gradient, self._last[0]):
            return self._last[2]
        own = (self._own(state), dt, self._own(hint)) if self.surrogate.spec.state_size else (None, dt, None)
        started = time.perf_counter()
        with np.errstate(all="ignore"):
            answer = proposed(self.surrogate, gradient, *own, ledger=self.ledger, instead="the plain model goes on")
        if self._is_local:
            self._surrogates.answered(time.perf_counter() - started)
        if answer is not None and self._is_local and self.surrogate.spec.state_size == 0:
            self._last = gradient.copy(), dt, answer
        return answer

    def _accepted(self, gradient: Array, answer: Response) -> NDArray[np.bool_]:
        return accepted(self.gate, gradient, answer, ledger=self.ledger)

    def _anchors(self, state: Array, dt: float, hint: Array | None) -> Anchors:
        """The latest anchors; slopes from secants, learnt in ever smaller steps, serve their own increment only."""
        if hint is not None:
            return self._anchors_in(hint, dt)
        anchors = self._anchors_in(state, dt)
        anchors = replace(anchors, slope=np.where(anchors.told[:, None, None], anchors.slope, 0.0))
        if self._learner is None and not self._unheard:
            return anchors
        gradient, flux = np.ascontiguousarray(anchors.gradient), np.ascontiguousarray(anchors.flux)
        if self._learner is not None:
            self._teach(self._learner, gradient, flux)
        answer = self._ask(gradient, state, dt, None)
        return anchors if answer is None else anchors.of_surrogate(answer.flux, answer.tangent)

    def _teach(self, learner: LearningSurrogate, gradient: Array, flux: Array) -> None:
        changed = taught(learner, gradient, flux, ledger=self.ledger)
        if changed is None:
            self._learner = None
        if changed:
            self._last = None
            self.ledger.count("exact/lessons")

    def _anchors_in(self, rows: Array, dt: float) -> Anchors:
        """Anchors in rows of state, those in the reference state where a point has none yet."""
        if self._reference is None:  # on all ranks in the same call, as both closures may be collective
            self._reference = self._anchored_in_reference(dt)
        anchors = self._unpack(rows)
        if not (lacking := anchors.lacking).any():
            return anchors
        rows = np.where(lacking[:, None], self._reference, rows[:, self.own :])
        return Anchors.unpack(rows, self.spec.k, self.spec.m)

    def _anchored_in_reference(self, dt: float) -> Array:
        """Row (1, size) anchored at the fine scale's answer in the reference state, held over dt."""
        k, m = self.spec.k, self.spec.m
        g, state = np.array([self.spec.reference]), self.fine.initial_state(1)
        start = replace(Anchors.unpack(Anchors.none(1, k, m), k, m), gradient=g, noise=np.zeros(1))
        answer, _ = self._solved(lambda: self.fine.evaluate(g, state, dt), 1)
        rows, *_ = self._anchored(g, answer, start, state, dt, None)
        anchors = self._unpack(rows)
        return replace(anchors, errors=np.minimum(anchors.errors, 0.0), doubt=start.doubt).pack()

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
    return np.asarray((errors[:, 0] >= 0.0) & (2.0 * errors[:, 0] <= errors[:, 1]))
