"""Evaluations under way over one link: rows go into free slots, results come out of them."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from coupling.contract import Array, Response
from coupling.errors import ServerError, ServerRefusedError, ServerUnavailableError
from coupling.serving.frames import HINT, Code, Kind, Reply, Request
from coupling.serving.link import Link

Rows: TypeAlias = tuple[int, int]
NEVER = 2**63 - 1
"""The deadline of what has none."""


@dataclass(eq=False, slots=True)
class Ticket:
    """An evaluation under way.

    ``response`` is filled as answers come; ``todo`` are the rows not yet sent, ``left`` counts those not yet answered,
    ``deadline`` is when they are worth nothing any more (monotonic clock, ns), ``compute_ns`` the model's time in the
    server so far.
    """

    gradient: Array
    state: Array | None
    dt: float
    hint: Array | None
    todo: deque[Rows]
    left: int
    deadline: int
    response: Response | None = None
    compute_ns: int = 0
    attempts: int = 0
    error: Exception | None = field(default=None, repr=False)

    @property
    def seconds_left(self) -> float:
        """Until the deadline; negative where it has passed."""
        return 1e-9 * (self.deadline - time.monotonic_ns())

    def split(self, capacity: int) -> None:
        """Cut the rows to be sent to the size of a slot."""
        if self.left > capacity or len(self.todo) > 1:
            self.todo = deque(
                (a, min(a + capacity, end)) for begin, end in self.todo for a in range(begin, end, capacity)
            )


class Exchange:
    """What has been sent over a link and not been answered, and what waits to be sent.

    Args:
        link: the link, which belongs to the exchange.
    """

    def __init__(self, link: Link) -> None:
        self.link, self.current = link, link.current
        self._sequence = 0
        self._free = list(range(link.segment.layout.slots))[::-1]
        self._sent: dict[int, tuple[Ticket, int, int]] = {}
        self._waiting: deque[Ticket] = deque()

    @property
    def busy(self) -> bool:
        """Whether an evaluation is under way."""
        return bool(self._sent or self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Send what there is room for, now.

        Raises:
            ServerUnavailableError: where the server is lost; the ticket is then among the unanswered ones.
        """
        ticket.split(self.link.segment.layout.capacity)
        self._waiting.append(ticket)
        self._send()

    def progress(self, patience: float) -> None:
        """Wait for one reply, take its results, and use the slot for what waits.

        Args:
            patience: seconds to wait at most; never more than the link's own timeout.

        Raises:
            ServerUnavailableError: where the server is lost.
        """
        if not self._sent:
            self._send()
        reply = self.link.reply(patience)
        if reply.sequence not in self._sent:
            raise ServerUnavailableError(f"the server at {self.link.address} answers what was not asked")
        ticket, start, stop = self._sent.pop(reply.sequence)
        self._free.append(reply.slot)
        self.current = reply.current
        if reply.code == Code.DONE:
            self._read(reply, ticket, start, stop)
        elif reply.code == Code.EXPIRED:
            ticket.todo.append((start, stop))
            self._waiting.append(ticket)
            raise ServerUnavailableError(f"the server at {self.link.address} did not come to it in time")
        else:
            ticket.error = _refusal(reply)
            ticket.todo.clear()
        if self._waiting:
            self._send()

    def unanswered(self) -> list[Ticket]:
        """All tickets under way, in order, with every row that is not answered among those to be sent."""
        for ticket, start, stop in self._sent.values():
            ticket.todo.append((start, stop))
        tickets = dict.fromkeys([ticket for ticket, _, _ in self._sent.values()] + list(self._waiting))
        self._sent.clear()
        self._waiting.clear()
        return [ticket for ticket in tickets if ticket.left and ticket.error is None]

    def _send(self) -> None:
        while self._waiting and self._free:
            ticket = self._waiting[0]
            if not ticket.todo:
                self._waiting.popleft()
                continue
            start, stop = ticket.todo.popleft()
            self._sequence += 1
            slot = self._free.pop()
            self._sent[self._sequence] = (ticket, start, stop)
            flags = self._fill(slot, ticket, start, stop)
            version, dt = self.link.version, ticket.dt
            self.link.ring(
                Request(Kind.EVALUATE, self._sequence, slot, stop - start, version, flags, dt, ticket.deadline)
            )
            if not ticket.todo:
                self._waiting.popleft()

    def _fill(self, number: int, ticket: Ticket, start: int, stop: int) -> int:
        slot, n = self.link.segment.slots[number], stop - start
        slot.gradient[:n] = ticket.gradient[start:stop]
        if ticket.state is None or slot.state is None or slot.hint is None:
            return 0
        slot.state[:n] = ticket.state[start:stop]
        if ticket.hint is None:
            return 0
        slot.hint[:n] = ticket.hint[start:stop]
        return HINT

    def _read(self, reply: Reply, ticket: Ticket, start: int, stop: int) -> None:
        slot, response, n = self.link.segment.slots[reply.slot], ticket.response, stop - start
        assert response is not None
        response.flux[start:stop] = slot.flux[:n]
        response.tangent[start:stop] = slot.tangent[:n]
        response.status[start:stop] = slot.status[:n]
        if response.uncertainty is not None:
            response.uncertainty[start:stop] = slot.uncertainty[:n]
        if response.energy is not None:
            response.energy[start:stop] = slot.energy[:n]
        if response.state is not None and slot.new_state is not None:
            response.state[start:stop] = slot.new_state[:n]
        ticket.left -= n
        ticket.compute_ns += reply.compute_ns


def _refusal(reply: Reply) -> ServerError:
    if reply.code == Code.MODEL_FAILED:
        return ServerError(f"the model failed in the server: {reply.text}")
    return ServerRefusedError(reply.text)
