"""Small-strain von Mises plasticity in closed form, with isotropic hardening and history.

2D is plane strain. A gradient that is not finite is INADMISSIBLE.
"""

from __future__ import annotations

import numpy as np

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

_TOLERANCE = 1e-13
_ITERATIONS = 50


class VonMisesPlasticity:
    """J2 plasticity with linear and Voce (saturation) hardening, ε → σ in Mandel form, by radial return.

        σ = C (ε − εᵖ),   f = q − σ_y(p) ≤ 0,   q = √(3/2) ‖dev σ‖,   ε̇ᵖ = ṗ √(3/2) n,   n = dev σ/‖dev σ‖
        σ_y(p) = σ₀ + H p + (σ_∞ − σ₀)(1 − exp(−δ p))

    Backward Euler: where the trial stress of the committed plastic strain violates f ≤ 0, the plastic increment solves
    q_trial − 3μ Δp − σ_y(p₀ + Δp) = 0. Its left side is decreasing and convex, so that Newton's method from Δp = 0
    converges from one side at every point; all points iterate together. Consistent tangent (Simo & Hughes 1998,
    Computational Inelasticity, box 3.2):

        κ 1⊗1 + 2μ θ (I − ⅓ 1⊗1) − 2μ (3μ/(3μ + σ_y′) − 1 + θ) n⊗n,   θ = 1 − 3μ Δp/q_trial

    The tangent jumps where a point begins to yield. The law does not depend on dt.

    State (n, 5) in plane strain: εᵖ₁₁, εᵖ₂₂, εᵖ₃₃, √2·εᵖ₁₂ and p; (n, 7) in 3D: εᵖ in Mandel form and p. The energy is
    the free energy ½ (ε − εᵖ)·C (ε − εᵖ) + ∫₀ᵖ (σ_y − σ₀) dp.

    Args:
        mu: shear modulus μ.
        lmbda: Lamé's λ.
        yield_stress: σ₀ > 0.
        hardening: H ≥ 0; 0 is perfect plasticity.
        saturation_stress: σ_∞ ≥ σ₀, by default σ₀.
        saturation_rate: δ ≥ 0.
        dim: 2 (plane strain) or 3.

    Raises:
        ContractError: the parameters soften the material, whose solutions would depend on the mesh.
    """

    def __init__(
        self,
        mu: float,
        lmbda: float,
        yield_stress: float,
        *,
        hardening: float = 0.0,
        saturation_stress: float | None = None,
        saturation_rate: float = 0.0,
        dim: int = 2,
    ) -> None:
        saturation = yield_stress if saturation_stress is None else saturation_stress
        if not (yield_stress > 0.0 and hardening >= 0.0 and saturation >= yield_stress and saturation_rate >= 0.0):
            raise ContractError(
                "plasticity needs yield_stress > 0, hardening >= 0, saturation_stress >= yield_stress and "
                f"saturation_rate >= 0, got {yield_stress}, {hardening}, {saturation} and {saturation_rate}"
            )
        self.mu, self.bulk = mu, lmbda + 2.0 * mu / 3.0
        self.yield_stress, self.hardening = yield_stress, hardening
        self.rise, self.rate = saturation - yield_stress, saturation_rate
        self._inside = np.array([0, 1, 3] if dim == 2 else range(6))
        self._size = 4 if dim == 2 else 6
        self.spec = ClosureSpec(
            gradient=mandel_components("ε", dim),
            flux=mandel_components("σ", dim),
            reference=(0.0,) * len(self._inside),
            state_size=self._size + 1,
            history=True,
            symmetric=True,
        )

    def initial_state(self, n: int) -> Array:
        """Virgin material: εᵖ = 0, p = 0."""
        return np.zeros((n, self.spec.state_size))

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """σ (n, k) at the end of an increment that ends at ε = ``gradient`` (n, k)."""
        n = check_arguments(self.spec, gradient, state, hint)
        assert state is not None
        bad = np.asarray(~np.isfinite(gradient).all(axis=1))
        elastic = -state[:, :-1]
        elastic[:, self._inside] += np.where(bad[:, None], 0.0, gradient)
        pressure, deviator = self._trial(elastic)
        q = np.sqrt(1.5 * (deviator * deviator).sum(axis=1))
        yields = ~bad & (q > self.strength(state[:, -1]))
        new, shrink = state.copy(), np.ones(n)
        C = np.repeat(self._elastic_tangent[None], n, axis=0)
        if yields.any():
            p, s, q_trial = state[yields, -1], deviator[yields], q[yields]
            increment = self._return(q_trial, p)
            shrink[yields] = 1.0 - 3.0 * self.mu * increment / q_trial
            new[yields, :-1] += (1.5 * increment / q_trial)[:, None] * s
            new[yields, -1] += increment
            C[yields] = self._plastic_tangent(s, q_trial, shrink[yields], p + increment)
        stress = shrink[:, None] * deviator
        stress[:, :3] += pressure[:, None]
        energy = 0.5 * pressure**2 / self.bulk + (shrink * q) ** 2 / (6.0 * self.mu) + self._stored(new[:, -1])
        flux = np.ascontiguousarray(stress[:, self._inside])
        return mark_unusable(Response(flux, C, np.zeros(n, np.int8), new, energy=energy), bad, Status.INADMISSIBLE)

    def strength(self, p: Array) -> Array:
        """Yield stress σ_y of equivalent plastic strains p, any shape."""
        return np.asarray(self.yield_stress + self.hardening * p - self.rise * np.expm1(-self.rate * p))

    def _slope(self, p: Array) -> Array:
        return np.asarray(self.hardening + self.rise * self.rate * np.exp(-self.rate * p))

    def _stored(self, p: Array) -> Array:
        saturating = self.rise * (p + np.expm1(-self.rate * p) / self.rate) if self.rate > 0.0 else 0.0
        return np.asarray(0.5 * self.hardening * p * p + saturating)

    def _trial(self, elastic: Array) -> tuple[Array, Array]:
        """Mean stress (n,) and deviatoric stress (n, 4 or 6) of elastic strains."""
        volume = elastic[:, :3].sum(axis=1)
        deviator = 2.0 * self.mu * elastic
        deviator[:, :3] -= (2.0 * self.mu / 3.0) * volume[:, None]
        return self.bulk * volume, deviator

    def _return(self, q_trial: Array, p: Array) -> Array:
        """Δp (n,) of points beyond the yield surface."""
        increment = np.zeros_like(p)
        for _ in range(_ITERATIONS):
            excess = q_trial - 3.0 * self.mu * increment - self.strength(p + increment)
            increment += excess / (3.0 * self.mu + self._slope(p + increment))
            if (np.abs(excess) <= _TOLERANCE * q_trial).all():
                break
        return increment

    @property
    def _elastic_tangent(self) -> Array:
        k = len(self._inside)
        return 2.0 * self.mu * np.eye(k) + (self.bulk - 2.0 * self.mu / 3.0) * self._volumetric

    @property
    def _volumetric(self) -> Array:
        normal = (self._inside < 3).astype(float)
        return np.outer(normal, normal)

    def _plastic_tangent(self, s: Array, q_trial: Array, shrink: Array, p: Array) -> Array:
        n = np.sqrt(1.5) * s[:, self._inside] / q_trial[:, None]
        drop = 3.0 * self.mu / (3.0 * self.mu + self._slope(p)) - 1.0 + shrink
        deviatoric = np.eye(len(self._inside)) - self._volumetric / 3.0
        C: Array = (2.0 * self.mu * shrink)[:, None, None] * deviatoric + self.bulk * self._volumetric
        C -= (2.0 * self.mu * drop)[:, None, None] * (n[:, :, None] * n[:, None, :])
        return C
