"""Meshes of periodic unit cells: generated with gmsh, or read from any file that meshio reads.

Both ways pass through meshio, so a generated cell and a file of your own are checked alike. Cell tags select the
material: by convention 1 is the matrix (the first layer), 2 the inclusion (the second layer).
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpi4py import MPI

import basix.ufl
import dolfinx
import meshio
import numpy as np
import ufl
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import MeshError, MissingPackageError

MATRIX, INCLUSION = 1, 2
_CELLS = {"triangle": 2, "quad": 2, "tetra": 3, "hexahedron": 3}


@dataclass(frozen=True)
class UnitCell:
    """A meshed unit cell on this rank alone.

    Args:
        mesh: DOLFINx mesh on ``MPI.COMM_SELF``; its bounding box is the period.
        tags: cell tags, one per cell.
        description: what it is, for model cards and reports.
    """

    mesh: Any
    tags: Any
    description: dict[str, Any] = field(default_factory=dict)


def centred_fibre(*, fraction: float = 0.2, size: float = 0.1) -> UnitCell:
    """Unit square with a centred circular fibre (tag 2) of the given area fraction; ``size``: largest edge length."""
    radius = _radius(fraction)

    def geometry(occ: Any) -> dict[int, list[int]]:
        square, disk = occ.addRectangle(0, 0, 0, 1, 1), occ.addDisk(0.5, 0.5, 0, radius, radius)
        parts, owners = occ.fragment([(2, square)], [(2, disk)])
        fibre = [tag for _, tag in owners[1]]
        return {MATRIX: [tag for _, tag in parts if tag not in fibre], INCLUSION: fibre}

    return _generate(geometry, size, {"kind": "centred fibre", "fraction": fraction, "size": size})


def centred_void(*, fraction: float = 0.2, size: float = 0.1) -> UnitCell:
    """Unit square with a centred circular void of the given area fraction; all cells have tag 1."""
    radius = _radius(fraction)

    def geometry(occ: Any) -> dict[int, list[int]]:
        square, disk = occ.addRectangle(0, 0, 0, 1, 1), occ.addDisk(0.5, 0.5, 0, radius, radius)
        parts, _ = occ.cut([(2, square)], [(2, disk)])
        return {MATRIX: [tag for _, tag in parts]}

    return _generate(geometry, size, {"kind": "centred void", "fraction": fraction, "size": size})


def laminate(*, fraction: float = 0.5, size: float = 0.1) -> UnitCell:
    """Unit square of two layers with normal e₁: tag 1 for x₁ < 1 − fraction, tag 2 for the rest."""
    _check_fraction(fraction, 1.0)

    def geometry(occ: Any) -> dict[int, list[int]]:
        first = occ.addRectangle(0, 0, 0, 1 - fraction, 1)
        second = occ.addRectangle(1 - fraction, 0, 0, fraction, 1)
        occ.fragment([(2, first)], [(2, second)])
        return {MATRIX: [first], INCLUSION: [second]}

    return _generate(geometry, size, {"kind": "laminate", "fraction": fraction, "size": size})


def read_unit_cell(path: str | Path, *, tag_name: str | None = None) -> UnitCell:
    """Unit cell from a mesh file.

    Args:
        path: any format meshio reads (gmsh, VTU, XDMF, Abaqus, …).
        tag_name: name of the integer cell data that tells the materials; by default ``gmsh:physical`` where present,
            else the only integer cell data of the file.

    Raises:
        MeshError: unreadable file, no or mixed cells, missing or ambiguous tags, untagged or degenerate cells.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # meshio prints an empty line for gmsh files
            source = meshio.read(path)
    except Exception as error:  # meshio raises many kinds, SystemExit (not an Exception) among them
        raise MeshError(f"{path} cannot be read as a mesh: {error}") from error
    except SystemExit as error:
        raise MeshError(f"{path} cannot be read as a mesh: meshio knows no such format") from error
    kind = _cell_kind(source, path)
    cells = np.asarray(source.cells_dict[kind], dtype=np.int64)
    tags = _cell_tags(source, kind, tag_name, path)
    mesh = _dolfinx_mesh(np.asarray(source.points, dtype=float), cells, kind, path)
    order = np.asarray(mesh.topology.original_cell_index)
    entities = np.arange(len(order), dtype=np.int32)
    cell_tags = dolfinx.mesh.meshtags(mesh, mesh.topology.dim, entities, tags[order].astype(np.int32))
    return UnitCell(mesh, cell_tags, {"kind": "file", "name": Path(path).name, "cells": len(order)})


def _cell_kind(source: meshio.Mesh, path: str | Path) -> str:
    present = [kind for kind in source.cells_dict if kind in _CELLS]
    if not present:
        found = sorted(source.cells_dict) or "no cells at all"
        raise MeshError(f"{path} has no {'/'.join(_CELLS)} cells, only {found}")
    dim = max(_CELLS[kind] for kind in present)
    kinds = [kind for kind in present if _CELLS[kind] == dim]
    if len(kinds) > 1:
        raise MeshError(f"{path} mixes {' and '.join(kinds)} cells: an RVE mesh must have one kind of cell")
    return str(kinds[0])


def _cell_tags(source: meshio.Mesh, kind: str, name: str | None, path: str | Path) -> NDArray[np.int64]:
    candidates = {n: d[kind] for n, d in source.cell_data_dict.items() if kind in d and np.ndim(d[kind]) == 1}
    integers = {n: d for n, d in candidates.items() if np.array_equal(d, np.round(d))}
    if name is None:
        name = "gmsh:physical" if "gmsh:physical" in integers else next(iter(integers), None)
        if "gmsh:physical" not in integers and len(integers) != 1:
            raise MeshError(
                f"{path} has {len(integers)} integer cell data sets ({', '.join(integers) or 'none'}): "
                "name the one that tells the materials with tag_name="
            )
    if name not in integers:
        raise MeshError(f"{path} has no integer cell data {name!r}, only {', '.join(integers) or 'none'}")
    return np.asarray(integers[name]).astype(np.int64)


def _dolfinx_mesh(points: Array, cells: NDArray[np.int64], kind: str, path: str | Path) -> Any:
    dim = _CELLS[kind]
    if points.shape[1] > dim:
        if np.ptp(points[:, dim:]) > 1e-12 * np.ptp(points):
            spread = np.ptp(points[:, dim:])
            raise MeshError(f"{path}: {kind} cells must lie in the x-y plane, but z varies by {spread:.3g}")
        points = points[:, :dim]
    used = np.unique(cells)
    renumber = np.zeros(len(points), dtype=np.int64)
    renumber[used] = np.arange(len(used))
    cell = "tetrahedron" if kind == "tetra" else {"quad": "quadrilateral"}.get(kind, kind)
    if kind in ("quad", "hexahedron"):  # meshio counts around the faces, DOLFINx in tensor-product order
        cells = cells[:, [0, 1, 3, 2] if kind == "quad" else [0, 1, 3, 2, 4, 5, 7, 6]]
    element = basix.ufl.element("Lagrange", cell, 1, shape=(dim,))
    return dolfinx.mesh.create_mesh(
        MPI.COMM_SELF, renumber[cells], np.ascontiguousarray(points[used]), ufl.Mesh(element)
    )


def _radius(fraction: float) -> float:
    _check_fraction(fraction, np.pi / 4)
    return float(np.sqrt(fraction / np.pi))


def _check_fraction(fraction: float, largest: float) -> None:
    if not 0 < fraction < largest:
        raise MeshError(f"fraction must lie between 0 and {largest:.4g} for this cell, got {fraction}")


def _generate(geometry: Callable[[Any], dict[int, list[int]]], size: float, description: dict[str, Any]) -> UnitCell:
    if not 0 < size <= 1:
        raise MeshError(f"size must lie in (0, 1] for a unit cell of edge 1, got {size}")
    with _gmsh_model() as gmsh, tempfile.TemporaryDirectory() as folder:
        groups = geometry(gmsh.model.occ)
        gmsh.model.occ.synchronize()
        for tag, surfaces in groups.items():
            gmsh.model.addPhysicalGroup(2, surfaces, tag)
        _make_periodic(gmsh.model)
        gmsh.option.setNumber("Mesh.MeshSizeMin", size)
        gmsh.option.setNumber("Mesh.MeshSizeMax", size)
        gmsh.model.mesh.generate(2)
        file = str(Path(folder) / "cell.msh")
        gmsh.write(file)
        cell = read_unit_cell(file)
    return UnitCell(cell.mesh, cell.tags, description)


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


def _make_periodic(model: Any) -> None:
    """Mesh opposite sides of the unit square alike."""
    for axis in (0, 1):
        shift = np.eye(4)
        shift[axis, 3] = 1.0
        lower = _sides(model, axis, 0.0)
        upper = dict(_sides(model, axis, 1.0))
        for key, tag in lower:
            model.mesh.setPeriodic(1, [upper[key]], [tag], shift.ravel().tolist())


def _sides(model: Any, axis: int, position: float) -> list[tuple[float, int]]:
    """Boundary curves with coordinate ``axis`` at ``position``, keyed by where they lie along the side."""
    low, high = [-1e-6] * 3, [1 + 1e-6] * 3
    low[axis], high[axis] = position - 1e-6, position + 1e-6
    found = []
    for dim, tag in model.getEntitiesInBoundingBox(*low, *high, 1):
        box = model.getBoundingBox(dim, tag)
        found.append((round((box[1 - axis] + box[4 - axis]) / 2, 6), tag))
    return found
