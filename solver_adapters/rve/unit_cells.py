"""Unit cells: a mesh, tags that tell its materials, and a period; from arrays or from any file that meshio reads.

A generated cell and a file of your own pass through the same checks (:mod:`solver_adapters.rve.mesh_checks`).
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mpi4py import MPI

import basix.ufl
import dolfinx
import meshio
import numpy as np
import ufl
from numpy.typing import ArrayLike, NDArray

from coupling.contract import Array
from coupling.errors import MeshError
from solver_adapters.dolfinx_versions import coordinate_map
from solver_adapters.rve.mesh_checks import check_mesh, check_tags
from solver_adapters.rve.periodic import Period


@dataclass(frozen=True)
class CellKind:
    """A kind of cell: its straight-sided form in meshio, DOLFINx' name, dimension, order of geometry and vertices."""

    straight: str
    name: str
    dim: int
    order: int
    vertices: int


KINDS = {
    "triangle": CellKind("triangle", "triangle", 2, 1, 3),
    "triangle6": CellKind("triangle", "triangle", 2, 2, 3),
    "quad": CellKind("quad", "quadrilateral", 2, 1, 4),
    "tetra": CellKind("tetra", "tetrahedron", 3, 1, 4),
    "tetra10": CellKind("tetra", "tetrahedron", 3, 2, 4),
    "hexahedron": CellKind("hexahedron", "hexahedron", 3, 1, 8),
}


@dataclass(frozen=True)
class UnitCell:
    """A meshed unit cell on this rank alone.

    Args:
        mesh: DOLFINx mesh on ``MPI.COMM_SELF``.
        tags: cell tags, one per cell.
        description: what it is, for model cards and reports.
        lattice: (d, d), edges of the period as rows; by default the period is the bounding box.
        open_faces: whether voids cut the faces, so that a node on one may lack a partner on the opposite one.
    """

    mesh: Any
    tags: Any
    description: dict[str, Any] = field(default_factory=dict)
    lattice: Array | None = None
    open_faces: bool = False

    @cached_property
    def period(self) -> Period:
        """The parallelepiped that repeats."""
        return Period.around(self.mesh.geometry.x[:, : self.mesh.geometry.dim], self.lattice)

    def fraction(self, tag: int) -> float:
        """Share of the period's volume that the cells of a tag fill."""
        dx = ufl.Measure("dx", self.mesh, subdomain_data=self.tags)
        return float(dolfinx.fem.assemble_scalar(dolfinx.fem.form(1.0 * dx(tag)))) / self.period.volume

    @property
    def quadrature_excess(self) -> int:
        """Degrees of quadrature that cells which are no affine images of a simplex need in addition."""
        affine = self.mesh.topology.cell_name() in ("triangle", "tetrahedron") and coordinate_map(self.mesh).degree == 1
        return 0 if affine else 2


def unit_cell(
    points: ArrayLike,
    cells: ArrayLike,
    kind: str,
    tags: ArrayLike,
    *,
    lattice: ArrayLike | None = None,
    open_faces: bool = False,
    description: dict[str, Any] | None = None,
    source: str = "mesh",
) -> UnitCell:
    """Unit cell from arrays.

    Args:
        points: (n, d) or (n, 3), coordinates; nodes of no cell are ignored.
        cells: (c, v), node numbers in meshio's (VTK's) order.
        kind: meshio's name of the cells: triangle, triangle6, quad, tetra, tetra10 or hexahedron.
        tags: (c,), material tag of each cell.
        lattice: (d, d), edges of the period as rows; by default the bounding box of the points.
        open_faces: whether voids cut the faces, so that a node on one may lack a partner on the opposite one.
        description: for model cards and reports.
        source: what the mesh is called in messages.

    Raises:
        MeshError: 2D cells outside the x-y plane, arrays of wrong shape, and what
            :mod:`solver_adapters.rve.mesh_checks` finds.
    """
    x, nodes, labels = np.asarray(points, dtype=float), np.asarray(cells, dtype=np.int64), np.asarray(tags)
    if kind not in KINDS:
        raise MeshError(f"{source}: {kind!r} cells cannot be used, only {', '.join(KINDS)}")
    cell = KINDS[kind]
    x, nodes = used_nodes(in_dimension(x, cell.dim, kind, source), nodes, source)
    if labels.shape != (len(nodes),):
        raise MeshError(f"{source}: {len(nodes)} cells need as many tags, got an array of shape {labels.shape}")
    check_tags(labels, "tag", x[nodes].mean(axis=1), source)
    edges = None if lattice is None else np.asarray(lattice, dtype=float)
    check_mesh(x, nodes[:, : cell.vertices], cell.straight, edges, source)
    mesh = dolfinx_mesh(MPI.COMM_SELF, x, nodes, cell)
    order = np.asarray(mesh.topology.original_cell_index)
    entities = np.arange(len(order), dtype=np.int32)
    cell_tags = dolfinx.mesh.meshtags(mesh, cell.dim, entities, labels[order].astype(np.int32))
    return UnitCell(mesh, cell_tags, description or {"kind": source, "cells": len(order)}, edges, open_faces)


def read_unit_cell(
    path: str | Path, *, tag_name: str | None = None, lattice: ArrayLike | None = None, open_faces: bool = False
) -> UnitCell:
    """Unit cell from a mesh file.

    Args:
        path: any format meshio reads (gmsh, VTU, XDMF, Abaqus, …).
        tag_name: name of the integer cell data that tells the materials; by default ``gmsh:physical`` where present,
            else the only integer cell data of the file, else its element sets (Abaqus), numbered 1, 2, … in the order
            of the file.
        lattice: (d, d), edges of the period as rows; by default the bounding box of the mesh.
        open_faces: whether voids cut the faces, so that a node on one may lack a partner on the opposite one.

    Raises:
        MeshError: unreadable file, no or mixed cells, missing or ambiguous tags, and what :func:`unit_cell` refuses.
    """
    source = read_mesh(path)
    kind = cell_kind(source, path)
    cells = np.asarray(source.cells_dict[kind], dtype=np.int64)
    tags = _cell_tags(source, kind, tag_name, path)
    description = {"kind": "file", "name": Path(path).name, "cells": len(cells)}
    return unit_cell(
        source.points,
        cells,
        kind,
        tags,
        lattice=lattice,
        open_faces=open_faces,
        description=description,
        source=str(path),
    )


def read_mesh(path: str | Path) -> meshio.Mesh:
    """The file as meshio reads it.

    Raises:
        MeshError: meshio cannot.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # meshio prints an empty line for gmsh files
            return meshio.read(path)
    except Exception as error:  # meshio raises many kinds, SystemExit (not an Exception) among them
        raise MeshError(f"{path} cannot be read as a mesh: {error}") from error
    except SystemExit as error:
        raise MeshError(f"{path} cannot be read as a mesh: meshio knows no such format") from error


def cell_kind(source: meshio.Mesh, path: str | Path) -> str:
    """The one kind of cells of the highest dimension, a key of :data:`KINDS`.

    Raises:
        MeshError: there are none, or several kinds.
    """
    present = [kind for kind in source.cells_dict if kind in KINDS]
    if not present:
        found = sorted(source.cells_dict) or "no cells at all"
        straight = "/".join(kind for kind in KINDS if KINDS[kind].order == 1)
        raise MeshError(f"{path} has no {straight} cells (straight or of second order), only {found}")
    dim = max(KINDS[kind].dim for kind in present)
    kinds = [kind for kind in present if KINDS[kind].dim == dim]
    if len(kinds) > 1:
        raise MeshError(f"{path} mixes {' and '.join(kinds)} cells: a mesh must have one kind of cell")
    return str(kinds[0])


def _cell_tags(source: meshio.Mesh, kind: str, name: str | None, path: str | Path) -> NDArray[np.int64]:
    if not source.cell_data and source.cell_sets:
        return _set_tags(source, kind, path)
    candidates = {n: d[kind] for n, d in source.cell_data_dict.items() if kind in d and np.ndim(d[kind]) == 1}
    integers = {n: d for n, d in candidates.items() if np.array_equal(d[~np.isnan(d)], np.round(d[~np.isnan(d)]))}
    if name is None:
        name = "gmsh:physical" if "gmsh:physical" in integers else next(iter(integers), None)
        if "gmsh:physical" not in integers and len(integers) != 1:
            raise MeshError(
                f"{path} has {len(integers)} integer cell data sets ({', '.join(integers) or 'none'}): "
                "name the one that tells the materials with tag_name="
            )
    if name is None or name not in integers:
        raise MeshError(f"{path} has no integer cell data {name!r}, only {', '.join(integers) or 'none'}")
    tags = np.asarray(integers[name])
    check_tags(tags, name, source.points[source.cells_dict[kind]].mean(axis=1), str(path))
    return tags.astype(np.int64)


def _set_tags(source: meshio.Mesh, kind: str, path: str | Path) -> NDArray[np.int64]:
    """Tags 1, 2, … of the element sets of a file without cell data (Abaqus), in the order of the file."""
    count = len(source.cells_dict[kind])
    sets = {name: members[kind] for name, members in source.cell_sets_dict.items() if len(members.get(kind, ()))}
    partial = {name: members for name, members in sets.items() if len(members) < count}
    tags = np.zeros(count, dtype=np.int64)
    for tag, (name, members) in enumerate((partial or sets).items(), start=1):
        twice = np.flatnonzero(tags[members])
        if twice.size:
            other = list(partial)[tags[members[twice[0]]] - 1]
            raise MeshError(
                f"{path}: {twice.size} cells belong to the sets {other} and {name}: give every cell one set"
            )
        tags[members] = tag
    centres = source.points[source.cells_dict[kind]].mean(axis=1)
    check_tags(np.where(tags > 0, tags, -1), f"none of the sets {', '.join(partial)}, set", centres, str(path))
    return tags


def in_dimension(points: Array, dim: int, kind: str, source: str) -> Array:
    """The first ``dim`` coordinates of points (n, d).

    Raises:
        MeshError: there are fewer, or 2D cells that do not lie in the x-y plane.
    """
    if points.ndim != 2 or points.shape[1] < dim:
        raise MeshError(f"{source}: {kind} cells need points of {dim} coordinates, got an array of {points.shape}")
    if points.shape[1] > dim and np.ptp(points[:, dim:]) > 1e-9 * np.ptp(points):
        spread = np.ptp(points[:, dim:])
        raise MeshError(f"{source}: {kind} cells must lie in the x-y plane, but z varies by {spread:.3g}")
    return points[:, :dim]


def used_nodes(points: Array, cells: NDArray[np.int64], source: str) -> tuple[Array, NDArray[np.int64]]:
    """Points of cells alone, and the cells in their numbers."""
    if not cells.size:
        raise MeshError(f"{source} has no cells")
    if cells.min() < 0 or cells.max() >= len(points):
        raise MeshError(
            f"{source}: cells refer to nodes {cells.min()} to {cells.max()}, but there are nodes 0 to {len(points) - 1}"
        )
    used, renumbered = np.unique(cells, return_inverse=True)
    return np.ascontiguousarray(points[used]), renumbered.reshape(cells.shape)


def dolfinx_mesh(comm: MPI.Comm, points: Array, cells: NDArray[np.int64], kind: CellKind) -> dolfinx.mesh.Mesh:
    """Mesh of points (n, d) and cells (c, v) in meshio's order of nodes, each of which some rank gives (collective)."""
    element = basix.ufl.element("Lagrange", kind.name, kind.order, shape=(kind.dim,))
    nodes = in_dolfinx_order(cells, kind.name)
    return dolfinx.mesh.create_mesh(comm, cells=nodes, x=points, e=ufl.Mesh(element))


def in_dolfinx_order(cells: NDArray[np.int64], shape: str) -> NDArray[np.int64]:
    """Cells (c, v) of DOLFINx' name ``shape`` in meshio's order of nodes, in that of DOLFINx."""
    return np.ascontiguousarray(cells[:, dolfinx.cpp.io.perm_vtk(dolfinx.mesh.to_type(shape), cells.shape[1])])
