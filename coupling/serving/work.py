"""The work of a server, whatever its clients are connected by: batches of a queue are evaluated, requests answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from coupling.serving.batching import Batch, FairQueue, Piece
from coupling.serving.frames import HINT, Code
from coupling.serving.log import Log

C = TypeVar("C")


class Work(Generic[C]):
    """Evaluates what is in a queue.

    Args:
        queue: where requests are put, and taken out of when they are answered.
        answer: tells the client of a piece how it ended; results are in its slot.
        log: where failures of models go.
    """

    def __init__(self, queue: FairQueue[C], answer: Callable[[Piece[C], Code, str], None], log: Log) -> None:
        self.queue, self._answer, self._log = queue, answer, log

    def next_batch(self) -> None:
        """Evaluate one batch, or answer a request that has expired."""
        batch, now = self.queue.next_batch(), time.monotonic_ns()
        for piece in batch.pieces:
            if piece.request.deadline < now:
                self._finish(piece, Code.EXPIRED)
                return  # the others are still in the queue
        self._compute(batch, now)

    def _compute(self, batch: Batch[C], start: int) -> None:
        request = batch.pieces[0].request
        try:
            batch.version.evaluator.evaluate(batch.parts, request.dt, bool(request.flags & HINT))
        except Exception as error:  # a user's model may raise anything
            self._failed(batch, error)
            return
        spent = time.monotonic_ns() - start
        for piece, part in zip(batch.pieces, batch.parts, strict=True):
            piece.done = part.stop
            piece.compute_ns += spent * (part.stop - part.start) // batch.points
            if piece.done == piece.request.points:
                self._finish(piece, Code.DONE)
        batch.pieces[0].model.statistics.batch(batch.points, spent)

    def _failed(self, batch: Batch[C], error: Exception) -> None:
        """One request alone answers for the failure; of several, each is tried alone."""
        if len(batch.pieces) == 1:
            piece, text = batch.pieces[0], f"{type(error).__name__}: {error}"
            self._log.warning("model failed", model=piece.model.name, error=text)
            self._finish(piece, Code.MODEL_FAILED, text)
            return
        for piece, part in zip(batch.pieces, batch.parts, strict=True):
            self._compute(Batch(batch.version, [piece], [part], part.stop - part.start), time.monotonic_ns())

    def _finish(self, piece: Piece[C], code: Code, text: str = "") -> None:
        """Answer a request; the books are kept when the client is on its way."""
        self._answer(piece, code, text)
        self.queue.finished(piece)
        statistics = piece.model.statistics
        statistics.request(time.monotonic_ns() - piece.arrived)
        if code is not Code.DONE:
            statistics.failed += code is Code.MODEL_FAILED
            statistics.expired += code is Code.EXPIRED
