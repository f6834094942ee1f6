"""A surrogate for the exact mode that needs no samples: a polynomial, fitted in milliseconds to the run's own answers.

At the start of each increment it is fitted anew to what the fine scale has answered at the ends of earlier ones
(:mod:`surrogates.extrapolation`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from coupling.contract import Array, ClosureSpec, Response, Status, check_arguments
from surrogates.extrapolation import fit_to_extrapolate
from surrogates.polynomial_flux import PolynomialFlux

_MOST_SAMPLES = 2000


class OnlinePolynomial:
    """The closure of this module's docstring, a :class:`coupling.two_level.LearningSurrogate`.

    ``AcceleratedClosure(fine, OnlinePolynomial(fine.spec), gate=RangeGate(), mode="exact")``: in the first increment,
    where no polynomial of the answers extrapolates well, and far away from all of them it says OUTSIDE_RANGE, and the
    model without learning stands in. In other modes it never learns, and so always says that.

    It is deterministic. Each rank learns from its own points alone, without communication: ranks then differ in how
    good their models are, not in the answer, which the fine scale decides. A fine scale with history is no function of
    the gradient; what is learned of it is rarely of use.

    Args:
        spec: that of the fine scale.
    """

    def __init__(self, spec: ClosureSpec) -> None:
        self.spec = replace(spec, state_size=0, history=False)
        self._samples: Array = np.empty((0, spec.k + spec.m))
        self._told: set[bytes] = set()
        self._polynomial: PolynomialFlux | None = None

    def learn(self, gradient: Array, flux: Array) -> bool:
        """Learn that the fine scale answers ``flux`` (n, m) at ``gradient`` (n, k); whether responses change with that.

        Told again, it changes nothing. Of more than 2,000 different samples evenly spaced ones are kept.
        """
        told = np.hstack((gradient, flux))
        digest = hashlib.sha256(told.tobytes()).digest()
        if digest in self._told:
            return False
        self._told.add(digest)
        samples = np.vstack((self._samples, np.unique(told[np.isfinite(told).all(axis=1)], axis=0)))
        kept = np.linspace(0, len(samples) - 1, min(len(samples), _MOST_SAMPLES)).astype(np.intp)
        self._samples, before, k = samples[kept], self._polynomial, self.spec.k
        self._polynomial = fit_to_extrapolate(self.spec, self._samples[:, :k], self._samples[:, k:])
        return before is not self._polynomial

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux (n, m) and tangent (n, m, k) at ``gradient`` (n, k), as far as anything has been learned."""
        if self._polynomial is not None:
            return self._polynomial.evaluate(gradient, state, dt, hint)
        n, m, k = check_arguments(self.spec, gradient, state, hint), self.spec.m, self.spec.k
        return Response(np.zeros((n, m)), np.zeros((n, m, k)), np.full(n, Status.OUTSIDE_RANGE, dtype=np.int8))
