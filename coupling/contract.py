"""The closure contract: arrays in, arrays out, state passed in and returned, outcomes as values.

A *closure* maps macroscopic quantities at points to fluxes. For a batch of n points

    (g, h₀, Δt)  ↦  (q, ∂q/∂g, h₁, status)

* ``gradient`` g: (n, k) float64, C-contiguous. ``spec.gradient`` names the k components in order: general second-order
  tensors row by row (F11, F12, F21, F22), symmetric ones in Mandel form (11, 22, √2·12 in 2D; 11, 22, 33, √2·23,
  √2·13, √2·12 in 3D), several operands one after the other.
* ``state`` h₀: (n, s) float64 with s = ``spec.state_size``, what the closure needs to know of each point at the *start*
  of the increment, or None where s = 0. Its layout is the closure's own business; to everybody else it is one opaque
  row per point that can be stored, sent and restarted from.
* ``dt`` Δt > 0: the length of the increment, by which rates are divided. A closure without history does not depend on
  it, and may be given 0.
* ``hint``: the ``Response.state`` of an earlier evaluation of the same points in the same increment, or None. It may
  shorten the evaluation and must not change its result beyond the closure's tolerance.
* nothing passed in is modified; everything returned is fresh and belongs to the caller. The one exception is a state in
  which no row has changed, which may be the very array passed in: nobody writes into a state once it has been returned.

Failures are values per point: a closure answers for every point, whatever happens at one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coupling.errors import ContractError

Array: TypeAlias = NDArray[np.float64]
StatusArray: TypeAlias = NDArray[np.int8]


class Status(IntEnum):
    """Outcome at one point. Values up to ``FALLBACK`` may be used, all others may not."""

    OK = 0
    FALLBACK = 1
    OUTSIDE_RANGE = 2
    NOT_CONVERGED = 3
    INADMISSIBLE = 4
    FAILED = 5

    @property
    def usable(self) -> bool:
        """Whether flux and tangent of the point may enter a solution."""
        return self <= Status.FALLBACK

    @property
    def message(self) -> str:
        """One readable clause."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OK: "evaluated",
    Status.FALLBACK: "served by the fine scale in place of the surrogate",
    Status.OUTSIDE_RANGE: "gradient outside the range the surrogate was trained for",
    Status.NOT_CONVERGED: "fine-scale iteration did not converge",
    Status.INADMISSIBLE: "gradient is not admissible (not finite, or det F <= 0)",
    Status.FAILED: "evaluation failed",
}


def tensor_components(symbol: str, dim: int) -> tuple[str, ...]:
    """Names of the dim² components of a general tensor, row by row (F11, F12, …)."""
    return tuple(f"{symbol}{i}{j}" for i in range(1, dim + 1) for j in range(1, dim + 1))


def mandel_components(symbol: str, dim: int) -> tuple[str, ...]:
    """Names of the dim(dim+1)/2 Mandel components of a symmetric tensor: U11, U22, √2·U12."""
    pairs = {1: ("11",), 2: ("11", "22", "12"), 3: ("11", "22", "33", "23", "13", "12")}[dim]
    return tuple(f"{symbol}{p}" if p[0] == p[1] else f"√2·{symbol}{p}" for p in pairs)


@dataclass(frozen=True)
class ClosureSpec:
    """What a closure takes and gives.

    Args:
        gradient: names of the k components of the gradient, in order.
        flux: names of the m components of the flux, in order.
        reference: gradient of the reference state, k values (the identity for F and U, zeros for strains).
        gradient_unit: unit of the gradient, "1" for dimensionless.
        flux_unit: unit of the flux.
        state_size: s, numbers of state per point.
        history: whether the flux depends on the state. A closure may have a state without history (a converged
            fluctuation field that only shortens the next solve).
        symmetric: whether the tangent is symmetric (k = m and a potential exists).
    """

    gradient: tuple[str, ...]
    flux: tuple[str, ...]
    reference: tuple[float, ...]
    gradient_unit: str = "1"
    flux_unit: str = "1"
    state_size: int = 0
    history: bool = False
    symmetric: bool = False

    def __post_init__(self) -> None:
        if len(self.reference) != len(self.gradient):
            raise ContractError(
                f"reference has {len(self.reference)} values for {len(self.gradient)} gradient components "
                f"{self.gradient}: give one value for each component"
            )
        if self.symmetric and len(self.flux) != len(self.gradient):
            raise ContractError(
                f"a symmetric tangent needs as many flux as gradient components, got {len(self.flux)} and "
                f"{len(self.gradient)}"
            )

    @property
    def k(self) -> int:
        """Number of gradient components."""
        return len(self.gradient)

    @property
    def m(self) -> int:
        """Number of flux components."""
        return len(self.flux)


@dataclass(frozen=True)
class Response:
    """What a closure answers for n points.

    Args:
        flux: (n, m).
        tangent: (n, m, k), ∂flux/∂gradient at the end of the increment.
        status: (n,) int8, values of :class:`Status`. Rows of a point that is not usable are finite or NaN, never
            meaningful.
        state: (n, s) at the end of the increment, or None where s = 0.
        uncertainty: (n,) estimated error of the flux, in its unit and Euclidean norm; surrogates state it.
        energy: (n,) stored energy density where the closure has one and was asked for it.
    """

    flux: Array
    tangent: Array
    status: StatusArray
    state: Array | None = None
    uncertainty: Array | None = None
    energy: Array | None = None


@runtime_checkable
class Closure(Protocol):
    """A map from macroscopic gradients at points to fluxes; see the module's docstring."""

    @property
    def spec(self) -> ClosureSpec:
        """What the closure takes and gives."""
        ...

    def initial_state(self, n: int) -> Array | None:
        """State (n, s) of n points in the reference configuration, None where s = 0."""
        ...

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux, tangent, new state and status of n points; n may be zero."""
        ...


def usable(status: StatusArray) -> NDArray[np.bool_]:
    """Mask (n,) of the points that may be used, :attr:`Status.usable` for an array."""
    return (status >= Status.OK) & (status <= Status.FALLBACK)


def finite_rows(response: Response) -> NDArray[np.bool_]:
    """Mask (n,) of the points at which all numbers of the response are finite."""
    finite = np.isfinite(response.flux).all(axis=1) & np.isfinite(response.tangent).all(axis=(1, 2))
    for rows in (response.uncertainty, response.energy):
        if rows is not None:
            finite &= np.isfinite(rows)
    if response.state is not None:
        finite &= np.isfinite(response.state).all(axis=1)
    return np.asarray(finite)


def mark_unusable(response: Response, where: NDArray[np.bool_], status: Status) -> Response:
    """The same response with that status and NaN instead of numbers at the points ``where`` (n,); states stay.

    Works in place: the caller must own the response.
    """
    if where.any():
        response.status[where] = status
        for rows in (response.flux, response.tangent, response.uncertainty, response.energy):
            if rows is not None:
                rows[where] = np.nan
    return response


def check_arguments(spec: ClosureSpec, gradient: Array, state: Array | None, hint: Array | None = None) -> int:
    """Number of points n, after checking the arrays of one ``evaluate`` call against the specification.

    Raises:
        ContractError: naming the array, what was expected and what was got.
    """
    _check_array("gradient", gradient, (None, len(spec.gradient)), spec.gradient)
    n = gradient.shape[0]
    for name, rows in (("state", state), ("hint", hint)):
        if rows is None and (name == "hint" or spec.state_size == 0):
            continue
        if rows is None:
            raise ContractError(
                f"state is None, but the closure keeps {spec.state_size} numbers per point: "
                f"pass closure.initial_state({n}) at the first evaluation"
            )
        _check_array(name, rows, (n, spec.state_size), "one row per point")
    return n


def check_response(spec: ClosureSpec, response: Response, n: int) -> None:
    """Check that a response to n points has the arrays that the specification promises.

    Raises:
        ContractError: naming the array, what was expected and what was got.
    """
    _check_array("flux", response.flux, (n, spec.m), spec.flux)
    _check_array("tangent", response.tangent, (n, spec.m, spec.k), "∂flux/∂gradient")
    _check_array("status", response.status, (n,), "one value per point", np.int8)
    if (response.state is None) != (spec.state_size == 0):
        raise ContractError(
            f"state must be {'None' if spec.state_size == 0 else 'an array'} for {spec.state_size} numbers per point, "
            f"got {type(response.state).__name__}"
        )
    if response.state is not None:
        _check_array("state", response.state, (n, spec.state_size), "one row per point")
    for name, rows in (("uncertainty", response.uncertainty), ("energy", response.energy)):
        if rows is not None:
            _check_array(name, rows, (n,), "one value per point")


def _check_array(
    name: str,
    array: NDArray[Any],
    shape: tuple[int | None, ...],
    meaning: str | tuple[str, ...],
    dtype: type = np.float64,
) -> None:
    """Check an array of n rows; ``meaning`` says what these are, or names their components."""
    if not isinstance(array, np.ndarray):
        raise ContractError(f"{name} must be a NumPy array of shape {_in_words(shape)}, got {type(array).__name__}")
    if array.ndim != len(shape) or array.shape[1:] != shape[1:] or shape[0] not in (None, array.shape[0]):
        what = meaning if isinstance(meaning, str) else f"components {', '.join(meaning)}"
        raise ContractError(f"{name} must have shape {_in_words(shape)} ({what}), got {array.shape}")
    if array.dtype != dtype:
        raise ContractError(f"{name} must be {dtype.__name__}, got {array.dtype}: convert it with .astype")
    if not array.flags.c_contiguous:
        raise ContractError(f"{name} must be C-contiguous: pass numpy.ascontiguousarray({name})")


def _in_words(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("n" if s is None else str(s) for s in shape) + ")"
