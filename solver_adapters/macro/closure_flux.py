"""A closure's flux inside a UFL form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from numpy.typing import NDArray

from coupling.contract import Array, Closure, Response, Status
from coupling.errors import ContractError
from solver_adapters.macro.facet_points import FacetPoints
from solver_adapters.macro.level import EVALUATE, Level
from solver_adapters.macro.quadrature import QuadraturePoints


class ClosureFlux:
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
        magnitude: what the tolerance of a sweep is relative to.

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
        self.closure, self.name, self.dx = closure, name, dx
        points = QuadraturePoints if dx.integral_type() == "cell" else FacetPoints
        self.points = points(functions[0].function_space.mesh, dx)
        self._flux = self.points.function((spec.m,), name)
        self._flux.closure_flux = self
        self._tangent = self.points.function((spec.m, spec.k), f"{name}_tangent")
        self._flux_rows = self.points.rows(self._flux.function_space)
        self._tangent_rows = self.points.rows(self._tangent.function_space)
        self._expression = fem.Expression(self._operand, self.points.reference)
        self.vector = self._flux
        self.value = _shaped(self._flux, _default_shape(spec.m, parts) if shape is None else shape)
        self.state = closure.initial_state(self.points.n)
        self._response: Response | None = None
        self.gradient: Array | None = None
        self.failed = 0
        self.magnitude = 1.0
        self._dt, self._level = np.nan, EVALUATE
        self._hint: Array | None = None

    @property
    def response(self) -> Response:
        """What the closure answered last, since the last failed solve."""
        if self._response is None:
            raise ContractError(f"{self.name!r} has not been evaluated: solve a step first")
        return self._response

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
        values = self._expression.eval(self.points.mesh, self.points.entities)
        return np.ascontiguousarray(values, dtype=np.float64).reshape(self.points.n, self.closure.spec.k)

    def is_stale(self, gradient: Array, dt: float, level: Level) -> bool:
        """Whether flux and tangent belong to other gradients, dt, level or committed state."""
        same = self.gradient is not None and dt == self._dt and level == self._level
        return not same or not np.array_equal(gradient, self.gradient)

    def evaluate(self, gradient: Array, dt: float, level: Level = EVALUATE) -> None:
        """Ask the closure, at that level, for the gradients (n, k), all points in one call.

        Flux and tangent of the form are those of the answer afterwards, unless a point failed (:attr:`failed`).
        """
        self.gradient, self._dt, self._response, self.failed = None, np.nan, None, 0
        answer = level.ask(self.closure, self.magnitude)(gradient, self.state, dt, self._hint)
        response = _checked(answer, self.closure, self.points.n)
        self.gradient, self._dt, self._level, self._response = gradient, dt, level, response
        spec = self.closure.spec
        usable = response.status <= Status.FALLBACK
        if level.solves:
            self._keep_hint(response.state, usable)
        self.failed = int(usable.size - np.count_nonzero(usable))
        if not self.failed:
            self._flux.x.array.reshape(-1, spec.m)[self._flux_rows] = response.flux
            tangent = response.tangent.reshape(-1, spec.m * spec.k)
            self._tangent.x.array.reshape(-1, spec.m * spec.k)[self._tangent_rows] = tangent

    def commit(self) -> None:
        """Make the state of the last evaluation the committed one."""
        self.state = self.response.state
        self._hint = None
        if self.closure.spec.history:
            self.gradient = None

    def discard(self) -> None:
        """Forget what the present increment has left; the committed state stays."""
        self._hint, self._response, self.gradient, self.failed = None, None, None, 0

    def failures(self, at_most: int) -> list[str]:
        """One line for each of the first points that failed in the last evaluation."""
        if self._response is None or self.gradient is None:
            return []
        failed = np.flatnonzero(self._response.status > Status.FALLBACK)[:at_most]
        if not failed.size:
            return []
        where, rank = self.points.coordinates(), self.points.mesh.comm.rank
        return [
            f"{self.name}: rank {rank}, {self.points.place(i)}, "
            f"x = {_numbers(where[i])}, {', '.join(self.closure.spec.gradient)} = {_numbers(self.gradient[i])}: "
            f"{Status(self._response.status[i]).message}"
            for i in failed
        ]

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

    def _keep_hint(self, state: Array | None, usable: NDArray[np.bool_]) -> None:
        earlier = self.state if self._hint is None else self._hint
        if state is None or earlier is None or usable.all():
            self._hint = state
        else:
            self._hint = np.where(usable[:, None], state, earlier)


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


def _checked(response: Response, closure: Closure, n: int) -> Response:
    spec = closure.spec
    expected = {"flux": (n, spec.m), "tangent": (n, spec.m, spec.k), "status": (n,)}
    for field, shape in expected.items():
        if (got := np.shape(getattr(response, field))) != shape:
            raise ContractError(f"{type(closure).__name__} returned {field} of shape {got} for {n} points, not {shape}")
    if spec.state_size and (response.state is None or response.state.shape != (n, spec.state_size)):
        got = None if response.state is None else response.state.shape
        raise ContractError(f"{type(closure).__name__} returned state {got} for {n} points, not {(n, spec.state_size)}")
    if np.isfinite(response.flux).all() and np.isfinite(response.tangent).all():
        return response
    finite = np.isfinite(response.flux).all(axis=1) & np.isfinite(response.tangent).all(axis=(1, 2))
    spoiled = (response.status <= Status.FALLBACK) & ~finite
    return replace(response, status=np.where(spoiled, Status.FAILED, response.status).astype(np.int8))


def _numbers(values: Array) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"
