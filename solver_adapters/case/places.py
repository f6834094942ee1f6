"""Selections of a case file on a mesh: nodes for prescribed values, facets for loads."""

from __future__ import annotations

from collections.abc import Callable

from mpi4py import MPI

import numpy as np
from dolfinx import fem, mesh
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError
from solver_adapters.case.mesh_sections import Place, Selection
from solver_adapters.macro.meshes import MacroMesh

_SIDES = {"left": (0, 0), "right": (0, 1), "bottom": (1, 0), "top": (1, 1), "back": (2, 0), "front": (2, 1)}
_TOLERANCE = 1e-8  # of the largest edge of the bounding box

Marker = Callable[[Array], NDArray[np.bool_]]
Indices = NDArray[np.int32]


class Places:
    """Finds selections on a mesh.

    Args:
        macro: the mesh.

    Attributes:
        bounds: (2, d), lowest and highest coordinates of the whole mesh.
    """

    def __init__(self, macro: MacroMesh) -> None:
        self.macro, self.mesh, self.comm = macro, macro.mesh, macro.mesh.comm
        self.dim = self.mesh.topology.dim
        self.mesh.topology.create_connectivity(self.dim - 1, self.dim)
        x = self.mesh.geometry.x[:, : self.mesh.geometry.dim]
        low, high = x.min(axis=0, initial=np.inf), x.max(axis=0, initial=-np.inf)
        self.comm.Allreduce(MPI.IN_PLACE, low, op=MPI.MIN)
        self.comm.Allreduce(MPI.IN_PLACE, high, op=MPI.MAX)
        self.bounds = np.array([low, high])

    def facets(self, selection: Selection) -> Indices:
        """Boundary facets of a selection, on this rank (collective).

        Raises:
            ContractError: there are none on any rank.
        """
        found = self._facets(selection)
        if not self.comm.allreduce(len(found)):
            raise ContractError(f"selects no facet of the boundary{self._hint(selection)}")
        return found

    def dofs(self, V: fem.FunctionSpace, axis: int | None, selection: Selection) -> Indices:
        """Degrees of freedom of a space, or of one component of it, on a selection, on this rank (collective).

        Coordinates select all nodes that have them, so that a single point can be held; sides and tags select what lies
        on the closure of their facets.

        Raises:
            ContractError: there are none on any rank.
        """
        space = V if axis is None else V.sub(axis)
        marker = self._marker(selection) if isinstance(selection.where, Place) else None
        if marker is None:
            found = fem.locate_dofs_topological(space, self.dim - 1, self._facets(selection))
        elif axis is None:
            found = fem.locate_dofs_geometrical(V, marker)
        else:
            found = fem.locate_dofs_geometrical((space, space.collapse()[0]), marker)[0]
        if not self.comm.allreduce(len(found)):
            raise ContractError(f"selects no node{self._hint(selection)}")
        return np.asarray(found, dtype=np.int32)

    def _facets(self, selection: Selection) -> Indices:
        if selection.tag is not None:
            return self._tagged(selection.tag)
        if selection.where == "boundary":
            return np.asarray(mesh.exterior_facet_indices(self.mesh.topology), dtype=np.int32)
        return np.asarray(mesh.locate_entities_boundary(self.mesh, self.dim - 1, self._marker(selection)))

    def _tagged(self, tag: int | str) -> Indices:
        facets, names = self.macro.facets, self.macro.names
        if facets is None:
            raise ContractError("selects a tag, but the mesh has no tags of facets: use 'where'")
        if isinstance(tag, str) and tag not in names:
            raise ContractError(f"the mesh has no group of facets {tag!r}, only {', '.join(names) or 'none'}")
        number = names[tag] if isinstance(tag, str) else tag
        known = sorted({int(v) for values in self.comm.allgather(np.unique(facets.values)) for v in values})
        if number not in known:
            raise ContractError(f"no facet has the tag {number}, only {', '.join(map(str, known)) or 'none'} occur")
        return np.asarray(facets.find(number), dtype=np.int32)

    def _marker(self, selection: Selection) -> Marker:
        tolerance = _TOLERANCE * float(np.ptp(self.bounds, axis=0).max())
        ranges = self._ranges(selection)

        def marked(x: Array) -> NDArray[np.bool_]:
            inside = np.ones(x.shape[1], dtype=bool)
            for axis, (low, high) in ranges.items():
                inside &= (x[axis] >= low - tolerance) & (x[axis] <= high + tolerance)
            return inside

        return marked

    def _ranges(self, selection: Selection) -> dict[int, tuple[float, float]]:
        if isinstance(selection.where, Place):
            given = {axis: getattr(selection.where, name) for axis, name in enumerate("xyz")}
            ranges = {a: v if isinstance(v, tuple) else (v, v) for a, v in given.items() if v is not None}
        else:
            axis, end = _SIDES[str(selection.where)]
            at = float(self.bounds[end, axis]) if axis < self.bounds.shape[1] else 0.0
            ranges = {axis: (at, at)}
        if max(ranges) >= self.bounds.shape[1]:
            raise ContractError(f"selects by z, but the mesh is {self.bounds.shape[1]}D")
        return ranges

    def _hint(self, selection: Selection) -> str:
        if selection.tag is not None:
            return ""
        spans = (f"{name} from {low:g} to {high:g}" for name, low, high in zip("xyz", *self.bounds, strict=False))
        return f": the mesh spans {', '.join(spans)}"
