"""Kinematics of a fine scale: how a macroscopic gradient and a fluctuation make the local argument of the material."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import ufl
from numpy.typing import NDArray

from coupling.contract import Array, ClosureSpec, mandel_components
from coupling.polar import positive_definite
from solver_adapters.mandel import from_mandel


class Kinematics(Protocol):
    """What the RVE solver needs to know of a kind of problem; finite and small strain and conduction are such data.

    The gradient is g = (p, e): the flux is ``sign`` ∂W/∂e with respect to the last m = ``spec.m`` components e; those
    before it are parameters p, on which the flux depends but to which none belongs (the temperature of a conductivity).
    """

    @property
    def sign(self) -> float:
        """1, or −1 where the flux points down the gradient of the potential."""
        ...

    def spec(self, dim: int, *, flux_unit: str) -> ClosureSpec:
        """Gradient, flux and reference state in ``dim`` dimensions, without a state."""
        ...

    def field_shape(self, dim: int) -> tuple[int, ...]:
        """Value shape of the fluctuation: (dim,) for displacements, () for a temperature."""
        ...

    def local(self, gradient: Any, fluctuation: Any) -> tuple[Any, ...]:
        """UFL arguments of the material from the macroscopic components (a vector) and the fluctuation field.

        The last one is the local gradient, the others are parameters.
        """
        ...

    def admissible(self, gradient: Array) -> NDArray[np.bool_]:
        """For gradients (n, k), which of them a material can undergo at all."""
        ...


class Stretch:
    """Finite strain in the stretch frame: F(x) = U + ∇w with the macroscopic right stretch U = Uᵀ.

    The flux is the average Biot stress T = ∂W/∂U in Mandel form. :class:`coupling.stretch.StretchFrame` turns such a
    closure into one from the deformation gradient to the first Piola–Kirchhoff stress.
    """

    sign = 1.0

    def spec(self, dim: int, *, flux_unit: str) -> ClosureSpec:
        """U ↦ T, both in Mandel form."""
        names = mandel_components("U", dim)
        reference = tuple(1.0 if i < dim else 0.0 for i in range(len(names)))
        return ClosureSpec(names, mandel_components("T", dim), reference, flux_unit=flux_unit, symmetric=True)

    def field_shape(self, dim: int) -> tuple[int, ...]:
        """The fluctuation is a displacement."""
        return (dim,)

    def local(self, gradient: Any, fluctuation: Any) -> tuple[Any, ...]:
        """Deformation gradient U + ∇w."""
        return (from_mandel(gradient) + ufl.grad(fluctuation),)

    def admissible(self, gradient: Array) -> NDArray[np.bool_]:
        """Finite and positive definite U."""
        return positive_definite(gradient)


class SmallStrain:
    """Small strain: ε(x) = ε̄ + sym ∇w; the flux is the average stress σ̄ = ∂W/∂ε̄, both in Mandel form."""

    sign = 1.0

    def spec(self, dim: int, *, flux_unit: str) -> ClosureSpec:
        """Macroscopic strain to stress, both in Mandel form."""
        names = mandel_components("ε", dim)
        reference = (0.0,) * len(names)
        return ClosureSpec(names, mandel_components("σ", dim), reference, flux_unit=flux_unit, symmetric=True)

    def field_shape(self, dim: int) -> tuple[int, ...]:
        """The fluctuation is a displacement."""
        return (dim,)

    def local(self, gradient: Any, fluctuation: Any) -> tuple[Any, ...]:
        """Strain ε̄ + sym ∇w."""
        return (from_mandel(gradient) + ufl.sym(ufl.grad(fluctuation)),)

    def admissible(self, gradient: Array) -> NDArray[np.bool_]:
        """Any finite strain."""
        return _finite(gradient)


class ScalarGradient:
    """Conduction or diffusion: ∇θ(x) = ḡ + ∇w; the flux is q̄ = −∂W/∂ḡ, down the gradient as in Fourier's law."""

    sign = -1.0

    def spec(self, dim: int, *, flux_unit: str) -> ClosureSpec:
        """Macroscopic gradient g to flux q."""
        flux = _axes("q", dim)
        return ClosureSpec(_axes("g", dim), flux, (0.0,) * dim, flux_unit=flux_unit, symmetric=True)

    def field_shape(self, dim: int) -> tuple[int, ...]:
        """The fluctuation is a scalar."""
        return ()

    def local(self, gradient: Any, fluctuation: Any) -> tuple[Any, ...]:
        """Gradient ḡ + ∇w."""
        return (gradient + ufl.grad(fluctuation),)

    def admissible(self, gradient: Array) -> NDArray[np.bool_]:
        """Any finite gradient."""
        return _finite(gradient)


@dataclass(frozen=True)
class ScalarField:
    """Conduction or diffusion that depends on the field: operand (θ̄, ḡ), flux q̄ = −∂W/∂ḡ at fixed θ̄.

    The materials see the macroscopic value θ̄: the fluctuation of θ inside an RVE is of the order of its size and falls
    out of the leading order of homogenisation, where that of ∇θ does not. The tangent has the blocks ∂q̄/∂θ̄ and ∂q̄/∂ḡ.

    Args:
        reference: θ̄ of the reference state.
    """

    reference: float = 0.0
    sign: ClassVar[float] = -1.0

    def spec(self, dim: int, *, flux_unit: str) -> ClosureSpec:
        """Macroscopic value θ and gradient g to flux q."""
        names, reference = ("θ", *_axes("g", dim)), (self.reference, *(0.0,) * dim)
        return ClosureSpec(names, _axes("q", dim), reference, flux_unit=flux_unit)

    def field_shape(self, dim: int) -> tuple[int, ...]:
        """The fluctuation is a scalar."""
        return ()

    def local(self, gradient: Any, fluctuation: Any) -> tuple[Any, ...]:
        """Value θ̄ and gradient ḡ + ∇w."""
        macroscopic = ufl.as_vector([gradient[i] for i in range(1, len(gradient))])
        return gradient[0], macroscopic + ufl.grad(fluctuation)

    def admissible(self, gradient: Array) -> NDArray[np.bool_]:
        """Any finite value and gradient."""
        return _finite(gradient)


def _axes(symbol: str, dim: int) -> tuple[str, ...]:
    return tuple(f"{symbol}{i}" for i in range(1, dim + 1))


def _finite(gradient: Array) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(gradient).all(axis=1))
