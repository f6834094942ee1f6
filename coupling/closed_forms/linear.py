"""Linear laws in closed form: elasticity, thermoelasticity, viscoelasticity, conduction.

2D elasticity is plane strain. A gradient that is not finite is INADMISSIBLE.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coupling.contract import (
    Array,
    ClosureSpec,
    Response,
    Status,
    check_arguments,
    mandel_components,
    mark_unusable,
)
from coupling.errors import ContractError


def lame(young: float, poisson: float) -> tuple[float, float]:
    """μ = E/(2(1+ν)) and λ = Eν/((1+ν)(1−2ν)) of Young's modulus and Poisson's ratio."""
    return young / (2.0 * (1.0 + poisson)), young * poisson / ((1.0 + poisson) * (1.0 - 2.0 * poisson))


@lru_cache
def isotropic_stiffness(mu: float, lmbda: float, dim: int) -> Array:
    """2μ 1 + λ 1⊗1 (k, k) in Mandel form, read-only."""
    k = len(mandel_components("ε", dim))
    identity = np.zeros(k)
    identity[:dim] = 1.0
    C = 2.0 * mu * np.eye(k) + lmbda * np.outer(identity, identity)
    C.flags.writeable = False
    return C


class LinearElastic:
    """Isotropic linear elasticity, σ = C ε with C = 2μ 1 + λ 1⊗1 and energy ½ ε·σ, in Mandel form.

    Args:
        mu: shear modulus μ.
        lmbda: Lamé's λ.
        dim: 2 (plane strain) or 3.
    """

    def __init__(self, mu: float, lmbda: float, dim: int = 2) -> None:
        self.stiffness = isotropic_stiffness(mu, lmbda, dim)
        self.spec = ClosureSpec(
            gradient=mandel_components("ε", dim),
            flux=mandel_components("σ", dim),
            reference=(0.0,) * len(self.stiffness),
            symmetric=True,
        )

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """σ (n, k) at ε = ``gradient`` (n, k)."""
        n = check_arguments(self.spec, gradient, state, hint)
        strain, bad = _finite_or_zero(gradient)
        stress = strain @ self.stiffness
        tangent, work = _repeated(self.stiffness, n), _half_work(strain, stress)
        response = Response(stress, tangent, np.zeros(n, np.int8), energy=work)
        return mark_unusable(response, bad, Status.INADMISSIBLE)


class ThermoElastic:
    """Isotropic linear thermoelasticity of two operands, σ = C ε − α (3λ + 2μ) θ 1 of (ε, θ), in Mandel form.

    θ is the temperature above that of the reference state. The tangent (C, −α (3λ + 2μ) 1) is not square.

    Args:
        mu: shear modulus μ.
        lmbda: Lamé's λ.
        expansion: α, strain per temperature.
        dim: 2 (plane strain, where the expansion across the plane is held back) or 3.
    """

    def __init__(self, mu: float, lmbda: float, expansion: float, dim: int = 2) -> None:
        C = isotropic_stiffness(mu, lmbda, dim)
        thermal = np.zeros(len(C))
        thermal[:dim] = expansion * (3.0 * lmbda + 2.0 * mu)
        self.tangent = np.column_stack((C, -thermal))
        self.spec = ClosureSpec(
            gradient=(*mandel_components("ε", dim), "θ"),
            flux=mandel_components("σ", dim),
            reference=(0.0,) * (len(C) + 1),
        )

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """σ (n, k) at (ε, θ) = ``gradient`` (n, k + 1)."""
        n = check_arguments(self.spec, gradient, state, hint)
        finite, bad = _finite_or_zero(gradient)
        response = Response(finite @ self.tangent.T, _repeated(self.tangent, n), np.zeros(n, np.int8))
        return mark_unusable(response, bad, Status.INADMISSIBLE)


class StandardLinearSolid:
    """Small-strain viscoelasticity in Mandel form: a spring C beside a Maxwell branch (spring C_v, dashpot).

        σ = C ε + C_v (ε − α),   α̇ = (ε − α)/τ,   backward Euler: α₁ = (α₀ + (Δt/τ) ε)/(1 + Δt/τ)

    so that at constant strain the overstress shrinks by 1/(1 + Δt/τ) in every step. State: α (n, k), the strain of the
    dashpot. The consistent tangent is C + C_v/(1 + Δt/τ), the energy ½ ε·C ε + ½ (ε − α₁)·C_v (ε − α₁).

    Args:
        mu: shear modulus of the spring C.
        lmbda: Lamé's λ of the spring C.
        branch_mu: shear modulus of the branch.
        branch_lmbda: Lamé's λ of the branch.
        relaxation_time: τ > 0, in the unit of dt.
        dim: 2 (plane strain) or 3.
    """

    def __init__(
        self, mu: float, lmbda: float, *, branch_mu: float, branch_lmbda: float, relaxation_time: float, dim: int = 2
    ) -> None:
        if not relaxation_time > 0.0:
            raise ContractError(f"relaxation_time must be positive, got {relaxation_time}")
        self.stiffness = isotropic_stiffness(mu, lmbda, dim)
        self.branch_stiffness = isotropic_stiffness(branch_mu, branch_lmbda, dim)
        self.relaxation_time = relaxation_time
        k = len(self.stiffness)
        self.spec = ClosureSpec(
            gradient=mandel_components("ε", dim),
            flux=mandel_components("σ", dim),
            reference=(0.0,) * k,
            state_size=k,
            history=True,
            symmetric=True,
        )

    def initial_state(self, n: int) -> Array:
        """α = 0."""
        return np.zeros((n, self.spec.state_size))

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """σ (n, k) at the end of an increment of length dt that ends at ε = ``gradient`` (n, k)."""
        n = check_arguments(self.spec, gradient, state, hint)
        assert state is not None
        strain, bad = _finite_or_zero(gradient)
        ratio = dt / self.relaxation_time
        alpha = np.asarray((state + ratio * strain) / (1.0 + ratio), dtype=np.float64)
        elastic, overstress = strain @ self.stiffness, (strain - alpha) @ self.branch_stiffness
        response = Response(
            flux=elastic + overstress,
            tangent=_repeated(self.stiffness + self.branch_stiffness / (1.0 + ratio), n),
            status=np.zeros(n, np.int8),
            state=alpha,
            energy=_half_work(strain, elastic) + _half_work(strain - alpha, overstress),
        )
        return mark_unusable(response, bad, Status.INADMISSIBLE)


class Conduction:
    """Fourier's law, q = −κ g with g = ∇θ: the flux points down the gradient, so the tangent is −κ.

    In a weak form the steady balance div q = 0 reads ∫ q·∇v dx = 0 (without sources and boundary terms).

    Args:
        conductivity: κ, a number or a symmetric positive definite (d, d) array.
        dim: d.
    """

    def __init__(self, conductivity: ArrayLike, dim: int = 2) -> None:
        kappa = np.asarray(conductivity, dtype=float)
        self.conductivity = kappa * np.eye(dim) if kappa.ndim == 0 else kappa
        if self.conductivity.shape != (dim, dim) or not np.array_equal(self.conductivity, self.conductivity.T):
            raise ContractError(
                f"conductivity must be a number or a symmetric ({dim}, {dim}) array, got {conductivity!r}"
            )
        axes = [str(i) for i in range(1, dim + 1)]
        self.spec = ClosureSpec(
            gradient=tuple("g" + i for i in axes),
            flux=tuple("q" + i for i in axes),
            reference=(0.0,) * dim,
            symmetric=True,
        )

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux q (n, d) at g = ``gradient`` (n, d)."""
        n = check_arguments(self.spec, gradient, state, hint)
        finite, bad = _finite_or_zero(gradient)
        response = Response(-finite @ self.conductivity, _repeated(-self.conductivity, n), np.zeros(n, np.int8))
        return mark_unusable(response, bad, Status.INADMISSIBLE)


def _finite_or_zero(gradient: Array) -> tuple[Array, NDArray[np.bool_]]:
    bad = np.asarray(~np.isfinite(gradient).all(axis=1))
    return (np.where(bad[:, None], 0.0, gradient) if bad.any() else gradient), bad


def _repeated(matrix: Array, n: int) -> Array:
    return np.repeat(matrix[None], n, axis=0)


def _half_work(gradient: Array, flux: Array) -> Array:
    return 0.5 * np.asarray((gradient * flux).sum(axis=1))
