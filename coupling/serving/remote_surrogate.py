"""A surrogate that a model server evaluates."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from coupling.agreement import together
from coupling.contract import Array, Closure, ClosureSpec, Response, check_arguments
from coupling.errors import ContractError, ServerError, ServerRefusedError, ServerUnavailableError
from coupling.ledger import Ledger
from coupling.serving.breaker import Breaker
from coupling.serving.exchange import NEVER, Exchange, Ticket
from coupling.serving.link import Link
from coupling.serving.local_copy import LocalCopy
from coupling.serving.lookup import Lookup


class RemoteSurrogate:
    """A surrogate like any other (specification, state, ``evaluate``), evaluated by a server that all ranks share.

    The server is looked up in this order: ``address``; the environment variable TWOSCALE_SERVER; this user's server of
    the node and device, which is started where there is none and stops after its last client. The device is the GPU
    nearest to the process; where several are, processes spread evenly over them. Every rank has a connection and shared
    memory of its own.

    The version of the model is the one that is current when the surrogate is made (for a model folder, the one with its
    files), until :meth:`adopt`: a solver's law does not change under its Newton iteration. :attr:`current` tells
    whether there is another. Servers of several GPUs may have different ones as the current: ``adopt(comm=comm)`` gives
    all ranks one. One surrogate serves one thread; in the child of a process that forks it connects anew.

    Where the server dies or hangs, at any moment, the surrogate connects to its successor, and asks again for what was
    not yet answered, for the same version (by fingerprint). Where that fails, it evaluates its ``local`` copy. Where
    there is none, ``evaluate`` raises, and :class:`coupling.AcceleratedClosure` has the fine scale serve the points.
    With a ``deadline`` all of this, the local copy's work excepted, takes no longer than that: a server that hangs or
    has too much to do is left for the local copy, and drops the requests whose time is over.
    Arrays of many points that it returns lie in the memory that it shares with the server, and are the caller's as long
    as anyone has them; where much is kept, what follows is copied.
    All of this is local to a rank: the server and a local copy compute the same numbers up to round-off, so ranks need
    not take the same way. Where they have to (a fine scale that communicates), use
    :class:`coupling.serving.CollectiveSurrogate`.

    Ledger: counts ``server/calls``, ``server/points``, ``server/losses``, ``server/sent again`` (points),
    ``server/missed deadlines``, ``server/local points``; phase ``server/recovery``.

    Args:
        model: name of a model of the server, path of a model folder, or ``module:object``; the last two are loaded by
            the server where it does not have them.
        address: of the server, None to look it up.
        device: of the node's server: "auto", "cpu" or "cuda:K", as nvidia-smi counts those that the process sees.
        version: to use, None for the current one.
        local: a closure with the same answers, or a function that makes one when it is needed.
        timeout: seconds without any answer after which the server counts as hanging.
        deadline: seconds after :meth:`submit` by which there must be an answer, recovery included; None for none.
        start_timeout: seconds that a server may take to start, to be replaced, or to load the model.
        attempts: how often one call is sent before the server is considered unable to answer it.
        breaker: when to stop asking a server that keeps dying.
        ledger: where the work is entered, a new one if None.

    Raises:
        ServerUnavailableError: where no server answers or can be started.
        ServerRefusedError: where it has no such model or version.
        ServerAddressError: where the address is none.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        address: str | None = None,
        device: str = "auto",
        version: int | None = None,
        local: Closure | Callable[[], Closure] | None = None,
        timeout: float = 10.0,
        deadline: float | None = None,
        start_timeout: float = 60.0,
        attempts: int = 3,
        breaker: Breaker | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._servers = Lookup(os.fspath(model), address, device, timeout, start_timeout)
        self._attempts, self._breaker = attempts, breaker or Breaker()
        if deadline is not None and deadline <= 0.0:
            raise ContractError(f"deadline must be a time above 0 s, or None for none, got {deadline}")
        self._deadline = deadline
        self.ledger = Ledger() if ledger is None else ledger
        self._exchange: Exchange[Link] | None = None
        link = self._servers.first_link(version)
        _all.add(self)
        self.spec: ClosureSpec = link.spec
        self._local = None if local is None else LocalCopy(local, self.spec, self.ledger)
        self._take(link)

    @property
    def address(self) -> str:
        """Where the server is looked for."""
        return self._servers.address

    @property
    def current(self) -> int:
        """The version that new clients get, as of the server's last answer; ``version`` is the one in use."""
        return self.version if self._exchange is None else self._exchange.current

    @property
    def server(self) -> int | None:
        """Process of the server, None where there is none."""
        return None if self._exchange is None else self._exchange.link.server

    def initial_state(self, n: int) -> Array | None:
        """State (n, s) of n points in the reference configuration, None where the model has none."""
        return None if self._initial_state is None else np.tile(self._initial_state, (n, 1))

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux, tangent, new state and status of n points, from the server.

        Raises:
            ServerError: where neither the server nor a local copy can answer, or the model itself fails.
        """
        return self.collect(self.submit(gradient, state, dt, hint))

    def submit(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Ticket:
        """Begin an evaluation and return at once; :meth:`collect` gives its response.

        The arrays must not be changed before that.
        """
        n = check_arguments(self.spec, gradient, state, hint)
        deadline = NEVER if self._deadline is None else time.monotonic_ns() + int(1e9 * self._deadline)
        ticket = Ticket(gradient, state, dt, hint, deadline)
        if n and self._exchange is not None:
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
            try:
                if self._exchange is None:
                    raise ServerUnavailableError(f"there is no connection to the server at {self.address}")
                self._exchange.progress(ticket.seconds_left)
            except ServerUnavailableError as error:
                self._recover(ticket, error)
        return ticket.result(self.spec, self._optional)

    def adopt(self, version: int | None = None, comm: Any = None) -> int:
        """Use another version from now on, and return its number; no evaluation may be under way.

        With a communicator all ranks call this together, and all of them have the same version afterwards: ``version``
        of rank 0, or the one that is current for its server. Ranks of other servers have it by its fingerprint: what
        they number it may differ. Where one of them cannot have it, all keep what they have.

        Raises:
            ServerRefusedError: where the server has no such version, nor can load it; RemoteRankError where that
                happens elsewhere.
            ContractError: while an evaluation is under way.
        """
        wanted: dict[str, Any] = {"version": version}
        if comm is not None:
            print_ = together(comm, lambda: self._print_of(version) if comm.rank == 0 else None)
            wanted = {"fingerprint": comm.bcast(print_)}
        links: list[Link] = []
        try:
            together(comm, lambda: links.append(self._link_to(**wanted)))
        except Exception:
            for link in links:
                link.close()
            raise
        if self._local is not None:
            self._local.forget()
        self._take(links[0])
        return self.version

    def close(self) -> None:
        """Leave the server. What is still to be collected is asked again, over a new connection."""
        if self._exchange is not None:
            self._exchange.unanswered()
            self._leave()
            self._exchange = None

    def __enter__(self) -> RemoteSurrogate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, link: Link) -> None:
        self.close()
        self._exchange = Exchange(link)
        self.version, self._fingerprint = link.version, link.fingerprint
        self._optional, self._initial_state = link.optional, link.initial_state
        self._leave = weakref.finalize(self, link.close)

    # ---- versions ----------------------------------------------------------------------------------------------------

    def _print_of(self, version: int | None) -> str:
        """Fingerprint of a version, of the one that is current now without a number."""
        link = self._servers.link(version=version)
        link.close()
        return link.fingerprint

    def _link_to(self, **wanted: Any) -> Link:
        """A link to another version."""
        if self._exchange is not None and self._exchange.busy:
            raise ContractError("a version can be adopted when no evaluation is under way: collect all tickets first")
        link = self._servers.link(**wanted)
        if link.spec != self.spec:
            link.close()
            raise ServerRefusedError(f"version {link.version} has another specification: make a new RemoteSurrogate")
        return link

    # ---- when the server is lost -------------------------------------------------------------------------------------

    def _recover(self, ticket: Ticket, error: ServerError) -> None:
        """Ask the server's successor for all that is open; or answer it locally; or say that nobody can."""
        with self.ledger.phase("server/recovery"):
            tickets = [ticket]
            if self._exchange is not None:
                tickets = list(dict.fromkeys([*self._exchange.unanswered(), ticket]))
                self._lose()
            for ticket in tickets:
                ticket.attempts += 1
            late = [ticket for ticket in tickets if ticket.seconds_left <= 0.0]
            in_time = [ticket for ticket in tickets if ticket not in late]
            if late:
                self.ledger.count("server/missed deadlines", len(late))
            if in_time and not self._breaker.open and max(ticket.attempts for ticket in in_time) < self._attempts:
                try:
                    self._ask_again(in_time)
                    in_time = []
                except ServerError as again:
                    error = again
                    self._lose()
            for ticket in late + in_time:
                self._answer_locally(ticket, error)

    def _lose(self) -> None:
        self.ledger.count("server/losses")
        self._breaker.lost()
        self.close()

    def _ask_again(self, tickets: list[Ticket]) -> None:
        patience = min(ticket.seconds_left for ticket in tickets)
        self._take(self._servers.link(fingerprint=self._fingerprint, patience=patience))
        assert self._exchange is not None
        self.ledger.count("server/sent again", sum(ticket.left for ticket in tickets))
        for ticket in tickets:
            self._exchange.add(ticket)

    def _answer_locally(self, ticket: Ticket, error: ServerError) -> None:
        if self._local is None:
            ticket.error = error
            return
        try:
            ticket.response = self._local.evaluate(ticket.gradient, ticket.state, ticket.dt, ticket.hint)
            ticket.left = 0
        except Exception as failure:  # the caller shall get it, whatever it is
            ticket.error = failure


_all: weakref.WeakSet[RemoteSurrogate] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a child: connections are the parent's, who would be given what the child asks for. It makes its own."""
    for surrogate in _all:
        surrogate.close()


os.register_at_fork(after_in_child=_leave_to_parent)
