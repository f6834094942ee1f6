"""Requests and their results as messages: what a segment is in shared memory, for those who share none.

A parcel has room for one request and its results. Laid out for n points it is

    request frame | gradient, state, hint || reply frame | flux, tangent, … of n points,

whose two halves are one message each. Where the code of the reply is not DONE, its text takes the place of results.
"""

from __future__ import annotations

from dataclasses import dataclass

from coupling.contract import Response
from coupling.serving.frames import LONGEST_TEXT, REPLY_BYTES, REQUEST_BYTES, Reply, Request, pack_reply, pack_request
from coupling.serving.segment import Layout, Slot

_FRAME = 64
_MOST_VIEWS = 8
assert max(REQUEST_BYTES, REPLY_BYTES) <= _FRAME


@dataclass(frozen=True)
class Laid:
    """A parcel laid out for a number of points: its two messages and the arrays in them."""

    request: memoryview
    reply: memoryview
    slot: Slot


class Parcel:
    """Room for a request of any number of points up to the capacity, and for its results."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._memory = bytearray(2 * _FRAME + layout.used_bytes + LONGEST_TEXT)
        self._laid: dict[int, Laid] = {}
        self.incoming = memoryview(self._memory)

    def laid(self, n: int) -> Laid:
        """The parcel laid out for n points."""
        laid = self._laid.get(n)
        if laid is None:
            if len(self._laid) >= _MOST_VIEWS:
                self._laid.clear()
            layout = Layout(self._layout.k, self._layout.m, self._layout.state_size, 1, n)
            cut, end = _FRAME + layout.input_bytes, 2 * _FRAME + layout.used_bytes
            slot = layout.slot(self._memory, _FRAME, gap=_FRAME)
            laid = self._laid[n] = Laid(self.incoming[:cut], self.incoming[cut:end], slot)
        return laid

    def rows(self, start: int, stop: int) -> Slot:
        """The arrays of the first ``stop`` points; ``start`` is 0."""
        return self.laid(stop).slot

    def with_request(self, request: Request) -> memoryview:
        """The message of a request whose rows are in."""
        message = self.laid(request.points).request
        message[:REQUEST_BYTES] = pack_request(request)
        return message

    def with_reply(self, reply: Reply, points: int) -> memoryview:
        """The message of a reply to a request of that many points, whose results are in unless it has a text."""
        laid, frame = self.laid(points), pack_reply(reply)
        start = len(laid.request)
        self._memory[start : start + len(frame)] = frame
        return self.incoming[start : start + len(frame)] if reply.text else laid.reply

    def reply_room(self, points: int) -> memoryview:
        """Where the reply to a request of that many points is received."""
        return self.incoming[len(self.laid(points).request) :]


class Parcels:
    """The parcels of a client on one channel."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.slots = [Parcel(layout) for _ in range(layout.slots)]

    def answer(self, number: int, n: int, optional: int, free: list[int]) -> Response:
        """A copy of the results of a parcel for n points, which is free again."""
        free.append(number)
        return self.slots[number].laid(n).slot.answer(optional)
