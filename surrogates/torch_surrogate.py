"""A function in torch as a closure: a network of one's own, an energy, or a loaded ``torch.export`` program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coupling.contract import Array, Response, Status, check_arguments, mark_unusable
from coupling.errors import ModelError
from coupling.symmetric import packed_size, unpacked
from surrogates.derivatives import Values, completed
from surrogates.program_card import ProgramCard


class TorchSurrogate:
    """The closure of a function of gradients (n, k), float64, that treats each point on its own.

    What the function does not give comes from ``torch.func``: the tangent of a flux, flux and tangent of an energy; a
    function that gives flux and tangent itself is faster. Serve it as ``module:object``::

        def my_law(device: str = "cpu") -> TorchSurrogate:
            return TorchSurrogate(my_network.double(), ProgramCard(spec, results=("energy",)), device=device)

    A gradient out of the card's range is OUTSIDE_RANGE, one that is not finite INADMISSIBLE. The uncertainty is the
    card's error inside the range and +∞ outside.

    Args:
        function: a torch module or any other function of a tensor.
        card: what is known about it.
        device: where it computes; a module is moved there.
        chunk: points per call; None takes 1,024 on the CPU and 16,384 on other devices.

    Raises:
        ModelError: where results at three gradients have other names, shapes or types than the card says, are not
            finite, or depend on which other points are asked.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        card: ProgramCard,
        *,
        device: str = "cpu",
        chunk: int | None = None,
    ) -> None:
        self.card, self.spec, self._device = card, card.spec, torch.device(device)
        self.chunk = chunk or (1024 if self._device.type == "cpu" else 16_384)
        if isinstance(function, torch.nn.Module):
            function = function.to(self._device)
        self.function = completed(function, card.results)
        self._reference = np.array(self.spec.reference)
        _probe(self)

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux, tangent and, where the function has one, energy at the gradients (n, k)."""
        n = check_arguments(self.spec, gradient, state, hint)
        finite, inside = np.asarray(np.isfinite(gradient).all(axis=1)), self.card.inside(gradient)
        safe = gradient if finite.all() else np.where(finite[:, None], gradient, self._reference)
        values = self._evaluated(safe) if n else {}
        shapes = {"flux": (n, self.spec.m), "tangent": (n, self.spec.m, self.spec.k), "energy": (n,)}
        flux, tangent, energy = (values.get(name, np.empty(shape)) for name, shape in shapes.items())
        if tangent.ndim == 2:
            tangent = unpacked(tangent, self.spec.k)
        error = self.card.flux_error
        response = Response(
            flux,
            tangent,
            np.where(inside, np.int8(Status.OK), np.int8(Status.OUTSIDE_RANGE)),
            uncertainty=None if error is None else np.where(inside, error, np.inf),
            energy=energy if "energy" in self.card.results else None,
        )
        return mark_unusable(response, ~finite, Status.INADMISSIBLE)

    def _evaluated(self, gradient: Array) -> dict[str, Array]:
        parts = [
            {name: array.numpy(force=True) for name, array in self.call(gradient[start : start + self.chunk]).items()}
            for start in range(0, len(gradient), self.chunk)
        ]
        return {name: np.ascontiguousarray(np.concatenate([part[name] for part in parts])) for name in parts[0]}

    def call(self, gradient: Array) -> Values:
        """The function's results, by name, completed by derivatives; on its device."""
        with torch.no_grad():
            return self.function(torch.tensor(gradient, device=self._device))


def _probe(surrogate: TorchSurrogate) -> None:
    spec, card = surrogate.spec, surrogate.card
    gradient = np.array(spec.reference) + np.random.default_rng(0).uniform(-0.01, 0.01, (3, spec.k))
    if card.lower is not None:
        gradient = np.clip(gradient, card.lower, card.upper)
    try:
        values, alone = surrogate.call(gradient), [surrogate.call(gradient[i : i + 1]) for i in range(3)]
    except Exception as error:  # a user's function may raise anything
        raise ModelError(f"the function fails on 3 gradients or on 1: {type(error).__name__}: {error}") from error
    shapes: dict[str, list[tuple[int, ...]]] = {
        "flux": [(3, spec.m)],
        "tangent": [(3, spec.m, spec.k)],
        "energy": [(3,)],
    }
    if spec.symmetric:
        shapes["tangent"].append((3, packed_size(spec.k)))
    for name, array in values.items():
        if tuple(array.shape) not in shapes[name] or array.dtype != torch.float64:
            wanted = " or ".join(map(str, shapes[name]))
            raise ModelError(
                f"the {name} of 3 gradients must be {wanted} float64, got {tuple(array.shape)} {array.dtype}: "
                "check the order of the results; a module of single precision is converted by .double()"
            )
        if not array.isfinite().all():
            raise ModelError(f"the {name} is not finite at gradients next to the reference {spec.reference}")
        if not torch.allclose(
            array, torch.cat([one[name] for one in alone]), rtol=1e-9, atol=1e-9 * float(array.abs().max())
        ):
            raise ModelError(
                f"the {name} of a point depends on which other points are asked with it: the function must treat each "
                "point on its own (call .eval() on a module with batch normalisation)"
            )
