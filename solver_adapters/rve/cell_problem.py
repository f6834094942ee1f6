"""The discrete RVE problem: fluctuation w, macroscopic gradient g = (p, e) ∈ ℝᵏ, average potential W(g, w).

    r = |Y| ∂W/∂w,  K = |Y| ∂²W/∂w²,  L = |Y| ∂²W/∂w∂g,  T = ∂W/∂e,  D = ∂²W/∂e∂g

with W averaged over the period Y, voids included; r, K and L are integrals, so that the compiled forms know nothing of
the volume |Y|. Where materials have history, W is the potential of an increment that starts with it. Residual and
coupling are assembled together, flux and its explicit derivative too, so that one linearisation costs three passes over
the cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import ufl
from dolfinx import cpp, fem, la
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError
from solver_adapters.rve.boundary import Border, Boundary, fluctuation_blocks, uniform_border
from solver_adapters.rve.histories import HistoryMaterial, Material
from solver_adapters.rve.kinematics import Kinematics, Stretch
from solver_adapters.rve.periodic import Period, constant_space, identified
from solver_adapters.rve.point_history import NO_HISTORY, PointHistory
from solver_adapters.rve.unit_cells import UnitCell

_ROUND_OFF = 1e-12  # by which lengths of increments differ that are differences of times


@dataclass(frozen=True)
class Linearisation:
    """The RVE problem linearised at (g, w), except for K, which is left in the shared matrix.

    Args:
        right: (n, 1 + k + c), the residual r, the coupling L and the c columns of a border, side by side.
        flux: (m,), T.
        tangent: (m, k), D.
    """

    right: Array
    flux: Array
    tangent: Array

    def condensed(self, G: Array) -> tuple[Array, Array]:
        """Flux T − LₑᵀK⁻¹r (m,) and tangent D − LₑᵀK⁻¹L (m, k), from G = BᵀK⁻¹B/|Y| with B = [r, L]."""
        m, k = self.tangent.shape
        rows = G[1 + k - m :]
        flux, tangent = self.flux - rows[:, 0], self.tangent - rows[:, 1:]
        return flux, (tangent + tangent.T) / 2 if m == k else tangent


class CellProblem:
    """Forms of one RVE, compiled once; every evaluation overwrites the matrix :attr:`K`.

    Args:
        cell: mesh and tags.
        materials: energy density, or material with history, for each cell tag.
        kinematics: how g and w make the argument of the energies.
        boundary: which fluctuations are permitted.
        degree: polynomial degree of the fluctuation.
        quadrature_degree: exactness of the quadrature of all terms.

    Attributes:
        history: what the materials remember at the quadrature points; without any, a row of it is empty.
        constant: whether K depends on nothing but the length of the increment.
        linear: whether L and D do not either, and there is no border: all increments of one length then have the same
            tangent and sensitivity.

    Raises:
        ContractError: a tag without material, a material without stiffness.
        MeshError: a mesh that does not fit the boundary condition.
    """

    def __init__(
        self,
        cell: UnitCell,
        materials: Mapping[int, Material],
        kinematics: Kinematics,
        *,
        boundary: Boundary,
        degree: int,
        quadrature_degree: int,
    ) -> None:
        self.quadrature_degree = quadrature_degree
        present = set(np.unique(cell.tags.values).tolist())
        if missing := sorted(present - set(materials)):
            raise ContractError(f"cells with tag {missing} have no material, only tags {sorted(materials)} have one")
        mesh, dim = cell.mesh, cell.mesh.geometry.dim
        self.spec = kinematics.spec(dim, flux_unit="1")
        k, shape, period = self.spec.k, kinematics.field_shape(dim), cell.period
        self.full_space = fem.functionspace(mesh, ("Lagrange", degree, shape))
        points = self.full_space.tabulate_dof_coordinates()[:, :dim]
        self.blocks = fluctuation_blocks(boundary, points, period, open_faces=cell.open_faces)
        space = identified(self.full_space, self.blocks)
        self.w, self.g = fem.Function(space), fem.Function(constant_space(mesh, k))
        self._numbers = self.g.x.array, self.w.x.array
        self.n = self.w.x.array.size
        dx = ufl.Measure("dx", mesh, subdomain_data=cell.tags, metadata={"quadrature_degree": quadrature_degree})
        local = kinematics.local(self.g, self.w)
        self.volume = period.volume
        self._deformation = local[-1] if isinstance(kinematics, Stretch) else None
        self._tags, self._dx = cell.tags, dx(tuple(sorted(present)))
        self.history = PointHistory(mesh)
        parts = {
            tag: self._potential(tag, law, local, dx(tag)) * dx(tag) for tag, law in materials.items() if tag in present
        }
        _check_stiffness(parts, self.w)
        energy = sum(parts.values())

        columns = identified(fem.functionspace(mesh, ("Lagrange", degree, (*(shape or (1,)), 1 + k))), self.blocks)
        self._compile(energy, ufl.TestFunction(columns), ufl.TestFunction(constant_space(mesh, self.spec.m * (1 + k))))
        bs = space.dofmap.bs
        held = np.zeros(1, dtype=np.int32)
        self._pinned = fem.dirichletbc(fem.Constant(mesh, np.zeros(shape)), held, space)
        self._gauge = slice(0, bs)
        self.K = fem.create_matrix(self._stiffness, la.BlockMode.expanded)  # type: ignore[attr-defined]
        self.border: Border | None = None
        self.constant = not self._stiffness._cpp_object.coefficients
        rest = np.array(self.spec.reference), np.zeros(self.n), self.history.virgin
        if boundary == "uniform":
            self.assemble_stiffness(self._pack(*rest, self._stiffness))
            self._set_border(period)
        if self.constant:
            self.assemble_stiffness(self._pack(*rest, self._stiffness))
        self.linear = self.constant and self.border is None and not (self._varies(self.w) or self._varies(self.g))

    def _potential(self, tag: int, law: Material, local: tuple[Any, ...], dx: Any) -> Any:
        return self.history.add(tag, law, local, dx) if isinstance(law, HistoryMaterial) else law(*local)

    def _varies(self, field: Any) -> bool:
        """Whether ∂²W/∂g∂(w or g) depends on anything but the length of the increment."""
        mixed = ufl.derivative(ufl.derivative(self._average, field), self.g)
        return bool(ufl.algorithms.expand_derivatives(mixed).coefficients())

    def _set_border(self, period: Period) -> None:
        rows = np.repeat(np.arange(self.n), np.diff(self.K.indptr))
        diagonal = np.flatnonzero(rows == self.K.indices)
        self.border = uniform_border(self.full_space, period, float(self.K.data[diagonal].max()))
        self._sprung = diagonal[self.border.springs]

    def _compile(self, energy: Any, v: Any, q: Any) -> None:
        self._average = energy
        k, m = self.spec.k, self.spec.m
        directions = [ufl.as_vector([float(i == j) for i in range(k)]) for j in range(k)]
        residual = ufl.derivative(energy, self.w, _column(v, 0, self.w))
        flux = ufl.derivative(energy, self.g, _block(q, 0, k, m))
        for j, e in enumerate(directions, start=1):
            residual += ufl.derivative(ufl.derivative(energy, self.w, _column(v, j, self.w)), self.g, e)
            flux += ufl.derivative(ufl.derivative(energy, self.g, _block(q, j, k, m)), self.g, e)
        self._residual, self._flux, self._energy = fem.form(residual), fem.form(flux), fem.form(energy)
        self._residual_alone = fem.form(ufl.derivative(energy, self.w))
        alone = ufl.TestFunction(constant_space(self.w.function_space.mesh, m))
        self._flux_alone = fem.form(ufl.derivative(energy, self.g, _block(alone, 0, k, m)))
        self._stiffness = fem.form(ufl.derivative(ufl.derivative(energy, self.w), self.w))
        self._constants: dict[Any, Any] = {}
        self._rated = self.history.dt in energy.constants()
        used = [form._cpp_object.coefficients for form in (self._residual, self._flux, self._stiffness)]
        self._alike = used[0] == used[1] == used[2]

    def set_increment(self, dt: float) -> bool:
        """Let increments have the length ``dt``, but for round-off; returns whether that changes the forms."""
        if math.isclose(dt, self.history.dt.value, rel_tol=_ROUND_OFF):
            return False
        self.history.dt.value = dt
        if not self._rated:
            return False
        self._constants.clear()
        if self.constant:
            self.assemble_stiffness(cpp.fem.pack_coefficients(self._stiffness._cpp_object))
        return True

    def permitted(self, fluctuations: Array) -> Array:
        """The columns (…, n, c), moved and changed so that they satisfy a border."""
        if self.border is None:
            return fluctuations
        held = fluctuations[..., self._gauge, :]
        return self.border.feasible(fluctuations - np.concatenate([held] * (self.n // held.shape[-2]), axis=-2))

    def residual_form(self) -> Any:
        """The residual alone as a compiled form, for comparison and plain Newton methods."""
        return self._residual_alone

    def linearise(self, gradient: Array, fluctuation: Array, history: Array = NO_HISTORY) -> Linearisation:
        """Assemble r, L, T, D and, in :attr:`K`, the stiffness at g (k,), w (n,) and h₀ (h,)."""
        k, m = self.spec.k, self.spec.m
        residual = flux_values = stiffness = self._pack(gradient, fluctuation, history)
        if not self._alike:
            flux_values, stiffness = (cpp.fem.pack_coefficients(f._cpp_object) for f in (self._flux, self._stiffness))
        right, flux = np.zeros((self.n, 1 + k)), np.zeros((1 + k, m))
        self._assemble(right.reshape(-1), self._residual, residual)
        self._assemble(flux.reshape(-1), self._flux, flux_values)
        if not self.constant:
            self.assemble_stiffness(stiffness)
        right[self._gauge] = 0.0
        columns = right if self.border is None else np.hstack([right, self.border.columns])
        flux /= self.volume
        return Linearisation(columns, flux[0], flux[1:].T)

    def residual(
        self, gradient: Array, fluctuation: Array, out: Array, history: Array = NO_HISTORY, form: Any = None
    ) -> None:
        """Overwrite ``out`` (n,) by r(g, w) alone, or another form of it, without the reactions of a border."""
        form = form or self._residual_alone
        out[:] = 0.0
        self._assemble(out, form, self._pack(gradient, fluctuation, history, form))
        out[self._gauge] = 0.0
        if self.border is not None:
            out[:] = self.border.feasible(out)

    def flux(self, gradient: Array, fluctuation: Array, out: Array, history: Array = NO_HISTORY) -> None:
        """Overwrite ``out`` (m,) by T(g, w) alone."""
        out[:] = 0.0
        self._assemble(out, self._flux_alone, self._pack(gradient, fluctuation, history, self._flux_alone))
        out /= self.volume

    def updated(self, gradient: Array, fluctuation: Array, history: Array) -> Array:
        """The history h₁ (h,) at the end of an increment from h₀ to g and w."""
        if not len(self.history):
            return NO_HISTORY
        self._place(gradient, fluctuation, history)
        return self.history.updated()

    @cached_property
    def guarded_residual(self) -> Any:
        """Form of r that is not finite where, at finite strain, det F is not positive at any quadrature point."""
        return fem.form(self._guarded_residual)

    def guarded_residual_on(self, cells: NDArray[np.intp]) -> Any:
        """The same form over some of the cells."""
        tags = self._tags.values[np.searchsorted(self._tags.indices, cells)]
        parts = [(tag, cells[tags == tag].astype(np.int32)) for tag in self._dx.subdomain_id()]
        integrals = [integral.reconstruct(subdomain_data=parts) for integral in self._guarded_residual.integrals()]
        return fem.form(ufl.Form(integrals))

    @cached_property
    def _guarded_residual(self) -> ufl.Form:
        """With 0/√det F, which is no number unless det F is positive."""
        space = self.w.function_space
        residual = ufl.derivative(self._average, self.w, v := ufl.TestFunction(space))
        if self._deformation is None:
            return residual
        zero = fem.Constant(space.mesh, np.float64(0.0))
        return residual + zero / ufl.sqrt(ufl.det(self._deformation)) * ufl.div(v) * self._dx

    def _assemble(self, out: Array, form: Any, coefficients: Any) -> None:
        cpp.fem.assemble_vector(out, form._cpp_object, self._packed_constants(form), coefficients)

    def _packed_constants(self, form: Any) -> Any:
        if form not in self._constants:
            self._constants[form] = cpp.fem.pack_constants(form._cpp_object)
        return self._constants[form]

    def assemble_stiffness(self, coefficients: Any) -> None:
        """Overwrite :attr:`K`; the rows and columns of the pinned block are those of the identity."""
        form, pinned = self._stiffness._cpp_object, [self._pinned._cpp_object]
        self.K.data.fill(0.0)
        constants = self._packed_constants(self._stiffness)
        cpp.fem.assemble_matrix(self.K._cpp_object, form, constants, coefficients, pinned)
        cpp.fem.insert_diagonal(self.K._cpp_object, form.function_spaces[0], pinned, 1.0)
        if self.border is not None:
            self.K.data[self._sprung] += self.border.stiffness

    def energy(self, gradient: Array, fluctuation: Array) -> float:
        """Average energy density W(g, w)."""
        coefficients = self._pack(gradient, fluctuation, NO_HISTORY, self._energy)
        constants = self._packed_constants(self._energy)
        return float(cpp.fem.assemble_scalar(self._energy._cpp_object, constants, coefficients)) / self.volume

    def full_function(self, values: Array) -> Any:
        """Function of the ordinary Lagrange space that equals the fluctuation with values (n,)."""
        function = fem.Function(self.full_space)
        bs = self.full_space.dofmap.bs
        function.x.array[:] = values.reshape(-1, bs)[self.blocks].reshape(-1)
        return function

    def _place(self, gradient: Array, fluctuation: Array, history: Array) -> None:
        for numbers, values in zip(self._numbers, (gradient, fluctuation), strict=True):
            numbers[:] = values
        if len(self.history):
            self.history.start_from(history)

    def _pack(self, gradient: Array, fluctuation: Array, history: Array = NO_HISTORY, form: Any = None) -> Any:
        self._place(gradient, fluctuation, history)
        return cpp.fem.pack_coefficients((form or self._residual)._cpp_object)


def _check_stiffness(parts: Mapping[int, Any], w: Any) -> None:
    for tag, energy in parts.items():
        given = isinstance(energy, ufl.Form)  # zero times anything is a plain 0
        if not given or ufl.algorithms.expand_derivatives(ufl.derivative(ufl.derivative(energy, w), w)).empty():
            raise ContractError(
                f"the material of tag {tag} has no stiffness: give it some, or leave its cells out as a void"
            )


def _column(v: Any, j: int, w: Any) -> Any:
    """Column j of a matrix-valued test function, in the shape of the field w."""
    return ufl.as_vector([v[i, j] for i in range(w.ufl_shape[0])]) if w.ufl_shape else v[0, j]


def _block(q: Any, j: int, k: int, m: int) -> Any:
    """Variation of g = (p, e) in e alone, by the j-th block of m test functions."""
    return ufl.as_vector([0.0] * (k - m) + [q[m * j + i] for i in range(m)])
