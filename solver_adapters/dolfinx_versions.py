"""What differs between DOLFINx 0.9, 0.10 and 0.11, of what is used here; all else is the same in the three of them."""

from __future__ import annotations

from typing import Any

import basix.ufl
import numpy as np
from dolfinx import __version__, cpp, fem, mesh
from numpy.typing import NDArray

VERSION = tuple(int(part) for part in __version__.split(".")[:2])

QuadratureElement: Any = basix.ufl._QuadratureElement
"""Base of elements whose degrees of freedom are values at points; basix 0.9 to 0.11 have no public one."""


def geometry_dofmap(domain: mesh.Mesh) -> NDArray[np.int32]:
    """Geometry nodes (c, a) of the cells of a mesh with cells of one kind."""
    of_kinds = getattr(domain.geometry, "dofmaps", None)  # since 0.11, which deprecates the other
    dofmap: NDArray[np.int32] = domain.geometry.dofmap if of_kinds is None else of_kinds[0]
    return dofmap


def facet_entities(pairs: NDArray[np.int32]) -> NDArray[np.int32]:
    """What ``fem.Expression.eval`` takes for pairs (f, 2) of cell and local facet: 0.9 wants them flat."""
    return pairs.ravel() if VERSION < (0, 10) else pairs


def space_of(V: Any, dofmap: Any) -> Any:
    """The function space on the mesh and with the element of V that has another dofmap, a ``cpp.fem.DofMap``."""
    element = getattr(V.element, "_cpp_object", V.element)  # 0.9 does not wrap it
    shape = (list(V.value_shape),) if VERSION < (0, 10) else ()
    space = cpp.fem.FunctionSpace_float64(V.mesh._cpp_object, element, dofmap, *shape)
    return fem.FunctionSpace(V.mesh, V.ufl_element(), space)
