"""Shared memory of one client and its server: slots of arrays, all offsets computed from the specification.

The client creates the memory (``memfd_create``), fixes its size for ever (seals), fills slots and reads results; the
server checks seals and size before it maps it, so that no access can fail later. Nothing in it says how long anything
is: sizes travel over the socket and are checked there.

Results can be lent: the caller gets the arrays in the slot, which is not used again before nobody has them any more. A
process that forks may not know when that is: slots that are lent then are not used again.

A symmetric tangent travels in full: in shared memory packing costs more than the bytes it saves.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import stat
import weakref
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, ClosureSpec, Response, StatusArray
from coupling.errors import ServerRefusedError
from coupling.serving.frames import ENERGY, UNCERTAINTY

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MOST_SLOTS = 64
MOST_BYTES = 1 << 30
SLOT_BYTES = 1 << 23
_LINE, _PAGE = 64, mmap.PAGESIZE
_MOST_VIEWS = 32
_WORTH_LENDING = 1 << 15
"""Numbers in a slot from which on results are lent: fewer are copied in less time."""

Rows: TypeAlias = tuple[int, int]
Memory: TypeAlias = mmap.mmap | bytearray | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Slot:
    """Arrays of one slot, each with one row per point; those of the server are its results."""

    gradient: Array
    state: Array | None
    hint: Array | None
    flux: Array
    tangent: Array
    uncertainty: Array
    energy: Array
    new_state: Array | None
    status: StatusArray
    _views: dict[Rows, Slot] = field(init=False, default_factory=dict, repr=False)

    def rows(self, start: int, stop: int) -> Slot:
        """Views of some rows; some are kept, as a solver asks for the same numbers of points again and again."""
        views = self._views.get((start, stop))
        if views is None:
            if len(self._views) >= _MOST_VIEWS:
                self._views.clear()
            whole = {name: getattr(self, name) for name in _ARRAYS}
            arrays: dict[str, Any] = {name: None if a is None else a[start:stop] for name, a in whole.items()}
            views = Slot(**arrays)
            self._views[start, stop] = views
        return views

    @cached_property
    def results(self) -> Response:
        """All results."""
        return Response(self.flux, self.tangent, self.status, self.new_state, self.uncertainty, self.energy)

    def answer(self, optional: int) -> Response:
        """A copy of the results, with those of the optional ones that the flags name."""
        return Response(
            self.flux.copy(),
            self.tangent.copy(),
            self.status.copy(),
            None if self.new_state is None else self.new_state.copy(),
            self.uncertainty.copy() if optional & UNCERTAINTY else None,
            self.energy.copy() if optional & ENERGY else None,
        )


_INPUTS = ("gradient", "state", "hint")
_ARRAYS = tuple(f.name for f in fields(Slot) if not f.name.startswith("_"))


@dataclass(frozen=True)
class Layout:
    """Where everything is in a segment of ``slots`` slots with room for ``capacity`` points each."""

    k: int
    m: int
    state_size: int
    slots: int
    capacity: int

    @classmethod
    def fitting(cls, spec: ClosureSpec, slots: int = 8, slot_bytes: int = SLOT_BYTES) -> Layout:
        """Slots that hold all points of a call, as a rule; what is not used of them takes no memory."""
        row = 8 * cls(spec.k, spec.m, spec.state_size, 1, 1).row_values
        capacity = 1 << max(6, (slot_bytes // row).bit_length() - 1)
        return cls(spec.k, spec.m, spec.state_size, slots, capacity)

    @property
    def row_values(self) -> int:
        """Float64 values per point."""
        return self.k + self.m + self.m * self.k + 2 + 3 * self.state_size

    @property
    def input_bytes(self) -> int:
        """Bytes of what a client fills in: the first part of a slot."""
        return self._places["flux"][0]

    @property
    def used_bytes(self) -> int:
        """Bytes of all arrays of a slot."""
        return self._places["status"][0] + self.capacity

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot, whole pages."""
        return aligned(self.used_bytes, _PAGE)

    @property
    def bytes(self) -> int:
        """Bytes of the segment."""
        return self.slots * self.slot_bytes

    @cached_property
    def _places(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Where in a slot each array begins, and the shape of its rows."""
        s, offset, places = self.state_size, 0, dict[str, tuple[int, tuple[int, ...]]]()
        inputs = {"gradient": (self.k,), "state": (s,), "hint": (s,)}
        results = {"flux": (self.m,), "tangent": (self.m, self.k), "uncertainty": (), "energy": (), "new_state": (s,)}
        for name, shape in (inputs | results).items():
            places[name] = offset, shape
            offset += aligned(8 * self.capacity * math.prod(shape), _LINE)
        return places | {"status": (offset, ())}

    def views(self, memory: mmap.mmap) -> list[Slot]:
        """The arrays of all slots."""
        return [self.slot(memory, index * self.slot_bytes) for index in range(self.slots)]

    def slot(self, memory: Memory, offset: int, gap: int = 0) -> Slot:
        """The arrays of a slot at that offset, with so many bytes left free before those of the results."""
        array = partial(self._array, memory, rows=self.capacity)
        inputs = {name: array(name, offset) for name in _INPUTS}
        return Slot(**inputs, **{name: array(name, offset + gap) for name in _ARRAYS if name not in _INPUTS})

    def response(self, memory: Memory, offset: int, n: int, optional: int) -> Response:
        """The results at the first n points of a slot, with those of the optional ones that the flags name."""
        array = partial(self._array, memory, offset=offset, rows=n)
        return Response(
            array("flux"),
            array("tangent"),
            array("status"),
            array("new_state"),
            array("uncertainty") if optional & UNCERTAINTY else None,
            array("energy") if optional & ENERGY else None,
        )

    def _array(self, memory: Memory, name: str, offset: int, rows: int) -> Any:
        start, shape = self._places[name]
        if 0 in shape:
            return None
        return np.ndarray((rows, *shape), np.int8 if name == "status" else np.float64, memory, offset + start)


_forks = 0
"""How often this process has forked, or its ancestors."""


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_count_fork)


def _give_back(number: int, free: list[int], forks: int) -> None:
    """A slot is free again, unless a child of this process may have what lies in it."""
    if forks == _forks:
        free.append(number)


class Segment:
    """A mapped segment; the memory is released when the last array of it is gone."""

    def __init__(self, layout: Layout, descriptor: int) -> None:
        self.layout, self.memory = layout, mmap.mmap(descriptor, layout.bytes)
        self.slots = layout.views(self.memory)

    def answer(self, number: int, n: int, optional: int, free: list[int]) -> Response:
        """The results in a slot at n points, which is among the free ones when it can be used again.

        Many are lent as long as half of the slots are free, others are copied.
        """
        layout = self.layout
        if n * layout.row_values < _WORTH_LENDING or len(free) < layout.slots // 2:
            free.append(number)
            return self.slots[number].rows(0, n).answer(optional)
        memory: NDArray[np.uint8] = np.ndarray((layout.bytes,), np.uint8, self.memory)
        weakref.finalize(memory, _give_back, number, free, _forks).atexit = False  # when the last view of it is gone
        return layout.response(memory, number * layout.slot_bytes, n, optional)


def create(layout: Layout) -> tuple[Segment, int]:
    """A new segment of this process and its descriptor, sealed."""
    descriptor = os.memfd_create("twoscale", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, layout.bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        return Segment(layout, descriptor), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def attach(spec: ClosureSpec, message: dict[str, Any], descriptors: list[int]) -> Segment:
    """The segment that a client sent with this message, mapped; the descriptors stay the caller's to close.

    Raises:
        ServerRefusedError: where layout, size or seals are not what they have to be.
    """
    slots, capacity = message.get("slots"), message.get("capacity")
    if type(slots) is not int or type(capacity) is not int or not 0 < slots <= MOST_SLOTS or capacity < 1:
        raise ServerRefusedError(f"a segment has 1 to {MOST_SLOTS} slots of 1 point or more, got {slots} of {capacity}")
    layout = Layout(spec.k, spec.m, spec.state_size, slots, capacity)
    if layout.bytes > MOST_BYTES or message.get("bytes") != layout.bytes:
        raise ServerRefusedError(
            f"{slots} slots of {capacity} points are {layout.bytes} bytes and may be {MOST_BYTES}, got "
            f"{message.get('bytes')!r}: client and server are of different versions of twoscale"
        )
    if len(descriptors) != 1:
        raise ServerRefusedError(f"expected the descriptor of one segment, got {len(descriptors)}")
    _check_memory(descriptors[0], layout.bytes)
    try:
        return Segment(layout, descriptors[0])
    except (OSError, ValueError) as error:
        raise ServerRefusedError(f"the segment cannot be mapped: {error}") from error


def _check_memory(descriptor: int, size: int) -> None:
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ServerRefusedError(f"the descriptor is not memory that can be sealed: {error}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or seals & SEALS != SEALS or status.st_size != size:
        got = f"got {seals:#x} and {status.st_size}"
        raise ServerRefusedError(f"a segment is sealed ({SEALS:#x}) and has {size} bytes, {got}")


def aligned(size: int, to: int) -> int:
    """The size up to a multiple of ``to``."""
    return -(-size // to) * to
