"""Ctrl-C that waits for a good moment: recorded everywhere, raised only where nothing is lost by it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within this context, SIGINT and SIGTERM raise KeyboardInterrupt only inside :meth:`raised`, and are recorded.

    A rank that waits for others in MPI thus takes part to the end. Outside the main thread, where Python delivers no
    signals, it does nothing.

    Attributes:
        seen: whether a signal came.
    """

    def __init__(self) -> None:
        self.seen = False
        self._raise = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise KeyboardInterrupt here, at once where a signal has come before."""
        self._raise = True
        try:
            if self.seen:
                raise KeyboardInterrupt
            yield
        finally:
            self._raise = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if self._raise:
            raise KeyboardInterrupt
