"""A trained energy as a closure in stretch space."""

from __future__ import annotations

from typing import Any

import numpy as np

from coupling.contract import Array, Response, Status, check_arguments, mark_unusable
from coupling.polar import positive_definite
from surrogates.device_evaluation import SIZES, DeviceEvaluation
from surrogates.model_card import ModelCard
from surrogates.potential import Potential, fill_chunks


class EnergySurrogate:
    """The closure U → T = ∂Ŵ/∂U of a potential; wrap it with :class:`coupling.stretch.StretchFrame` for F → P.

    * ``uncertainty`` is, inside the box it was trained on, the largest flux error ‖T − T_fine‖ over the m hold-out
      samples, which took no part in training. A fresh point of the same design exceeds the largest of m exchangeable
      errors with probability 1/(m + 1). It is no bound, and the same everywhere: where the fine scale is close to an
      instability, single points have erred by more than ten times as much. Outside the box it is +∞.
    * A stretch outside the box is OUTSIDE_RANGE, one that is not finite or not positive definite INADMISSIBLE.
    * Points are evaluated in chunks that fit the cache. NumPy's BLAS should run on one thread
      (``OPENBLAS_NUM_THREADS=1`` and the like): with more of them small batches wait for threads.

    Args:
        potential: the energy and its derivatives.
        card: what is known about it.
        chunk: points per chunk; None takes 256 on the CPU and 16,384 on other devices.

    Attributes:
        on_device: the evaluation on a CUDA device (on ``cpu:0`` the same without one), which can do without copies in
            host memory, else None.
    """

    def __init__(self, potential: Potential, card: ModelCard, *, chunk: int | None = None) -> None:
        self.potential, self.card, self.spec = potential, card, card.spec
        self.on_device: DeviceEvaluation | None = None
        device = potential.backend.device
        self.chunk = chunk or (256 if device == "cpu" else SIZES[-1])
        if device.startswith(("cuda", "cpu:")):
            self.on_device = DeviceEvaluation(potential, card, self.chunk)
        self._reference = np.array(self.spec.reference)
        self._box_is_admissible = card.stretches.positive_definite

    @property
    def family(self) -> str:
        """The potential's."""
        return self.potential.family

    @property
    def architecture(self) -> dict[str, Any]:
        """The potential's."""
        return self.potential.architecture

    @property
    def weights(self) -> dict[str, Array]:
        """The potential's."""
        return self.potential.weights

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """T (n, k), ∂T/∂U (n, k, k) and Ŵ (n,) at U = ``gradient`` (n, k), Mandel form."""
        n, k = check_arguments(self.spec, gradient, state, hint), self.spec.k
        status = np.empty(n, np.int8)
        response = Response(np.empty((n, k)), np.empty((n, k, k)), status, uncertainty=np.empty(n), energy=np.empty(n))
        self.evaluate_into(gradient, response)
        return response

    def evaluate_into(self, gradient: Array, response: Response) -> None:
        """Overwrite the arrays of a response, which has all but a state, by those at U = ``gradient`` (n, k)."""
        if self.on_device is not None:
            self.on_device.evaluate_into([gradient], [response])
            return
        assert response.energy is not None and response.uncertainty is not None
        inside = self.card.box.contains(gradient)
        good = inside if self._box_is_admissible and inside.all() else positive_definite(gradient)
        safe = gradient if good.all() else np.where(good[:, None], gradient, self._reference)
        fill_chunks(self.potential, safe, self.chunk, (response.energy, response.flux, response.tangent))
        response.status[...] = np.where(inside, np.int8(Status.OK), np.int8(Status.OUTSIDE_RANGE))
        response.uncertainty[...] = np.where(inside, self.card.errors.flux_max_absolute, np.inf)
        mark_unusable(response, ~good, Status.INADMISSIBLE)
