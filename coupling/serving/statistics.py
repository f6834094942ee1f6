"""What a server counts for every model, and how it is told."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

_KEPT = 4096
_QUANTILES = (50, 90, 99, 100)


class Statistics:
    """Counts, a histogram of batch sizes by powers of two, and the latest latencies (arrival to reply)."""

    def __init__(self) -> None:
        self.requests = self.points = self.batches = self.failed = self.expired = 0
        self.compute_ns = 0
        self.sizes = [0] * 32
        self._latencies: deque[int] = deque(maxlen=_KEPT)

    def batch(self, points: int, compute_ns: int) -> None:
        """Enter one call of the model."""
        self.batches += 1
        self.points += points
        self.compute_ns += compute_ns
        self.sizes[points.bit_length()] += 1

    def request(self, latency_ns: int) -> None:
        """Enter one answered request."""
        self._latencies.append(latency_ns)
        self.requests += 1

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON; latencies in seconds."""
        kept = self._latencies
        values = np.percentile(kept, _QUANTILES) * 1e-9 if kept else np.zeros(len(_QUANTILES))
        return {
            "requests": self.requests,
            "points": self.points,
            "batches": self.batches,
            "failed": self.failed,
            "expired": self.expired,
            "compute_seconds": self.compute_ns * 1e-9,
            "batch_sizes": {f"<{1 << power}": count for power, count in enumerate(self.sizes) if count},
            "latency_seconds": {f"p{q}": float(v) for q, v in zip(_QUANTILES, values, strict=True)},
        }
