"""Closures as materials of dolfinx_materials.

    material = ClosureMaterial(closure, mesh.comm, names={"ε": "Strain", "σ": "Stress"})
    qmap = QuadratureMap(mesh, 2, material)
    qmap.register_gradient("Strain", mandel(ufl.sym(ufl.grad(u))))
    residual = ufl.dot(qmap.fluxes["Stress"], mandel(ufl.sym(ufl.grad(v)))) * qmap.dx
    jacobian = qmap.derivative(residual, u, du)

The class has what ``QuadratureMap`` and the solvers of dolfinx_materials use of their ``Material`` and does not import
that package (J. Bleyer, "dolfinx_materials: A Python package for advanced material modelling").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpi4py import MPI

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, Closure
from coupling.errors import ContractError
from solver_adapters.rotation import component_rotation, quantities
from solver_adapters.usable_response import usable_response

STATE = "State"


class ClosureMaterial:
    """A closure as a material: blocks of gradients and fluxes, one internal state variable, batched integration.

    Each quantity among the components of the closure's specification is one block: F11, F12, F21, F22 the gradient
    "F" of 4 components, θ, g1, g2 the gradients "θ" and "g". Register vectors of these components, in their order:
    tensors row by row, symmetric ones in Mandel form by :func:`solver_adapters.mandel.mandel`. The internal state
    variable "State" is the closure's state less its initial value, so that the zeros dolfinx_materials starts from are
    right.

    Args:
        closure: any object of the closure contract.
        comm: communicator of the mesh.
        names: other names for quantities, e.g. {"ε": "Strain", "σ": "Stress"}.
        rotation_matrix: UFL (3, 3) matrix R with R_ij = e'_i · e_j, whose rows are the material axes in the mesh's
            axes, or None. The closure then sees gradients and gives fluxes in the material axes.
        dt: time increment of the integrations; assign to :attr:`dt` to change it, as QuadratureMap passes none.

    Attributes:
        closure: the closure.
        dt: the time increment.
        rotation_matrix: as given; may be assigned.
        data_manager: states ``s0`` at the start and ``s1`` at the end of the increment.
        material_properties: empty; they are the closure's own.

    Raises:
        ContractError: names of quantities that the closure does not have, or that coincide.
    """

    def __init__(
        self,
        closure: Closure,
        comm: MPI.Comm,
        *,
        names: Mapping[str, str] | None = None,
        rotation_matrix: Any = None,
        dt: float = 1.0,
    ) -> None:
        spec = closure.spec
        self.closure, self.dt, self.rotation_matrix, self._comm = closure, dt, rotation_matrix, comm
        given, new = [*quantities(spec.gradient), *quantities(spec.flux)], dict(names or {})
        if unknown := set(new) - set(given):
            raise ContractError(f"names has {sorted(unknown)}, but the closure's quantities are {given}")
        blocks = [new.get(symbol, symbol) for symbol in given]
        if len(set(blocks)) != len(blocks) or STATE in blocks:
            raise ContractError(f"gradients, fluxes and {STATE!r} need distinct names, got {blocks}: pass names")
        self.gradients = {new.get(s, s): len(c) for s, c in quantities(spec.gradient).items()}
        self.fluxes = {new.get(s, s): len(c) for s, c in quantities(spec.flux).items()}
        self.internal_state_variables = {STATE: spec.state_size} if spec.state_size else {}
        self.material_properties: dict[str, Any] = {}
        initial = closure.initial_state(1)
        self._initial = np.zeros((1, 0)) if initial is None else initial
        self.set_data_manager(0)

    @property
    def name(self) -> str:
        """Name of the closure's class."""
        return type(self.closure).__name__

    @property
    def tangent_blocks(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Shape of each block ∂flux/∂gradient, in the order in which :meth:`integrate` returns them."""
        return {(f, g): (m, k) for f, m in self.fluxes.items() for g, k in self.gradients.items()}

    @property
    def variables(self) -> dict[str, int]:
        """Sizes of all gradients, fluxes and internal state variables."""
        return {**self.gradients, **self.fluxes, **self.internal_state_variables}

    @property
    def gradient_names(self) -> list[str]:
        """Names of the gradients."""
        return list(self.gradients)

    @property
    def flux_names(self) -> list[str]:
        """Names of the fluxes."""
        return list(self.fluxes)

    @property
    def internal_state_variable_names(self) -> list[str]:
        """["State"], or [] where the closure has none."""
        return list(self.internal_state_variables)

    def set_data_manager(self, ngauss: int) -> None:
        """Start anew with that many points in the reference state."""
        self.data_manager = DataManager(self, ngauss)
        self._last: tuple[Array, Array | None] | None = None  # states at the start and the end

    def integrate(self, gradients: Array, dt: float | None = None) -> tuple[Array, Array, Array]:
        """Fluxes (n, m), state (n, s) and tangent (n, m·k), block after block, at the increment's end (collective).

        Args:
            gradients: (n, k), the blocks side by side.
            dt: length of the increment, by default :attr:`dt`.

        Raises:
            ClosureError: points failed; on all ranks together.
            Exception: what the closure raised, on its rank; RemoteRankError on the others.
        """
        state = self.data_manager.s0.internal_state_variables + self._initial
        start = state if state.shape[1] else None
        gradient = np.array(gradients, dtype=np.float64, order="C")
        arguments = (self.closure, gradient, start, self.dt if dt is None else dt, self._hint(state))
        response = usable_response(*arguments, comm=self._comm, name=self.name)
        self._last = (state, response.state)
        end = self.data_manager.s1
        end.gradients, end.fluxes = gradient, response.flux
        end.internal_state_variables = state if response.state is None else response.state - self._initial
        return end.fluxes, end.internal_state_variables, self._flat(response.tangent)

    def get_initial_state_dict(self) -> dict[str, Array]:
        """Gradients, fluxes and state at the start of the increment, by name."""
        return self.data_manager.s0.by_name()

    def get_final_state_dict(self) -> dict[str, Array]:
        """The same at its end."""
        return self.data_manager.s1.by_name()

    def set_initial_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set those that are named at the start of the increment."""
        for name, values in state.items():
            self.data_manager.s0.set(name, values)

    def rotate_gradients(self, gradients: Array, rotation: Array) -> None:
        """Turn gradients (n·k,) from the mesh's into the material axes, in place; R (n·9,) at the points."""
        spec = self.closure.spec
        _apply(component_rotation(spec.gradient, _matrices(rotation, len(gradients), spec.k)), gradients)

    def rotate_fluxes(self, fluxes: Array, rotation: Array) -> None:
        """Turn fluxes (n·m,) from the material into the mesh's axes, in place; R (n·9,) at the points."""
        spec = self.closure.spec
        T = component_rotation(spec.flux, _matrices(rotation, len(fluxes), spec.m))
        _apply(T.transpose(0, 2, 1), fluxes)

    def rotate_tangent_operator(self, tangent: Array, rotation: Array) -> None:
        """Turn tangents (n·m·k,) from the material into the mesh's axes, in place; R (n·9,) at the points."""
        spec = self.closure.spec
        R = _matrices(rotation, len(tangent), spec.m * spec.k)
        T_flux, T_gradient = component_rotation(spec.flux, R), component_rotation(spec.gradient, R)
        tangent[:] = self._flat(T_flux.transpose(0, 2, 1) @ self._whole(tangent) @ T_gradient).ravel()

    def _hint(self, state: Array) -> Array | None:
        """State of the last integration if it started from the same states: it was of the same increment."""
        if self._last is None or not np.array_equal(self._last[0], state):
            return None
        return self._last[1]

    def _flat(self, tangent: Array) -> Array:
        blocks = [tangent[:, f, g].reshape(len(tangent), -1) for f, g in self._slices()]
        return np.hstack(blocks)

    def _whole(self, flat: Array) -> Array:
        spec = self.closure.spec
        rows = flat.reshape(-1, spec.m * spec.k)
        whole, first = np.empty((len(rows), spec.m, spec.k)), 0
        for (f, g), (m, k) in zip(self._slices(), self.tangent_blocks.values(), strict=True):
            whole[:, f, g] = rows[:, first : first + m * k].reshape(-1, m, k)
            first += m * k
        return whole

    def _slices(self) -> list[tuple[slice, slice]]:
        return [(f, g) for f in _ranges(self.fluxes).values() for g in _ranges(self.gradients).values()]


class DataManager:
    """States of the points at the start, ``s0``, and at the end, ``s1``, of an increment."""

    def __init__(self, material: ClosureMaterial, ngauss: int) -> None:
        self.s0, self.s1 = PointStates(material, ngauss), PointStates(material, ngauss)

    def update(self) -> None:
        """The increment has converged: its end is the start of the next."""
        self.s0.copy_from(self.s1)

    def revert(self) -> None:
        """Back to the start of the increment."""
        self.s1.copy_from(self.s0)


class PointStates:
    """Gradients (n, k), fluxes (n, m) and internal state variables (n, s) of n points."""

    def __init__(self, material: ClosureMaterial, n: int) -> None:
        kinds = {
            "gradients": material.gradients,
            "fluxes": material.fluxes,
            "internal_state_variables": material.internal_state_variables,
        }
        self._places = {
            name: (kind, columns) for kind, sizes in kinds.items() for name, columns in _ranges(sizes).items()
        }
        self.gradients: Array = np.zeros((n, sum(material.gradients.values())))
        self.fluxes: Array = np.zeros((n, sum(material.fluxes.values())))
        self.internal_state_variables: Array = np.zeros((n, sum(material.internal_state_variables.values())))

    def by_name(self) -> dict[str, Array]:
        """Columns of each variable."""
        return {name: getattr(self, kind)[:, columns] for name, (kind, columns) in self._places.items()}

    def set(self, name: str, values: Any) -> None:
        """Set one variable at all points."""
        if name not in self._places:
            raise ContractError(f"the material has no variable {name!r}, only {list(self._places)}")
        kind, columns = self._places[name]
        getattr(self, kind)[:, columns] = values

    def copy_from(self, other: PointStates) -> None:
        """Take over copies of another's values."""
        self.gradients, self.fluxes = other.gradients.copy(), other.fluxes.copy()
        self.internal_state_variables = other.internal_state_variables.copy()


def _ranges(sizes: Mapping[str, int]) -> dict[str, slice]:
    ends = np.cumsum(list(sizes.values()), dtype=int)
    return {name: slice(int(end) - size, int(end)) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def _matrices(rotation: Array, size: int, per_point: int) -> Array:
    if rotation.size * per_point != 9 * size:
        raise ContractError(
            f"the rotation matrix is given at {rotation.size / 9:g} points, but there are {size // per_point}: a "
            "QuadratureMap of a material with axes of its own must cover all cells"
        )
    return rotation.reshape(-1, 3, 3)


def _apply(T: Array, flat: NDArray[np.float64]) -> None:
    flat[:] = (T @ flat.reshape(len(T), T.shape[1], 1)).ravel()
