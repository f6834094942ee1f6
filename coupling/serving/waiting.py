"""Waiting for messages without taking a core from those who would send them."""

from __future__ import annotations

import os
import time
from typing import Any


class BackOff:
    """Pauses between looks for a message.

    Where every rank has a core of its own, a pause only lets others go first. Where ranks outnumber cores, that is so
    for the first ``eager`` seconds; then pauses are sleeps, each twice as long as the one before.

    Args:
        crowded: whether ranks outnumber cores (:func:`crowded`).
        eager: seconds without sleeps.
        shortest: first sleep in seconds.
        longest: sleep in seconds.
    """

    def __init__(self, crowded: bool, *, eager: float = 1e-4, shortest: float = 2e-5, longest: float = 1e-3) -> None:
        self._crowded, self._eager, self._shortest, self._longest = crowded, eager, shortest, longest
        self.reset()

    def reset(self) -> None:
        """There was a message."""
        self._since, self._sleep = 0.0, self._shortest

    def pause(self) -> None:
        """There was none."""
        if not self._crowded:
            os.sched_yield()
            return
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since < self._eager:
            os.sched_yield()
        else:
            time.sleep(self._sleep)
            self._sleep = min(2.0 * self._sleep, self._longest)


def crowded(node: Any) -> bool:
    """Whether the ranks of a node outnumber the cores that they may use (collective)."""
    cores: set[int] = set().union(*node.allgather(os.sched_getaffinity(0)))
    return int(node.size) > len(cores)
