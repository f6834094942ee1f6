"""The accelerated closure: a fine scale with a surrogate in front of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from coupling.agreement import collective_over, together
from coupling.contract import (
    Array,
    Closure,
    ClosureSpec,
    Response,
    Status,
    check_arguments,
)
from coupling.errors import ContractError
from coupling.exact import ExactLevels
from coupling.gate import Gate
from coupling.ledger import Ledger
from coupling.proposal import accepted, proposed
from coupling.two_level import TwoLevel

Mode = Literal["off", "replace", "exact"]


class AcceleratedClosure:
    """A closure that asks the surrogate first and the fine scale where the gate does not accept the answer.

    ``mode="replace"``: all points go to the surrogate in one call, those that are not accepted to the fine scale in one
    call; they come back with the status FALLBACK where it was OK, and with uncertainty 0. ``mode="off"``: the fine
    scale alone, exactly.

    ``mode="exact"``: the fine scale's answer, sooner. The closure then has two levels (:mod:`coupling.two_level`): a
    macro solver that knows of them, such as :class:`solver_adapters.fenicsx.MultiscaleProblem`, lets the surrogate find
    the solution and the fine scale correct it, until the fine scale's residual meets the tolerance; to any other solver
    this closure is the fine scale. Where both are laws of the stretch, wrap the result, ``StretchFrame(
    AcceleratedClosure(rve, surrogate, gate=gate, mode="exact"))``: rotations then do not spoil what is carried from one
    load step to the next.

    The surrogate cannot make a run fail, nor wrong unnoticed: a point is also served by the fine scale where the
    surrogate's numbers are not finite or its status is not usable (whatever the gate says), and all points are where it
    raises or answers in the wrong shape. That is entered in the ledger, and warned of.

    The state of a point is the fine scale's where that served it, else the surrogate's where it keeps one, else
    unchanged. A fine scale with history needs a surrogate with that same history: one that does not carry the state on
    would leave it behind at the points it serves, and a later fallback there would start from a past that never was.

    A fine scale that is collective (:func:`coupling.agreement.collective_over`) is called on all ranks in each
    evaluation, with no points where none are rejected, and so is this closure.

    Ledger: counts ``accelerated/calls``, ``accelerated/points``, ``surrogate/points`` (served), ``fallback/points``,
    ``surrogate/faults`` (calls that raised or were malformed), ``surrogate/non-finite points``; phases ``surrogate``,
    ``fine``.

    Args:
        fine: the closure to be replaced; its specification is this closure's (symmetric where both tangents are).
        surrogate: a closure of the same components, units and reference.
        gate: which of the surrogate's responses are used.
        mode: "replace", "exact" or "off".
        ledger: where the work is entered, a new one if None.

    Raises:
        ContractError: where fine scale and surrogate do not fit; the message names the difference.
    """

    def __init__(
        self, fine: Closure, surrogate: Closure, *, gate: Gate, mode: Mode = "replace", ledger: Ledger | None = None
    ) -> None:
        if mode not in get_args(Mode):
            raise ContractError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
        _check_fit(fine.spec, surrogate.spec, mode)
        self.fine, self.surrogate, self.gate = fine, surrogate, gate
        self.ledger = Ledger() if ledger is None else ledger
        self._mode = mode
        self._exact = ExactLevels(fine, surrogate, gate, self.ledger) if mode == "exact" else None
        if self._exact is not None:
            self.spec = self._exact.spec
            return
        symmetric = fine.spec.symmetric and (mode == "off" or surrogate.spec.symmetric)
        self.spec = replace(fine.spec, symmetric=symmetric)

    @property
    def collective(self) -> Any | None:
        """Communicator over which :meth:`evaluate` is collective, None where it is not."""
        fine = collective_over(self.fine)
        return collective_over(self.surrogate) if fine is None else fine

    @property
    def mode(self) -> Mode:
        """Whether the surrogate is asked."""
        return self._mode

    @property
    def two_level(self) -> TwoLevel | None:
        """Model and exact sweeps in exact mode, None in the others."""
        return self._exact

    def initial_state(self, n: int) -> Array | None:
        """The fine scale's; in exact mode with the anchors of the model."""
        return (self._exact or self.fine).initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux, tangent, new state and status of n points, from the surrogate where it is accepted."""
        if self._exact is not None:
            check_arguments(self.spec, gradient, state, hint)
            return self._exact.evaluate(gradient, state, dt, hint)
        comm = collective_over(self.fine)
        answer, rejected = together(comm, lambda: self._proposed(gradient, state, dt, hint))
        if self.mode == "off":
            return self._fine(gradient, state, dt, hint)
        if answer is None:
            return self._fallback(gradient, state, dt, hint)
        if not rejected.size:
            if comm is not None:  # the fine scale of this rank may have to serve others
                self._fine(gradient[rejected], _rows(state, rejected), dt, _rows(hint, rejected))
            return answer
        if rejected.size == len(gradient):
            return self._fallback(gradient, state, dt, hint)
        fine = self._fallback(gradient[rejected], _rows(state, rejected), dt, _rows(hint, rejected))
        return _merged(answer, fine, rejected)

    def _proposed(
        self, gradient: Array, state: Array | None, dt: float, hint: Array | None
    ) -> tuple[Response | None, NDArray[np.intp]]:
        """The surrogate's response, None where it is not asked or cannot be used at all, and the rejected points."""
        n = check_arguments(self.spec, gradient, state, hint)
        self.ledger.count("accelerated/calls")
        self.ledger.count("accelerated/points", n)
        answer = None
        if self.mode == "replace":
            instead = "the fine scale serves all its points"
            answer = proposed(self.surrogate, gradient, state, dt, hint, ledger=self.ledger, instead=instead)
        if answer is None:
            return None, np.arange(n)
        rejected = np.flatnonzero(~accepted(self.gate, gradient, answer, ledger=self.ledger))
        self.ledger.count("surrogate/points", n - rejected.size)
        if answer.state is None and state is not None:
            answer = replace(answer, state=state)
        return answer, rejected

    def _fine(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response:
        with self.ledger.phase("fine"):
            return self.fine.evaluate(gradient, state, dt, hint)

    def _fallback(self, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response:
        self.ledger.count("fallback/points", len(gradient))
        fine = self._fine(gradient, state, dt, hint)
        status = np.where(fine.status == Status.OK, np.int8(Status.FALLBACK), fine.status)
        return replace(fine, status=status, uncertainty=_uncertainty(fine))


def _check_fit(fine: ClosureSpec, surrogate: ClosureSpec, mode: Mode) -> None:
    for name in ("gradient", "flux", "reference", "gradient_unit", "flux_unit"):
        theirs, ours = getattr(surrogate, name), getattr(fine, name)
        if theirs != ours:
            raise ContractError(f"fine scale and surrogate differ in {name}: {ours} and {theirs}")
    if mode == "exact" and not surrogate.state_size:
        return  # only the fine scale's state is ever committed
    if fine.history and not surrogate.history:
        raise ContractError(
            "the fine scale has history and the surrogate has none: the state would be left behind at the points "
            "it serves. Use a surrogate that carries the same state on"
        )
    if surrogate.history and not fine.history:
        raise ContractError("the surrogate has history and the fine scale has none: nothing would carry its state")
    if surrogate.state_size not in (0, fine.state_size) or (fine.history and not surrogate.state_size):
        raise ContractError(
            f"fine scale and surrogate keep {fine.state_size} and {surrogate.state_size} numbers per point: "
            f"a surrogate must keep the same state as the fine scale, or none where there is no history"
        )


def _rows(array: Array | None, rows: NDArray[np.intp]) -> Array | None:
    return None if array is None else array[rows]


def _uncertainty(response: Response) -> Array:
    return np.zeros(len(response.flux)) if response.uncertainty is None else response.uncertainty


def _merged(answer: Response, fine: Response, rows: NDArray[np.intp]) -> Response:
    """The surrogate's fresh answer with the fine scale's in those rows; its state may be the caller's and is copied."""
    for into, new in ((answer.flux, fine.flux), (answer.tangent, fine.tangent), (answer.status, fine.status)):
        into[rows] = new
    state, energy = answer.state, None
    if state is not None and fine.state is not None:
        state = state.copy()
        state[rows] = fine.state
    if answer.uncertainty is not None:
        answer.uncertainty[rows] = _uncertainty(fine)
    if answer.energy is not None and fine.energy is not None:
        energy = answer.energy
        energy[rows] = fine.energy
    return replace(answer, state=state, energy=energy)
