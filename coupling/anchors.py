"""Models of the flux that are anchored, point by point, at the last answer of the fine scale.

With the answer q₀ at g₀, the surrogate q_s and s = g − g₀,

    learned   q̃(g) = q_s(g) + m₀ + B s,   m₀ = q₀ − q_s(g₀),  B ≈ ∂(q − q_s)/∂g
    plain     q̃(g) = q₀ + A s,            A ≈ ∂q/∂g

Both are exact at g₀. B and A are the difference of the tangents where the fine scale gave one. Elsewhere each answer
corrects them by the least change that explains it (a secant), symmetric where tangents are (Powell's symmetric Broyden
update; Broyden 1965, Math. Comp. 19, 577–593; Powell 1970, in Rosen et al., Nonlinear Programming, 31–65).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array

_LEAST_TOLD = 300.0
UNHEARD = -1.0
"""Error of a learned model whose surrogate has not answered at g₀, or with no numbers that can be judged."""


@dataclass(frozen=True)
class Anchors:
    """Anchors of n points.

    Args:
        gradient: (n, k), g₀.
        flux: (n, m), q₀.
        tangent: (n, m, k), A.
        mismatch: (n, m), m₀.
        slope: (n, m, k), B.
        errors: (n, 2), error with which the learned and the plain model predicted the last fluxes, older ones fading;
            :data:`UNHEARD` for the learned one where there is no m₀.
        doubt: (n, 2), error of the model in use relative to the change of the flux, at the first sweep of the last
            increment and at the last sweep, zero there where the tangent is the fine scale's.
        noise: (n,), estimated error of q₀; negative at points without an anchor.
    """

    gradient: Array
    flux: Array
    tangent: Array
    mismatch: Array
    slope: Array
    errors: Array
    doubt: Array
    noise: Array

    @staticmethod
    def size(k: int, m: int) -> int:
        """Numbers per point."""
        return k + 2 * m + 2 * m * k + 5

    @classmethod
    def unpack(cls, rows: Array, k: int, m: int) -> Anchors:
        """Views of the rows (n, size)."""
        n, shapes = len(rows), ((k,), (m,), (m, k), (m,), (m, k), (2,), (2,), ())
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        parts = np.split(rows, ends[:-1], axis=1)
        return cls(*(part.reshape(n, *shape) for part, shape in zip(parts, shapes, strict=True)))

    @classmethod
    def none(cls, n: int, k: int, m: int) -> Array:
        """Rows (n, size) of points without an anchor."""
        rows = np.zeros((n, cls.size(k, m)))
        cls.unpack(rows, k, m).noise[:] = -1.0
        return rows

    def pack(self) -> Array:
        """Rows (n, size)."""
        parts = [getattr(self, f.name) for f in fields(self)]
        return np.concatenate([part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in parts], axis=1)

    @property
    def lacking(self) -> NDArray[np.bool_]:
        """Mask (n,) of the points without an anchor."""
        return np.asarray(self.noise < 0.0)

    @property
    def heard(self) -> NDArray[np.bool_]:
        """Mask (n,) of the points with an m₀."""
        return np.asarray(self.errors[:, 0] != UNHEARD)

    @property
    def told(self) -> NDArray[np.bool_]:
        """Mask (n,) of the points where A and B come from the fine scale's own tangent."""
        return np.asarray(self.doubt[:, 1] == 0.0)

    def of_surrogate(self, flux: Array, tangent: Array) -> Anchors:
        """The same answers of the fine scale with another surrogate, of flux q_s (n, m) and tangent (n, m, k) at g₀.

        Its error counts as that of the last surrogate, and as unknown where there was none to be judged.
        """
        slope = np.where(self.told[:, None, None], self.tangent - tangent, 0.0)
        judged = self.heard & (self.errors[:, 0] != 2.0 * self.errors[:, 1])
        errors = np.where(judged[:, None], self.errors, 0.0)
        return replace(self, mismatch=self.flux - flux, slope=slope, errors=errors).sound()

    def sound(self) -> Anchors:
        """The same, unheard where m₀, B or what they err by is no number, and without m₀ and B where unheard."""
        finite = np.isfinite(self.mismatch).all(axis=1) & np.isfinite(self.slope).all(axis=(1, 2))
        heard = self.heard & finite & np.isfinite(self.errors[:, 0])
        errors = np.column_stack([np.where(heard, self.errors[:, 0], UNHEARD), self.errors[:, 1]])
        mismatch = np.where(heard[:, None], self.mismatch, 0.0)
        return replace(self, mismatch=mismatch, slope=np.where(heard[:, None, None], self.slope, 0.0), errors=errors)

    def plain(self, step: Array) -> Array:
        """Flux (n, m) of the plain model at g₀ + s."""
        return self.flux + product(self.tangent, step)

    def correction(self, step: Array) -> Array:
        """What the learned model adds to the surrogate's flux at g₀ + s."""
        return self.mismatch + product(self.slope, step)


def product(matrices: Array, vectors: Array) -> Array:
    """Products (n, m) of matrices (n, m, k) and vectors (n, k)."""
    return np.asarray(np.matmul(matrices, vectors[:, :, None])[:, :, 0])


def secant(step: Array, unexplained: Array, noise: Array, *, symmetric: bool) -> Array:
    """Least changes C (n, m, k) with C s = y, damped where the noise of y is felt.

    y weighs |s|²/(|s|² + σ²), where σ is the step over which noise amounts to a thousandth of ``stiffness``.

    Args:
        step: (n, k), s.
        unexplained: (n, m), y.
        noise: (n,), error of y relative to the stiffness.
        symmetric: whether C is symmetric.
    """
    square = (step**2).sum(axis=1) + (_LEAST_TOLD * noise) ** 2
    weight = np.where(square > 0.0, 1.0 / np.where(square > 0.0, square, 1.0), 0.0)[:, None, None]
    C = weight * unexplained[:, :, None] * step[:, None, :]
    if symmetric:
        along = weight[:, 0] * (unexplained * step).sum(axis=1, keepdims=True)
        C = C + C.transpose(0, 2, 1) - weight * along[:, :, None] * step[:, :, None] * step[:, None, :]
    return np.asarray(C)
