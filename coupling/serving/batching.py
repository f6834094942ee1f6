"""The queue of the server: whose rows are evaluated next.

Clients stand in a ring. The first one fills a batch with its rows, beside the small requests of others for the same
model and version; what room is left is filled, in the order of the ring, with more rows of these. Then the first client
goes to the end of the ring. So a client waits for one batch of every other at most, however many points these have, one
with few points for the batch under way only, and nothing waits while there is work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from coupling.serving.evaluation import Part
from coupling.serving.frames import Request
from coupling.serving.models import Model, Version
from coupling.serving.segment import Slot

C = TypeVar("C")


@dataclass(slots=True, eq=False)
class Piece(Generic[C]):
    """A request being served, ``done`` of its rows so far."""

    client: C
    request: Request
    slot: Slot
    model: Model
    version: Version
    arrived: int
    done: int = 0
    compute_ns: int = 0

    @property
    def left(self) -> int:
        """Rows to be served."""
        return self.request.points - self.done

    def goes_with(self, other: Piece[C]) -> bool:
        """Whether both can be evaluated in one call."""
        mine, its = self.request, other.request
        if self.version is not other.version or (mine.flags ^ its.flags) & 1:
            return False
        return mine.dt == its.dt or not self.version.evaluator.spec.history


@dataclass(slots=True)
class Batch(Generic[C]):
    """Parts for one call of a model, and the pieces they are of."""

    version: Version
    pieces: list[Piece[C]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    points: int = 0

    def take(self, piece: Piece[C], room: int) -> None:
        """Add as many rows of the piece as there is room for."""
        n = min(room, piece.left)
        self.pieces.append(piece)
        self.parts.append(Part(piece.slot, piece.done, piece.done + n))
        self.points += n


class FairQueue(Generic[C]):
    """Pieces of all clients, each client's in the order they came."""

    def __init__(self) -> None:
        self._lines: dict[C, deque[Piece[C]]] = {}
        self._ring: deque[C] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._ring)

    def __iter__(self) -> Iterator[Piece[C]]:
        return chain.from_iterable(self._lines.values())

    @property
    def clients(self) -> int:
        """How many of them wait."""
        return len(self._ring)

    @property
    def points(self) -> int:
        """Rows that wait."""
        return sum(piece.left for piece in self)

    def add(self, piece: Piece[C]) -> None:
        """Put a piece at the end of its client's line."""
        line = self._lines.get(piece.client)
        if line is None:
            self._lines[piece.client] = deque((piece,))
            self._ring.append(piece.client)
        else:
            line.append(piece)

    def drop(self, client: C) -> None:
        """Forget everything of a client."""
        if self._lines.pop(client, None) is not None:
            self._ring.remove(client)

    def next_batch(self) -> Batch[C]:
        """Rows for the next call; the queue must not be empty."""
        leader = self._lines[self._ring[0]][0]
        most = leader.version.evaluator.batch
        batch: Batch[C] = Batch(leader.version)
        if len(self._ring) > 1:
            self._take_small(batch, leader, most)
        batch.take(leader, most - batch.points)
        for client in self._ring:
            for piece in self._lines[client]:
                if batch.points == most:
                    break
                if piece not in batch.pieces and piece.goes_with(leader):
                    batch.take(piece, most - batch.points)
        self._ring.rotate(-1)
        return batch

    def _take_small(self, batch: Batch[C], leader: Piece[C], most: int) -> None:
        """Fill up to half of the batch with requests of others that an eighth of it has room for."""
        for client in self._ring:
            piece = self._lines[client][0]
            fits = piece.left <= most // 8 and batch.points + piece.left <= most // 2
            if fits and piece is not leader and piece.goes_with(leader):
                batch.take(piece, piece.left)

    def finished(self, piece: Piece[C]) -> None:
        """Take a piece out."""
        line = self._lines.get(piece.client)
        if line is None:
            return
        line.remove(piece)
        if not line:
            del self._lines[piece.client]
            self._ring.remove(piece.client)
