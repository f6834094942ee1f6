"""A ceramic with hollow spheres that conducts heat as its temperature allows: the fine scale of the composite wall."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.constants import Stefan_Boltzmann

from coupling.contract import Array
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import FieldConduction
from solver_adapters.rve.kinematics import ScalarField
from solver_adapters.rve.meshes import random_inclusions

FRACTION, PORE = 0.4, 2e-3  # area fraction of the spheres, their diameter in metres


def ceramic(theta: Any) -> Any:
    """Conductivity of the ceramic, W/(m K), limited by the scattering of phonons: as 1/θ."""
    return 36.0 * 300.0 / theta


def hollow_sphere(theta: Any) -> Any:
    """Conductivity of gas and radiation across a pore of diameter d, 0.03 + 4 d σ θ³, W/(m K)."""
    return 0.03 + 4 * PORE * Stefan_Boltzmann * theta**3


def create_rve(reference: float) -> PeriodicRVE:
    """Six spheres at random places, of a seed that makes them conduct nearly alike in all directions.

    At one temperature the problem is linear, so that the first iteration is exact; the tolerance, 1e-8 at gradients of
    10 K/mm, spares the second.
    """
    laws = {1: FieldConduction(ceramic, "36 (300 K/θ)"), 2: FieldConduction(hollow_sphere, "0.03 + 4 d σ θ³")}
    cell = random_inclusions(count=6, fraction=FRACTION, seed=23, size=0.09, order=2)
    return PeriodicRVE(cell, laws, ScalarField(reference=reference), tolerance=1.0, flux_unit="W/m²")


def conductivities(rve: PeriodicRVE, theta: Array) -> Array:
    """Effective conductivity (n, 2, 2) at temperatures (n,)."""
    g = np.column_stack([theta, np.zeros((len(theta), 2))])
    return -rve.evaluate(g, rve.initial_state(len(g)), 0.0).tangent[:, :, 1:]


def wiener(theta: Array, share: float) -> tuple[Array, Array]:
    """Harmonic and arithmetic means (n,) of the conductivities, which bound that in any direction."""
    matrix, sphere = ceramic(theta), hollow_sphere(theta)
    return 1 / ((1 - share) / matrix + share / sphere), (1 - share) * matrix + share * sphere


def hashin_shtrikman(theta: Array, share: float) -> tuple[Array, Array]:
    """Bounds (n,) on the conductivity of isotropic two-phase composites in 2D.

    κ₁ + c₂/(1/(κ₂ − κ₁) + c₁/(2κ₁)) and with the phases exchanged (Hashin & Shtrikman 1962, J. Appl. Phys. 33, 3125).
    """
    phases = (ceramic(theta), 1 - share), (hollow_sphere(theta), share)

    def around(one: tuple[Array, float], two: tuple[Array, float]) -> Array:
        return np.asarray(one[0] + two[1] / (1 / (two[0] - one[0]) + one[1] / (2 * one[0])))

    ends = around(*phases), around(*phases[::-1])
    return np.minimum(*ends), np.maximum(*ends)


def trace_slack(kappa: Array, theta: Array, share: float) -> Array:
    """How much room (2, n) the two bounds on Σ 1/(λᵢ − κ_low) and Σ 1/(κ_high − λᵢ) leave, relatively; < 0 is broken.

    λᵢ are the eigenvalues of κ (n, 2, 2). The bounds are those of Hashin and Shtrikman for any two-phase geometry,
    isotropic or not (Lurie & Cherkaev 1984, Proc. R. Soc. Edinburgh A 99, 71; Tartar 1985).
    """
    ends = np.sort([ceramic(theta), hollow_sphere(theta)], axis=0)
    eigenvalues, means = np.linalg.eigvalsh(kappa).T, np.stack(wiener(theta, share))
    sums = [(1 / np.abs(values - end)).sum(axis=0) for end in ends for values in (eigenvalues, means)]
    return 1 - np.stack([sums[0] / sums[1], sums[2] / sums[3]])
