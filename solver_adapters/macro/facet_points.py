"""Where a surface closure is evaluated: the quadrature points of the exterior facets that a measure integrates over.

FFCx knows quadrature elements in cell integrals only. The element here has the points of *all* facets of a cell as its
degrees of freedom, and where it is tabulated at the points of one facet it gives that facet's values. Cells without a
facet in the measure carry zeros that nobody reads; they cost less memory than the cell's share of a stiffness matrix.
"""

from __future__ import annotations

from typing import Any

import basix
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem, mesh
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError
from solver_adapters.dolfinx_versions import QuadratureElement, facet_values
from solver_adapters.macro.quadrature import (
    QuadraturePoints,
    nodes,
    quadrature_rule,
    shape_functions,
    subdomain_ids,
    tagged,
)


class FacetPoints(QuadraturePoints):
    """Quadrature points x_q of the exterior facets of a measure, facet after facet.

    Each exterior facet belongs to exactly one rank, the one that DOLFINx lets integrate over it.

    Args:
        domain: the mesh, of triangles, quadrilaterals, tetrahedra or hexahedra.
        ds: an exterior facet measure that carries its quadrature degree; it may be restricted to one boundary part or a
            tuple of them through its ``subdomain_data`` (mesh tags of facets, or a list of pairs of id and alternating
            cells and local facets).

    Attributes:
        cells: local index of the cell of each facet, ascending.
        facets: local index of each facet within its cell.
        entities: cells and facets alternating.
        reference: coordinates of the points of one facet in the reference facet.
        n: number of points on this rank.

    Raises:
        ContractError: another kind of measure or of cells, a measure without a degree, or with parts that cannot be
            resolved.
    """

    def __init__(self, domain: mesh.Mesh, ds: ufl.Measure) -> None:
        if ds.integral_type() != "exterior_facet":
            raise ContractError(
                f"a closure needs a cell measure (dx) or an exterior facet measure (ds), "
                f"got integral type {ds.integral_type()!r}"
            )
        self.mesh = domain
        self._scheme, self._degree = quadrature_rule(ds)
        cell = domain.basix_cell()
        kinds = set(basix.cell.subentity_types(cell)[-2])
        if domain.topology.dim < 2 or len(kinds) > 1:
            raise ContractError(f"a surface closure needs facets of one kind that are not points, got a {cell.name}")
        rule = basix.quadrature.string_to_type(self._scheme)
        self.reference, self._weights = basix.make_quadrature(kinds.pop(), self._degree, rule=rule)
        pairs = _exterior_facets(domain, ds)
        self.cells, self.facets = pairs[:, 0], pairs[:, 1]
        self.entities = pairs.ravel()
        self.n = len(pairs) * len(self.reference)

    def element(self, shape: tuple[int, ...]) -> Any:
        """Element with values of that shape at the points of every facet of a cell."""
        scalar = _FacetQuadratureElement(self.mesh.basix_cell(), self.reference, self._weights)
        return basix.ufl.blocked_element(scalar, shape=shape) if shape else scalar

    def rows(self, space: Any) -> NDArray[np.int32]:
        """Blocks of a Function on a space of :meth:`element` that belong to the points, in their order."""
        of_cell = self.facets[:, None] * len(self.reference) + np.arange(len(self.reference))
        dofs: NDArray[np.int32] = space.dofmap.list[self.cells[:, None], of_cell].ravel()
        return dofs

    def values(self, expression: fem.Expression) -> Array:
        """Values (n, c) of an expression made for the points ``reference``."""
        values: Array = facet_values(expression, self.mesh, np.column_stack((self.cells, self.facets)))
        return values.reshape(self.n, values.shape[2])

    def coordinates(self) -> Array:
        """Physical coordinates (n, gdim) of the points."""
        N = np.stack([shape_functions(self.mesh, X) for X in on_facets(self.mesh.basix_cell(), self.reference)])
        x: Array = np.einsum("fqa,fad->fqd", N[self.facets], nodes(self.mesh, self.cells))
        return x.reshape(self.n, self.mesh.geometry.dim)

    def place(self, i: int) -> str:
        """Where the i-th point is, for messages."""
        entity, point = divmod(i, len(self.reference))
        return f"cell {self.cells[entity]}, facet {self.facets[entity]} of it, point {point}"


def on_facets(cell: basix.CellType, points: Array) -> Array:
    """Points (f, q, tdim) in the reference cell for points (q, tdim − 1) of the reference facet, on each facet.

    X = v₀ + Σ_i ξ_i (v_{i+1} − v₀), with the facet's vertices v in the order of basix, as FFCx maps them.
    """
    geometry = np.asarray(basix.geometry(cell))
    corners = geometry[np.array(basix.topology(cell)[-2])]
    tangents = corners[:, 1 : 1 + points.shape[1]] - corners[:, :1]
    X: Array = corners[:, :1] + points @ tangents
    return X


class _FacetQuadratureElement(QuadratureElement):  # type: ignore[misc]
    """Quadrature element with the points of all facets: values of the q-th point of facet f at dof f·n_q + q."""

    def __init__(self, cell: basix.CellType, points: Array, weights: Array) -> None:
        self._on_facets = on_facets(cell, points)
        everywhere = self._on_facets.reshape(-1, self._on_facets.shape[-1])
        super().__init__(cell, everywhere, np.tile(weights, len(self._on_facets)), ufl.identity_pullback)
        self._repr = f"FacetQuadratureElement({cell.name}, {points.tolist()})"

    @property
    def has_custom_quadrature(self) -> bool:
        """False: the integral keeps the facet rule of its measure, which FFCx would else replace by these points."""
        return False

    def tabulate(self, nderivs: int, points: Array) -> Array:
        """Table (1, q, dofs) at the points of one facet."""
        per_facet = self._on_facets.shape[1]
        for f, own in enumerate(self._on_facets):
            if nderivs == 0 and points.shape == own.shape and np.allclose(points, own, atol=1e-12):
                table = np.zeros((1, per_facet, self.dim))
                table[0, :, f * per_facet : (f + 1) * per_facet] = np.eye(per_facet)
                return table
        raise ValueError(
            "the flux of a surface closure exists at the quadrature points of its own measure only: integrate it "
            "with ClosureFlux.dx or an exterior facet measure of the same degree, and take no derivatives"
        )


def _exterior_facets(domain: mesh.Mesh, ds: ufl.Measure) -> NDArray[np.int32]:
    """Pairs (f, 2) of cell and local facet, ascending, each exterior facet on one rank only."""
    topology, dim = domain.topology, domain.topology.dim
    topology.create_connectivity(dim - 1, dim)
    topology.create_connectivity(dim, dim - 1)
    exterior = mesh.exterior_facet_indices(topology)
    if (ids := subdomain_ids(ds)) is not None:
        data = ds.subdomain_data()
        if not hasattr(data, "find"):
            return np.unique(tagged(data, ids, dim - 1).reshape(-1, 2), axis=0)
        exterior = np.intersect1d(exterior, tagged(data, ids, dim - 1))
    of_facet, of_cell = topology.connectivity(dim - 1, dim), topology.connectivity(dim, dim - 1)
    cells = of_facet.array[of_facet.offsets[exterior]].astype(np.int32)
    facets = of_cell.array.reshape(-1, len(basix.topology(domain.basix_cell())[-2]))[cells]
    local = np.argmax(facets == exterior[:, None], axis=1).astype(np.int32)
    pairs = np.column_stack((cells, local))
    ordered: NDArray[np.int32] = pairs[np.lexsort((local, cells))]
    return ordered
