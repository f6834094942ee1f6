"""Where an energy is evaluated: NumPy on the CPU, torch on any other device, by the same formulas.

The formulas take the module that computes as ``xp``, numpy or torch, and use only what both spell alike: ``matmul``,
``multiply``, ``subtract`` and ``tanh`` with ``out=``, ``swapaxes``, ``reshape``, slices, arithmetic and in-place
operators. On the CPU NumPy wins, since a call of torch costs 3 to 5 µs before it computes anything, and a solver asks
for a hundred points at a time; torch is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from coupling.contract import Array
from coupling.errors import ModelError

Tensor: TypeAlias = Any  # a NumPy array or a torch tensor, float64


class Backend(Protocol):
    """A device and the library that computes on it."""

    @property
    def xp(self) -> Any:
        """The module numpy or torch."""
        ...

    @property
    def device(self) -> str:
        """``cpu``, ``cuda``, ``cuda:1``, …."""
        ...

    def array(self, values: Array) -> Tensor:
        """A contiguous copy on the device."""
        ...

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised float64 numbers on the device."""
        ...

    def call(self, function: Callable[..., None], argument: Array, results: Sequence[Array]) -> None:
        """Call ``function(argument, *results)`` on the device; it overwrites the results, which come back."""
        ...


class NumpyBackend:
    """NumPy on the CPU; functions write straight into the caller's arrays."""

    xp = np
    device = "cpu"

    def array(self, values: Array) -> Tensor:
        """A contiguous copy."""
        return np.array(values, order="C")

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised float64 numbers."""
        return np.empty(shape)

    def call(self, function: Callable[..., None], argument: Array, results: Sequence[Array]) -> None:
        """Call ``function(argument, *results)``; as with torch, overflow is no warning."""
        with np.errstate(all="ignore"):
            function(argument, *results)


class TorchBackend:
    """Torch on a device of that name.

    Raises:
        ModelError: where torch is missing or knows no such device.
    """

    def __init__(self, device: str) -> None:
        try:
            import torch

            self.xp, self.device, self._device = torch, device, torch.device(device)
            self.empty(1)
        except (ImportError, RuntimeError, AssertionError) as error:  # the last where torch was built without CUDA
            raise ModelError(f"the device {device!r} cannot be used ({error}): 'cpu' needs no torch") from error

    def array(self, values: Array) -> Tensor:
        """A contiguous copy on the device."""
        return self.xp.tensor(values, dtype=self.xp.float64, device=self._device)

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised float64 numbers on the device."""
        return self.xp.empty(shape, dtype=self.xp.float64, device=self._device)

    def call(self, function: Callable[..., None], argument: Array, results: Sequence[Array]) -> None:
        """Call ``function(argument, *results)`` without recording gradients, and copy the results back."""
        with self.xp.inference_mode():
            computed = [self.empty(*result.shape) for result in results]
            function(self.xp.from_numpy(argument).to(self._device), *computed)
            for result, values in zip(results, computed, strict=True):
                self.xp.from_numpy(result).copy_(values)


def backend_of(device: str) -> Backend:
    """NumPy for ``cpu``, torch for every other name (``cpu:0`` is torch on the CPU)."""
    return NumpyBackend() if device == "cpu" else TorchBackend(device)
