"""A circuit breaker: do not go on asking a server that keeps dying."""

from __future__ import annotations

import time
from collections import deque


class Breaker:
    """Open, so that nothing is asked, for ``rest`` seconds after ``losses`` losses within ``window`` seconds.

    After the rest one attempt is allowed; another loss opens it again.
    """

    def __init__(self, losses: int = 4, window: float = 30.0, rest: float = 30.0) -> None:
        self.losses, self.window, self.rest = losses, window, rest
        self._times: deque[float] = deque(maxlen=losses)

    @property
    def open(self) -> bool:
        """Whether asking is pointless for now."""
        times = self._times
        if len(times) < self.losses or times[-1] - times[0] > self.window:
            return False
        return time.monotonic() - times[-1] < self.rest

    def lost(self) -> None:
        """Enter a loss."""
        self._times.append(time.monotonic())
