"""Kinematics of a fine scale: how a macroscopic gradient and a fluctuation make the local argument of the material."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import ufl
from numpy.typing import NDArray

from coupling.contract import Array, ClosureSpec, mandel_components
from coupling.polar import mandel_basis, positive_definite


class Kinematics(Protocol):
    """What the RVE solver needs to know of a kind of problem; finite and small strain and conduction are such data."""

    def spec(self, dim: int, *, flux_unit: str) -> ClosureSpec:
        """Gradient, flux and reference state in ``dim`` dimensions, without a state."""
        ...

    def field_shape(self, dim: int) -> tuple[int, ...]:
        """Value shape of the fluctuation: (dim,) for displacements, () for a temperature."""
        ...

    def local(self, gradient: Any, fluctuation: Any) -> Any:
        """UFL argument of the material from the macroscopic components (a vector) and the fluctuation field."""
        ...

    def admissible(self, gradient: Array) -> NDArray[np.bool_]:
        """For gradients (n, k), which of them a material can undergo at all."""
        ...


class Stretch:
    """Finite strain in the stretch frame: F(x) = U + ∇w with the macroscopic right stretch U = Uᵀ.

    The flux is the average Biot stress T = ∂W/∂U in Mandel form. :class:`coupling.stretch.StretchFrame` turns such a
    closure into one from the deformation gradient to the first Piola–Kirchhoff stress.
    """

    def spec(self, dim: int, *, flux_unit: str) -> ClosureSpec:
        """U ↦ T, both in Mandel form."""
        names = mandel_components("U", dim)
        reference = tuple(1.0 if i < dim else 0.0 for i in range(len(names)))
        return ClosureSpec(names, mandel_components("T", dim), reference, flux_unit=flux_unit, symmetric=True)

    def field_shape(self, dim: int) -> tuple[int, ...]:
        """The fluctuation is a displacement."""
        return (dim,)

    def local(self, gradient: Any, fluctuation: Any) -> Any:
        """Deformation gradient U + ∇w."""
        return symmetric_tensor(gradient) + ufl.grad(fluctuation)

    def admissible(self, gradient: Array) -> NDArray[np.bool_]:
        """Finite and positive definite U."""
        return positive_definite(gradient)


def symmetric_tensor(mandel: Any) -> Any:
    """UFL tensor of a UFL vector of Mandel components."""
    basis = mandel_basis(2 if len(mandel) == 3 else 3)
    return sum(mandel[p] * ufl.as_tensor(tensor.tolist()) for p, tensor in enumerate(basis))
