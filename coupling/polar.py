"""Polar decomposition F = R U of deformation gradients, many at a time."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import ContractError

_PAIRS = {2: ((0, 0), (1, 1), (0, 1)), 3: ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))}


@lru_cache(maxsize=2)
def mandel_basis(dim: int) -> Array:
    """D (k, d, d): orthonormal basis of the symmetric tensors, so that A = Σ_p a_p D_p has Mandel components a_p."""
    basis = np.zeros((len(_PAIRS[dim]), dim, dim))
    for p, (i, j) in enumerate(_PAIRS[dim]):
        basis[p, i, j] = basis[p, j, i] = 1.0 if i == j else math.sqrt(0.5)
    basis.flags.writeable = False
    return basis


def tensor_dim(components: int) -> int:
    """Dimension d of a general tensor of d² components.

    Raises:
        ContractError: where d is not 2 or 3.
    """
    if components not in (4, 9):
        raise ContractError(f"F must have 4 or 9 components per point, row by row, got {components}")
    return math.isqrt(components)


def determinant(F: Array) -> Array:
    """Determinants (n,) of tensors F (n, d²) given row by row; not finite where F is not."""
    f = F.T
    with np.errstate(invalid="ignore", over="ignore"):
        if tensor_dim(F.shape[1]) == 2:
            return np.asarray(f[0] * f[3] - f[1] * f[2])
        return np.asarray(
            f[0] * (f[4] * f[8] - f[5] * f[7]) - f[1] * (f[3] * f[8] - f[5] * f[6]) + f[2] * (f[3] * f[7] - f[4] * f[6])
        )


def admissible(F: Array) -> NDArray[np.bool_]:
    """Where F (n, d²) is finite with det F > 0, the domain of the finite-strain closures."""
    det = determinant(F)
    return np.asarray((det > 0.0) & np.isfinite(det))


def positive_definite(u: Array) -> NDArray[np.bool_]:
    """Where symmetric tensors u (n, k), in Mandel form, are finite and positive definite (Sylvester's criterion)."""
    dim = {3: 2, 6: 3}[u.shape[1]]
    with np.errstate(invalid="ignore", over="ignore"):
        U = u @ mandel_basis(dim).reshape(u.shape[1], dim * dim)
        minor = U[:, 0] * U[:, dim + 1] - U[:, 1] ** 2
    return np.asarray(admissible(U) & (U[:, 0] > 0.0) & (minor > 0.0))


def polar(F: Array) -> tuple[Array, Array]:
    """Rotation and right stretch, F = R U with Rᵀ R = 1, det R = 1 and U symmetric positive definite.

    2D in closed form: with a = F11 + F22, b = F21 − F12 and tr U = √(a² + b²), R = (1/tr U) (a −b; b a).
    3D by singular values: F = W Σ Vᵀ gives R = W Vᵀ and U = V Σ Vᵀ.

    Args:
        F: (n, d²) row by row, finite, det F > 0 at every point (see :func:`admissible`; not checked here).

    Returns:
        R (n, d, d) and U (n, d(d+1)/2) in Mandel form.
    """
    return _polar_2d(F) if tensor_dim(F.shape[1]) == 2 else _polar_3d(F)


def _polar_2d(F: Array) -> tuple[Array, Array]:
    f11, f12, f21, f22 = F.T
    a, b = f11 + f22, f21 - f12
    trace = np.hypot(a, b)
    c, s = a / trace, b / trace
    R = np.empty((F.shape[0], 2, 2))
    R[:, 0, 0] = R[:, 1, 1] = c
    R[:, 1, 0] = s
    R[:, 0, 1] = -s
    U = np.empty((F.shape[0], 3))
    U[:, 0] = c * f11 + s * f21
    U[:, 1] = c * f22 - s * f12
    U[:, 2] = math.sqrt(2.0) * (c * f12 + s * f22)
    return R, U


def _polar_3d(F: Array) -> tuple[Array, Array]:
    W, sigma, Vt = np.linalg.svd(F.reshape(-1, 3, 3))
    V = Vt.transpose(0, 2, 1)
    U = (V * sigma[:, None, :]) @ Vt
    return W @ Vt, U.reshape(-1, 9) @ mandel_basis(3).reshape(6, 9).T
