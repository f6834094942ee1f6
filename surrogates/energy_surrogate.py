"""A trained energy as a closure in stretch space."""

from __future__ import annotations

import numpy as np
import torch

from coupling.contract import Array, Response, Status, check_arguments, mark_unusable
from surrogates.model_card import ModelCard
from surrogates.potential import Potential
from surrogates.stretch_space import positive_definite


class EnergySurrogate:
    """The closure U → T = ∂Ŵ/∂U of a potential; wrap it with :class:`coupling.stretch.StretchFrame` for F → P.

    * ``uncertainty`` is, inside the box it was trained on, the largest flux error ‖T − T_fine‖ over the m hold-out
      samples. A fresh point of the same design exceeds the largest of m exchangeable errors with probability
      1/(m + 1); early stopping looks at the same samples, and up to three times as many were counted. It is no bound,
      and the same everywhere: where the fine scale is close to an instability, single points have erred by more than
      ten times as much. Outside the box it is +∞.
    * A stretch outside the box is OUTSIDE_RANGE, one that is not finite or not positive definite INADMISSIBLE.
    * Points are evaluated in chunks that fit the cache. torch should run on one thread
      (``torch.set_num_threads(1)``): with more of them small batches wait for threads.

    Args:
        potential: the energy and its derivatives.
        card: what is known about it.
        chunk: points per chunk; None takes 256 on a CPU and 16,384 on a GPU.
    """

    def __init__(self, potential: Potential, card: ModelCard, *, chunk: int | None = None) -> None:
        self.potential, self.card, self.spec = potential, card, card.spec
        self.chunk = chunk or (256 if potential.device.type == "cpu" else 16_384)
        self._reference = np.array(self.spec.reference)

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """T (n, k), ∂T/∂U (n, k, k) and Ŵ (n,) at U = ``gradient`` (n, k), Mandel form."""
        n, k = check_arguments(self.spec, gradient, state, hint), self.spec.k
        good, inside = positive_definite(gradient), self.card.box.contains(gradient)
        status = np.where(inside, np.int8(Status.OK), np.int8(Status.OUTSIDE_RANGE))
        uncertainty = np.where(inside, self.card.errors.flux_max_absolute, np.inf)
        response = Response(np.empty((n, k)), np.empty((n, k, k)), status, uncertainty=uncertainty, energy=np.empty(n))
        safe = gradient if good.all() else np.where(good[:, None], gradient, self._reference)
        evaluate_chunks(self.potential, safe, self.chunk, response)
        return mark_unusable(response, ~good, Status.INADMISSIBLE)


@torch.inference_mode()
def evaluate_chunks(potential: Potential, gradient: Array, chunk: int, response: Response) -> None:
    """Fill energy, flux and tangent of a response, chunk by chunk."""
    assert response.energy is not None
    U = torch.from_numpy(gradient)
    arrays = [torch.from_numpy(array) for array in (response.energy, response.flux, response.tangent)]
    for start in range(0, len(U), chunk):
        part = slice(start, start + chunk)
        for array, values in zip(arrays, potential.evaluate(U[part].to(potential.device)), strict=True):
            array[part] = values
