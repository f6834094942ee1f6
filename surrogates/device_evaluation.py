"""Evaluation on a GPU from host memory to host memory, with copies that go on while it computes.

Points are cut into chunks. Each chunk is copied to the device, evaluated and copied back on three streams, in one of
two lanes of buffers: while one lane computes, the other one copies. The operations of a chunk are recorded once for a
few sizes (CUDA graphs) and replayed for any number of points, filled up to the next size: so a chunk costs one launch,
and no memory is allocated while points are evaluated. A size for which memory does not suffice is left out.

Copies overlap with work only from and to page-locked memory. Memory that :meth:`DeviceEvaluation.pin` has locked is
copied from and to directly; everything else goes through page-locked buffers of the lanes.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from coupling.contract import Array, Response
from coupling.errors import ModelError
from surrogates.backend import Tensor
from surrogates.device_law import RangeLaw
from surrogates.device_queues import queues_of
from surrogates.model_card import ModelCard
from surrogates.potential import Potential

SIZES = (64, 512, 4096, 16_384)
"""Points of the recorded chunks."""
Rows: TypeAlias = tuple[Array, Response]


class DeviceEvaluation:
    """Evaluates an energy surrogate on the device of its potential; answers are those of the surrogate's closure.

    One evaluation at a time.

    Args:
        potential: on a torch backend.
        card: of the surrogate.
        chunk: points per chunk at most.

    Raises:
        ModelError: where not even the smallest chunk fits into the memory of the device.
    """

    def __init__(self, potential: Potential, card: ModelCard, chunk: int = SIZES[-1]) -> None:
        torch = self._torch = potential.backend.xp
        device = potential.backend.device
        self._queues, self._law = queues_of(torch, device), RangeLaw(potential, card)
        self._locked: dict[int, int] = {}
        sizes = [size for size in SIZES if size < chunk] + [chunk]
        while True:
            try:
                self._lanes = [self._lane(sizes) for _ in range(2)]
                break
            except torch.OutOfMemoryError as error:
                if len(sizes) == 1:
                    raise ModelError(f"the memory of {device} does not suffice for {sizes[0]} points") from error
            sizes.pop()

    @property
    def chunk(self) -> int:
        """Points of the largest chunk."""
        return max(self._lanes[0].work)

    @property
    def batch(self) -> int:
        """Points that are worth being evaluated in one call: both lanes filled twice."""
        return 4 * self.chunk

    def evaluate_into(self, gradients: Sequence[Array], responses: Sequence[Response]) -> None:
        """Fill the arrays of each response, all of them given, with those at its gradients (n, k)."""
        try:
            for number, rows in enumerate(chunks(list(zip(gradients, responses, strict=True)), self.chunk)):
                lane = self._lanes[number % 2]
                self._finish(lane)
                self._begin(lane, rows)
            for lane in self._lanes:
                self._finish(lane)
        except BaseException:  # nothing may still be written into the caller's arrays afterwards
            for lane in self._lanes:
                lane.rows = []
            self._queues.settle()
            raise

    def pin(self, memory: mmap.mmap) -> Callable[[], None]:
        """Lock a mapping's pages where that can be, so that its arrays are copied directly, until the result is called.

        It must be called before the memory is unmapped.
        """
        address, size = ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory)
        unlock = self._queues.lock(address, size)
        if unlock is None:
            return lambda: None
        self._locked[address] = address + size

        def unpin() -> None:
            if self._locked.pop(address, None) is not None:
                unlock()

        return unpin

    # ---- one chunk ---------------------------------------------------------------------------------------------------

    def _lane(self, sizes: Sequence[int]) -> _Lane:
        buffers = self._law.buffers(sizes[-1])
        work = {
            size: self._queues.recorded(partial(self._law.evaluate, *(b[:size] for b in buffers))) for size in sizes
        }
        event = self._queues.event
        return _Lane(buffers, [self._queues.staging(b) for b in buffers], work, event(), event(), event(), [])

    def _begin(self, lane: _Lane, rows: list[Rows]) -> None:
        queues, lane.direct = self._queues, all(self._is_locked(gradient) for gradient, _ in rows)
        lane.rows, n = rows, sum(len(gradient) for gradient, _ in rows)
        with queues.upload():
            self._copy_in(lane, n)
            lane.uploaded.record()
        with queues.compute():
            lane.uploaded.wait()
            lane.work[min(size for size in lane.work if size >= n)]()
            lane.computed.record()
        with queues.download():
            lane.computed.wait()
            self._copy_out(lane, n)
            lane.downloaded.record()

    def _copy_in(self, lane: _Lane, n: int) -> None:
        into, staged = lane.buffers[0], lane.staged[0]
        for start, (gradient, _) in _starts(lane.rows):
            part = slice(start, start + len(gradient))
            if lane.direct:
                into[part].copy_(self._torch.from_numpy(gradient), non_blocking=True)
            else:
                staged.numpy()[part] = gradient
        if not lane.direct:
            into[:n].copy_(staged[:n], non_blocking=True)

    def _copy_out(self, lane: _Lane, n: int) -> None:
        if not lane.direct:
            for staged, values in zip(lane.staged[1:], lane.buffers[1:], strict=True):
                staged[:n].copy_(values[:n], non_blocking=True)
            return
        for start, (gradient, response) in _starts(lane.rows):
            for array, values in zip(_results(response), lane.buffers[1:], strict=True):
                part = values[start : start + len(gradient)]
                self._torch.from_numpy(array).copy_(part, non_blocking=True)

    def _finish(self, lane: _Lane) -> None:
        """Wait until a lane has done its work, and hand over what is staged."""
        if not lane.rows:
            return
        rows, lane.rows = lane.rows, []
        lane.downloaded.synchronize()
        if not lane.direct:
            for start, (gradient, response) in _starts(rows):
                for array, staged in zip(_results(response), lane.staged[1:], strict=True):
                    array[...] = staged.numpy()[start : start + len(gradient)]

    def _is_locked(self, array: Array) -> bool:
        address = array.__array_interface__["data"][0]
        starts = sorted(self._locked)
        at = bisect_right(starts, address) - 1
        return at >= 0 and address + array.nbytes <= self._locked[starts[at]]


@dataclass
class _Lane:
    """What one chunk needs: gradient and results on the device, staged on the host, and the recorded work by size."""

    buffers: list[Tensor]
    staged: list[Tensor]
    work: dict[int, Callable[[], None]]
    uploaded: Any
    computed: Any
    downloaded: Any
    rows: list[Rows]
    direct: bool = False


def chunks(rows: Sequence[Rows], size: int) -> Iterator[list[Rows]]:
    """The same rows in lists of ``size`` points, the last one of what is left."""
    chunk, room = list[Rows](), size
    for gradient, response in rows:
        start = 0
        while start < len(gradient):
            part = slice(start, min(len(gradient), start + room))
            chunk.append((gradient[part], _part(response, part)))
            room -= part.stop - start
            start = part.stop
            if not room:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk


def _part(response: Response, part: slice) -> Response:
    flux, tangent, status, uncertainty, energy = (array[part] for array in _results(response))
    return Response(flux, tangent, status, uncertainty=uncertainty, energy=energy)


def _results(response: Response) -> tuple[Any, Any, Any, Any, Any]:
    return response.flux, response.tangent, response.status, response.uncertainty, response.energy


def _starts(rows: Sequence[Rows]) -> Iterator[tuple[int, Rows]]:
    """Each of the rows with the number of points before it."""
    start = 0
    for row in rows:
        yield start, row
        start += len(row[0])
