"""The history of an RVE: what its materials remember at the quadrature points, as coefficients of its forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError
from solver_adapters.macro.quadrature import QuadraturePoints
from solver_adapters.rve.histories import HistoryMaterial

NO_HISTORY: Array = np.empty(0)


@dataclass(frozen=True)
class _Part:
    """History of the cells of one material.

    Args:
        law: the material.
        dx: measure of the cells.
        points: their quadrature points.
        values: h₀ as a coefficient of the forms; it means nothing in other cells.
        where: (q, c), numbers of ``values`` that belong to the points.
        updated: h₁ at the points.
    """

    law: HistoryMaterial
    dx: Any
    points: QuadraturePoints
    values: Any
    where: NDArray[np.intp]
    updated: Any

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
        self.dt = fem.Constant(mesh, np.float64(0.0))
        self.virgin = NO_HISTORY
        self._mesh = mesh
        self._parts: dict[int, _Part] = {}

    def __len__(self) -> int:
        return len(self.virgin)

    def add(self, tag: int, law: HistoryMaterial, local: Sequence[Any], dx: Any) -> Any:
        """Give the cells of a tag, those of the measure ``dx``, that material; returns its incremental potential.

        Raises:
            ContractError: the updated history is none of the virgin one's length.
        """
        points, virgin = QuadraturePoints(self._mesh, dx), np.array(law.virgin(self._mesh.geometry.dim), dtype=float)
        values = points.function(virgin.shape, "history")
        blocks = values.function_space.dofmap.list[points.cells].reshape(-1, 1)
        where = blocks * virgin.size + np.arange(virgin.size)
        potential, updated = law.increment(*local, values, self.dt)
        if updated.ufl_shape != virgin.shape:
            raise ContractError(
                f"the history of the material of tag {tag} begins with shape {virgin.shape} and is updated to shape "
                f"{updated.ufl_shape}: let virgin() and increment() give vectors of the same length"
            )
        self._parts[tag] = _Part(law, dx, points, values, where, fem.Expression(updated, points.reference))
        self.virgin = np.concatenate((self.virgin, np.tile(virgin, points.n)))
        return potential

    def at_once(self, tag: int, local: Sequence[Any]) -> Any:
        """Potential of the cells of a tag for an increment of no length, whose stress is that at its start."""
        part = self._parts[tag]
        return part.law.increment(*local, part.values, fem.Constant(self._mesh, np.float64(0.0)))[0]

    def start_from(self, row: Array) -> None:
        """Let h₀ be ``row`` (h,)."""
        for part, numbers in self._split(row):
            part.values.x.array[part.where] = numbers

    def updated(self) -> Array:
        """The row h₁ (h,) for the present values of the coefficients."""
        return np.concatenate(
            [NO_HISTORY, *(part.points.values(part.updated).ravel() for part in self._parts.values())]
        )

    def averages(self, rows: Array) -> Array:
        """Averages (n, f) of each component over the cells of its material, of rows (n, h)."""
        averages = [np.einsum("q,nqc->nc", part.weights, numbers) for part, numbers in self._split(rows)]
        return np.hstack([np.empty((len(rows), 0)), *averages])

    def _split(self, rows: Array) -> Iterator[tuple[_Part, Array]]:
        """Each material's part of rows (…, h), (…, q, c)."""
        end = 0
        for part in self._parts.values():
            start, end = end, end + part.where.size
            yield part, rows[..., start:end].reshape(*rows.shape[:-1], *part.where.shape)
