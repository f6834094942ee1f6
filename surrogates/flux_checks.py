"""Does a trained flux respect physics over its range?

Besides the closure contract (derivatives, symmetry where the fine scale's tangent is symmetric), a flux should be
strongly elliptic:

* small strain: a·Q(N)a > 0 for the acoustic tensor Q_ik = C_iJkL N_J N_L of C = ∂σ/∂ε in all directions N;
* conduction and diffusion: −N·(∂q/∂g)N > 0, the flux runs down the gradient (second law).

What needs a finite deformation, a stretch to collapse or an energy with a state of rest does not apply.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coupling.conformance import Result, check
from coupling.conformance.subject import DOES_NOT_APPLY
from coupling.contract import Array, ClosureSpec, Response, check_arguments, mandel_components
from surrogates.dataset import Dataset
from surrogates.physics_checks import Ellipticity, acoustic_minimum, ellipticity_check
from surrogates.polynomial_flux import PolynomialFlux
from surrogates.stretch_space import stretch_reference

_GRID_POINTS = 4096


class RangeCoordinates:
    """A surrogate in the coordinates x = (g − centre)/(half width) of its range, in which all components are alike.

    The checks of the contract take one step and one norm for all components, be they kelvins or kelvins per metre. A
    symmetric tangent stays symmetric: the flux is then ∂Φ/∂x.
    """

    def __init__(self, model: PolynomialFlux) -> None:
        self._model, box, spec = model, model.card.box, model.spec
        self._centre, self._scale = box.centre, box.half_width
        self._flux_scale = self._scale if spec.symmetric else np.ones(spec.m)
        reference = (np.array(spec.reference) - self._centre) / self._scale
        names = tuple(f"x of {name}" for name in spec.gradient)
        self.spec = replace(spec, gradient=names, reference=tuple(float(x) for x in reference))

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The model's response at g = centre + x ∘ (half width)."""
        check_arguments(self.spec, gradient, state, hint)
        inner = self._model.evaluate(self._centre + gradient * self._scale, None, dt)
        tangent = inner.tangent * self._flux_scale[:, None] * self._scale
        return replace(inner, flux=inner.flux * self._flux_scale, tangent=tangent)


def all_checks(model: PolynomialFlux, fresh: Dataset | None) -> tuple[list[Result], Ellipticity | None]:
    """All of this module, and the ellipticity; ``fresh`` tells whether the fine scale loses it as well."""
    found = ellipticity(model)
    if found is None:
        elliptic = _not_applying("strong ellipticity", "known for small strain and conduction")
    else:
        fine = None if fresh is None else definiteness(fresh.spec, fresh.tangent)
        elliptic = ellipticity_check(found, fine)
    rest = [
        _not_applying("zero stress at rest", "a fitted flux vanishes there up to its errors"),
        _not_applying("stable at rest", "strong ellipticity covers the range"),
    ]
    growth = _not_applying("growth", "no stretch that could collapse")
    return [*conformance_checks(model), *rest, elliptic, growth], found


def conformance_checks(model: PolynomialFlux, *, seed: int = 0) -> list[Result]:
    """The checks of the closure contract inside the range of the model."""
    points = np.random.default_rng(seed).uniform(-0.8, 0.8, (12, model.spec.k))
    return check(RangeCoordinates(model), gradients=points, seed=seed)


def ellipticity(model: PolynomialFlux) -> Ellipticity | None:
    """Ellipticity on a grid over the range, relative to its middle; None where :func:`definiteness` is."""
    box = model.card.box
    n = max(2, round(_GRID_POINTS ** (1 / box.k)))
    gradients = box.grid(n)
    smallest, middle = (
        definiteness(model.spec, model.evaluate(g, None, 0.0).tangent) for g in (gradients, box.centre[None])
    )
    if smallest is None or middle is None:
        return None
    tensor = "acoustic tensor" if model.spec.gradient[0].startswith("ε") else "conductivity"
    scale = abs(float(middle[0])) or 1.0
    return Ellipticity(gradients, np.asarray(smallest / scale), tensor, "mid-range")


def definiteness(spec: ClosureSpec, tangent: Array) -> Array | None:
    """Smallest eigenvalue (n,) of what has to be positive, from tangents (n, m, k); None for other specifications."""
    for dim in (2, 3):
        if (spec.gradient, spec.flux) == (mandel_components("ε", dim), mandel_components("σ", dim)):
            stretches = np.tile(stretch_reference(spec.k), (len(tangent), 1))
            return acoustic_minimum(stretches, np.zeros((len(tangent), spec.k)), tangent)
        axes = range(1, dim + 1)
        gradient, flux = (tuple(f"{symbol}{i}" for i in axes) for symbol in "gq")
        if spec.flux == flux and spec.gradient in (gradient, ("θ", *gradient)):
            conductivity = -tangent[:, :, -dim:]
            return np.asarray(np.linalg.eigvalsh(0.5 * (conductivity + conductivity.transpose(0, 2, 1)))[:, 0])
    return None


def _not_applying(name: str, reason: str) -> Result:
    return Result(name, True, None, DOES_NOT_APPLY + reason)
