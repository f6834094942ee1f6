"""What a server is told when it starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of a server and its supervisor.

    Args:
        address: where it listens (:mod:`coupling.serving.address`).
        models: sources of the models, by name, that are loaded before it is ready.
        device: "cpu", "cuda:K", or "auto:K" (K 0 where it is not given), which is "cpu" where torch cannot use GPUs.
        precision: "float64", or "float32" for model folders whose card allows it.
        threads: that the numerical libraries may use.
        idle: seconds without a client after which it stops, None for never.
        linger: seconds that a batch waits for clients that are about to ask, at most 1e-4. Pays on a GPU.
        hang: seconds without a sign of life after which it is replaced.
        deaths: within ten seconds, after which it is given up.
        log: file for its log, None for standard error.
        metrics: port on this machine's loopback where Prometheus finds its metrics, None for none.
        lock: inherited descriptor of the address's lock, None to take it.
        detach: go into the background as soon as clients can connect.
    """

    address: str
    models: dict[str, str]
    device: str = "auto"
    precision: str = "float64"
    threads: int = 1
    idle: float | None = None
    linger: float = 0.0
    hang: float = 30.0
    deaths: int = 10
    log: str | None = None
    metrics: int | None = None
    lock: int | None = None
    detach: bool = False

    def as_json(self) -> str:
        """The settings as text, for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings of :meth:`as_json`."""
        return cls(**json.loads(text))
