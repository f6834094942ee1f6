"""Every rank or none: one outcome for all ranks of a communicator.

``comm`` is any mpi4py intracommunicator; it is always an argument, never assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from coupling.errors import RemoteRankError

T = TypeVar("T")


def together(comm: Any, local: Callable[[], T]) -> T:
    """Result of a rank-local computation that all ranks finish, or an error on all of them (collective).

    A rank on which ``local`` raises raises that error; every other rank raises :class:`RemoteRankError` with the first
    failing rank and its message. ``local`` must not communicate.
    """
    result, error = None, None
    try:
        result = local()
    except Exception as caught:  # whatever it is, the other ranks must hear of it
        error = caught
    messages = comm.allgather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise RemoteRankError(f"rank {rank} of {comm.size} failed: {message}")
    return result  # type: ignore[return-value]
