"""The history of an RVE: what its materials remember at the quadrature points, as coefficients of its forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from numpy.typing import NDArray

from coupling.contract import Array
from solver_adapters.macro.quadrature import QuadraturePoints
from solver_adapters.rve.histories import HistoryMaterial

NO_HISTORY: Array = np.empty(0)


@dataclass(frozen=True)
class _Part:
    """History of the cells of one material.

    Args:
        dx: their measure.
        points: their quadrature points.
        values: h₀ as a coefficient of the forms; it means nothing in other cells.
        where: (q, c), numbers of ``values`` that belong to the points.
        updated: h₁ at the points.
        virgin: (c,), history of the virgin material.
    """

    dx: Any
    points: QuadraturePoints
    values: Any
    where: NDArray[np.intp]
    updated: Any
    virgin: Array

    @cached_property
    def weights(self) -> Array:
        """(q,), weights of the points in an average over the cells."""
        space = self.points.function((), "weight").function_space
        integral = fem.assemble_vector(fem.form(ufl.TestFunction(space) * self.dx)).array
        weights = integral[self.points.rows(space)]
        return np.asarray(weights / weights.sum())


class PointHistory:
    """The histories h₀ of all materials that have one, over increments of length Δt.

    Outside they are one row of numbers: material, cell, point, component.

    Args:
        mesh: of the unit cell.

    Attributes:
        dt: Δt, a ``fem.Constant``.
        virgin: (h,), the row of virgin materials.
    """

    def __init__(self, mesh: Any) -> None:
        self.dt = fem.Constant(mesh, 0.0)
        self.virgin = NO_HISTORY
        self._mesh = mesh
        self._parts: list[_Part] = []

    def __len__(self) -> int:
        return len(self.virgin)

    def add(self, law: HistoryMaterial, local: Sequence[Any], dx: Any) -> Any:
        """Give the cells of the measure ``dx`` that material; returns its incremental potential, a form."""
        points, virgin = QuadraturePoints(self._mesh, dx), np.array(law.virgin(self._mesh.geometry.dim), dtype=float)
        values = points.function(virgin.shape, "history")
        blocks = values.function_space.dofmap.list[points.cells].reshape(-1, 1)
        where = blocks * virgin.size + np.arange(virgin.size)
        potential, updated = law.increment(*local, values, self.dt)
        self._parts.append(_Part(dx, points, values, where, fem.Expression(updated, points.reference), virgin))
        self.virgin = np.concatenate((self.virgin, np.tile(virgin, points.n)))
        return potential * dx

    def start_from(self, row: Array) -> None:
        """Let h₀ be ``row`` (h,)."""
        for part, numbers in zip(self._parts, self._split(row), strict=True):
            part.values.x.array[part.where] = numbers

    def updated(self) -> Array:
        """The row h₁ (h,) for the present values of the coefficients."""
        return np.concatenate([NO_HISTORY, *(part.points.values(part.updated).ravel() for part in self._parts)])

    def averages(self, rows: Array) -> Array:
        """Averages (n, f) of each component over the cells of its material, of rows (n, h)."""
        averages = [
            np.einsum("q,nqc->nc", part.weights, numbers)
            for part, numbers in zip(self._parts, self._split(rows), strict=True)
        ]
        return np.hstack([np.empty((len(rows), 0)), *averages])

    def _split(self, rows: Array) -> list[Array]:
        """The numbers (…, q, c) of each material in rows (…, h)."""
        ends = np.cumsum([part.where.size for part in self._parts])
        parts = np.split(rows, ends, axis=-1)[:-1]
        return [n.reshape(*n.shape[:-1], *part.where.shape) for n, part in zip(parts, self._parts, strict=True)]
