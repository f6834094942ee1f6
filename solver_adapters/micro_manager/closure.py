"""Existing micro simulations, as written for the preCICE Micro Manager, as closures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from coupling.contract import (
    Array,
    ClosureSpec,
    Response,
    Status,
    check_arguments,
    finite_rows,
    mark_unusable,
)
from coupling.errors import ContractError
from solver_adapters.micro_manager.data import Fields, MicroData
from solver_adapters.micro_manager.state import StateLayout


class MicroSimulationClosure:
    """A ``MicroSimulation`` class as a closure; points are solved one after the other, by one instance.

    The state of each point goes through ``set_state`` before and ``get_state`` after its solution. An exception of the
    simulation, and a result that is not finite, makes the point FAILED; the next one is solved by a new instance.
    Where ``writes`` has no tangent it is found by central differences of two solutions for each gradient component,

        ∂q/∂g_j ≈ (q(g + h e_j) − q(g − h e_j)) / 2h.

    Args:
        simulation: the class, or what else makes a simulation of an id.
        spec: components of gradient and flux, reference, units, and whether the flux depends on history and the tangent
            is symmetric; its ``state_size`` is found out.
        reads: gradient components in each datum that ``solve`` is given, see
            :class:`solver_adapters.micro_manager.data.MicroData`.
        writes: flux components and tangent entries in each datum that ``solve`` returns.
        step: h, in the unit of the gradient; larger for simulations that iterate to a loose tolerance ε: h ≈ ε^(1/3).
        sim_id: id of the instance.

    Attributes:
        spec: the specification.
        last_error: the exception that made a point FAILED last, None before.

    Raises:
        ContractError: reads and writes do not fit, the state is made of other things than numbers, or the specification
            has history and the simulation no state.
    """

    def __init__(
        self,
        simulation: Callable[[int], Any],
        spec: ClosureSpec,
        *,
        reads: Fields,
        writes: Fields,
        step: float = 1e-5,
        sim_id: int = 0,
    ) -> None:
        if not step > 0.0:
            raise ContractError(f"step must be positive, got {step}")
        self._data = MicroData(spec, reads, writes)
        self._data.check_complete()
        self._make, self._sim_id, self._step = simulation, sim_id, step
        self._simulation = self._new()
        self._layout = StateLayout(_state_of(self._simulation))
        self._initial = self._layout.pack(_state_of(self._simulation))
        self.spec = replace(spec, state_size=self._layout.size)
        self.last_error: Exception | None = None
        if spec.history and not self._layout.size:
            raise ContractError(
                "spec.history is True, but the simulation's get_state returns nothing before the first solve: let it "
                "return its initial state"
            )

    def initial_state(self, n: int) -> Array | None:
        """The state that a new simulation has."""
        return np.tile(self._initial, (n, 1)) if self._layout.size else None

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux (n, m), tangent (n, m, k) and state of n points; the hint is not used.

        Raises:
            ContractError: a result or a state of the simulation is not what was declared.
        """
        n, spec = check_arguments(self.spec, gradient, state, hint), self.spec
        flux, tangent = np.full((n, spec.m), np.nan), np.full((n, spec.m, spec.k), np.nan)
        status = np.full(n, Status.INADMISSIBLE, dtype=np.int8)
        end = None if state is None else state.copy()
        for i in np.flatnonzero(np.isfinite(gradient).all(axis=1)):
            try:
                flux[i], tangent[i], row = self._solved(gradient[i], None if state is None else state[i], float(dt))
            except _SimulationError as error:
                self.last_error, status[i] = error.cause, Status.FAILED
                self._simulation = self._new()
                continue
            status[i] = Status.OK
            if end is not None:
                end[i] = row
        response = Response(flux, tangent, status, end)
        return mark_unusable(response, (status == Status.OK) & ~finite_rows(response), Status.FAILED)

    def _solved(self, gradient: Array, state: Array | None, dt: float) -> tuple[Array, Array, Array]:
        flux, tangent = self._answer(gradient, state, dt)
        row = self._layout.pack(_guarded(_state_of, self._simulation))
        if not self._data.tangent:
            shifts = self._step * np.eye(self.spec.k)
            pairs = [
                (self._answer(gradient + h, state, dt)[0], self._answer(gradient - h, state, dt)[0]) for h in shifts
            ]
            tangent = np.stack([(plus - minus) / (2.0 * self._step) for plus, minus in pairs], axis=1)
            tangent = 0.5 * (tangent + tangent.T) if self.spec.symmetric else tangent
        return flux, tangent, row

    def _answer(self, gradient: Array, state: Array | None, dt: float) -> tuple[Array, Array]:
        if state is not None:
            _guarded(self._simulation.set_state, self._layout.unpack(state))
        return self._data.flux_and_tangent(_guarded(self._simulation.solve, self._data.macro_data(gradient), dt))

    def _new(self) -> Any:
        simulation = self._make(self._sim_id)
        if hasattr(simulation, "initialize"):
            try:
                simulation.initialize()
            except TypeError:  # as the Micro Manager does: it takes initial data
                simulation.initialize(self._data.macro_data(np.array(self._data.spec.reference)))
        return simulation


class _SimulationError(Exception):
    """A simulation raised ``cause``."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _guarded(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:  # whatever a foreign simulation raises is its failure at this point
        raise _SimulationError(error) from error


def _state_of(simulation: Any) -> Any:
    return simulation.get_state() if hasattr(simulation, "get_state") else None
