"""A surrogate that a rank of the same MPI job evaluates."""

from __future__ import annotations

import math
import time
from typing import Any

from mpi4py import MPI

import numpy as np

from coupling.contract import Array, ClosureSpec, Response, check_arguments
from coupling.errors import ServerError, ServerUnavailableError
from coupling.ledger import Ledger
from coupling.serving.exchange import Exchange, Ticket
from coupling.serving.frames import Reply, Request, unpack_reply
from coupling.serving.parcels import Parcels
from coupling.serving.segment import Layout
from coupling.serving.waiting import BackOff


class InJobLink:
    """The client's end of a channel.

    Args:
        comm: the communicator of the channel.
        server: its rank in it.
        spec: of the model.
        layout: of its parcels.
        optional: flags of the model's optional results.
        waiting: how to wait for replies.
    """

    version = current = 1

    def __init__(
        self, comm: Any, server: int, spec: ClosureSpec, layout: Layout, optional: int, waiting: BackOff
    ) -> None:
        self.spec, self.optional, self.address = spec, optional, f"rank {server} of the node"
        self._comm, self._server, self._waiting = comm, server, waiting
        self.segment = Parcels(layout)
        self._sending: dict[int, tuple[MPI.Request, int]] = {}

    def ring(self, request: Request) -> None:
        """Send a request."""
        message = self.segment.slots[request.slot].with_request(request)
        self._sending[request.slot] = self._comm.Isend([message, MPI.BYTE], self._server, request.slot), request.points

    def reply(self, patience: float = math.inf) -> Reply:
        """The next reply, waiting for it.

        Raises:
            ServerUnavailableError: where it has not come after ``patience`` seconds.
        """
        status, end = MPI.Status(), time.monotonic() + patience
        self._waiting.reset()
        while (message := self._comm.Improbe(self._server, MPI.ANY_TAG, status)) is None:
            if time.monotonic() > end:
                raise ServerUnavailableError(f"{self.address} gave no answer for {patience} s")
            self._waiting.pause()
        sent, points = self._sending.pop(status.Get_tag())
        room = self.segment.slots[status.Get_tag()].reply_room(points)
        message.Recv([room, MPI.BYTE])
        sent.Wait()
        reply = unpack_reply(room[: status.Get_count(MPI.BYTE)])
        assert reply is not None
        return reply


class InJobSurrogate:
    """A surrogate like any other, evaluated by a server rank (:func:`coupling.serving.in_job.in_job_servers`).

    Ledger: counts ``server/calls``, ``server/points``. One surrogate serves one thread.
    """

    def __init__(self, link: InJobLink, initial_state: Array | None, ledger: Ledger | None = None) -> None:
        self.spec = link.spec
        self.ledger = Ledger() if ledger is None else ledger
        self._exchange, self._optional, self._initial_state = Exchange(link), link.optional, initial_state
        self._closed = False

    def initial_state(self, n: int) -> Array | None:
        """State (n, s) of n points in the reference configuration, None where the model has none."""
        return None if self._initial_state is None else np.tile(self._initial_state, (n, 1))

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux, tangent, new state and status of n points, from the server rank.

        Raises:
            ServerError: where the model fails.
        """
        return self.collect(self.submit(gradient, state, dt, hint))

    def submit(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Ticket:
        """Begin an evaluation and return at once; :meth:`collect` gives its response.

        The arrays must not be changed before that.

        Raises:
            ServerError: where the block of the servers has ended.
        """
        if self._closed:
            raise ServerError("the server ranks have ended: evaluate inside the block of in_job_servers")
        n = check_arguments(self.spec, gradient, state, hint)
        ticket = Ticket(gradient, state, dt, hint)
        if n:
            self._exchange.add(ticket)
        self.ledger.count("server/calls")
        self.ledger.count("server/points", n)
        return ticket

    def collect(self, ticket: Ticket) -> Response:
        """Wait for the response of a ticket.

        Raises:
            ServerError: as :meth:`evaluate`.
        """
        while ticket.open:
            self._exchange.progress(math.inf)
        return ticket.result(self.spec, self._optional)

    def close(self) -> None:
        """Wait for what is under way, and ask nothing more."""
        self._exchange.drain()
        self._closed = True
