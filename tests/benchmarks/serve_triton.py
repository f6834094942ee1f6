"""Triton and its clients: comparators of the serve benchmark.

The model is exported as ``twoscale export --triton`` does it, and a stock Triton on this machine serves it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from tests.benchmarks.serve_crews import Absent, Crew, command, processes, simple_client
from tests.serving_models import energy_network
from tests.serving_processes import short_folder

NAME = "network"


@contextmanager
def triton_messages(count: int, device: str) -> Iterator[Crew]:
    """Arrays in gRPC messages."""
    with _triton(count, "message") as crew:
        yield crew


@contextmanager
def triton_shared_memory(count: int, device: str) -> Iterator[Crew]:
    """Arrays in system shared memory."""
    with _triton(count, "system") as crew:
        yield crew


@contextmanager
def _triton(count: int, memory: str) -> Iterator[Crew]:
    try:
        import pytest

        from surrogates.triton_repository import export_triton
        from tests.triton_server import triton
    except ImportError as error:
        raise Absent(f"it takes the extra triton: {error}") from error
    with ExitStack() as stack:
        repository = stack.enter_context(short_folder())
        export_triton(energy_network(), repository, name=NAME)
        try:
            server = stack.enter_context(triton(repository))
        except pytest.skip.Exception as why:
            raise Absent(str(why)) from None
        client = command("tests.benchmarks.serve_triton", server.address, memory)
        yield stack.enter_context(processes(*[client] * count))


if __name__ == "__main__":
    from coupling.serving.triton_surrogate import TritonSurrogate

    memory: Literal["message", "system"] = "system" if sys.argv[2] == "system" else "message"
    with TritonSurrogate(NAME, sys.argv[1], memory=memory, timeout=60.0) as surrogate:
        simple_client(surrogate)
