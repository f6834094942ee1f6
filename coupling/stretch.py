"""The stretch frame: a closure U → T seen as a closure F → P.

Objectivity leaves a finite-strain law only the right stretch U of F = R U to depend on. An inner closure therefore
takes U and answers the Biot stress T = ∂Ŵ/∂U, both symmetric and in Mandel form; :class:`StretchFrame` wraps it into
the closure of the deformation gradient F and the first Piola–Kirchhoff stress P that solvers want. Rotations never
reach the inner closure.

With D_p the orthonormal basis of the symmetric tensors, W_a one of the skew tensors, and the rotated tensors

    M_p = R D_p,   V_a = R W_a,   X_a = R W_a U                                       (rows of d² numbers)

a variation δF = δΩ R U + R δU, δΩ skew, has the stretch components δu = G δF with

    Z = V Xᵀ,   N = M Xᵀ,   G = M − N Z⁻¹ V                                           (Z is symmetric)

(the spin follows from W_a : Rᵀ δF, to which the symmetric δU does not contribute). Hence, as δW = P : δF = T · δu,

    P = Gᵀ T                                       (= R (T − τ_a W_a),  τ = Z⁻¹ Nᵀ T)
    ∂P/∂F = Gᵀ (∂T/∂U) G + Vᵀ Q + Qᵀ V,   Q = Z⁻¹ (Y + ½ K Z⁻¹ V),   Y_a = V_a Rᵀ P,   K = −Y Xᵀ

An error of the inner flux is passed on as ‖δP‖ ≤ √(1 + r²) ‖δT‖ with r = (λmax − λmin)/(λmax + λmin) of the principal
stretches λ: in principal axes the pair ij of δP is δT_ij (1 ± (λi − λj)/(λi + λj)), the diagonal that of δT, and a
rotation keeps the norm. Attained by a pure shear stress; never more than √2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from coupling.contract import (
    Array,
    Closure,
    ClosureSpec,
    Response,
    Status,
    check_arguments,
    mandel_components,
    mark_unusable,
    tensor_components,
)
from coupling.errors import ContractError
from coupling.polar import admissible, mandel_basis, polar
from coupling.two_level import TwoLevel, two_level

__all__ = ["StretchFrame", "polar"]

Ask = Callable[[Array, Array | None, float, Array | None], Response]


class StretchFrame:
    """The closure F → P of an inner closure U → T; see the module's docstring for the equations.

    A point with F not finite or det F ≤ 0 is INADMISSIBLE: the inner closure sees the reference gradient there and the
    rows of the answer are NaN, its state unchanged. Status, state, hint and energy of all other points are the inner
    closure's own, the uncertainty is scaled by the bound above.

    Args:
        inner: a closure from stretches to Biot stresses, both in Mandel form, with the identity as reference.

    Raises:
        ContractError: where inner.spec describes something else.
    """

    def __init__(self, inner: Closure) -> None:
        self.inner = inner
        self.spec = _tensor_spec(inner.spec)
        self._identity = np.array(self.spec.reference)

    def initial_state(self, n: int) -> Array | None:
        """The inner closure's state (n, s) of the reference configuration."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """P (n, d²) and ∂P/∂F (n, d², d²) at F = ``gradient`` (n, d²), row by row."""
        check_arguments(self.spec, gradient, state, hint)
        return self.framed(self.inner.evaluate, gradient, state, dt, hint)

    @property
    def two_level(self) -> TwoLevel | None:
        """Both levels of the inner closure in this frame, None where it has one."""
        levels = two_level(self.inner)
        return None if levels is None else _FramedLevels(self, levels)

    @property
    def sweep(self) -> Callable[..., Response]:
        """Sweeps of the inner closure seen from deformation gradients, an AttributeError where it cannot sweep.

        See :class:`coupling.two_level.SweepingClosure`.
        """
        inner = self.inner.sweep  # type: ignore[attr-defined]

        def sweep(
            gradient: Array,
            state: Array | None,
            dt: float,
            hint: Array | None = None,
            *,
            tolerance: float,
            tangent: NDArray[np.bool_],
        ) -> Response:
            ask = partial(inner, tolerance=tolerance / math.sqrt(2.0), tangent=tangent)
            return self.framed(ask, gradient, state, dt, hint)

        return sweep

    def framed(self, ask: Ask, gradient: Array, state: Array | None, dt: float, hint: Array | None) -> Response:
        """What ``ask``, which answers stretches like the inner closure, says to deformation gradients."""
        good = admissible(gradient)
        if good.all():
            return self._framed(ask, gradient, state, dt, hint)
        safe = np.where(good[:, None], gradient, self._identity)
        response = self._framed(ask, safe, state, dt, hint)
        if response.state is not None and state is not None:
            response = replace(response, state=np.where(good[:, None], response.state, state))
        return mark_unusable(response, ~good, Status.INADMISSIBLE)

    def _framed(self, ask: Ask, F: Array, state: Array | None, dt: float, hint: Array | None) -> Response:
        R, u = polar(F)
        inner = ask(u, state, dt, hint)
        P, A = transform(R, u, inner.flux, inner.tangent)
        error = None if inner.uncertainty is None else inner.uncertainty * amplification(u)
        return replace(inner, flux=P, tangent=A, uncertainty=error)


@dataclass(frozen=True)
class _FramedLevels:
    """Both levels of a closure of stretches, seen from deformation gradients."""

    frame: StretchFrame
    inner: TwoLevel

    def model(
        self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None, *, learned: bool
    ) -> Response:
        return self.frame.framed(partial(self.inner.model, learned=learned), gradient, state, dt, hint)

    def sweep(
        self,
        gradient: Array,
        state: Array | None,
        dt: float,
        hint: Array | None = None,
        *,
        tolerance: float,
        trial: bool = False,
    ) -> Response:
        ask = partial(self.inner.sweep, tolerance=tolerance / math.sqrt(2.0), trial=trial)
        return self.frame.framed(ask, gradient, state, dt, hint)


def _tensor_spec(spec: ClosureSpec) -> ClosureSpec:
    dim = {3: 2, 6: 3}.get(spec.k)
    if dim is None or spec.m != spec.k:
        raise ContractError(
            f"StretchFrame needs an inner closure from 3 (2D) or 6 (3D) Mandel components of U to as many of T, got "
            f"{spec.k} gradient components {spec.gradient} and {spec.m} flux components {spec.flux}"
        )
    for role, names in (("gradient", spec.gradient), ("flux", spec.flux)):
        expected = mandel_components(names[0].removesuffix("11"), dim)
        if names != expected:
            raise ContractError(f"StretchFrame needs an inner {role} in Mandel form, {expected}, got {names}")
    identity = (1.0,) * dim + (0.0,) * (spec.k - dim)
    if spec.reference != identity:
        raise ContractError(
            f"StretchFrame needs an inner closure of stretches, with the reference {identity}, got {spec.reference} "
            f"(a strain measure has zeros there: shift it to U before it is wrapped)"
        )
    return replace(
        spec,
        gradient=tensor_components("F", dim),
        flux=tensor_components("P", dim),
        reference=tuple(np.eye(dim).ravel().tolist()),
    )


def amplification(u: Array) -> Array:
    """√(1 + r²) (n,), the largest ratio of ‖δP‖ to ‖δT‖ at the stretches u (n, k); see the module's docstring."""
    n, k = u.shape
    if k == 3:  # (λ₁ − λ₂)² = (U11 − U22)² + 4 U12², λ₁ + λ₂ = tr U
        difference, shear = u[:, 0] - u[:, 1], u[:, 2]
        ratio = (difference * difference + 2.0 * shear * shear) / (u[:, 0] + u[:, 1]) ** 2
        return np.asarray(np.sqrt(1.0 + ratio))
    stretches = np.linalg.eigvalsh((u @ mandel_basis(3).reshape(k, -1)).reshape(n, 3, 3))
    low, high = stretches[:, 0], stretches[:, -1]
    return np.asarray(np.sqrt(1.0 + ((high - low) / (high + low)) ** 2))


def transform(R: Array, u: Array, T: Array, C: Array) -> tuple[Array, Array]:
    """P (n, d²) and ∂P/∂F (n, d², d²) from rotation (n, d, d), stretch, Biot stress (n, k) and ∂T/∂U (n, k, k)."""
    return _transform_plane(R, u, T, C) if R.shape[1] == 2 else _transform(R, u, T, C)


def _transform_plane(R: Array, u: Array, T: Array, C: Array) -> tuple[Array, Array]:
    """The same equations for d = 2, where Z = tr U and the only skew tensor, w = (0 −1; 1 0), commutes with R.

    Hence V = w R, Y = w P and K = −T : U. Two to four times faster than the general form.
    """
    n = len(R)
    rotated_basis, turn, spin = _plane_tables()
    r = R.reshape(n, 4)
    zi = 1.0 / (u[:, :1] + u[:, 1:2])
    V = r @ turn
    G = (r @ rotated_basis).reshape(n, 3, 4)
    G -= ((u @ spin) * zi)[:, :, None] * V[:, None, :]
    P = (T[:, None, :] @ G)[:, 0]
    Q = zi * (P @ turn - (0.5 * zi * (T * u).sum(axis=1, keepdims=True)) * V)
    VtQ = V[:, :, None] * Q[:, None, :]
    A = G.transpose(0, 2, 1) @ (C @ G)
    A += VtQ
    A += VtQ.transpose(0, 2, 1)
    return P, A


@lru_cache(maxsize=1)
def _plane_tables() -> tuple[Array, Array, Array]:
    """Linear maps of row-major components: R ↦ all R D_p (4, 12), A ↦ w A (4, 4), and u ↦ all D_p : (w U) (3, 3)."""
    D, w, one = mandel_basis(2), np.array([[0.0, -1.0], [1.0, 0.0]]), np.eye(2)
    rotated_basis = np.einsum("ik,pmj->impkj", one, D).reshape(4, 12)
    turn = np.einsum("ki,mj->imkj", w, one).reshape(4, 4)
    spin = np.einsum("pij,ik,qkj->qp", D, w, D)
    return rotated_basis, turn, spin


def _transform(R: Array, u: Array, T: Array, C: Array) -> tuple[Array, Array]:
    """The equations of the module's docstring, for any d."""
    n, d = R.shape[:2]
    D, W = mandel_basis(d), _skew_basis(d)
    rows = (n, len(W), d * d)
    V = R[:, None] @ W
    X = (V @ (u @ D.reshape(-1, d * d)).reshape(n, 1, d, d)).reshape(rows)
    Xt, V = X.transpose(0, 2, 1), V.reshape(rows)
    M = (R[:, None] @ D).reshape(n, len(D), d * d)
    Z = V @ Xt
    Zi = np.linalg.inv(Z)
    ZiV = Zi @ V
    G = M - (M @ Xt) @ ZiV
    P = (T[:, None, :] @ G)[:, 0]
    back_rotated = R.transpose(0, 2, 1) @ P.reshape(n, d, d)
    Y = (V.reshape(n, len(W), d, d) @ back_rotated[:, None]).reshape(rows)
    Q = Zi @ (Y - 0.5 * (Y @ Xt) @ ZiV)
    VtQ = V.transpose(0, 2, 1) @ Q
    A = G.transpose(0, 2, 1) @ (C @ G)
    A += VtQ
    A += VtQ.transpose(0, 2, 1)
    return P, A


@lru_cache(maxsize=2)
def _skew_basis(dim: int) -> Array:
    pairs = ((0, 1),) if dim == 2 else ((1, 2), (0, 2), (0, 1))
    basis = np.zeros((len(pairs), dim, dim))
    for a, (i, j) in enumerate(pairs):
        basis[a, i, j], basis[a, j, i] = -math.sqrt(0.5), math.sqrt(0.5)
    return basis
