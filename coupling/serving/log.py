"""The server's log: one JSON object per line, with time, process, level and event."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO


class Log:
    """Writes events to a file, to which several processes may append, or to standard error."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._file: TextIO = sys.stderr if path is None else open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def info(self, event: str, **what: Any) -> None:
        """Something happened that is as it should be."""
        self._write("info", event, what)

    def warning(self, event: str, **what: Any) -> None:
        """Something happened that somebody may want to look into."""
        self._write("warning", event, what)

    def _write(self, level: str, event: str, what: dict[str, Any]) -> None:
        line = {"time": round(time.time(), 6), "pid": os.getpid(), "level": level, "event": event, **what}
        self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
