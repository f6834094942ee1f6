"""A closure that interpolates the sampled fluxes of the fine scale."""

from __future__ import annotations

import numpy as np

from coupling.contract import Array, Response, Status, check_arguments, mark_unusable
from coupling.polar import positive_definite
from surrogates.dataset import Dataset
from surrogates.kernel_interpolation import Interpolant


class KernelSurrogate:
    """The closure U → T through all samples of a data set, with the symmetric part of its derivative as tangent.

    Made for the exact mode: it takes a second instead of minutes of training, and where the fine scale varies strongly
    it is more accurate than a polynomial or a small network of the same samples, but it costs some times as much to
    evaluate, its fluxes have no potential, and it knows nothing beyond its box (OUTSIDE_RANGE there). Distances are not
    adapted: fluxes would err less, but more by rounding, which is what ends the iterations of the exact mode's models.

    Args:
        dataset: samples of the fine scale.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.spec, self.box = dataset.spec, dataset.box
        self._reference = np.array(dataset.spec.reference)
        self._flux = Interpolant.through(dataset.gradient, dataset.flux, reference=self._reference)

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """T (n, k) and the symmetric part of ∂T/∂U (n, k, k) at U = ``gradient`` (n, k), Mandel form."""
        check_arguments(self.spec, gradient, state, hint)
        good = positive_definite(gradient)
        safe = np.where(good[:, None], gradient, self._reference)
        flux, slope = self._flux.both(safe)
        status = np.where(self.box.contains(gradient), np.int8(Status.OK), np.int8(Status.OUTSIDE_RANGE))
        tangent = np.add(slope, slope.transpose(0, 2, 1), order="C")
        tangent /= 2.0
        response = Response(flux, tangent, status)
        return mark_unusable(response, ~good, Status.INADMISSIBLE)
