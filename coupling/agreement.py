"""Every rank or none: one outcome for all ranks of a communicator.

``comm`` is any mpi4py intracommunicator; it is always an argument, never assumed. None stands for a rank that goes by
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from coupling.errors import RemoteRankError

T = TypeVar("T")


def together(comm: Any | None, local: Callable[[], T]) -> T:
    """Result of a rank-local computation that all ranks finish, or an error on all of them (collective).

    A rank on which ``local`` raises raises that error; every other rank raises :class:`RemoteRankError` with the first
    failing rank and its message. ``local`` must not communicate, unless by what raises on all ranks or on none.
    """
    if comm is None:
        return local()
    result, error = _attempt(local)
    _raise(comm, error, comm.allgather(_message(error)))
    return result  # type: ignore[return-value]


def gathered(comm: Any, local: Callable[[], T]) -> list[T]:
    """Results of a rank-local computation on all ranks, in their order, or an error on all as :func:`together`."""
    result, error = _attempt(local)
    everyone = comm.allgather((result, _message(error)))
    _raise(comm, error, [message for _, message in everyone])
    return [result for result, _ in everyone]


def collective_over(closure: object) -> Any | None:
    """Communicator over which ``closure.evaluate`` is collective, None where each rank may call it by itself.

    A closure whose evaluation communicates says so with the attribute ``collective``, its communicator; a wrapper is
    collective where that is which it wraps as ``inner``. All ranks call a collective closure together, those without
    points too, and it raises on all of them or on none.
    """
    comm = getattr(closure, "collective", None)
    if comm is None and hasattr(closure, "inner"):
        return collective_over(closure.inner)
    return comm


def _attempt(local: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return local(), None
    except Exception as caught:  # whatever it is, the other ranks must hear of it
        return None, caught


def _message(error: Exception | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


def _raise(comm: Any, error: Exception | None, messages: list[str | None]) -> None:
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise RemoteRankError(f"rank {rank} of {comm.size} failed: {message}")
