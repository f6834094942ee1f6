"""What a server says about itself."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Protocol

from coupling.serving.batching import FairQueue
from coupling.serving.client import Client
from coupling.serving.models import ModelTable
from coupling.serving.settings import Settings


class Reported(Protocol):
    """What a report is about."""

    settings: Settings
    table: ModelTable
    clients: dict[int, Client]
    queue: FairQueue[Client]
    started: float


def report(server: Reported) -> dict[str, Any]:
    """State of a server, for JSON: seconds, bytes and counts."""
    return {
        "address": server.settings.address,
        "pid": os.getpid(),
        "device": server.settings.device,
        "precision": server.settings.precision,
        "threads": server.settings.threads,
        "uptime_seconds": time.time() - server.started,
        "memory_bytes": resident_bytes(),
        "clients": sum(client.model is not None for client in server.clients.values()),
        "queue": {"requests": len(server.queue), "points": server.queue.points},
        "models": [
            {
                "name": model.name,
                "current": model.current,
                "versions": [
                    {"number": v.number, "source": v.source, "fingerprint": v.fingerprint, "clients": v.users}
                    for v in model.versions.values()
                ],
                **model.statistics.as_dict(),
            }
            for model in server.table.models.values()
        ],
    }


def resident_bytes(pid: int | None = None) -> int:
    """Memory of a process that is in use."""
    pages = Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")
