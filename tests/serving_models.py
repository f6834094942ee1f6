"""Models that the tests of the server have it load, as ``tests.serving_models:NAME``."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from coupling.closed_forms import ClosedFormSurrogate, LinearElastic, StandardLinearSolid, StretchNeoHookean
from coupling.contract import Array, Response

if TYPE_CHECKING:
    from surrogates import EnergySurrogate


def neo_hookean(mu: float = 1.0) -> ClosedFormSurrogate:
    """A quick one."""
    return ClosedFormSurrogate(StretchNeoHookean(mu, 2.0), 1e-3, [0.5, 0.5, -0.5], [2.0, 2.0, 0.5])


def slowly_loaded() -> ClosedFormSurrogate:
    """One that takes its time to load."""
    time.sleep(0.3)
    return neo_hookean()


def stiffer() -> ClosedFormSurrogate:
    """Another version of it."""
    return neo_hookean(2.0)


def energy_network(device: str = "cpu", widths: tuple[int, ...] = (64, 64, 64)) -> EnergySurrogate:
    """A network of the usual size with random weights."""
    from surrogates import EnergyNetwork, EnergySurrogate, HoldOutErrors, ModelCard, StretchBox
    from surrogates.energy_network import weight_shapes

    layers = (3, *widths)
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0.0, 0.2, shape) for name, shape in weight_shapes(layers).items()}
    weights |= {"scale": np.full(3, 0.1), "energy_scale": np.array(1.0), "growth": np.array(1.0)}
    box = StretchBox.of([0.7, 0.7, -0.4], [1.4, 1.4, 0.4])
    card = ModelCard(
        StretchNeoHookean(1.0, 2.0).spec, box, HoldOutErrors(1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1), "", {}, {}
    )
    return EnergySurrogate(EnergyNetwork(weights, layers, device), card)


def corrected_network(device: str = "cpu") -> EnergySurrogate:
    """A class of somebody's own, which answers with other numbers than the network of its base class."""
    from surrogates import EnergySurrogate

    class Corrected(EnergySurrogate):
        def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
            answer = super().evaluate(gradient, state, dt, hint)
            return replace(answer, flux=1.5 * answer.flux, tangent=1.5 * answer.tangent)

    network = energy_network(device)
    return Corrected(network.potential, network.card)


def standard_linear_solid() -> StandardLinearSolid:
    """One with a state."""
    return StandardLinearSolid(1.0, 2.0, branch_mu=0.5, branch_lmbda=0.3, relaxation_time=0.7)


class Slow:
    """A law that takes its time: 10 ms a call, of up to 32 points."""

    batch = 32

    def __init__(self) -> None:
        self.inner = neo_hookean()
        self.spec = self.inner.spec

    def initial_state(self, n: int) -> Array | None:
        return self.inner.initial_state(n)

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        time.sleep(0.01)
        return self.inner.evaluate(gradient, state, dt, hint)


class Sensitive(Slow):
    """A law that raises where U11 > 3 and takes its process with it where U11 > 5."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        if (gradient[:, 0] > 5.0).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (gradient[:, 0] > 3.0).any():
            raise FloatingPointError("U11 is larger than 3")
        return super().evaluate(gradient, state, dt, hint)


def linear_elastic() -> LinearElastic:
    """A law with another specification."""
    return LinearElastic(1.0, 2.0)


class Moody(Slow):
    """A law that states its energy for more than one point only."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        response = super().evaluate(gradient, state, dt, hint)
        return response if len(gradient) > 1 else replace(response, energy=None)


class Useless(Slow):
    """A law without a usable answer."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        response = super().evaluate(gradient, state, dt, hint)
        response.flux[:] = np.nan
        return response


class Hungry(Slow):
    """A law that has not enough memory for many points at once, at first for 100 and after 20 calls for 10."""

    batch = 256

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        self.calls += 1
        if len(gradient) > (100 if self.calls < 20 else 10):
            raise self.out_of_memory()
        return self.inner.evaluate(gradient, state, dt, hint)

    def out_of_memory(self) -> Exception:
        try:
            np.empty(1 << 46)
        except MemoryError as error:
            return error
        raise AssertionError


class HungryOnADevice(Hungry):
    """The same with the error of torch."""

    def out_of_memory(self) -> Exception:
        import torch

        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Hanging(Slow):
    """A law that never comes back from U11 = 9."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        if (gradient[:, 0] == 9.0).any():
            time.sleep(3600.0)
        return super().evaluate(gradient, state, dt, hint)
