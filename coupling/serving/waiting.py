"""Waiting for messages without taking a core from those who would send them."""

from __future__ import annotations

import os
import time
from typing import Any

_EAGER = 1e-4
"""Seconds without sleeps."""
_SHORTEST, _LONGEST = 2e-5, 1e-3
"""Sleeps in seconds."""


class BackOff:
    """Pauses between looks for a message.

    Where every rank has a core of its own, a pause only lets others go first. Where ranks outnumber cores, that is so
    for the first 0.1 ms; then pauses are sleeps, each twice as long as the one before, up to 1 ms.

    Args:
        crowded: whether ranks outnumber cores (:func:`crowded`).
    """

    def __init__(self, crowded: bool) -> None:
        self._crowded = crowded
        self.reset()

    def reset(self) -> None:
        """There was a message."""
        self._since, self._sleep = 0.0, _SHORTEST

    def pause(self) -> None:
        """There was none."""
        if not self._crowded:
            os.sched_yield()
            return
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since < _EAGER:
            os.sched_yield()
        else:
            time.sleep(self._sleep)
            self._sleep = min(2.0 * self._sleep, _LONGEST)


def crowded(node: Any) -> bool:
    """Whether the ranks of a node outnumber the cores that they may use (collective)."""
    cores: set[int] = set().union(*node.allgather(os.sched_getaffinity(0)))
    return int(node.size) > len(cores)
