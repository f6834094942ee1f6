"""Unit cells meshed by gmsh: a geometry in the unit square or cube, opposite faces meshed alike."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from coupling.errors import MeshError, MissingPackageError
from solver_adapters.rve.unit_cells import UnitCell, read_unit_cell

Geometry = Callable[[Any], dict[int, list[int]]]
_EDGES = {2: [[0, 1], [1, 2], [2, 0]], 3: [[0, 1], [1, 2], [2, 0], [3, 0], [2, 3], [1, 3]]}
"""Vertices on either side of the middle nodes of gmsh's curved triangles and tetrahedra."""
_NEARLY_STRAIGHT = 1e-2
_FOLDED = 0.02  # least ratio of Jacobian determinants in a curved cell


def generate(geometry: Geometry, size: float, description: dict[str, Any], *, dim: int = 2, order: int = 1) -> UnitCell:
    """Periodic mesh of a geometry that fills the unit square or cube, or leaves voids in it.

    Args:
        geometry: draws into gmsh's ``model.occ`` and returns the surfaces (2D) or volumes (3D) of each material tag.
        size: largest edge length.
        description: of the unit cell.
        dim: 2 or 3.
        order: 1 for straight cells, 2 for curved ones.

    Raises:
        MeshError: an impossible size or order.
        MissingPackageError: no gmsh.
    """
    if not 0 < size <= 1:
        raise MeshError(f"size must lie in (0, 1] for a unit cell of edge 1, got {size}")
    if order not in (1, 2):
        raise MeshError(f"order must be 1 (straight cells) or 2 (curved cells), got {order}")
    with _gmsh_model() as gmsh, tempfile.TemporaryDirectory() as folder:
        groups = geometry(gmsh.model.occ)
        gmsh.model.occ.synchronize()
        for tag, parts in groups.items():
            gmsh.model.addPhysicalGroup(dim, parts, tag)
        _make_periodic(gmsh.model, dim)
        gmsh.option.setNumber("Mesh.MeshSizeMin", size)
        gmsh.option.setNumber("Mesh.MeshSizeMax", size)
        gmsh.model.mesh.generate(dim)
        if order == 2:
            gmsh.model.mesh.setOrder(2)
            _flatten(gmsh.model.mesh, dim)
        file = str(Path(folder) / "cell.msh")
        gmsh.write(file)
        cell = read_unit_cell(file)
    return replace(cell, description=description)


@contextlib.contextmanager
def _gmsh_model() -> Iterator[Any]:
    """A gmsh model of our own inside whatever session the caller has open."""
    try:
        import gmsh
    except ImportError as error:
        raise MissingPackageError("generating a mesh needs gmsh: install python3-gmsh or pip install gmsh") from error
    opened = not gmsh.isInitialized()
    if opened:
        gmsh.initialize(interruptible=False)
    previous = gmsh.model.getCurrent() if not opened else ""
    verbosity = gmsh.option.getNumber("General.Terminal")
    gmsh.option.setNumber("General.Terminal", 0)
    gmsh.model.add("twoscale unit cell")
    try:
        yield gmsh
    finally:
        gmsh.model.remove()
        gmsh.option.setNumber("General.Terminal", verbosity)
        if opened:
            gmsh.finalize()
        elif previous:
            gmsh.model.setCurrent(previous)


def _flatten(mesh: Any, dim: int) -> None:
    """Lower the curvature of cells that fold over, as those do which are coarse for an inclusion, until none does.

    Cells share edges, and faces have images on the opposite side: what is done for one cell is done for all. (The
    optimisers of gmsh give up on some meshes, and do not keep faces alike.)
    """
    cells, nodes = mesh.getElementsByType(mesh.getElementType("triangle" if dim == 2 else "tetrahedron", 2))
    numbers, x, _ = mesh.getNodes()
    order = np.argsort(numbers)
    numbers, x = numbers[order], x.reshape(-1, 3)[order]
    index = np.searchsorted(numbers, nodes).reshape(len(cells), -1)
    middles, first = np.unique(index[:, dim + 1 :], return_index=True)
    straight = x[index[:, _EDGES[dim]].reshape(-1, 2)[first]].mean(axis=1)
    images = cKDTree((x[middles] % 1.0) % 1.0, boxsize=1.0)
    curvature = np.ones(len(middles))
    while True:
        least, most = (mesh.getElementQualities(cells, f"{extreme}DetJac") for extreme in ("min", "max"))
        folded = np.unique(np.searchsorted(middles, index[least < _FOLDED * most, dim + 1 :]))
        folded = folded[curvature[folded] > 0.0]
        if not folded.size:
            return
        alike = np.unique(np.concatenate(images.query_ball_point(images.data[folded], 1e-7))).astype(int)
        curvature[alike] *= np.where(curvature[alike] > _NEARLY_STRAIGHT, 0.8, 0.0)
        for i in alike:
            place = straight[i] + curvature[i] * (x[middles[i]] - straight[i])
            mesh.setNode(int(numbers[middles[i]]), place, [])


def _make_periodic(model: Any, dim: int) -> None:
    """Mesh opposite sides of the unit square or cube alike."""
    for axis in range(dim):
        shift = np.eye(4)
        shift[axis, 3] = 1.0
        upper = _sides(model, axis, 1.0, dim)
        for key, tag in _sides(model, axis, 0.0, dim).items():
            model.mesh.setPeriodic(dim - 1, [upper[key]], [tag], shift.ravel().tolist())


def _sides(model: Any, axis: int, position: float, dim: int) -> dict[tuple[float, ...], int]:
    """Boundary entities with coordinate ``axis`` at ``position``, keyed by where they lie along the side."""
    low, high = [-1e-6] * 3, [1 + 1e-6] * 3
    low[axis], high[axis] = position - 1e-6, position + 1e-6
    found = {}
    for _, tag in model.getEntitiesInBoundingBox(*low, *high, dim - 1):
        box = np.array(model.getBoundingBox(dim - 1, tag)).reshape(2, 3)
        centre = np.delete(box.mean(axis=0), axis)
        extent = np.delete(np.ptp(box, axis=0), axis)
        found[tuple(np.round(np.concatenate([centre, extent]), 5).tolist())] = tag
    return found
