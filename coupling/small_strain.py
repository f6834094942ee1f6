"""Small strain in the space of stretches: U = 1 + ε, to first order in the displacement gradient.

Energy surrogates are made for stretches. :class:`StretchOfStrain` shows a small-strain closure ε ↦ σ as one U ↦ T, to
be sampled and trained on; :class:`StrainFrame` shows the trained surrogate as ε ↦ σ again:

    surrogate = train_energy_network(sample(StretchOfStrain(rve), stretch_design(...), comm=comm))
    closure = AcceleratedClosure(rve, StrainFrame(surrogate), gate=RangeGate())

Both shift the gradient by the identity and rename; fluxes, tangents and energies are the same numbers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coupling.contract import Array, Closure, ClosureSpec, Response, check_arguments, mandel_components
from coupling.errors import ContractError

_DIMENSIONS = {3: 2, 6: 3}


class _Shifted:
    """A closure g ↦ inner(g + shift), with other names."""

    def __init__(self, inner: Closure, spec: ClosureSpec, shift: Array) -> None:
        self.inner, self.spec, self._shift = inner, spec, shift

    def initial_state(self, n: int) -> Array | None:
        """The inner closure's."""
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux, tangent, state and status of n points, the inner closure's."""
        check_arguments(self.spec, gradient, state, hint)
        return self.inner.evaluate(gradient + self._shift, state, dt, hint)


class StretchOfStrain(_Shifted):
    """The closure U ↦ T = σ(U − 1) of a small-strain closure ε ↦ σ, both in Mandel form.

    Raises:
        ContractError: the closure is not one of strains.
    """

    def __init__(self, inner: Closure) -> None:
        super().__init__(inner, *_shifted(inner.spec, ("ε", "σ"), ("U", "T"), 1.0))


class StrainFrame(_Shifted):
    """The closure ε ↦ σ = T(1 + ε) of a closure U ↦ T of stretches, both in Mandel form.

    Raises:
        ContractError: the closure is not one of stretches.
    """

    def __init__(self, inner: Closure) -> None:
        super().__init__(inner, *_shifted(inner.spec, ("U", "T"), ("ε", "σ"), 0.0))


def _shifted(
    spec: ClosureSpec, old: tuple[str, str], new: tuple[str, str], at_rest: float
) -> tuple[ClosureSpec, Array]:
    """The renamed specification with ``at_rest`` times the identity as reference, and the shift to the old one."""
    dim = _DIMENSIONS.get(spec.k, 0)
    if not dim or (spec.gradient, spec.flux) != tuple(mandel_components(symbol, dim) for symbol in old):
        raise ContractError(
            f"this frame needs a closure from {old[0]} to {old[1]} in Mandel form, got {', '.join(spec.gradient)} to "
            f"{', '.join(spec.flux)}"
        )
    identity = np.array([1.0] * dim + [0.0] * (spec.k - dim))
    gradient, flux = (mandel_components(symbol, dim) for symbol in new)
    reference = tuple(float(v) for v in at_rest * identity)
    return replace(spec, gradient=gradient, flux=flux, reference=reference), (1.0 - 2.0 * at_rest) * identity
