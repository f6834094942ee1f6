"""Closures as external operators of dolfinx-external-operator.

    P = FEMExternalOperator(F, function_space=Q, external_function=ExternalClosure(closure, mesh.comm))  # F = I + ∇u
    J = ufl.derivative(ufl.inner(P, ufl.grad(v)) * dx, u, ufl.TrialFunction(V))

Forms, ``replace_external_operators``, ``evaluate_operands`` and ``evaluate_external_operators`` stay the user's own;
this module does not import dolfinx-external-operator, whose interface is: ``external_function(derivatives)`` returns a
callable from the operands' values at the quadrature points, cell after cell, to the values of that derivative there.
Import that package before any form is made: it adds a type to UFL.
(A. Latyshev, J. Bleyer, C. Maurini, J. S. Hale, "Expressing general constitutive models in FEniCSx using external
operators and algorithmic automatic differentiation".)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from mpi4py import MPI

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coupling.agreement import together
from coupling.contract import Array, Closure, Response
from coupling.errors import ContractError
from solver_adapters.usable_response import usable_response

Values: TypeAlias = NDArray[np.float64]


class ExternalClosure:
    """A closure q(g) as ``external_function``; values and derivatives come from one evaluation.

    Calls at the operands, ``dt`` and committed state of the last evaluation are answered from it, whichever derivative
    they ask for. All calls are collective: the closure is evaluated on all ranks where one of them has new operands.

    Args:
        closure: any object of the closure contract. Its gradient components are the operator's operands one after the
            other, tensors row by row; symmetric tensors in Mandel form, by :func:`solver_adapters.mandel.mandel`.
        comm: communicator of the mesh.
        cells: positions, among the cells that operands are evaluated on (by default all local cells, ghosts last), of
            those where the closure is evaluated; elsewhere its flux is zero. By default everywhere. Owned cells are
            enough for forms over cells: ``np.arange(mesh.topology.index_map(dim).size_local)``.
        dt: time increment of the evaluations; assign to :attr:`dt` to change it.
        name: of the closure in error messages.

    Attributes:
        closure: the closure.
        dt: the time increment.
        state: committed state (n, s) of the n points, None where the closure has none or was not yet evaluated.

    Raises:
        ContractError: cells are not a list of distinct positions.
    """

    def __init__(
        self,
        closure: Closure,
        comm: MPI.Comm,
        *,
        cells: ArrayLike | None = None,
        dt: float = 1.0,
        name: str = "closure",
    ) -> None:
        self.closure, self.dt, self.name, self._comm = closure, dt, name, comm
        self._cells = None if cells is None else _positions(cells)
        self.state: Array | None = None
        self._n: int | None = None
        self._hint: Array | None = None
        self._last: _Evaluation | None = None

    @property
    def response(self) -> Response:
        """The closure's last answer."""
        if self._last is None:
            raise ContractError(
                f"{self.name} has no evaluation to show or commit: evaluate the external operators first"
            )
        return self._last.response

    def __call__(self, derivatives: tuple[int, ...]) -> Callable[..., Values]:
        """Function from operand values to the flux (all derivatives 0) or to ∂q/∂(operand i) (1 at place i).

        The operands are arrays of all cells and points, (cells, …) or flat; the result is flat, in the order cell,
        point, flux component, operand component.

        Raises:
            ContractError: a derivative of higher order, or operands that do not fit the closure.
            ClosureError: points failed; on all ranks together. The last evaluation then counts for nothing.
            Exception: what the closure raised, on its rank; RemoteRankError on the others.
        """
        if sum(derivatives) > 1 or min(derivatives, default=0) < 0:
            raise ContractError(
                f"a closure has its flux and first derivatives, but derivatives {derivatives} are asked for"
            )
        if 1 in derivatives:
            operand = derivatives.index(1)
            return lambda *operands: self._tangent(operand, operands)
        return self._flux

    def commit(self) -> None:
        """Make the state at the end of the last evaluation the committed one: the step has converged."""
        self.state = self.response.state
        self._hint = None
        if self.closure.spec.history:
            self._last = None

    def discard(self) -> None:
        """Forget what the present increment has left, after a step that failed; the committed state stays."""
        self._last, self._hint = None, None

    def _flux(self, *operands: Values) -> Values:
        points = together(self._comm, lambda: self._points(operands))
        return points.placed(self._evaluated(points.gradient).flux)

    def _tangent(self, operand: int, operands: tuple[Values, ...]) -> Values:
        points = together(self._comm, lambda: self._points(operands))
        tangent = self._evaluated(points.gradient).tangent
        first = sum(points.sizes[:operand])
        return points.placed(tangent[:, :, first : first + points.sizes[operand]])

    def _evaluated(self, gradient: Array) -> Response:
        last = self._last
        stale = last is None or last.dt != self.dt or not np.array_equal(last.gradient, gradient)
        if not self._comm.allreduce(stale, MPI.LOR):
            return self.response
        self._last = None
        arguments = (self.closure, gradient, self.state, self.dt, self._hint)
        response = usable_response(*arguments, comm=self._comm, name=self.name)
        self._last, self._hint = _Evaluation(gradient, self.dt, response), response.state
        return response

    def _points(self, operands: tuple[Values, ...]) -> _Points:
        k = self.closure.spec.k
        n, rest = divmod(sum(operand.size for operand in operands), k)
        sizes = [operand.size // n if n else 0 for operand in operands]
        if rest or (n and (sum(sizes) != k or any(operand.size % n for operand in operands))):
            raise ContractError(
                f"{self.name} takes {k} components ({', '.join(self.closure.spec.gradient)}) at each point, but the "
                f"operands have shapes {', '.join(str(operand.shape) for operand in operands)}"
            )
        rows = [np.asarray(o, dtype=np.float64).reshape(n, size) for o, size in zip(operands, sizes, strict=True)]
        gradient = np.hstack(rows) if n else np.empty((0, k))
        where = None if self._cells is None else self._rows(len(operands[0]), n)
        if where is not None:
            gradient = gradient[where]
        self._start(len(gradient))
        return _Points(np.ascontiguousarray(gradient), sizes, n, where)

    def _rows(self, cells: int, n: int) -> NDArray[np.intp]:
        """Rows, among n points of so many cells, of the points in the closure's cells."""
        assert self._cells is not None
        if self._cells.size and self._cells[-1] >= cells:
            raise ContractError(f"cells go up to {self._cells[-1]}, but the operands have values on {cells} cells")
        per_cell = n // cells if cells else 0
        rows: NDArray[np.intp] = self._cells[:, None] * per_cell + np.arange(per_cell)
        return rows.ravel()

    def _start(self, n: int) -> None:
        if self._n is None:
            self._n, self.state = n, self.closure.initial_state(n)
        if n != self._n:
            raise ContractError(
                f"{self.name} was first evaluated at {self._n} points and now at {n}: use one ExternalClosure for each "
                "external operator and set of cells"
            )


@dataclass(frozen=True)
class _Evaluation:
    gradient: Array
    dt: float
    response: Response


@dataclass(frozen=True)
class _Points:
    """Gradients at the points of a closure, and where these are among all points; None: they are all of them."""

    gradient: Array
    sizes: list[int]
    total: int
    where: NDArray[np.intp] | None

    def placed(self, rows: NDArray[Any]) -> Values:
        """Rows of the closure's points in a flat array of all points, zero elsewhere; a copy."""
        if self.where is None:
            return rows.ravel().copy()
        values = np.zeros((self.total, *rows.shape[1:]))
        values[self.where] = rows
        return values.ravel()


def _positions(cells: ArrayLike) -> NDArray[np.intp]:
    given = np.asarray(cells)
    positions = np.unique(given)
    if (
        given.ndim != 1
        or len(positions) != len(given)
        or (given.size and (given.dtype.kind not in "iu" or given.min() < 0))
    ):
        raise ContractError(f"cells must be a list of distinct positions from 0, got {cells!r}")
    return np.asarray(positions, dtype=np.intp)
