"""The axes of a rectilinear DMDA: coordinates, spacings and the difference operators along one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from coupling.agreement import together
from coupling.contract import Array
from coupling.errors import ContractError

_RECTILINEAR = 1e-10


@dataclass(frozen=True)
class Axis:
    """One direction of the grid as this rank sees it; indices are global, those beyond the ends wrap if periodic.

    Args:
        nodes: coordinates of all nodes of the direction, ascending.
        periodic: whether the last node is followed by the first, one spacing further.
        owned: range [start, end) of the nodes this rank owns.
        ghosted: range [start, end) of the nodes it sees.
    """

    nodes: Array
    periodic: bool
    owned: tuple[int, int]
    ghosted: tuple[int, int]

    @property
    def own(self) -> int:
        """Number of owned nodes."""
        return self.owned[1] - self.owned[0]

    @property
    def seen(self) -> int:
        """Number of owned and ghost nodes."""
        return self.ghosted[1] - self.ghosted[0]

    @property
    def lower_nodes(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Owned nodes i that have a face between i and i + 1; the face belongs to the rank of its lower node."""
        last = self.owned[1] if self.periodic else min(self.owned[1], self.nodes.size - 1)
        return np.arange(self.owned[0], last)

    def at(self, i: Any) -> Array:
        """Coordinates of the nodes i, continued beyond the ends where periodic."""
        turns, inside = np.divmod(i, self.nodes.size)
        return np.asarray(self.nodes[inside] + turns * self._period)

    @property
    def lengths(self) -> Array:
        """Lengths of the control intervals of the owned nodes, from midpoint to midpoint, halved at a boundary."""
        before, after = self._neighbours(np.arange(*self.owned))
        return np.asarray((self.at(after) - self.at(before)) / 2.0)

    def select(self) -> sp.csr_array:
        """(own, seen): values at the owned nodes."""
        i = np.arange(*self.owned)
        return self._rows((i, np.ones(self.own)))

    def derivative(self) -> sp.csr_array:
        """(own, seen): derivative at the owned nodes, by the parabola through the neighbours, one-sided at the ends.

        The parabola's is the mean of the two difference quotients, each weighted by the length of the other.
        """
        i = np.arange(*self.owned)
        before, after = self._neighbours(i)
        left, right = self.at(i) - self.at(before), self.at(after) - self.at(i)
        forward = np.where(left == 0.0, 1.0, np.where(right == 0.0, 0.0, left / (left + right)))
        down, up = -(1.0 - forward) * _reciprocal(left), forward * _reciprocal(right)
        return self._rows((before, down), (i, -down - up), (after, up))

    def average(self) -> sp.csr_array:
        """(faces, seen): mean value of the two nodes of each face."""
        i = self.lower_nodes
        return self._rows((i, np.full(i.size, 0.5)), (i + 1, np.full(i.size, 0.5)))

    def incidence(self) -> sp.csr_array:
        """(faces, seen): upper minus lower value."""
        i = self.lower_nodes
        return self._rows((i, np.full(i.size, -1.0)), (i + 1, np.ones(i.size)))

    def slope(self) -> sp.csr_array:
        """(faces, seen): difference quotient of the two nodes of each face."""
        i = self.lower_nodes
        return sp.csr_array(sp.diags_array(1.0 / (self.at(i + 1) - self.at(i))) @ self.incidence())

    @property
    def _period(self) -> float:
        return float(self.nodes[-1] - self.nodes[0] + self.nodes[1] - self.nodes[0]) if self.periodic else 0.0

    def _neighbours(self, i: Any) -> tuple[Any, Any]:
        if self.periodic:
            return i - 1, i + 1
        return np.maximum(i - 1, 0), np.minimum(i + 1, self.nodes.size - 1)

    def _rows(self, *entries: tuple[Any, Array]) -> sp.csr_array:
        """Sparse rows with the sum of values at the (global) columns of each entry."""
        n = len(entries[0][0])
        columns = np.concatenate([i for i, _ in entries]) - self.ghosted[0]
        values = np.concatenate([v for _, v in entries])
        return sp.csr_array((values, (np.tile(np.arange(n), len(entries)), columns)), shape=(n, self.seen))


def _reciprocal(lengths: Array) -> Array:
    """1/l, and 0 where there is no neighbour at a length."""
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0.0)


def axes_of(da: Any) -> tuple[Axis, ...]:
    """The axes of a DMDA with coordinates (collective).

    Raises:
        ContractError: no coordinates, not rectilinear, a boundary type other than NONE and PERIODIC, no box stencil.
    """
    coordinates = da.getCoordinates()
    if not coordinates:
        raise ContractError("the DMDA has no coordinates: call da.setUniformCoordinates(...) first")
    if da.getStencilType() != type(da).StencilType.BOX or da.getStencilWidth() < 1:
        raise ContractError(
            "face gradients need diagonal neighbours: create the DMDA with stencil_type BOX, width >= 1"
        )
    if da.getDof() != 1:
        raise ContractError(f"face fluxes are those of a scalar field, the DMDA has {da.getDof()} unknowns per node")
    comm, dim = da.comm.tompi4py(), da.getDim()
    own = [(int(a), int(b)) for a, b in da.getRanges()]
    seen = [(int(a), int(b)) for a, b in da.getGhostRanges()]
    pieces = comm.allgather(together(comm, lambda: _lines(coordinates.array_r, own, dim)))
    axes = []
    for a, kind in enumerate(da.getBoundaryType()):
        nodes = np.empty(da.getSizes()[a])
        for piece in pieces:
            start, line = piece[a]
            nodes[start : start + line.size] = line
        axes.append(Axis(nodes, _periodic(type(da), a, kind, nodes), own[a], seen[a]))
    return tuple(axes)


def _lines(coordinates: Array, owned: list[tuple[int, int]], dim: int) -> list[tuple[int, Array]]:
    """Start and coordinates of the owned nodes along each axis."""
    grid = coordinates.reshape(*[b - a for a, b in reversed(owned)], dim)
    lines = []
    for a in range(dim):
        values = np.moveaxis(grid[..., a], dim - 1 - a, -1).reshape(-1, owned[a][1] - owned[a][0])
        if values.size and np.ptp(values, axis=0).max() > _RECTILINEAR * np.abs(values).max():
            raise ContractError(f"axis {a} of the DMDA is not straight: face fluxes need a rectilinear grid")
        lines.append((owned[a][0], values[0] if len(values) else np.empty(0)))
    return lines


def _periodic(DMDA: Any, a: int, kind: Any, nodes: Array) -> bool:
    kinds = DMDA.BoundaryType
    if kind not in (kinds.NONE, kinds.PERIODIC):
        raise ContractError(f"axis {a} of the DMDA has boundary type {kind}: face fluxes need NONE or PERIODIC")
    steps = np.diff(nodes)
    if nodes.size < 2 or not (steps > 0.0).all():
        raise ContractError(f"axis {a} of the DMDA needs at least two nodes with ascending coordinates, got {nodes}")
    if kind == kinds.PERIODIC and np.ptp(steps) > 1e-8 * steps[0]:
        raise ContractError(f"axis {a} of the DMDA is periodic and not uniform: its period would be unknown")
    return bool(kind == kinds.PERIODIC)
