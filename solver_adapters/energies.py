"""Materials of a finite-strain RVE: stored energy densities W(F) in UFL.

A material is anything that maps the deformation gradient F (a UFL tensor) to an energy density (a UFL scalar), so a
material of your own is a function of two lines:

    def gent(F):
        return -mu * Jm / 2 * ufl.ln(1 - (ufl.tr(F.T * F) - 2) / Jm) - mu * ufl.ln(ufl.det(F))

In 2D the laws below are plane strain: F is the in-plane 2×2 block and the out-of-plane stretch is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import ufl

Energy: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True)
class NeoHookean:
    """Compressible neo-Hookean solid.

    W = μ/2 (tr FᵀF − d) − μ ln J + λ/2 (ln J)², J = det F, d the dimension (Bonet & Wood, Nonlinear Continuum
    Mechanics for Finite Element Analysis, 2nd ed., eq. 6.27).

    Args:
        mu: shear modulus μ at small strain, in units of stress.
        lmbda: first Lamé constant λ at small strain, in units of stress.
    """

    mu: float
    lmbda: float

    def __call__(self, F: Any) -> Any:
        """Energy density at the deformation gradient F."""
        J = ufl.det(F)
        shear = ufl.tr(F.T * F) - F.ufl_shape[0]
        return self.mu / 2 * shear - self.mu * ufl.ln(J) + self.lmbda / 2 * ufl.ln(J) ** 2


@dataclass(frozen=True)
class SaintVenantKirchhoff:
    """Saint Venant–Kirchhoff solid: W = λ/2 (tr E)² + μ E:E with E = ½(FᵀF − I).

    It softens in compression and is not elliptic far from the reference state: for moderate strains only.

    Args:
        mu: shear modulus μ, in units of stress.
        lmbda: first Lamé constant λ, in units of stress.
    """

    mu: float
    lmbda: float

    def __call__(self, F: Any) -> Any:
        """Energy density at the deformation gradient F."""
        E = (F.T * F - ufl.Identity(F.ufl_shape[0])) / 2
        return self.lmbda / 2 * ufl.tr(E) ** 2 + self.mu * ufl.inner(E, E)
