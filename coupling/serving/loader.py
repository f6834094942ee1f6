"""Preparing versions of models beside the work of the loop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from coupling.errors import ModelError
from coupling.serving.models import Version, prepare

Outcome: TypeAlias = Version | ModelError


class Loader:
    """A thread that prepares versions, one at a time; the loop watches ``descriptor`` and does what follows."""

    def __init__(self, device: str, precision: str) -> None:
        self.descriptor, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._where = (device, precision)
        self._pool = ThreadPoolExecutor(1, "loader")
        self._under_way: dict[str, Future[Version]] = {}
        self._ended: deque[Callable[[], None]] = deque()

    def load(
        self,
        key: str,
        source: str,
        number: int,
        then: Callable[[Outcome], None],
        like: Version | None = None,
        tolerance: float | None = None,
    ) -> None:
        """Prepare a version, once for all that ask under the same key meanwhile, and pass it to ``then``."""
        future = self._under_way.get(key)
        if future is None:
            future = self._pool.submit(prepare, source, number, *self._where, like=like, tolerance=tolerance)
            self._under_way[key] = future
        future.add_done_callback(lambda ended: self._finish(key, ended, then))

    def attend(self) -> None:
        """Do what follows on what has ended; in the loop's thread."""
        os.read(self.descriptor, 4096)
        while self._ended:
            self._ended.popleft()()

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _finish(self, key: str, ended: Future[Version], then: Callable[[Outcome], None]) -> None:
        def tell() -> None:
            self._under_way.pop(key, None)
            error = ended.exception()
            then(
                ended.result() if error is None else error if isinstance(error, ModelError) else ModelError(str(error))
            )

        self._ended.append(tell)
        os.write(self._waker, b"\0")
