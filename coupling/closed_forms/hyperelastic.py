"""Finite-strain laws in closed form.

2D is plane strain; energies and stresses are per unit reference volume. A gradient F that is not finite or has
det F ≤ 0 is INADMISSIBLE, and so is a stretch U that is not positive definite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coupling.contract import (
    Array,
    ClosureSpec,
    Response,
    Status,
    check_arguments,
    mandel_components,
    mark_unusable,
    tensor_components,
)
from coupling.polar import admissible, mandel_basis, positive_definite


class NeoHookean:
    """Compressible neo-Hookean solid, F → P.

        W = μ/2 (tr FᵀF − d) − μ ln J + λ/2 (ln J)²,   P = μ (F − F⁻ᵀ) + λ ln J F⁻ᵀ

    In plane strain F33 = 1 adds one to the trace and to the number subtracted, so that W reads the same.

    Args:
        mu: shear modulus μ of the reference state.
        lmbda: Lamé's λ of the reference state.
        dim: 2 (plane strain) or 3.
    """

    def __init__(self, mu: float, lmbda: float, dim: int = 2) -> None:
        self.mu, self.lmbda, self.dim = mu, lmbda, dim
        self.spec = ClosureSpec(
            gradient=tensor_components("F", dim),
            flux=tensor_components("P", dim),
            reference=tuple(np.eye(dim).ravel().tolist()),
            symmetric=True,
        )

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """P (n, d²) at F = ``gradient`` (n, d²), row by row."""
        n, d = check_arguments(self.spec, gradient, state, hint), self.dim
        F, bad = _where_or_reference(admissible(gradient), gradient, self.spec)
        Fm = F.reshape(n, d, d)
        log_j = np.log(np.linalg.det(Fm))
        g = np.linalg.inv(Fm).transpose(0, 2, 1).reshape(n, d * d)
        c = self.lmbda * log_j - self.mu
        P = self.mu * F + c[:, None] * g
        gg = g[:, :, None] * g[:, None, :]
        swapped = gg.reshape(n, d, d, d, d).transpose(0, 1, 4, 3, 2).reshape(n, d * d, d * d)
        A = self.lmbda * gg - c[:, None, None] * swapped + self.mu * np.eye(d * d)
        W = _neo_hookean_energy(self, (F * F).sum(axis=1), log_j)
        return mark_unusable(Response(P, A, np.zeros(n, np.int8), energy=W), bad, Status.INADMISSIBLE)


class StretchNeoHookean:
    """The law of :class:`NeoHookean` in stretch space, U → Biot stress T, for :class:`coupling.stretch.StretchFrame`.

        T = μ (U − U⁻¹) + λ ln J U⁻¹,   δT = μ δU + (μ − λ ln J) U⁻¹ δU U⁻¹ + λ (U⁻¹ : δU) U⁻¹

    Args:
        mu: shear modulus μ of the reference state.
        lmbda: Lamé's λ of the reference state.
        dim: 2 (plane strain) or 3.
    """

    def __init__(self, mu: float, lmbda: float, dim: int = 2) -> None:
        self.mu, self.lmbda, self.dim = mu, lmbda, dim
        components = mandel_components("U", dim)
        self.spec = ClosureSpec(
            gradient=components,
            flux=mandel_components("T", dim),
            reference=(1.0,) * dim + (0.0,) * (len(components) - dim),
            symmetric=True,
        )

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """T (n, k) at U = ``gradient`` (n, k), both in Mandel form."""
        n, d = check_arguments(self.spec, gradient, state, hint), self.dim
        D = mandel_basis(d).reshape(self.spec.k, d * d)
        u, bad = _where_or_reference(positive_definite(gradient), gradient, self.spec)
        U = (u @ D).reshape(n, d, d)
        log_j = np.log(np.linalg.det(U))
        inverse = np.linalg.inv(U)
        h = inverse.reshape(n, d * d) @ D.T
        c = self.lmbda * log_j - self.mu
        sandwich = inverse[:, :, None, :, None] * inverse[:, None, :, None, :]
        C = self.lmbda * (h[:, :, None] * h[:, None, :]) + self.mu * np.eye(self.spec.k)
        C -= c[:, None, None] * (D @ sandwich.reshape(n, d * d, d * d) @ D.T)
        T = self.mu * u + c[:, None] * h
        W = _neo_hookean_energy(self, (u * u).sum(axis=1), log_j)
        return mark_unusable(Response(T, C, np.zeros(n, np.int8), energy=W), bad, Status.INADMISSIBLE)


def _neo_hookean_energy(law: NeoHookean | StretchNeoHookean, trace: Array, log_j: Array) -> Array:
    return 0.5 * law.mu * (trace - law.dim) - law.mu * log_j + 0.5 * law.lmbda * log_j**2


def _where_or_reference(good: NDArray[np.bool_], gradient: Array, spec: ClosureSpec) -> tuple[Array, NDArray[np.bool_]]:
    if good.all():
        return gradient, ~good
    return np.where(good[:, None], gradient, np.array(spec.reference)), ~good
