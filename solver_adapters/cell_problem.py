"""The discrete RVE problem: fluctuation w ∈ periodic space, macroscopic gradient g ∈ ℝᵏ, average energy W(g, w).

    r = ∂W/∂w,  K = ∂²W/∂w²,  L = ∂²W/∂w∂g,  T = ∂W/∂g,  D = ∂²W/∂g²

with W averaged over the period, voids included. Residual and coupling are assembled together, flux and its explicit
derivative too, so that one linearisation costs three passes over the cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ufl
from dolfinx import cpp, fem, la

from coupling.contract import Array
from coupling.errors import ContractError
from solver_adapters.energies import Energy
from solver_adapters.kinematics import Kinematics
from solver_adapters.periodic import constant_space, period, periodic_space
from solver_adapters.rve_meshes import UnitCell


@dataclass(frozen=True)
class Linearisation:
    """The RVE problem linearised at (g, w), except for K, which is left in the shared matrix.

    Args:
        right: (n, 1 + k), the residual r and the coupling L side by side.
        flux: (k,), T.
        tangent: (k, k), D.
    """

    right: Array
    flux: Array
    tangent: Array


class CellProblem:
    """Forms of one RVE, compiled once; every evaluation overwrites the matrix :attr:`K`.

    Args:
        cell: mesh and tags.
        materials: energy density for each cell tag.
        kinematics: how g and w make the argument of the energies.
        degree: polynomial degree of the fluctuation.
        quadrature_degree: exactness of the quadrature of all terms.

    Raises:
        ContractError: a tag without material.
    """

    def __init__(
        self,
        cell: UnitCell,
        materials: Mapping[int, Energy],
        kinematics: Kinematics,
        *,
        degree: int,
        quadrature_degree: int,
    ) -> None:
        self.quadrature_degree = quadrature_degree
        missing = sorted(set(np.unique(cell.tags.values).tolist()) - set(materials))
        if missing:
            raise ContractError(f"cells with tag {missing} have no material, only tags {sorted(materials)} have one")
        mesh, dim = cell.mesh, cell.mesh.geometry.dim
        self.spec = kinematics.spec(dim, flux_unit="1")
        k, shape = self.spec.k, kinematics.field_shape(dim)
        space, self.full_space, self.blocks = periodic_space(mesh, degree, shape)
        self.w, self.g = fem.Function(space), fem.Function(constant_space(mesh, k))
        self.n = self.w.x.array.size
        dx = ufl.Measure("dx", mesh, subdomain_data=cell.tags, metadata={"quadrature_degree": quadrature_degree})
        local = kinematics.local(self.g, self.w)
        present = set(np.unique(cell.tags.values).tolist())
        volume = float(np.prod(period(mesh)))
        energy = sum(law(local) / volume * dx(tag) for tag, law in materials.items() if tag in present)

        columns, _, _ = periodic_space(mesh, degree, (*(shape or (1,)), 1 + k))
        self._compile(energy, ufl.TestFunction(columns), ufl.TestFunction(constant_space(mesh, k * (1 + k))))
        bs = space.dofmap.bs
        self._pinned = fem.dirichletbc(np.zeros(shape), np.zeros(1, dtype=np.int32), space)
        self._gauge = slice(0, bs)
        self.K = fem.create_matrix(self._stiffness, la.BlockMode.expanded)  # type: ignore[attr-defined]

    def _compile(self, energy: Any, v: Any, q: Any) -> None:
        self._average = energy
        k = self.spec.k
        directions = [ufl.as_vector([float(i == j) for i in range(k)]) for j in range(k)]
        residual = ufl.derivative(energy, self.w, _column(v, 0, self.w))
        flux = ufl.derivative(energy, self.g, ufl.as_vector([q[i] for i in range(k)]))
        for j, e in enumerate(directions):
            residual += ufl.derivative(ufl.derivative(energy, self.w, _column(v, 1 + j, self.w)), self.g, e)
            block = ufl.as_vector([q[k * (1 + j) + i] for i in range(k)])
            flux += ufl.derivative(ufl.derivative(energy, self.g, block), self.g, e)
        self._residual, self._flux, self._energy = fem.form(residual), fem.form(flux), fem.form(energy)
        self._stiffness = fem.form(ufl.derivative(ufl.derivative(energy, self.w), self.w))
        self._constants = cpp.fem.pack_constants(self._stiffness._cpp_object)

    def residual_form(self) -> Any:
        """The residual alone as a compiled form, for comparison and plain Newton methods."""
        return fem.form(ufl.derivative(self._average, self.w))

    def linearise(self, gradient: Array, fluctuation: Array) -> Linearisation:
        """Assemble r, L, T, D and, in :attr:`K`, the stiffness at g (k,) and w (n,)."""
        k = self.spec.k
        coefficients = self._pack(gradient, fluctuation)
        right, flux = np.zeros((self.n, 1 + k)), np.zeros((1 + k, k))
        cpp.fem.assemble_vector(right.reshape(-1), self._residual._cpp_object, self._constants, coefficients)
        cpp.fem.assemble_vector(flux.reshape(-1), self._flux._cpp_object, self._constants, coefficients)
        self.assemble_stiffness(coefficients)
        right[self._gauge] = 0.0
        return Linearisation(right, flux[0], flux[1:])

    def assemble_stiffness(self, coefficients: Any) -> None:
        """Overwrite :attr:`K`; the rows and columns of the pinned block are those of the identity."""
        form, pinned = self._stiffness._cpp_object, [self._pinned._cpp_object]
        self.K.data.fill(0.0)
        cpp.fem.assemble_matrix(self.K._cpp_object, form, self._constants, coefficients, pinned)
        cpp.fem.insert_diagonal(self.K._cpp_object, form.function_spaces[0], pinned, 1.0)

    def energy(self, gradient: Array, fluctuation: Array) -> float:
        """Average energy density W(g, w)."""
        coefficients = self._pack(gradient, fluctuation)
        return float(cpp.fem.assemble_scalar(self._energy._cpp_object, self._constants, coefficients))

    def full_function(self, values: Array) -> Any:
        """Function of the ordinary Lagrange space that equals the periodic fluctuation with values (n,)."""
        function = fem.Function(self.full_space)
        bs = self.full_space.dofmap.bs
        function.x.array[:] = values.reshape(-1, bs)[self.blocks].reshape(-1)
        return function

    def _pack(self, gradient: Array, fluctuation: Array) -> Any:
        self.g.x.array[:] = gradient
        self.w.x.array[:] = fluctuation
        return cpp.fem.pack_coefficients(self._stiffness._cpp_object)


def _column(v: Any, j: int, w: Any) -> Any:
    """Column j of a matrix-valued test function, in the shape of the field w."""
    return ufl.as_vector([v[i, j] for i in range(w.ufl_shape[0])]) if w.ufl_shape else v[0, j]
