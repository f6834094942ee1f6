"""Checks of a mesh before it serves as an RVE, on plain arrays, with errors that say where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from coupling.contract import Array
from coupling.errors import MeshError
from solver_adapters.rve.periodic import Period, place

Cells = NDArray[np.int64]

_FACETS = {
    "triangle": [[0, 1], [1, 2], [2, 0]],
    "quad": [[0, 1], [1, 2], [2, 3], [3, 0]],
    "tetra": [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]],
    "hexahedron": [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]],
}
# A corner and its neighbours, in the order that makes the determinant of a well-numbered cell positive.
_CORNERS = {
    "triangle": [[0, 1, 2]],
    "quad": [[0, 1, 3], [1, 2, 0], [2, 3, 1], [3, 0, 2]],
    "tetra": [[0, 1, 2, 3]],
    "hexahedron": [
        [0, 1, 3, 4],
        [1, 2, 0, 5],
        [2, 3, 1, 6],
        [3, 0, 2, 7],
        [4, 7, 5, 0],
        [5, 4, 6, 1],
        [6, 5, 7, 2],
        [7, 6, 4, 3],
    ],
}
_FLAT = 1e-10  # of the determinant of a cube of the same diameter


def check_mesh(points: Array, cells: Cells, kind: str, lattice: Array | None, source: str) -> None:
    """Check that cells tile one connected body, periodic images included.

    Args:
        points: (n, d).
        cells: (c, v), vertices in meshio's order.
        kind: triangle, quad, tetra or hexahedron.
        lattice: edges of the period, or None for the bounding box.
        source: what the mesh is called in messages.

    Raises:
        MeshError: what :func:`check_cells` refuses; a body in several parts.
    """
    check_cells(points, cells, kind, source)
    _check_connected(points, cells, _facets(cells, kind), lattice, source)


def check_cells(points: Array, cells: Cells, kind: str, source: str) -> None:
    """Check that cells fill space without overlap; arguments as in :func:`check_mesh`.

    Raises:
        MeshError: points that are not finite; degenerate, inverted or overlapping cells.
    """
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        raise MeshError(f"{source}: {bad.size} nodes have coordinates that are not finite, the first is node {bad[0]}")
    _check_shapes(points, cells, kind, source)
    _check_tiling(points, cells, _facets(cells, kind), source)


def check_tags(tags: Array, name: str, centres: Array, source: str) -> None:
    """Check that every cell has a tag: a whole number, not negative, and not 0 among gmsh's physical groups.

    Args:
        tags: (c,) as read, of any number type.
        name: of the cell data.
        centres: (c, d), where the cells are.
        source: what the mesh is called in messages.

    Raises:
        MeshError: untagged cells, tags that are no whole numbers.
    """
    fractions = np.flatnonzero(np.isfinite(tags) & (tags != np.round(tags)))
    if fractions.size:
        raise MeshError(f"{source}: tags must be whole numbers, but cell {fractions[0]} has {tags[fractions[0]]}")
    lowest = 1 if name == "gmsh:physical" and tags.max(initial=0) > 0 else 0
    untagged = np.flatnonzero(~(tags >= lowest))
    if untagged.size:
        raise MeshError(
            f"{source}: {untagged.size} of {len(tags)} cells are untagged ({name} = {tags[untagged[0]]}), the first at "
            f"{place(centres[untagged[0]])}: give every cell a tag (gmsh: a Physical Surface/Volume for every part)"
        )


def _check_shapes(points: Array, cells: Cells, kind: str, source: str) -> None:
    x = points[cells]
    corners = np.array(_CORNERS[kind])
    edges = x[:, corners[:, 1:]] - x[:, corners[:, :1]]
    volume = np.linalg.det(edges)
    diameter = np.ptp(x, axis=1).max(axis=1)
    flat = (np.abs(volume) <= _FLAT * diameter[:, None] ** points.shape[1]).any(axis=1)
    _refuse(flat, "degenerate: a corner has no area or volume", x, source)
    twisted = (volume.min(axis=1) < 0) & (volume.max(axis=1) > 0)
    _refuse(twisted, "inverted or twisted: their corners differ in orientation", x, source)


def _refuse(bad: NDArray[np.bool_], what: str, x: Array, source: str) -> None:
    if bad.any():
        first = x[np.flatnonzero(bad)[0]].mean(axis=0)
        raise MeshError(f"{source}: {bad.sum()} of {len(x)} cells are {what}, the first at {place(first)}")


def _facets(cells: Cells, kind: str) -> Cells:
    """Node numbers (c, f, v) of the facets of every cell."""
    return np.asarray(cells[:, np.array(_FACETS[kind])])


def _groups(facets: NDArray[np.integer[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Number of each facet (c·f,), equal for equal node sets, and how often each number occurs."""
    nodes = np.sort(facets.reshape(-1, facets.shape[2]), axis=1)
    _, number, count = np.unique(nodes, axis=0, return_inverse=True, return_counts=True)
    return number.reshape(-1), count


def _check_tiling(points: Array, cells: Cells, facets: Cells, source: str) -> None:
    """Two cells that share a facet lie on its two sides, and no third one shares it."""
    number, count = _groups(facets)
    flat = facets.reshape(-1, facets.shape[2])
    if count.max() > 2:
        first = flat[np.flatnonzero(count[number] > 2)[0]]
        raise MeshError(
            f"{source}: {(count > 2).sum()} faces belong to more than two cells, the first at "
            f"{place(points[first].mean(axis=0))}: cells overlap or occur twice"
        )
    owner = np.repeat(np.arange(len(cells)), facets.shape[1])
    order = np.argsort(number, kind="stable")
    starts = np.concatenate([[0], np.cumsum(count)[:-1]])[count == 2]
    one, other = order[starts], order[starts + 1]
    centre = points[cells].mean(axis=1)
    sides = [_side(points[flat[one]], centre[owner[f]]) for f in (one, other)]
    folded = np.flatnonzero(sides[0] * sides[1] >= 0)
    if folded.size:
        raise MeshError(
            f"{source}: {folded.size} pairs of cells lie on the same side of the face they share, the first at "
            f"{place(points[flat[one[folded[0]]]].mean(axis=0))}: a cell is inverted or the mesh is folded"
        )


def _side(facet: Array, point: Array) -> Array:
    """Positive and negative on the two sides of facets (n, v, d)."""
    d = facet.shape[2]
    edges = facet[:, 1:d] - facet[:, :1]
    return np.asarray(np.linalg.det(np.concatenate([edges, (point - facet[:, 0])[:, None]], axis=1)))


def _check_connected(points: Array, cells: Cells, facets: Cells, lattice: Array | None, source: str) -> None:
    number, _ = _groups(Period.around(points, lattice).identify(points, open_faces=True)[facets])
    owner = np.repeat(np.arange(len(cells)), facets.shape[1])
    incidence = sparse.coo_matrix((np.ones(len(owner)), (owner, number))).tocsr()
    parts, label = connected_components(incidence @ incidence.T, directed=False)
    if parts > 1:
        sizes = np.bincount(label)
        smallest = points[cells[label == sizes.argmin()]].mean(axis=(0, 1))
        twins = len(cKDTree(points).query_pairs(1e-9 * np.ptp(points, axis=0).max()))
        remedy = f"merge the {twins} pairs of nodes that coincide" if twins else "connect them, or remove all but one"
        raise MeshError(
            f"{source}: the cells form {parts} parts that share no face, the smallest of {sizes.min()} cells around "
            f"{place(smallest)}: {remedy}"
        )
