"""The ledger: what a run did, counted and timed.

Every part of a run that is worth reporting enters its work here under a name ("fine/factorisations", "closure"), so
that a run can say where its time went and what the surrogate saved.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.table import Table

from coupling.files import write_atomically


class Ledger:
    """Named counts and named wall times (seconds); phases may nest, and an outer one includes its inner ones."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    def count(self, name: str, n: int = 1) -> None:
        """Add n to the count of that name."""
        self.counts[name] = self.counts.get(name, 0) + int(n)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the wall time of the enclosed block to the phase of that name, also when the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def reset(self) -> None:
        """Forget everything entered so far."""
        self.counts.clear()
        self.seconds.clear()

    def gathered(self, comm: Any) -> Ledger:
        """The ledger of all ranks of ``comm`` (collective): counts summed, seconds of the slowest rank."""
        total = Ledger()
        for counts, seconds in comm.allgather((self.counts, self.seconds)):
            for name, n in counts.items():
                total.count(name, n)
            for name, s in seconds.items():
                total.seconds[name] = max(total.seconds.get(name, 0.0), s)
        return total

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Counts and seconds as plain dictionaries, for JSON."""
        return {"counts": dict(self.counts), "seconds": dict(self.seconds)}

    def table(self, title: str = "Ledger") -> Table:
        """Phases with their seconds, longest first, and counts, as a rich table."""
        table = Table("", "seconds", "count", title=title)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, seconds in sorted(self.seconds.items(), key=lambda entry: -entry[1]):
            table.add_row(name, f"{seconds:.3f}", "")
        table.add_section()
        for name, n in sorted(self.counts.items()):
            table.add_row(name, "", f"{n:,}")
        return table

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`as_dict` as a JSON file, atomically."""
        write_atomically(path, json.dumps(self.as_dict(), indent=2, sort_keys=True) + "\n")


def ledgers(closure: Any) -> list[Ledger]:
    """The ledgers inside a closure, found through the closures it is made of; one that these share more than once."""
    inner = [getattr(closure, name) for name in ("inner", "fine", "surrogate") if hasattr(closure, name)]
    own = [closure.ledger] if hasattr(closure, "ledger") else []
    return own + [ledger for part in inner for ledger in ledgers(part)]


def merged(comm: Any, *parts: Ledger) -> Ledger:
    """One ledger of several, over all ranks (collective): all is summed, and the same ledger entered once."""
    total = Ledger()
    for part in {id(part): part for part in parts}.values():
        for name, n in part.counts.items():
            total.count(name, n)
        for name, seconds in part.seconds.items():
            total.seconds[name] = total.seconds.get(name, 0.0) + seconds
    return total.gathered(comm)
