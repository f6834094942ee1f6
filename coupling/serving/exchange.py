"""Evaluations under way over one link: rows go into free slots, results come out of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from coupling.contract import Array, ClosureSpec, Response
from coupling.errors import ServerError, ServerRefusedError, ServerUnavailableError
from coupling.serving.frames import ENERGY, HINT, UNCERTAINTY, Code, Kind, Reply, Request
from coupling.serving.segment import Layout, Rows, Slot

NEVER = 2**63 - 1
"""The deadline of what has none."""


@dataclass(eq=False, slots=True)
class Ticket:
    """An evaluation under way.

    ``response`` is filled as answers come; ``deadline`` is when they are worth nothing any more (monotonic clock, ns),
    ``todo`` are the rows not yet sent, ``left`` counts those not yet answered, ``compute_ns`` is the model's time in
    the server so far.
    """

    gradient: Array
    state: Array | None
    dt: float
    hint: Array | None
    deadline: int = NEVER
    todo: list[Rows] = field(init=False)
    left: int = field(init=False)
    response: Response | None = None
    compute_ns: int = 0
    attempts: int = 0
    error: Exception | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.left = len(self.gradient)
        self.todo = [(0, self.left)]

    @property
    def open(self) -> bool:
        """Whether there are answers to wait for."""
        return bool(self.left) and self.error is None

    def result(self, spec: ClosureSpec, optional: int) -> Response:
        """The response, an empty one where there are no points; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        if self.response is None:
            self.response = empty_response(spec, 0, optional)
        return self.response

    @property
    def seconds_left(self) -> float:
        """Until the deadline; negative where it has passed."""
        return 1e-9 * (self.deadline - time.monotonic_ns())


class Room(Protocol):
    """Where the rows of one request go, and its results come from."""

    def rows(self, start: int, stop: int) -> Slot:
        """The arrays of some rows."""
        ...


class Rooms(Protocol):
    """The rooms of a client."""

    @property
    def layout(self) -> Layout:
        """How many there are, and for how many points."""
        ...

    @property
    def slots(self) -> Sequence[Room]:
        """All of them."""
        ...

    def answer(self, number: int, n: int, optional: int, free: list[int]) -> Response:
        """The results in a room at n points, which is among the free ones when it can be used again."""
        ...


class Connection(Protocol):
    """A connection to a server that is ready for requests, see :class:`coupling.serving.link.Link`."""

    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def spec(self) -> ClosureSpec: ...  # noqa: D102
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def current(self) -> int: ...  # noqa: D102
    @property
    def optional(self) -> int: ...  # noqa: D102
    @property
    def segment(self) -> Rooms: ...  # noqa: D102

    def ring(self, request: Request) -> None:
        """Send a request."""
        ...

    def reply(self, patience: float = ...) -> Reply:
        """The next reply, waiting for it so many seconds at most."""
        ...


L = TypeVar("L", bound=Connection)


class Exchange(Generic[L]):
    """What has been sent over a link and not been answered, and what waits to be sent.

    Args:
        link: the link, which belongs to the exchange.
    """

    def __init__(self, link: L) -> None:
        self.link, self.current = link, link.current
        self._sequence = 1  # 0 is what a server answers to a frame that it cannot read
        self._free = list(range(link.segment.layout.slots))[::-1]
        self._capacity = link.segment.layout.capacity
        self._sent: dict[int, tuple[Ticket, int, int, int]] = {}
        self._waiting: deque[Ticket] = deque()

    @property
    def busy(self) -> bool:
        """Whether an evaluation is under way."""
        return bool(self._sent or self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Send what there is room for, now. Where the server is lost, :meth:`progress` will notice."""
        self._waiting.append(ticket)
        try:
            self._send()
        except ServerUnavailableError:
            return

    def progress(self, patience: float) -> None:
        """Wait for one reply, take its results, and send what waits.

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
        if reply.code == Code.WORKING:
            return
        ticket, slot, start, stop = self._sent.pop(reply.sequence)
        self.current = reply.current
        if reply.code == Code.DONE:
            self._read(slot, ticket, start, stop)
            ticket.compute_ns += reply.compute_ns
        else:
            self._free.append(slot)
            self._undone(reply, ticket, (start, stop))
        if self._waiting:
            self._send()

    def drain(self) -> None:
        """Wait for all replies, and forget what has not been sent."""
        self._waiting.clear()
        while self._sent:
            reply = self.link.reply()
            if reply.code != Code.WORKING:
                self._sent.pop(reply.sequence)

    def unanswered(self) -> list[Ticket]:
        """All tickets under way, in order, with every row that is not answered among those to be sent."""
        for ticket, _, start, stop in self._sent.values():
            ticket.todo.append((start, stop))
        tickets = dict.fromkeys([ticket for ticket, *_ in self._sent.values()] + list(self._waiting))
        self._sent.clear()
        self._waiting.clear()
        return [ticket for ticket in tickets if ticket.open]

    def _send(self) -> None:
        """Send what waits, as many rows at once as a slot has room for."""
        while self._waiting and self._free:
            ticket = self._waiting[0]
            start, end = ticket.todo.pop()
            stop = min(end, start + self._capacity)
            if stop < end:
                ticket.todo.append((stop, end))
            if not ticket.todo:
                self._waiting.popleft()
            slot, sequence = self._free.pop(), self._sequence
            self._sequence += 1
            self._sent[sequence] = (ticket, slot, start, stop)
            flags = self._fill(slot, ticket, start, stop)
            version = self.link.version
            self.link.ring(
                Request(Kind.EVALUATE, sequence, slot, stop - start, version, flags, ticket.dt, ticket.deadline)
            )

    def _fill(self, number: int, ticket: Ticket, start: int, stop: int) -> int:
        slot = self.link.segment.slots[number].rows(0, stop - start)
        slot.gradient[:] = ticket.gradient[start:stop]
        if ticket.state is None or slot.state is None or slot.hint is None:
            return 0
        slot.state[:] = ticket.state[start:stop]
        if ticket.hint is None:
            return 0
        slot.hint[:] = ticket.hint[start:stop]
        return HINT

    def _read(self, number: int, ticket: Ticket, start: int, stop: int) -> None:
        n = stop - start
        if n == len(ticket.gradient):
            ticket.response = self.link.segment.answer(number, n, self.link.optional, self._free)
        else:
            if ticket.response is None:
                ticket.response = empty_response(self.link.spec, len(ticket.gradient), self.link.optional)
            _copy(self.link.segment.slots[number].rows(0, n), ticket.response, start, stop)
            self._free.append(number)
        ticket.left -= n

    def _undone(self, reply: Reply, ticket: Ticket, rows: Rows) -> None:
        """A request came back without results."""
        if reply.code == Code.EXPIRED:
            ticket.todo.append(rows)
            self._waiting.append(ticket)
            raise ServerUnavailableError(f"the server at {self.link.address} did not come to it in time")
        ticket.error = _refusal(reply)
        if ticket in self._waiting:
            self._waiting.remove(ticket)


def empty_response(spec: ClosureSpec, n: int, optional: int) -> Response:
    """A response for n points to be filled, with those of the optional results that the flags name."""
    return Response(
        np.empty((n, spec.m)),
        np.empty((n, spec.m, spec.k)),
        np.empty(n, np.int8),
        np.empty((n, spec.state_size)) if spec.state_size else None,
        np.empty(n) if optional & UNCERTAINTY else None,
        np.empty(n) if optional & ENERGY else None,
    )


def _copy(slot: Slot, response: Response, start: int, stop: int) -> None:
    response.flux[start:stop] = slot.flux
    response.tangent[start:stop] = slot.tangent
    response.status[start:stop] = slot.status
    if response.uncertainty is not None:
        response.uncertainty[start:stop] = slot.uncertainty
    if response.energy is not None:
        response.energy[start:stop] = slot.energy
    if response.state is not None and slot.new_state is not None:
        response.state[start:stop] = slot.new_state


def _refusal(reply: Reply) -> ServerError:
    if reply.code == Code.MODEL_FAILED:
        return ServerError(f"the model failed in the server: {reply.text}")
    return ServerRefusedError(reply.text)
