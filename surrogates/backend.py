"""Where an energy is evaluated: NumPy on the CPU, torch on any other device, by the same formulas.

The formulas take the module that computes as ``xp``, numpy or torch, and use only what both spell alike: ``matmul``,
``multiply``, ``subtract`` and ``tanh`` with ``out=``, ``swapaxes``, ``reshape``, slices, arithmetic and in-place
operators. On the CPU NumPy wins, since a call of torch costs 3 to 5 µs before it computes anything, and a solver asks
for a hundred points at a time; torch is imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from coupling.contract import Array
from coupling.errors import ModelError

Tensor: TypeAlias = Any  # a NumPy array or a torch tensor of the backend's precision
Precision: TypeAlias = Literal["float64", "float32"]


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

    @property
    def precision(self) -> Precision:
        """Of its numbers."""
        ...

    def array(self, values: Array) -> Tensor:
        """A contiguous copy on the device."""
        ...

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised numbers on the device."""
        ...

    def call(self, function: Callable[..., None], argument: Array, results: Sequence[Array]) -> None:
        """Call ``function(argument, *results)`` on the device; it overwrites the results, which come back."""
        ...


class NumpyBackend:
    """NumPy on the CPU; in float64 functions write straight into the caller's arrays."""

    xp = np
    device = "cpu"

    def __init__(self, precision: Precision = "float64") -> None:
        self.precision: Precision = precision

    def array(self, values: Array) -> Tensor:
        """A contiguous copy."""
        return np.array(values, dtype=self.precision, order="C")

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised numbers."""
        return np.empty(shape, dtype=self.precision)

    def call(self, function: Callable[..., None], argument: Array, results: Sequence[Array]) -> None:
        """Call ``function(argument, *results)``; as with torch, overflow is no warning."""
        with np.errstate(all="ignore"):
            if self.precision == "float64":
                function(argument, *results)
                return
            computed = [self.empty(*result.shape) for result in results]
            function(self.array(argument), *computed)
            for result, values in zip(results, computed, strict=True):
                result[...] = values


class TorchBackend:
    """Torch on a device of that name.

    Never TF32: with a mantissa of 10 bits its error, 1e-3 and more, is beyond that of any surrogate worth having.

    Raises:
        ModelError: where torch is missing or knows no such device.
    """

    def __init__(self, device: str, precision: Precision = "float64") -> None:
        self.precision: Precision = precision
        try:
            import torch

            self.xp, self.device, self._device = torch, device, torch.device(device)
            self._dtype = getattr(torch, precision)
            self.empty(1)
        except (ImportError, RuntimeError, AssertionError) as error:  # the last where torch was built without CUDA
            raise ModelError(f"the device {device!r} cannot be used ({error}): 'cpu' needs no torch") from error

    def array(self, values: Array) -> Tensor:
        """A contiguous copy on the device."""
        return self.xp.tensor(values, dtype=self._dtype, device=self._device)

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised numbers on the device."""
        return self.xp.empty(shape, dtype=self._dtype, device=self._device)

    def call(self, function: Callable[..., None], argument: Array, results: Sequence[Array]) -> None:
        """Call ``function(argument, *results)`` without recording gradients, and copy the results back."""
        with self.xp.inference_mode():
            computed = [self.empty(*result.shape) for result in results]
            function(self.xp.from_numpy(argument).to(self._device, self._dtype), *computed)
            for result, values in zip(results, computed, strict=True):
                self.xp.from_numpy(result).copy_(values)


def backend_of(device: str, precision: Precision = "float64") -> Backend:
    """NumPy for ``cpu``, torch for every other name (``cpu:0`` is torch on the CPU)."""
    return NumpyBackend(precision) if device == "cpu" else TorchBackend(device, precision)
