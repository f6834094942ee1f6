"""Boundary conditions of an RVE: which fluctuations are permitted, as a space and linear constraints.

    periodic   w equal on opposite faces
    linear     w = 0 on the faces: displacements or temperatures are those of the macroscopic gradient
    uniform    ∫ w ⊗ n dA = 0 over the faces: tractions or fluxes are those of one macroscopic flux (the constraint's
               Lagrange multiplier is that flux)

Each class of fluctuations contains the one before it when read as linear ⊂ periodic ⊂ uniform, so that the effective
energies are ordered: uniform ≤ periodic ≤ linear (Hill–Mandel; Huet 1990, J. Mech. Phys. Solids 38, 813–841; Hazanov &
Huet 1994, J. Mech. Phys. Solids 42, 1995–2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import dolfinx
import numpy as np
import ufl
from dolfinx import fem
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError, MeshError
from solver_adapters.rve.periodic import Period

Boundary = Literal["periodic", "linear", "uniform"]


def fluctuation_blocks(
    boundary: Boundary, points: Array, period: Period, *, open_faces: bool = False
) -> NDArray[np.int32]:
    """Block of the fluctuation's space to which each block of the Lagrange space with points (n, d) belongs.

    Block 0 is held at zero by the solver: one point, or the whole boundary where that is the condition.

    Raises:
        ContractError: no such boundary condition.
        MeshError: periodic, where opposite faces differ.
    """
    if boundary not in get_args(Boundary):
        raise ContractError(f"boundary must be one of {', '.join(get_args(Boundary))}, got {boundary!r}")
    if boundary == "periodic":
        return period.identify(points, open_faces=open_faces)
    if boundary == "uniform":
        return np.arange(len(points), dtype=np.int32)
    inside = ~np.logical_or(*period.faces(points)).any(axis=1)
    return np.where(inside, np.cumsum(inside), 0).astype(np.int32)


@dataclass(frozen=True)
class Border:
    """Constraints Cw = 0 beside a stiffness matrix that is singular without them, for a solver with many columns.

    Under uniform traction the stiffness K has the rotations in its kernel. Springs s on a few unknowns E make
    Kₛ = K + s E Eᵀ definite; the border N = [Cᵀ, E] and Z = diag(0, 1/s) take them away again:

        K w + Cᵀ Λ = b,  C w = 0   ⇔   Kₛ w + N y = b,  Nᵀ w + Z y = 0

    Args:
        columns: N, (n, c).
        corner: Z, (c, c).
        projection: (n, c'), A with w − A Cw feasible for any w.
        constraints: c', the number of rows of C.
        springs: unknowns that carry springs.
        stiffness: s.
    """

    columns: Array
    corner: Array
    projection: Array
    constraints: int
    springs: NDArray[np.intp]
    stiffness: float

    def feasible(self, w: Array) -> Array:
        """The closest fluctuations that satisfy the constraints; of a vector (n,) or the columns of (…, n, c)."""
        return np.asarray(w - self.projection @ (self.columns[:, : self.constraints].T @ w))

    def eliminate(self, X: Array, G: Array) -> tuple[Array, Array]:
        """From X = Kₛ⁻¹[B, N] and G = [B, N]ᵀX to the constrained solutions (n, b) of B and BᵀX (b, b)."""
        b = X.shape[1] - self.columns.shape[1]
        y = np.linalg.solve(G[b:, b:] - self.corner, G[b:, :b])
        return X[:, :b] - X[:, b:] @ y, G[:b, :b] - G[:b, b:] @ y


def uniform_border(V: Any, period: Period, stiffness: float) -> Border:
    """Border of the uniform condition on a Lagrange space V whose block 0 is held.

    Raises:
        MeshError: voids cut the faces, where uniform tractions cannot act.
    """
    C = _face_averages(V, period)
    dim, bs = V.mesh.geometry.dim, V.dofmap.bs
    points = V.tabulate_dof_coordinates()[:, :dim]
    _check_whole_faces(C, points, bs)
    C[:, :bs] = 0.0
    springs = _spring_dofs(points, bs) if bs > 1 else np.zeros(0, dtype=np.intp)
    E = np.zeros((C.shape[1], len(springs)))
    E[springs, np.arange(len(springs))] = 1.0
    corner = np.diag(np.concatenate([np.zeros(len(C)), np.full(len(springs), 1.0 / stiffness)]))
    projection = C.T @ np.linalg.inv(C @ C.T)
    return Border(np.hstack([C.T, E]), corner, projection, len(C), springs, stiffness)


def _face_averages(V: Any, period: Period) -> Array:
    """C (bs·d, n): row (i, j) maps w to ∫ w_i n_j dA over the faces, divided by the volume of the period."""
    mesh, dim, bs = V.mesh, V.mesh.geometry.dim, V.dofmap.bs
    facets = np.unique(np.concatenate([_face(mesh, period, axis, side) for axis in range(dim) for side in (0, 1)]))
    tags = dolfinx.mesh.meshtags(mesh, dim - 1, facets, np.ones(len(facets), dtype=np.int32))
    ds = ufl.Measure("ds", mesh, subdomain_data=tags)(1)
    v, n = ufl.TestFunction(V), ufl.FacetNormal(mesh)
    a, b = fem.Constant(mesh, np.zeros(bs)), fem.Constant(mesh, np.zeros(dim))
    value = ufl.dot(v, a) if v.ufl_shape else v * a[0]
    form = fem.form(value * ufl.dot(n, b) * ds)
    rows = []
    for i in range(bs):
        for j in range(dim):
            a.value[:], b.value[:] = np.eye(bs)[i], np.eye(dim)[j]
            rows.append(fem.assemble_vector(form).array / period.volume)
    return np.array(rows)


def _face(mesh: Any, period: Period, axis: int, side: int) -> NDArray[np.int32]:
    dim = mesh.geometry.dim

    def on_face(x: Array) -> NDArray[np.bool_]:
        return period.faces(np.ascontiguousarray(x[:dim].T))[side][:, axis]

    return np.asarray(dolfinx.mesh.locate_entities_boundary(mesh, dim - 1, on_face))


def _check_whole_faces(C: Array, points: Array, bs: int) -> None:
    """The average of the gradient of an affine function over whole faces is its gradient."""
    dim = points.shape[1]
    averages = C[:dim].reshape(dim, -1, bs)[:, :, 0] @ points
    if np.abs(averages - np.eye(dim)).max() > 1e-6:
        raise MeshError(
            "uniform tractions or fluxes need whole faces, but voids cut those of this cell: "
            "move it so that its faces are solid, or use boundary='periodic'"
        )


def _spring_dofs(points: Array, bs: int) -> NDArray[np.intp]:
    """All components at d − 1 points that with point 0, which is held, leave no rotation free."""
    x = points - points[0]
    first = int(np.argmax((x**2).sum(axis=1)))
    chosen = [first]
    if points.shape[1] == 3:
        direction = x[first] / np.linalg.norm(x[first])
        chosen.append(int(np.argmax(((x - np.outer(x @ direction, direction)) ** 2).sum(axis=1))))
    return np.concatenate([np.arange(bs) + bs * block for block in chosen])
