"""Triton and its clients: comparators of the serve benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.serve_crews import Absent, Crew


@contextmanager
def triton_messages(count: int, device: str) -> Iterator[Crew]:
    """Arrays in gRPC messages."""
    raise Absent("no Triton yet")
    yield


@contextmanager
def triton_shared_memory(count: int, device: str) -> Iterator[Crew]:
    """Arrays in system shared memory."""
    raise Absent("no Triton yet")
    yield
