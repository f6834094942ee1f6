"""Closures as micro simulations of the preCICE Micro Manager, and micro simulations as closures.

The module that ``micro_file_name`` of a Micro Manager configuration names, for any closure:

    from solver_adapters.precice_micro import micro_simulation
    MicroSimulation = micro_simulation(closure, reads={"strain": ["ε11", "ε22", "√2·ε12"]},
                                       writes={"stress": ["σ11", "σ22", "√2·σ12"]})

and a fine scale for any solver of this project, of an existing ``MicroSimulation``:

    closure = MicroSimulationClosure(MicroSimulation, spec, reads=reads, writes=writes)

The interface is that of https://precice.org/tooling-micro-manager-prepare-micro-simulation.html:
``solve(macro_data, dt)`` returns a dict, ``get_state`` and ``set_state`` move all history, ``initialize`` and
``output`` are optional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from coupling.contract import Array, Closure, Response, Status, check_response, finite_rows, usable
from coupling.errors import ClosureError, ContractError
from solver_adapters.micro_manager.closure import MicroSimulationClosure
from solver_adapters.micro_manager.data import Fields, MicroData

__all__ = ["ClosureMicroSimulation", "MicroSimulationClosure", "micro_simulation"]


class ClosureMicroSimulation:
    """One point of a closure as a micro simulation; :func:`micro_simulation` makes the class of a closure.

    Every ``solve`` starts from the state that the last one ended with, or that ``set_state`` has set since; it is the
    caller's part, in implicit coupling, to set the state back before it solves a time window again.

    Args:
        sim_id: global id of the macro point.

    Attributes:
        gradient: gradient (k,) of the last ``solve``, None before.
        response: the closure's answer to it, for one point.
    """

    closure: ClassVar[Closure]
    data: ClassVar[MicroData]

    def __init__(self, sim_id: int) -> None:
        self._sim_id = sim_id
        self._state = self.closure.initial_state(1)
        self._last: tuple[Array, Array] | None = None  # states at the start and the end of the last solve
        self.gradient: Array | None = None
        self.response: Response | None = None

    def initialize(self) -> dict[str, Any]:
        """What ``solve`` would return in the reference state; the state stays."""
        reference = np.array(self.data.spec.reference)
        return self._written(self._evaluated(reference, 1.0, None))

    def solve(self, macro_data: dict[str, Any], dt: float) -> dict[str, Any]:
        """The data for the macro scale at the end of a time increment.

        Raises:
            ClosureError: the point failed; the state is as it was.
            ContractError: the macro data lacks a name, or has another size.
        """
        gradient = self.data.gradient(macro_data)
        response = self._evaluated(gradient, float(dt), self._hint())
        self.gradient, self.response = gradient, response
        if self._state is not None and response.state is not None:
            self._last, self._state = (self._state, response.state), response.state
        return self._written(response)

    def get_state(self) -> Array | None:
        """A copy of the state (s,), None where the closure has none."""
        return None if self._state is None else self._state[0].copy()

    def set_state(self, state: Array | None) -> None:
        """Go on from a state of ``get_state``, of this or of another point."""
        if (state is None) != (self._state is None):
            raise ContractError(
                f"the closure keeps {self.data.spec.state_size} numbers per point, got the state {state!r}"
            )
        self._state = None if state is None else np.array(state, dtype=np.float64).reshape(1, self.data.spec.state_size)

    def get_global_id(self) -> int:
        """Global id of the macro point."""
        return self._sim_id

    def set_global_id(self, global_id: int) -> None:
        """Give it another id."""
        self._sim_id = global_id

    def _hint(self) -> Array | None:
        """End of the last solve if the state was set back to its start: it was of the same increment."""
        again = self._last is not None and self._state is not None and np.array_equal(self._last[0], self._state)
        return self._last[1] if self._last is not None and again else None

    def _evaluated(self, gradient: Array, dt: float, hint: Array | None) -> Response:
        response = self.closure.evaluate(gradient[None], self._state, dt, hint)
        check_response(self.data.spec, response, 1)
        if not usable(response.status).all() or not finite_rows(response).all():
            status = Status(int(response.status[0]))
            message = "the answer is not finite" if status.usable else status.message
            names, values = ", ".join(self.data.spec.gradient), ", ".join(f"{v:.6g}" for v in gradient)
            raise ClosureError(f"micro simulation {self._sim_id}, {names} = ({values}): {message}")
        return response

    def _written(self, response: Response) -> dict[str, Any]:
        return self.data.written(response.flux[0], response.tangent[0])


def micro_simulation(
    closure: Closure,
    *,
    reads: Fields,
    writes: Fields,
    output: Callable[[ClosureMicroSimulation], None] | None = None,
) -> type[ClosureMicroSimulation]:
    """A class ``MicroSimulation`` of a closure, for the Micro Manager; all its instances share the closure.

    It derives from the Micro Manager's own interface class where that is installed.

    Args:
        closure: any object of the closure contract.
        reads: gradient components in each of ``read_data_names``, see
            :class:`solver_adapters.micro_manager.data.MicroData`.
        writes: flux components and tangent entries in each of ``write_data_names``.
        output: called with the simulation where the Micro Manager calls ``output()``.

    Raises:
        ContractError: reads or writes do not fit the closure.
    """
    members: dict[str, Any] = {"closure": closure, "data": MicroData(closure.spec, reads, writes)}
    if output is not None:
        members["output"] = lambda simulation: output(simulation)
    return type("MicroSimulation", (ClosureMicroSimulation, *_interface()), members)


def _interface() -> tuple[type, ...]:
    try:
        from micro_manager import MicroSimulationInterface
    except ImportError:  # none, one without its preCICE, or one of the versions that ask for no base class
        return ()
    return (MicroSimulationInterface,)
