"""Materials of an RVE with history: incremental potentials in UFL.

Over an increment of length Δt that starts with the history h₀, such a material is one with the energy

    W(ε; h₀, Δt) = min_h [ψ(ε, h) + Δt φ((h − h₀)/Δt)],   σ = ∂W/∂ε,   h₁ = argmin

with the free energy ψ and the potential φ of the dissipation: the derivatives of W are the stress at the end of the
increment by the backward Euler method and its consistent tangent (Ortiz & Stainier 1999, Comput. Methods Appl. Mech.
Eng. 171, 419–444; Miehe 2002, Int. J. Numer. Methods Eng. 55, 1285–1322). A material of your own says which history it
begins with, and gives W and h₁ in terms of the local gradient (of any kinematics), h₀ and Δt:

    class Relaxing:
        def virgin(self, dim):
            return [0.0] * dim

        def increment(self, gradient, history, dt):
            ratio, excess = dt / tau, gradient - history
            return kappa / 2 * ufl.dot(excess, excess) / (1 + ratio), (history + ratio * gradient) / (1 + ratio)

In 2D the laws below are plane strain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import ufl

from coupling.closed_forms import isotropic_stiffness
from coupling.errors import ContractError
from solver_adapters.mandel import mandel
from solver_adapters.rve.energies import Energy

_YIELDING = 1.0 + 1e-12  # of q² to (σ₀ + H p)²: at the end of an increment they differ by round-off
_INDEPENDENT = {2: (0, 1, 5), 3: (0, 1, 3, 4, 5)}  # Mandel components of a deviator, from which the others follow


@runtime_checkable
class HistoryMaterial(Protocol):
    """What the RVE solver needs of a material with history."""

    def virgin(self, dim: int) -> Sequence[float]:
        """History of the virgin material in ``dim`` dimensions; its length is the number of components of h.

        Their averages are features for predictors (:meth:`solver_adapters.fenicsx_rve.PeriodicRVE.features`), of which
        none should follow from the others: leave out what is determined, as one normal component of a deviator.
        """
        ...

    def increment(self, *arguments: Any, **keywords: Any) -> tuple[Any, Any]:
        """``increment(*local, h₀, Δt)``: W (a scalar) and h₁ (a vector), UFL expressions.

        ``local`` are the arguments that an energy has, the last of them the local gradient. W is given up to what does
        not depend on them. All must be finite at Δt = 0, which means the instantaneous response.
        """
        ...


Material: TypeAlias = Energy | HistoryMaterial


@dataclass(frozen=True)
class VonMisesPlasticity:
    """J₂ plasticity with linear isotropic hardening, at small strain.

    With the trial strain e = dev ε − εᵖ₀, the trial stress q = √6 μ |e| and f = q − σ₀ − H p₀

        W = ½ κ (tr ε)² + μ |e|² − ½ ⟨f⟩²/(3μ + H),   Δp = ⟨f⟩/(3μ + H),   εᵖ = εᵖ₀ + 3μ Δp e/q

    which is the radial return (Simo & Hughes 1998, Computational Inelasticity, box 3.1). On the yield surface, up to
    round-off, where each increment begins, the tangent is the elastic one. History: the independent
    components of εᵖ in Mandel form, 11, 22, √2·12 in 2D and 11, 22, √2·23, √2·13, √2·12 in 3D (εᵖ₃₃ = −εᵖ₁₁ − εᵖ₂₂),
    and the equivalent plastic strain p.

    Args:
        mu: shear modulus μ, in units of stress.
        lmbda: first Lamé constant λ, in units of stress.
        yield_stress: σ₀ > 0.
        hardening: H ≥ 0.

    Raises:
        ContractError: a yield stress that is not positive, or softening.
    """

    mu: float
    lmbda: float
    yield_stress: float
    hardening: float = 0.0

    def __post_init__(self) -> None:
        if not (self.yield_stress > 0.0 and self.hardening >= 0.0):
            raise ContractError(
                f"plasticity needs yield_stress > 0 and hardening >= 0, got {self.yield_stress} and {self.hardening}"
            )

    def virgin(self, dim: int) -> Sequence[float]:
        """εᵖ = 0, p = 0."""
        return [0.0] * (len(_INDEPENDENT[dim]) + 1)

    def increment(self, strain: Any, history: Any, dt: Any) -> tuple[Any, Any]:
        """Incremental potential and (εᵖ, p) at the strain tensor."""
        volume, trial, p = ufl.tr(strain), self._trial(strain, history), history[len(history) - 1]
        squared, strength = 6.0 * self.mu**2 * ufl.dot(trial, trial), self.yield_stress + self.hardening * p
        flows = ufl.gt(squared, _YIELDING * strength**2)
        q = ufl.sqrt(ufl.conditional(flows, squared, strength**2))
        excess, stiffness = q - strength, 3.0 * self.mu + self.hardening
        bulk = self.lmbda + 2.0 * self.mu / 3.0
        potential = bulk / 2 * volume**2 + self.mu * ufl.dot(trial, trial) - excess**2 / (2 * stiffness)
        flow = 3.0 * self.mu * excess / (stiffness * q)
        independent = [history[i] + flow * trial[j] for i, j in enumerate(_INDEPENDENT[strain.ufl_shape[0]])]
        return potential, ufl.as_vector([*independent, p + excess / stiffness])

    def _trial(self, strain: Any, history: Any) -> Any:
        """Deviator of the trial elastic strain, six Mandel components."""
        zero, third = ufl.as_ufl(0.0), ufl.tr(strain) / 3
        e, h = mandel(strain), history
        strains = [e[0], e[1], zero, zero, zero, e[2]] if len(e) == 3 else list(e)
        shears = [zero, zero, h[2]] if len(e) == 3 else [h[2], h[3], h[4]]
        plastic = [h[0], h[1], -h[0] - h[1], *shears]
        return ufl.as_vector([a - third * (i < 3) - b for i, (a, b) in enumerate(zip(strains, plastic, strict=True))])


@dataclass(frozen=True)
class GeneralisedMaxwell:
    """Small-strain viscoelasticity: a spring C beside Maxwell branches of a spring Cᵢ and a dashpot, isotropic.

        W = ½ ε·C ε + ½ Σ (ε − αᵢ)·Cᵢ (ε − αᵢ)/(1 + Δt/τᵢ),   α̇ᵢ = (ε − αᵢ)/τᵢ

    so that at constant strain the overstress of a branch shrinks by 1/(1 + Δt/τᵢ) in every step. History: the strains
    αᵢ of the dashpots in Mandel form, one after the other. One branch makes the standard linear solid.

    Args:
        mu: shear modulus μ of the spring C, in units of stress.
        lmbda: first Lamé constant λ of the spring C, in units of stress.
        branches: μᵢ, λᵢ and the relaxation time τᵢ > 0, in the unit of dt, of each branch.

    Raises:
        ContractError: no branch, or a relaxation time that is not positive.
    """

    mu: float
    lmbda: float
    branches: tuple[tuple[float, float, float], ...]

    def __post_init__(self) -> None:
        if not self.branches or not all(time > 0.0 for _, _, time in self.branches):
            raise ContractError(f"branches must be some (mu, lambda, relaxation time > 0), got {self.branches}")

    def virgin(self, dim: int) -> Sequence[float]:
        """αᵢ = 0."""
        return [0.0] * (len(self.branches) * dim * (dim + 1) // 2)

    def increment(self, strain: Any, history: Any, dt: Any) -> tuple[Any, Any]:
        """Incremental potential and the strains of the dashpots at the strain tensor."""
        e = mandel(strain)
        k, dim = len(e), strain.ufl_shape[0]
        potential, updated = _quadratic(self.mu, self.lmbda, dim, e), []
        for i, (mu, lmbda, time) in enumerate(self.branches):
            ratio, alpha = dt / time, ufl.as_vector([history[i * k + j] for j in range(k)])
            potential += _quadratic(mu, lmbda, dim, e - alpha) / (1 + ratio)
            updated += [(alpha[j] + ratio * e[j]) / (1 + ratio) for j in range(k)]
        return potential, ufl.as_vector(updated)


def _quadratic(mu: float, lmbda: float, dim: int, e: Any) -> Any:
    C = isotropic_stiffness(mu, lmbda, dim)
    return ufl.dot(e, ufl.dot(ufl.as_matrix(C.tolist()), e)) / 2
