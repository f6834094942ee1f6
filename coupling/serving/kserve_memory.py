"""How arrays travel to a KServe v2 server and back: in messages, or through memory that both sides map."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array
from coupling.errors import MissingPackageError, ServerRefusedError
from coupling.serving.segment import aligned

INPUT = "gradient"


@dataclass(frozen=True)
class Output:
    """A result of a model: its name, type, and shape per point."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes per point."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Region(Protocol):
    """Memory that this process and the server share."""

    name: str
    size: int

    def register(self, client: Any, **options: Any) -> None:
        """Have the server map it."""
        ...

    def write(self, array: Array) -> None:
        """Copy an array to its beginning."""
        ...

    def read(self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """A copy of an array in it."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class SystemRegion:
    """POSIX shared memory: the server runs on this machine, and sees its ``/dev/shm``."""

    def __init__(self, size: int) -> None:
        self.name, self.size = f"twoscale-{secrets.token_hex(8)}", size
        self._memory = SharedMemory(create=True, size=size)

    def register(self, client: Any, **options: Any) -> None:
        """Have the server map it."""
        client.register_system_shared_memory(self.name, f"/{self._memory.name.lstrip('/')}", self.size, **options)

    def write(self, array: Array) -> None:
        """Copy an array to its beginning."""
        np.ndarray(array.shape, array.dtype, self._memory.buf)[...] = array

    def read(self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """A copy of an array in it."""
        return np.ndarray(shape, dtype, self._memory.buf, offset).copy()

    def close(self) -> None:
        """Give it back; a server that still maps it writes where nobody reads."""
        self._memory.close()
        self._memory.unlink()


class CudaRegion:
    """Memory of a GPU of this machine, which the server computes on.

    Raises:
        MissingPackageError: where tritonclient has no CUDA (``pip install "tritonclient[cuda]"``).
    """

    def __init__(self, size: int, device: int) -> None:
        try:
            from tritonclient.utils import cuda_shared_memory
        except ImportError as error:
            raise MissingPackageError(
                f"memory='cuda' needs CUDA for Python ({error}): pip install 'tritonclient[cuda]', or take 'auto'"
            ) from error
        self.name, self.size = f"twoscale-{secrets.token_hex(8)}", size
        self._cuda, self._device = cuda_shared_memory, device
        self._handle = cuda_shared_memory.create_shared_memory_region(self.name, size, device)

    def register(self, client: Any, **options: Any) -> None:
        """Have the server map it."""
        raw = self._cuda.get_raw_handle(self._handle)
        client.register_cuda_shared_memory(self.name, raw, self._device, self.size, **options)

    def write(self, array: Array) -> None:
        """Copy an array to its beginning."""
        self._cuda.set_shared_memory_region(self._handle, [array])

    def read(self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """A copy of an array in it."""
        return np.array(self._cuda.get_contents_as_numpy(self._handle, dtype, list(shape), offset))

    def close(self) -> None:
        """Give it back."""
        self._cuda.destroy_shared_memory_region(self._handle)


class Transfer(Protocol):
    """The arrays of one evaluation, which is asked in parts."""

    def tensors(self, part: slice) -> dict[str, list[Any]]:
        """Inputs and outputs of the request for these points."""
        ...

    def results(self, answers: Sequence[Any], parts: Sequence[slice]) -> dict[str, NDArray[Any]]:
        """The results of all points, by name; fresh arrays."""
        ...


class MessageTransfer:
    """Arrays in the messages themselves."""

    def __init__(self, grpc: Any, gradient: Array, outputs: Sequence[Output]) -> None:
        self._grpc, self._gradient, self._outputs = grpc, gradient, outputs

    def tensors(self, part: slice) -> dict[str, list[Any]]:
        """Inputs and outputs of the request for these points."""
        rows = self._gradient[part]
        gradient = self._grpc.InferInput(INPUT, list(rows.shape), "FP64").set_data_from_numpy(rows)
        return {"inputs": [gradient], "outputs": [self._grpc.InferRequestedOutput(o.name) for o in self._outputs]}

    def results(self, answers: Sequence[Any], parts: Sequence[slice]) -> dict[str, NDArray[Any]]:
        """The results of all points, by name."""
        contents = [_contents(answer.get_response()) for answer in answers]
        results = {o.name: np.empty((len(self._gradient), *o.shape), o.dtype) for o in self._outputs}
        for output in self._outputs:
            for part, content in zip(parts, contents, strict=True):
                _check_shape(output, content[output.name].shape if output.name in content else None, part)
                results[output.name][part] = content[output.name]
        return results


class RegionTransfer:
    """Arrays in a region: the gradients, then each result of all points."""

    def __init__(self, grpc: Any, gradient: Array, outputs: Sequence[Output], region: Region) -> None:
        self._grpc, self._gradient, self._outputs, self._region = grpc, gradient, outputs, region
        self._bytes = gradient.nbytes // len(gradient)
        self._offsets = dict(zip((output.name for output in outputs), _ends(gradient, outputs), strict=False))
        region.write(gradient)

    @staticmethod
    def size(gradient: Array, outputs: Sequence[Output]) -> int:
        """Bytes that an evaluation needs."""
        return _ends(gradient, outputs)[-1]

    def tensors(self, part: slice) -> dict[str, list[Any]]:
        """Inputs and outputs of the request for these points."""
        n, name = part.stop - part.start, self._region.name
        gradient = self._grpc.InferInput(INPUT, [n, self._gradient.shape[1]], "FP64")
        gradient.set_shared_memory(name, n * self._bytes, part.start * self._bytes)
        results = [self._grpc.InferRequestedOutput(output.name) for output in self._outputs]
        for output, result in zip(self._outputs, results, strict=True):
            result.set_shared_memory(name, n * output.nbytes, self._offsets[output.name] + part.start * output.nbytes)
        return {"inputs": [gradient], "outputs": results}

    def results(self, answers: Sequence[Any], parts: Sequence[slice]) -> dict[str, NDArray[Any]]:
        """The results of all points, by name."""
        for part, answer in zip(parts, answers, strict=True):
            shapes = {tensor.name: tuple(tensor.shape) for tensor in answer.get_response().outputs}
            for output in self._outputs:
                _check_shape(output, shapes.get(output.name), part)
        n = len(self._gradient)
        return {o.name: self._region.read(o.dtype, (n, *o.shape), self._offsets[o.name]) for o in self._outputs}


def _contents(response: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a response; servers send them raw, or typed."""
    raw, arrays = response.raw_output_contents, {}
    for index, tensor in enumerate(response.outputs):
        if tensor.datatype == "FP64":
            array = np.frombuffer(raw[index]) if raw else np.array(tensor.contents.fp64_contents)
        else:
            array = np.frombuffer(raw[index], np.int8) if raw else np.array(tensor.contents.int_contents, np.int8)
        arrays[tensor.name] = array.reshape(tuple(tensor.shape))
    return arrays


def _check_shape(output: Output, shape: tuple[int, ...] | None, part: slice) -> None:
    expected = (part.stop - part.start, *output.shape)
    if shape != expected:
        raise ServerRefusedError(f"the server's {output.name} must be of shape {expected}, got {shape}")


def _ends(gradient: Array, outputs: Sequence[Output]) -> list[int]:
    """Bytes after which the gradients end, and each result after them."""
    return list(accumulate((aligned(len(gradient) * o.nbytes, 8) for o in outputs), initial=gradient.nbytes))
