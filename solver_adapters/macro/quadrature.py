"""Where a closure is evaluated: the quadrature points of the owned cells that a measure integrates over."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import basix.ufl
import numpy as np
import ufl
from dolfinx import fem, mesh
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError
from solver_adapters.dolfinx_versions import geometry_dofmap


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
            raise ContractError(f"these points need a cell measure (dx), got integral type {dx.integral_type()!r}")
        self.mesh = domain
        self._scheme, self._degree = quadrature_rule(dx)
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

    def values(self, expression: fem.Expression) -> Array:
        """Values (n, c) of an expression made for the points ``reference``."""
        values = np.asarray(expression.eval(self.mesh, self.cells), dtype=np.float64)
        return values.reshape(self.n, prod(values.shape[1:]) // len(self.reference))

    def coordinates(self) -> Array:
        """Physical coordinates (n, gdim) of the points."""
        x: Array = np.einsum("qa,cad->cqd", shape_functions(self.mesh, self.reference), nodes(self.mesh, self.cells))
        return x.reshape(self.n, self.mesh.geometry.dim)

    def place(self, i: int) -> str:
        """Where the i-th point is, for messages."""
        entity, point = divmod(i, self.reference.shape[0])
        return f"cell {self.cells[entity]}, point {point}"


def quadrature_rule(measure: ufl.Measure) -> tuple[str, int]:
    """Scheme and degree that a measure states.

    Raises:
        ContractError: it does not state its degree.
    """
    degree = measure.metadata().get("quadrature_degree")
    if not isinstance(degree, (int, np.integer)) or degree < 0:
        name = ufl.measure.integral_type_to_measure_name[measure.integral_type()]
        raise ContractError(
            f"the measure of a closure must state its quadrature degree, got {degree!r}: "
            f'use ufl.Measure("{name}", domain=mesh, metadata={{"quadrature_degree": 2}}) or {name}(degree=2)'
        )
    return measure.metadata().get("quadrature_rule", "default"), int(degree)


def subdomain_ids(measure: ufl.Measure) -> tuple[int, ...] | None:
    """Ids of the subdomains that a measure is restricted to, None where it is not restricted.

    Raises:
        ContractError: they are not integers, or there is no data to find them in.
    """
    ids = measure.subdomain_id()
    ids = ids if isinstance(ids, tuple) else (ids,)
    if "everywhere" in ids:
        return None
    if any(not isinstance(i, (int, np.integer)) for i in ids):
        raise ContractError(f"a closure's subdomain must be one id or a tuple of ids, got {measure.subdomain_id()!r}")
    if measure.subdomain_data() is None:
        name = ufl.measure.integral_type_to_measure_name[measure.integral_type()]
        raise ContractError(f"{name}{ids} has no subdomain_data: pass the tags to ufl.Measure(subdomain_data=...)")
    return tuple(int(i) for i in ids)


def tagged(data: Any, ids: tuple[int, ...], dim: int) -> NDArray[np.int32]:
    """Entities of dimension ``dim`` with one of the ids, in mesh tags or a list of pairs of id and entities.

    Raises:
        ContractError: the tags are those of other entities.
    """
    if hasattr(data, "find"):
        if data.dim != dim:
            raise ContractError(f"subdomain_data tags entities of dimension {data.dim}, the measure needs {dim}")
        found = [np.asarray(data.find(i), dtype=np.int32) for i in ids]
    else:
        pairs: Iterable[tuple[int, NDArray[np.int32]]] = data
        found = [np.asarray(entities, dtype=np.int32).ravel() for i, entities in pairs if i in ids]
    return np.concatenate([np.empty(0, dtype=np.int32), *found])


def shape_functions(domain: mesh.Mesh, points: Array) -> Array:
    """Shape functions (q, a) of a mesh's geometry at points (q, tdim) of the reference cell."""
    element = domain.ufl_domain().ufl_coordinate_element().sub_elements[0]
    return np.asarray(element.tabulate(0, points)[0], dtype=np.float64)


def nodes(domain: mesh.Mesh, cells: NDArray[np.int32]) -> Array:
    """Geometry nodes (c, a, gdim) of cells."""
    x = domain.geometry.x[geometry_dofmap(domain)[cells], : domain.geometry.dim]
    return np.asarray(x, dtype=np.float64)


def _owned_cells(domain: mesh.Mesh, dx: ufl.Measure) -> NDArray[np.int32]:
    dim = domain.topology.dim
    owned = domain.topology.index_map(dim).size_local
    if (ids := subdomain_ids(dx)) is None:
        return np.arange(owned, dtype=np.int32)
    cells: NDArray[np.int32] = np.unique(tagged(dx.subdomain_data(), ids, dim))
    inside: NDArray[np.int32] = cells[cells < owned]
    return inside
