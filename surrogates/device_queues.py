"""The queues of a device and the memory it can reach: all that is particular to CUDA.

Facts of the CUDA runtime that this rests on (CUDA C++ Programming Guide, Asynchronous Concurrent Execution; CUDA
Runtime API, Memory Management): streams work at the same time, and wait for each other at events only; a copy overlaps
with other work where its host memory is page-locked (``cudaHostAlloc`` or ``cudaHostRegister``); a captured graph keeps
the addresses it was captured with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol

from surrogates.backend import Tensor


class Queues(Protocol):
    """Three queues of a device, which work at the same time, and memory that they can reach."""

    def upload(self) -> AbstractContextManager[Any]:
        """What is done in the block is queued for copying to the device."""
        ...

    def compute(self) -> AbstractContextManager[Any]:
        """What is done in the block is queued for computing."""
        ...

    def download(self) -> AbstractContextManager[Any]:
        """What is done in the block is queued for copying from the device."""
        ...

    def event(self) -> Any:
        """Something to ``record`` in one queue, to ``wait`` for in another, and to ``synchronize`` with."""
        ...

    def staging(self, like: Tensor) -> Tensor:
        """Page-locked memory of that shape and type."""
        ...

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """The same work, to be queued at once, with the tensors that it uses now."""
        ...

    def settle(self) -> None:
        """Wait until all queues are empty."""
        ...

    def lock(self, address: int, size: int) -> Callable[[], None] | None:
        """Lock pages of this process, and return what unlocks them, or None where that cannot be."""
        ...


class CudaQueues:
    """Streams of a CUDA device."""

    def __init__(self, torch: Any, device: str) -> None:
        self._torch, self._device = torch, torch.device(device)
        self._upload, self._compute, self._download = (torch.cuda.Stream(self._device) for _ in range(3))

    def upload(self) -> AbstractContextManager[Any]:
        """The stream for copies to the device."""
        return self._stream(self._upload)

    def compute(self) -> AbstractContextManager[Any]:
        """The stream for kernels."""
        return self._stream(self._compute)

    def download(self) -> AbstractContextManager[Any]:
        """The stream for copies from the device."""
        return self._stream(self._download)

    def event(self) -> Any:
        """A CUDA event."""
        return self._torch.cuda.Event()

    def staging(self, like: Tensor) -> Tensor:
        """Page-locked memory of torch's own."""
        return self._torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work as a CUDA graph. What it allocates stays in the graph's own pool."""
        cuda = self._torch.cuda
        cuda.synchronize(self._device)  # weights and buffers were filled in another stream
        with self.compute():
            for _ in range(2):  # libraries set themselves up in their first calls, which cannot be recorded
                work()
            self._compute.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.device(self._device), cuda.graph(graph, stream=self._compute, capture_error_mode="thread_local"):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def settle(self) -> None:
        """Wait for all streams of the device; what has failed has been reported."""
        with suppress(RuntimeError):
            self._torch.cuda.synchronize(self._device)

    def lock(self, address: int, size: int) -> Callable[[], None] | None:
        """Register the pages with CUDA."""
        runtime = self._torch.cuda.cudart()
        with self._torch.cuda.device(self._device):
            if int(runtime.cudaHostRegister(address, size, 0)):
                self._forget_error()
                return None

        def unlock() -> None:
            with self._torch.cuda.device(self._device):
                if int(runtime.cudaHostUnregister(address)):
                    self._forget_error()

        return unlock

    def _stream(self, stream: Any) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._torch.cuda.stream(stream)
        return context

    def _forget_error(self) -> None:
        """The runtime reports a failure once more at the next launch: have that over with."""
        with suppress(RuntimeError):
            self._torch.zeros(1, device=self._device).add_(1)


class HostQueues:
    """The processor in the place of a device: everything is done at once, and all memory is within reach."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def upload(self) -> AbstractContextManager[Any]:
        """Nothing waits."""
        return nullcontext()

    compute = download = upload

    def event(self) -> Any:
        """One that has always happened."""
        return _Happened()

    def staging(self, like: Tensor) -> Tensor:
        """Any memory."""
        return self._torch.empty(like.shape, dtype=like.dtype)

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work itself, tried once."""
        work()
        return work

    def settle(self) -> None:
        """Nothing to do."""

    def lock(self, address: int, size: int) -> Callable[[], None] | None:
        """Nothing to do."""
        return lambda: None


class _Happened:
    def record(self) -> None:
        """Nothing to do."""

    wait = synchronize = record


def queues_of(torch: Any, device: str) -> Queues:
    """The queues of a device of torch."""
    return CudaQueues(torch, device) if device.startswith("cuda") else HostQueues(torch)
