"""The growth term: an energy that rises without bound as a stretch collapses.

    G(U) = c (J + 1/J − 2)²,   J = det U

vanishes at J = 1 together with its first and second derivatives, so that it leaves the reference state and its
stiffness alone. The form is that of Linden et al. 2023, Neural networks meet hyperelasticity (J. Mech. Phys. Solids
179, 105363).
"""

from __future__ import annotations

import numpy as np

from coupling.contract import Array
from coupling.polar import mandel_basis
from surrogates.backend import Backend, Tensor


class Growth:
    """G with ∂G/∂U and ∂²G/∂U² at stretches in Mandel form; det U is the polynomial of the d-th derivative tensor D.

    2D: ∂²J = D, ∂J = D U, J = U11 U22 − U12².   3D: ∂²J = D U, ∂J = ½ (D U) U, J = ⅓ ∂J·U.

    Args:
        coefficient: c, in the unit of the energy; negative to take the term away.
        k: 3 (2D) or 6 (3D).
        backend: where it evaluates.
    """

    def __init__(self, coefficient: float | Tensor, k: int, backend: Backend) -> None:
        self.coefficient, self.k = coefficient, k
        self._derivative = backend.array(_determinant_derivative(k).reshape(-1, k * k))

    def add(self, U: Tensor, energy: Tensor, flux: Tensor, tangent: Tensor) -> None:
        """Add G, ∂G/∂U and ∂²G/∂U² at U (n, k) to energy (n,), flux (n, k) and tangent (n, k, k), in place.

        With r = 1/J: J + r − 2 = (J − 1)² r =: q, G' = 2c q (1 − r²), G'' = 2c [(1 − r²)² + 2 q r³].
        """
        J, dJ, ddJ = self._determinant(U)
        r = 1.0 / J
        q = J - 1.0
        q *= q
        q *= r
        energy += self.coefficient * q * q
        r2 = r * r
        slope = 1.0 - r2
        q *= 2.0 * self.coefficient
        first = (q * slope)[:, None]
        flux += first * dJ
        second = (2.0 * self.coefficient) * slope
        second *= slope
        r2 *= r
        r2 *= q
        second += r2 + r2
        outer = dJ[:, :, None] * dJ[:, None, :]
        outer *= second[:, None, None]
        tangent += outer
        tangent += (first * ddJ).reshape(tangent.shape)

    def _determinant(self, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """J (n,), ∂J (n, k), and ∂²J, (1, 9) in 2D and (n, 36) in 3D."""
        if self.k == 3:
            J = U[:, 0] * U[:, 1]
            J -= 0.5 * U[:, 2] * U[:, 2]
            return J, U @ self._derivative.reshape(3, 3), self._derivative.reshape(1, 9)
        ddJ = U @ self._derivative
        dJ = 0.5 * (ddJ.reshape(-1, 6, 6) @ U[:, :, None])[:, :, 0]
        return (dJ * U).sum(1) / 3.0, dJ, ddJ


def _determinant_derivative(k: int) -> Array:
    """∂²J/∂U² (3, 3) in 2D, ∂³J/∂U³ (6, 6, 6) in 3D, from det A = 1/d! ε…ε… A…A."""
    D = mandel_basis(2 if k == 3 else 3)
    if k == 3:
        eps = np.array([[0.0, 1.0], [-1.0, 0.0]])
        return np.asarray(np.einsum("ij,kl,pik,qjl->pq", eps, eps, D, D))
    eps3 = np.zeros((3, 3, 3))
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        eps3[a, b, c], eps3[a, c, b] = 1.0, -1.0
    half = np.einsum("ijk,pil,qjm->pqlmk", eps3, D, D)
    derivative = np.einsum("pqlmk,lmn,rkn->rpq", half, eps3, D, optimize=True)
    return np.asarray(0.5 * (derivative + derivative.transpose(0, 2, 1)))  # symmetric to the bit
