"""Where a closure is evaluated: the quadrature points of the owned cells that a measure integrates over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import basix.ufl
import numpy as np
import ufl
from dolfinx import fem, mesh
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError


class QuadraturePoints:
    """Quadrature points x_q of the cells of a measure, owned cells only, cell after cell.

    Args:
        domain: the mesh.
        dx: a cell measure that carries its quadrature degree, e.g.
            ``ufl.Measure("dx", domain=mesh, metadata={"quadrature_degree": 2})``; it may be restricted to one subdomain
            or a tuple of them through its ``subdomain_data`` (mesh tags, or a list of pairs of id and cells).

    Attributes:
        cells: local indices of the cells, ascending.
        reference: coordinates of the points of one cell in the reference cell.
        n: number of points on this rank.

    Raises:
        ContractError: a measure over facets, without a degree, or with a subdomain that cannot be resolved.
    """

    def __init__(self, domain: mesh.Mesh, dx: ufl.Measure) -> None:
        if dx.integral_type() != "cell":
            raise ContractError(f"a closure needs a cell measure (dx), got integral type {dx.integral_type()!r}")
        degree = dx.metadata().get("quadrature_degree")
        if not isinstance(degree, int) or degree < 0:
            raise ContractError(
                f"the measure of a closure must state its quadrature degree, got {degree!r}: "
                'use ufl.Measure("dx", domain=mesh, metadata={"quadrature_degree": 2}) or dx(degree=2)'
            )
        self.mesh = domain
        self._scheme = dx.metadata().get("quadrature_rule", "default")
        self._degree = degree
        self.reference, self._weights = self.element(()).custom_quadrature()
        self.cells = _owned_cells(domain, dx)
        self.n = self.cells.size * self.reference.shape[0]

    def element(self, shape: tuple[int, ...]) -> Any:
        """Quadrature element with values of that shape at the points."""
        return basix.ufl.quadrature_element(
            self.mesh.basix_cell(), value_shape=shape, scheme=self._scheme, degree=self._degree
        )

    def function(self, shape: tuple[int, ...], name: str) -> fem.Function:
        """New Function with values of that shape at the points, zero."""
        return fem.Function(fem.functionspace(self.mesh, self.element(shape)), name=name)

    def rows(self, space: fem.FunctionSpace) -> slice | NDArray[np.int32]:
        """Blocks of a Function on a quadrature space that belong to the points, in their order."""
        dofs: NDArray[np.int32] = space.dofmap.list[self.cells].ravel()
        if dofs.size and np.array_equal(dofs, np.arange(dofs[0], dofs[0] + dofs.size)):
            return slice(int(dofs[0]), int(dofs[0]) + dofs.size)
        return dofs

    def coordinates(self) -> Array:
        """Physical coordinates (n, gdim) of the points."""
        element = self.mesh.ufl_domain().ufl_coordinate_element()
        shape_functions = element.sub_elements[0].tabulate(0, self.reference)[0]
        nodes = self.mesh.geometry.x[self.mesh.geometry.dofmap[self.cells], : self.mesh.geometry.dim]
        x: Array = np.einsum("qa,cad->cqd", shape_functions, nodes).reshape(self.n, -1)
        return x


def _owned_cells(domain: mesh.Mesh, dx: ufl.Measure) -> NDArray[np.int32]:
    owned = domain.topology.index_map(domain.topology.dim).size_local
    ids = dx.subdomain_id()
    ids = ids if isinstance(ids, tuple) else (ids,)
    if "everywhere" in ids:
        return np.arange(owned, dtype=np.int32)
    if any(not isinstance(i, (int, np.integer)) for i in ids):
        raise ContractError(f"a closure's subdomain must be one id or a tuple of ids, got {dx.subdomain_id()!r}")
    cells: NDArray[np.int32] = np.unique(np.concatenate([_tagged(domain, dx.subdomain_data(), int(i)) for i in ids]))
    inside: NDArray[np.int32] = cells[cells < owned]
    return inside


def _tagged(domain: mesh.Mesh, data: Any, tag: int) -> NDArray[np.int32]:
    if data is None:
        raise ContractError(f"dx({tag}) has no subdomain_data: pass the cell tags to ufl.Measure(subdomain_data=...)")
    if hasattr(data, "find"):
        if data.dim != domain.topology.dim:
            raise ContractError(f"subdomain_data of dx tags entities of dimension {data.dim}, not cells")
        return np.asarray(data.find(tag), dtype=np.int32)
    pairs: Iterable[tuple[int, NDArray[np.int32]]] = data
    found = [np.asarray(cells, dtype=np.int32) for i, cells in pairs if i == tag]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int32)
