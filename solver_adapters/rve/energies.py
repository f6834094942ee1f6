"""Materials of an RVE: energy densities and potentials in UFL.

A material is anything that maps the local gradient of its kinematics to an energy density (a UFL scalar): W(F) at
finite strain, W(ε) at small strain, W(∇θ) for conduction, W(θ, ∇θ) for conduction that depends on the field. So a
material of your own is a function of two lines:

    def gent(F):
        return -mu * Jm / 2 * ufl.ln(1 - (ufl.tr(F.T * F) - 2) / Jm) - mu * ufl.ln(ufl.det(F))

Materials with history are in :mod:`solver_adapters.rve.histories`.

Numbers that are fem.Constants, as in the linear laws below, spare the next RVE with other numbers the compilation of
its forms. They stay what they are while an RVE lives: what changes in a run is a parameter of the gradient, as in
:class:`solver_adapters.rve.kinematics.ScalarField`, or a history.

In 2D the elastic laws below are plane strain: F is the in-plane 2×2 block and the out-of-plane stretch is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import ufl
from dolfinx import fem
from numpy.typing import ArrayLike

from coupling.closed_forms import isotropic_stiffness
from coupling.contract import Array
from coupling.errors import ContractError
from coupling.polar import mandel_basis
from solver_adapters.mandel import mandel

Energy: TypeAlias = Callable[..., Any]


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


class LinearElastic:
    """Linear elastic solid: W = ½ e·C e with the Mandel form e of the strain ε.

    Args:
        stiffness: C, (3, 3) in 2D or (6, 6) in 3D, symmetric, in Mandel form and units of stress;
            :func:`isotropic` and :func:`transversely_isotropic` make it.

    Raises:
        ContractError: C is not such a matrix.
    """

    def __init__(self, stiffness: ArrayLike) -> None:
        self.stiffness = _symmetric("stiffness", stiffness, sizes=(3, 6))

    def __repr__(self) -> str:
        return f"LinearElastic({self.stiffness.tolist()})"

    def __call__(self, strain: Any) -> Any:
        """Energy density at the strain tensor."""
        e = mandel(strain)
        rows, components = len(self.stiffness), len(e)
        if rows != components:
            raise ContractError(
                f"stiffness is {rows}×{rows}, but the strain in {strain.ufl_shape[0]}D has {components} components"
            )
        return ufl.dot(e, ufl.dot(_constant(self.stiffness, strain), e)) / 2


def isotropic(mu: float, lmbda: float, dim: int = 2) -> LinearElastic:
    """Isotropic linear elasticity, C = 2μ 1 + λ 1⊗1; plane strain in 2D."""
    return LinearElastic(isotropic_stiffness(mu, lmbda, dim))


def transversely_isotropic(
    *,
    axial_modulus: float,
    transverse_modulus: float,
    axial_poisson: float,
    transverse_poisson: float,
    axial_shear: float,
    axis: Sequence[float],
    dim: int = 3,
) -> LinearElastic:
    """Transversely isotropic linear elasticity, as of a fibre or a unidirectional ply.

    The compliance in Mandel form, with the axis as direction 3, is

        S₁₁ = S₂₂ = 1/E_t,  S₁₂ = −ν_t/E_t,  S₃₃ = 1/E_a,  S₁₃ = S₂₃ = −ν_a/E_a,
        S₄₄ = S₅₅ = 1/(2G_a),  S₆₆ = (1 + ν_t)/E_t

    Args:
        axial_modulus: E_a, Young's modulus along the axis.
        transverse_modulus: E_t, Young's modulus across it.
        axial_poisson: ν_a, contraction across the axis under tension along it.
        transverse_poisson: ν_t, contraction across the axis under tension across it.
        axial_shear: G_a, shear modulus in planes that contain the axis.
        axis: direction of the axis, three components, of any length.
        dim: 3, or 2 for plane strain in the plane of the first two directions.

    Raises:
        ContractError: no axis, or moduli without a positive definite stiffness.
    """
    direction = np.asarray(axis, dtype=float)
    if direction.shape != (3,) or not np.linalg.norm(direction) > 0:
        raise ContractError(f"axis must have three components, not all zero, got {axis}: (1, 0, 0) is the x₁ direction")
    S = np.zeros((6, 6))
    S[:2, :2] = np.array([[1.0, -transverse_poisson], [-transverse_poisson, 1.0]]) / transverse_modulus
    S[2, :2] = S[:2, 2] = -axial_poisson / axial_modulus
    S[2, 2] = 1.0 / axial_modulus
    S[3, 3] = S[4, 4] = 1.0 / (2.0 * axial_shear)
    S[5, 5] = (1.0 + transverse_poisson) / transverse_modulus
    if not np.linalg.eigvalsh(S).min() > 0:
        raise ContractError("the compliance is not positive definite: check the moduli and Poisson's ratios")
    M = _mandel_rotation(_frame(direction))
    C = M @ np.linalg.inv(S) @ M.T
    plane = [0, 1, 5] if dim == 2 else list(range(6))
    return LinearElastic((C + C.T)[np.ix_(plane, plane)] / 2)


class Conduction:
    """Fourier's or Fick's law, q = −κ ∇θ, by its potential W = ½ ∇θ·κ ∇θ.

    Args:
        conductivity: κ, a number or a symmetric (d, d) array, in units of flux per gradient.

    Raises:
        ContractError: κ is no such array.
    """

    def __init__(self, conductivity: ArrayLike) -> None:
        kappa = np.asarray(conductivity, dtype=float)
        self.conductivity = kappa if kappa.ndim == 0 else _symmetric("conductivity", kappa, sizes=(2, 3))

    def __repr__(self) -> str:
        return f"Conduction({self.conductivity.tolist()})"

    def __call__(self, gradient: Any) -> Any:
        """Potential at the gradient ∇θ."""
        return _quadratic(_constant(self.conductivity, gradient), gradient)


@dataclass(frozen=True)
class FieldConduction:
    """Conduction with a conductivity that depends on the field: q = −κ(θ) ∇θ, W = ½ ∇θ·κ(θ) ∇θ at fixed θ.

    Args:
        conductivity: κ as a function of θ (a UFL scalar) that returns a UFL scalar or (d, d) tensor, such as
            ``lambda theta: 0.2 + 1e-3 * theta``.
        name: what :func:`repr` and model cards call the law.
    """

    conductivity: Callable[[Any], Any]
    name: str = "κ(θ)"

    def __repr__(self) -> str:
        return f"FieldConduction({self.name})"

    def __call__(self, theta: Any, gradient: Any) -> Any:
        """Potential at the value θ and the gradient ∇θ."""
        return _quadratic(self.conductivity(theta), gradient)


def _quadratic(kappa: Any, gradient: Any) -> Any:
    if not getattr(kappa, "ufl_shape", ()):
        return kappa * ufl.dot(gradient, gradient) / 2
    rows, components = kappa.ufl_shape[0], len(gradient)
    if rows != components:
        raise ContractError(f"conductivity is {rows}×{rows}, but the gradient has {components} components")
    return ufl.dot(gradient, ufl.dot(kappa, gradient)) / 2


def _constant(values: Array, expression: Any) -> Any:
    """The values as a constant on the mesh of a UFL expression."""
    return fem.Constant(ufl.domain.extract_unique_domain(expression), values)


def _symmetric(name: str, values: ArrayLike, *, sizes: tuple[int, int]) -> Array:
    matrix = np.array(values, dtype=float)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and matrix.shape[0] in sizes
    if not square or np.abs(matrix - matrix.T).max() > 1e-12 * np.abs(matrix).max():
        raise ContractError(
            f"{name} must be a symmetric {sizes[0]}×{sizes[0]} or {sizes[1]}×{sizes[1]} array, got {values!r}"
        )
    return matrix


def _frame(axis: Array) -> Array:
    """Rotation (3, 3) whose third column is the direction of the axis."""
    columns = np.column_stack([axis, np.eye(3)])
    Q = np.linalg.qr(columns).Q
    Q[:, 0] *= np.sign(Q[:, 0] @ axis)
    return np.column_stack([Q[:, 1], Q[:, 2], Q[:, 0]])


def _mandel_rotation(Q: Array) -> Array:
    """M (6, 6) with mandel(Q A Qᵀ) = M mandel(A)."""
    D = mandel_basis(3)
    return np.asarray(np.einsum("pij,ik,jl,qkl->pq", D, Q, Q, D))
