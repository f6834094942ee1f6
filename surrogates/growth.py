"""The growth term: an energy that rises without bound as a stretch collapses.

    G(U) = c (J + 1/J − 2)²,   J = det U

vanishes at J = 1 together with its first and second derivatives, so that it leaves the reference state and its
stiffness alone. The form is that of Linden et al. 2023, Neural networks meet hyperelasticity (J. Mech. Phys. Solids
179, 105363).
"""

from __future__ import annotations

import numpy as np
import torch

from coupling.contract import Array
from coupling.polar import mandel_basis

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Growth:
    """G with ∂G/∂U and ∂²G/∂U² at stretches in Mandel form; det U is the polynomial of the d-th derivative tensor D.

    2D: ∂²J = D, ∂J = D U, J = ½ ∂J·U.   3D: ∂²J = D U, ∂J = ½ (D U) U, J = ⅓ ∂J·U.

    Args:
        coefficient: c ≥ 0, in the unit of the energy.
        k: 3 (2D) or 6 (3D).
        device: of the tensors.
    """

    def __init__(self, coefficient: float, k: int, device: torch.device) -> None:
        self.coefficient, self.k = coefficient, k
        self._derivative = torch.from_numpy(_determinant_derivative(k).reshape(-1, k * k)).to(device)

    def evaluate(self, U: torch.Tensor) -> Triple:
        """Energy (n,), flux (n, k) and tangent (n, k, k) at U (n, k)."""
        J, dJ, ddJ = self._determinant(U)
        inverse = J.reciprocal()
        q, dq = J + inverse - 2.0, 1.0 - inverse * inverse
        first = (2.0 * self.coefficient) * q * dq
        second = (2.0 * self.coefficient) * (dq * dq + 2.0 * q * inverse**3)
        tangent = second[:, None, None] * (dJ[:, :, None] * dJ[:, None, :]) + first[:, None, None] * ddJ
        return self.coefficient * q * q, first[:, None] * dJ, tangent

    def _determinant(self, U: torch.Tensor) -> Triple:
        if self.k == 3:
            ddJ = self._derivative.view(1, 3, 3)
            dJ = U @ ddJ[0]
            return 0.5 * (dJ * U).sum(1), dJ, ddJ
        ddJ = (U @ self._derivative).view(-1, 6, 6)
        dJ = 0.5 * (ddJ @ U[:, :, None])[:, :, 0]
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
