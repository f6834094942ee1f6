"""Macroscopic meshes: rectangles, boxes, Cook's membrane, and any file that meshio reads, on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpi4py import MPI

import dolfinx
import numpy as np
from dolfinx import mesh
from numpy.typing import NDArray

from coupling.agreement import together
from coupling.contract import Array
from coupling.errors import MeshError
from solver_adapters.rve.mesh_checks import check_cells
from solver_adapters.rve.unit_cells import (
    KINDS,
    cell_kind,
    dolfinx_mesh,
    in_dimension,
    in_dolfinx_order,
    read_mesh,
    used_nodes,
)

_FACETS = {
    "triangle": "line",
    "triangle6": "line3",
    "quad": "line",
    "tetra": "triangle",
    "tetra10": "triangle6",
    "hexahedron": "quad",
}


@dataclass(frozen=True)
class MacroMesh:
    """A distributed mesh.

    Args:
        mesh: DOLFINx mesh.
        facets: tags of its facets, None where it has none.
        names: tag of each named group of facets.
    """

    mesh: mesh.Mesh
    facets: Any = None
    names: dict[str, int] = field(default_factory=dict)


def rectangle(
    comm: MPI.Comm,
    cells: Sequence[int],
    *,
    lower: Sequence[float] = (0.0, 0.0),
    upper: Sequence[float] = (1.0, 1.0),
    shape: str = "triangle",
) -> mesh.Mesh:
    """Rectangle of ``cells`` divisions, each one quadrilateral or two triangles (collective)."""
    return mesh.create_rectangle(comm, [np.array(lower), np.array(upper)], list(cells), mesh.CellType[shape])


def box(
    comm: MPI.Comm,
    cells: Sequence[int],
    *,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    upper: Sequence[float] = (1.0, 1.0, 1.0),
    shape: str = "tetrahedron",
) -> mesh.Mesh:
    """Box of ``cells`` divisions, each one hexahedron or six tetrahedra (collective)."""
    return mesh.create_box(comm, [np.array(lower), np.array(upper)], list(cells), mesh.CellType[shape])


def cooks_membrane(comm: MPI.Comm, cells: Sequence[int] = (6, 3)) -> mesh.Mesh:
    """Cook's panel (0, 0), (48, 44), (48, 60), (0, 44) as 2·cells[0]·cells[1] triangles (collective)."""
    panel = rectangle(comm, cells)
    s, t = panel.geometry.x[:, 0].copy(), panel.geometry.x[:, 1].copy()
    panel.geometry.x[:, 0] = 48.0 * s
    panel.geometry.x[:, 1] = 44.0 * s + t * (44.0 - 28.0 * s)
    return panel


@dataclass(frozen=True)
class _Source:
    """What rank 0 read; other ranks have nothing of it."""

    kind: str
    points: Array
    cells: NDArray[np.int64]
    facets: NDArray[np.int64]
    tags: NDArray[np.int32]
    names: dict[str, int]

    def nothing(self) -> _Source:
        """The same without points, cells and facets."""
        return _Source(self.kind, self.points[:0], self.cells[:0], self.facets[:0], self.tags[:0], self.names)


def read_macro_mesh(comm: MPI.Comm, path: str | Path, *, tag_name: str | None = None) -> MacroMesh:
    """Mesh of a file, which rank 0 reads, with the tags of its facets (collective).

    Args:
        comm: of the mesh.
        path: any format meshio reads (gmsh, VTU, XDMF, Abaqus, …).
        tag_name: integer cell data that tags the facets; by default ``gmsh:physical`` where present, else the only one.

    Raises:
        MeshError: unreadable file, no or mixed, degenerate, inverted or overlapping cells; ambiguous tags.
        RemoteRankError: on the other ranks.
    """
    read = together(comm, lambda: _read(path, tag_name) if comm.rank == 0 else None)
    nothing = comm.bcast(None if read is None else read.nothing())
    source = nothing if read is None else read
    domain = dolfinx_mesh(comm, source.points, source.cells, KINDS[source.kind])
    return MacroMesh(domain, _facet_tags(domain, source) if source.facets.shape[1] else None, source.names)


def _read(path: str | Path, tag_name: str | None) -> _Source:
    source = read_mesh(path)
    name = cell_kind(source, path)
    kind = KINDS[name]
    points = in_dimension(source.points, kind.dim, name, str(path))
    cells = np.asarray(source.cells_dict[name], dtype=np.int64)
    used, renumbered = used_nodes(points, cells, str(path))
    check_cells(used, renumbered[:, : kind.vertices], kind.straight, str(path))
    facets, tags = _tagged_facets(source, _FACETS[name], tag_name, path)
    new_number = np.full(len(points), -1, dtype=np.int64)
    new_number[cells] = renumbered
    facets = new_number[facets]
    inside = (facets >= 0).all(axis=1)
    names = {key: int(tag) for key, (tag, dim) in source.field_data.items() if dim == kind.dim - 1}
    return _Source(name, used, renumbered, facets[inside], tags[inside], names)


def _tagged_facets(
    source: Any, kind: str, name: str | None, path: str | Path
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Facets (f, v) of a kind that a file tags, and their tags (f,); none where it tags none."""
    data = {key: each[kind] for key, each in source.cell_data_dict.items() if kind in each}
    integers = {key: each for key, each in data.items() if each.ndim == 1 and np.array_equal(each, np.round(each))}
    if name is None:
        name = "gmsh:physical" if "gmsh:physical" in integers else next(iter(integers), None)
        if "gmsh:physical" not in integers and len(integers) > 1:
            raise MeshError(f"{path} tags its facets by {', '.join(integers)}: name one of them with tag_name")
    elif name not in integers:
        raise MeshError(f"{path} has no integer data {name!r} of its facets, only {', '.join(integers) or 'none'}")
    if name is None:
        return np.empty((0, 0), dtype=np.int64), np.empty(0, dtype=np.int32)
    return np.asarray(source.cells_dict[kind], dtype=np.int64), integers[name].astype(np.int32)


def _facet_tags(domain: mesh.Mesh, source: _Source) -> Any:
    dim = domain.topology.dim - 1
    facet = {"triangle": "interval", "quad": "interval", "tetra": "triangle", "hexahedron": "quadrilateral"}
    ordered = in_dolfinx_order(source.facets, facet[KINDS[source.kind].straight])
    entities, values = dolfinx.io.distribute_entity_data(domain, dim, ordered, source.tags)
    for pair in ((dim, 0), (dim, dim + 1)):
        domain.topology.create_connectivity(*pair)
    return mesh.meshtags_from_entities(domain, dim, dolfinx.graph.adjacencylist(entities), values.astype(np.int32))
