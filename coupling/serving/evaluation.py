"""Evaluating rows of many clients in one call of the model."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from coupling.contract import Array, Closure, ClosureSpec, Response
from coupling.errors import ContractError
from coupling.serving.frames import ENERGY, UNCERTAINTY
from coupling.serving.segment import SLOT_BYTES, Slot


@dataclass(slots=True)
class Part:
    """Rows ``start`` to ``stop`` of a slot."""

    slot: Slot
    start: int
    stop: int


class Evaluator(Protocol):
    """Fills the results of parts; everything that depends on the device is behind this."""

    @property
    def spec(self) -> ClosureSpec:
        """What the model takes and gives."""
        ...

    @property
    def batch(self) -> int:
        """Points that one call takes at most."""
        ...

    @property
    def slot_bytes(self) -> int:
        """Size of slots that suits it where memory is shared."""
        ...

    @property
    def message_bytes(self) -> int:
        """Size of messages that suits it where it is not: some travel while others are evaluated."""
        ...

    def evaluate(self, parts: Sequence[Part], dt: float, hint: bool) -> None:
        """Evaluate the parts, together no more than a batch. Whatever the model raises comes through."""
        ...

    def pin(self, memory: mmap.mmap) -> Callable[[], None]:
        """Prepare a client's memory for what is to come; the result undoes that, before the memory is unmapped."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """What an :class:`InPlace` closure has as its attribute ``on_device`` where arrays need not lie together."""

    @property
    def batch(self) -> int:
        """Points that are worth being evaluated in one call."""
        ...

    def evaluate_into(self, gradients: Sequence[Array], responses: Sequence[Response]) -> None:
        """Fill the arrays of each response with those at its gradients."""
        ...

    def pin(self, memory: mmap.mmap) -> Callable[[], None]:
        """As :meth:`Evaluator.pin`."""
        ...


@runtime_checkable
class InPlace(Protocol):
    """What a closure without state, all of whose responses have uncertainty and energy, can have besides.

    One that changes what another class answers overrides ``evaluate``, and must not be asked in ways of which it does
    not know: see :func:`in_place`.
    """

    def evaluate_into(self, gradient: Array, response: Response) -> None:
        """Overwrite the arrays of the response by those at the gradient (n, k)."""
        ...


def in_place(closure: Closure, optional: int) -> InPlace | None:
    """The closure, if it is one of those, and one class defines both its ``evaluate`` and its ``evaluate_into``."""
    if closure.spec.state_size or optional != UNCERTAINTY | ENERGY or not isinstance(closure, InPlace):
        return None
    answering = next((kind for kind in type(closure).__mro__ if "evaluate" in vars(kind)), object)
    return closure if "evaluate_into" in vars(answering) else None


class DeviceEvaluator:
    """Has a device read gradients from the slots and write results into them.

    What a client writes meanwhile makes no difference: the device has copied its input before it looks at it.
    """

    slot_bytes = message_bytes = 1 << 22

    def __init__(self, spec: ClosureSpec, on_device: OnDevice) -> None:
        self.spec, self.batch, self._on_device = spec, on_device.batch, on_device
        self.pin = on_device.pin

    def evaluate(self, parts: Sequence[Part], dt: float, hint: bool) -> None:
        """Hand over the rows."""
        slots = [part.slot.rows(part.start, part.stop) for part in parts]
        self._on_device.evaluate_into([slot.gradient for slot in slots], [slot.results for slot in slots])


class HostEvaluator:
    """Evaluates closures that take and give arrays in host memory, on whatever device they compute.

    Where memory does not suffice for a batch, it is evaluated in halves, and later ones are no larger than these.
    Inputs are copied before the model sees them: a client that writes into its slot meanwhile deceives nobody's checks.
    Results of a single part are written where they belong by models that can do that, others are copied.

    Args:
        closure: the model.
        batch: points that it gets at once at most.
        optional: flags of the optional results that it always has.
    """

    slot_bytes, message_bytes = SLOT_BYTES, 1 << 19

    def __init__(self, closure: Closure, batch: int, optional: int) -> None:
        self.closure, self.spec, self.batch, self._optional = closure, closure.spec, batch, optional
        self._in_place = in_place(closure, optional)
        s = self.spec.state_size
        self._gradient = np.empty((batch, self.spec.k))
        self._state = np.empty((batch, s)) if s else None
        self._hint = np.empty((batch, s)) if s else None

    def evaluate(self, parts: Sequence[Part], dt: float, hint: bool) -> None:
        """Gather, evaluate, scatter; in halves where memory does not suffice."""
        try:
            self._evaluate(parts, dt, hint)
            return
        except Exception as error:
            points = sum(part.stop - part.start for part in parts)
            if points == 1 or not out_of_memory(error):
                raise
        # what the error holds on to has been released
        self.batch = min(self.batch, (points + 1) // 2)
        for half in halves(parts, self.batch):
            self.evaluate(half, dt, hint)

    def pin(self, memory: mmap.mmap) -> Callable[[], None]:
        """Nothing to prepare."""
        return nothing

    def _evaluate(self, parts: Sequence[Part], dt: float, hint: bool) -> None:
        slots, n = [part.slot.rows(part.start, part.stop) for part in parts], 0
        for slot in slots:
            n = self._gather(slot, n, hint)
        if self._in_place is not None and len(slots) == 1:
            self._in_place.evaluate_into(self._gradient[:n], slots[0].results)
            return
        state = None if self._state is None else self._state[:n]
        hints = self._hint[:n] if hint and self._hint is not None else None
        response = self.closure.evaluate(self._gradient[:n], state, dt, hints)
        if optional_results(self.spec, response, n) != self._optional:
            raise ContractError("the model states uncertainty or energy at some times and not at others")
        row = 0
        for slot in slots:
            row = _scatter(response, row, slot)

    def _gather(self, slot: Slot, n: int, hint: bool) -> int:
        end = n + len(slot.gradient)
        self._gradient[n:end] = slot.gradient
        if self._state is not None and slot.state is not None:
            self._state[n:end] = slot.state
        if hint and self._hint is not None and slot.hint is not None:
            self._hint[n:end] = slot.hint
        return end


def nothing() -> None:
    """What undoes a preparation that there was none of."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: as Python and NumPy say it, or a device's library (``OutOfMemoryError``)."""
    return isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def halves(parts: Sequence[Part], points: int) -> tuple[list[Part], list[Part]]:
    """The first ``points`` rows of the parts, and the others."""
    first, second = list[Part](), list[Part]()
    for part in parts:
        cut = min(part.stop, part.start + points)
        points -= cut - part.start
        first += [Part(part.slot, part.start, cut)] * (cut > part.start)
        second += [Part(part.slot, cut, part.stop)] * (part.stop > cut)
    return first, second


def optional_results(spec: ClosureSpec, response: Response, n: int) -> int:
    """Which optional results a response has, after a check of all shapes.

    Raises:
        ContractError: where the shapes are not those that the specification promises.
    """
    k, m = spec.k, spec.m
    if response.flux.shape != (n, m) or response.tangent.shape != (n, m, k) or response.status.shape != (n,):
        raise ContractError(
            f"the model must give flux ({n}, {m}), tangent ({n}, {m}, {k}) and status ({n},), got "
            f"{response.flux.shape}, {response.tangent.shape} and {response.status.shape}"
        )
    flags = 0
    if response.uncertainty is not None:
        _check_shape(response.uncertainty, (n,))
        flags += UNCERTAINTY
    if response.energy is not None:
        _check_shape(response.energy, (n,))
        flags += ENERGY
    if spec.state_size:
        _check_shape(response.state, (n, spec.state_size))
    return flags


def _check_shape(rows: Array | None, shape: tuple[int, ...]) -> None:
    if rows is None or rows.shape != shape:
        got = None if rows is None else rows.shape
        raise ContractError(f"an array of the model's response must be of shape {shape}, got {got}")


def _scatter(response: Response, row: int, slot: Slot) -> int:
    """Copy the rows of a response from ``row`` on that the slot has room for; the row after them."""
    end = row + len(slot.status)
    slot.flux[:] = response.flux[row:end]
    slot.tangent[:] = response.tangent[row:end]
    slot.status[:] = response.status[row:end]
    if response.uncertainty is not None:
        slot.uncertainty[:] = response.uncertainty[row:end]
    if response.energy is not None:
        slot.energy[:] = response.energy[row:end]
    if response.state is not None and slot.new_state is not None:
        slot.new_state[:] = response.state[row:end]
    return end
