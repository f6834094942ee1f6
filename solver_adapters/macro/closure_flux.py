"""A closure's flux inside a UFL form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ufl
from dolfinx import fem

from coupling.contract import Array, Closure
from coupling.errors import ContractError
from solver_adapters.closure_points import ClosurePoints, numbers
from solver_adapters.level import EVALUATE, Level
from solver_adapters.macro.facet_points import FacetPoints
from solver_adapters.macro.quadrature import QuadraturePoints


class ClosureFlux(ClosurePoints):
    """The flux q(g) of a closure as a UFL expression, with g any UFL operand: put ``value`` where the flux stood.

        F = ufl.Identity(2) + ufl.grad(u)
        P = ClosureFlux(F, closure, dx)
        residual = ufl.inner(P.value, ufl.grad(v)) * P.dx

    On a boundary the same with an exterior facet measure, for film, contact or cohesive laws::

        q = ClosureFlux(theta, film, ds(1))
        residual += q.value * v * ds(1)

    Flux and tangent live at the quadrature points of the measure, each of them on one rank. Nothing is evaluated here:
    :class:`solver_adapters.fenicsx.MultiscaleProblem` does that once per Newton iterate.

    Args:
        operand: UFL expression (scalar, vector or tensor), or a list of them, with k components together in the order
            of ``closure.spec.gradient``: one after the other, tensors row by row; symmetric ones in Mandel form, by
            :func:`solver_adapters.mandel.mandel`.
        closure: any object of the closure contract.
        dx: cell or exterior facet measure with a quadrature degree, see :class:`QuadraturePoints` and
            :class:`solver_adapters.macro.facet_points.FacetPoints`.
        shape: shape of ``value``. By default () for one flux component, the operand's own shape where that has as many
            components as the flux, else (m,).
        name: name in error messages and output files.

    Attributes:
        value: UFL expression of the flux, to be used with ``dx`` (or another measure of the same quadrature rule).
        vector: the same as (m,) components in the order of ``closure.spec.flux``.
        dx: the measure.
        points: the quadrature points.
        state: committed state (n, s) of the points, None where the closure has none.
        gradient: gradients (n, k) that flux and tangent belong to, None where there are none.
        failed: number of points of this rank that failed then.

    Raises:
        ContractError: operand, measure or shape do not fit the closure.
    """

    def __init__(
        self,
        operand: Any,
        closure: Closure,
        dx: ufl.Measure,
        *,
        shape: tuple[int, ...] | None = None,
        name: str = "flux",
    ) -> None:
        spec = closure.spec
        parts = [ufl.as_ufl(e) for e in operand] if isinstance(operand, (list, tuple)) else [ufl.as_ufl(operand)]
        self._operand = ufl.as_vector([component for part in parts for component in _components(part)])
        _check_operand(self._operand.ufl_shape[0], spec.gradient, parts)
        functions = ufl.algorithms.extract_coefficients(self._operand)
        if not functions:
            raise ContractError(f"the operand of {name!r} depends on no Function: {operand}")
        self.dx = dx
        points = QuadraturePoints if dx.integral_type() == "cell" else FacetPoints
        self.points = points(functions[0].function_space.mesh, dx)
        super().__init__(closure, self.points.n, name)
        self._flux = self.points.function((spec.m,), name)
        self._flux.closure_flux = self
        self._tangent = self.points.function((spec.m, spec.k), f"{name}_tangent")
        self._flux_rows = self.points.rows(self._flux.function_space)
        self._tangent_rows = self.points.rows(self._tangent.function_space)
        self._expression = fem.Expression(self._operand, self.points.reference)
        self.vector = self._flux
        self.value = _shaped(self._flux, _default_shape(spec.m, parts) if shape is None else shape)

    def jacobian(self, residual: ufl.Form, u: fem.Function, du: Any) -> ufl.Form:
        """Share of the flux in the derivative of a form: ∂R/∂q · (∂q/∂g ∂g/∂u δu)."""
        direction = ufl.algorithms.expand_derivatives(ufl.derivative(self._operand, u, du))
        return ufl.derivative(residual, self._flux, ufl.dot(self._tangent, direction))

    def appears_in(self, form: ufl.Form) -> bool:
        """Whether the form contains this flux."""
        return self._flux in form.coefficients()

    @staticmethod
    def all_in(form: ufl.Form) -> list[ClosureFlux]:
        """The fluxes that the form contains."""
        return [f.closure_flux for f in form.coefficients() if hasattr(f, "closure_flux")]

    def operand_values(self) -> Array:
        """Gradients (n, k) at the points for the present values of everything the operand depends on."""
        return np.ascontiguousarray(self.points.values(self._expression))

    def place(self, i: int) -> str:
        """Rank, cell or facet and coordinates of point i."""
        x = self.points.coordinates()[i]
        return f"rank {self.points.mesh.comm.rank}, {self.points.place(i)}, x = {numbers(x)}"

    def evaluate(self, gradient: Array, dt: float, level: Level = EVALUATE) -> None:
        """Evaluate the closure; flux and tangent of the form are those of its answer, unless a point failed."""
        super().evaluate(gradient, dt, level)
        if not self.failed:
            m, k = self.closure.spec.m, self.closure.spec.k
            self._enter_flux()
            tangent = self.response.tangent.reshape(-1, m * k)
            self._tangent.x.array.reshape(-1, m * k)[self._tangent_rows] = tangent

    def shift(self, change: Array) -> None:
        """Add to the flux (n, m) that was answered last, and to that of the form, until the next answer."""
        super().shift(change)
        self._enter_flux()

    def _enter_flux(self) -> None:
        self._flux.x.array.reshape(-1, self.closure.spec.m)[self._flux_rows] = self.response.flux

    def cell_average(self, expression: Any = None, name: str | None = None) -> fem.Function:
        """Averages over the cells (or their facets in the measure), ∫ e dx / ∫ dx, as a DG0 Function (collective).

        Args:
            expression: UFL expression e, by default ``value``. Cells outside of the measure's subdomain are zero.
            name: name of the Function, by default that of the flux.
        """
        e = self.value if expression is None else ufl.as_ufl(expression)
        mesh = self.points.mesh
        average = fem.Function(fem.functionspace(mesh, ("DG", 0, e.ufl_shape)), name=name or self.name)
        volume = fem.Function(fem.functionspace(mesh, ("DG", 0)))
        for target, integrand in ((average, e), (volume, ufl.as_ufl(1.0))):
            test = ufl.TestFunction(target.function_space)
            fem.assemble_vector(target.x.array, fem.form(ufl.inner(integrand, test) * self.dx))
            target.x.scatter_forward()
        size = average.x.block_size
        where = volume.x.array > 0.0
        average.x.array.reshape(-1, size)[where] /= volume.x.array[where, None]
        return average


def _components(expression: Any) -> list[Any]:
    return [expression[index] if index else expression for index in np.ndindex(expression.ufl_shape)]


def _check_operand(size: int, names: Sequence[str], parts: Sequence[Any]) -> None:
    if size != len(names):
        shapes = ", ".join(str(part.ufl_shape) for part in parts)
        raise ContractError(
            f"the operand has {size} components (shapes {shapes}), but the closure takes {len(names)}: "
            f"{', '.join(names)}. Pass them in this order; for a symmetric tensor use mandel(tensor)"
        )


def _default_shape(m: int, parts: Sequence[Any]) -> tuple[int, ...]:
    if m == 1:
        return ()
    own: tuple[int, ...] = parts[0].ufl_shape
    return own if len(parts) == 1 and int(np.prod(own)) == m else (m,)


def _shaped(flux: fem.Function, shape: tuple[int, ...]) -> Any:
    m = flux.ufl_shape[0]
    if int(np.prod(shape)) != m:
        raise ContractError(f"shape {shape} does not have the {m} components of the flux: leave it out or correct it")
    if shape == (m,):
        return flux
    if shape == ():
        return flux[0]
    return ufl.as_tensor(np.array([flux[a] for a in range(m)], dtype=object).reshape(shape).tolist())
