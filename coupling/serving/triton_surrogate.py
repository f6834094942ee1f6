"""A surrogate that an inference server elsewhere evaluates: Triton, or any other that speaks KServe v2 over gRPC."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, Closure, ClosureSpec, Response, Status, check_arguments, mark_unusable
from coupling.errors import ServerError, ServerUnavailableError
from coupling.ledger import Ledger
from coupling.serving.breaker import Breaker
from coupling.serving.kserve import Connection
from coupling.serving.kserve_model import Memory, Place, Tls
from coupling.serving.local_copy import LocalCopy
from coupling.symmetric import unpacked

PAUSES = (0.02, 0.5)
"""Seconds between attempts: the first pause, which doubles each time, and the longest."""


class TritonSurrogate:
    """A surrogate like any other (specification, ``evaluate``, uncertainty), evaluated by a KServe v2 server.

    ``twoscale export MODEL --triton REPOSITORY`` makes the model; what a model of other origin has to look like says
    :mod:`coupling.serving.kserve_model`. The version is the newest when the surrogate is made, and stays: a solver's
    law does not change under its Newton iteration. One surrogate serves one thread; every rank has its own.

    Where the server dies, or the network is cut, an evaluation is sent again, after 20 ms, 40 ms and so on; a server
    that hangs uses up the time that an evaluation has. Then the ``local`` copy answers. Where there is none,
    ``evaluate`` raises, and :class:`coupling.AcceleratedClosure` has the fine scale serve the points. All of this is
    local to a rank; where all have to take the same way, use :class:`coupling.CollectiveSurrogate`.

    Ledger: as :class:`coupling.RemoteSurrogate`.

    Args:
        model: its name.
        address: ``host:port`` of the server's gRPC service.
        version: of the model, "" for the newest.
        spec: what the model takes and gives; None reads what ``twoscale export`` wrote into its configuration, which
            Triton hands out and other servers may not.
        memory: "message": arrays travel in messages. "system": through shared memory, with a server on this machine.
            "cuda": through memory of the GPU ``device`` of this machine. "auto": "system" where the address is this
            machine's and the server can map its memory, else "message".
        device: number of that GPU.
        tls: for an encrypted connection, None for plain text.
        headers: sent with every request, such as ``{"authorization": "Bearer …"}``.
        local: a closure with the same answers, or a function that makes one when it is needed.
        timeout: seconds that an evaluation may take, all attempts together; as many that making the surrogate may.
        attempts: how often one evaluation is sent to a server that is not there or has gone.
        batch: points per request, None for as many as the server evaluates at once.
        breaker: when to stop asking a server that keeps dying.
        ledger: where the work is entered, a new one if None.

    Raises:
        MissingPackageError: where tritonclient is missing.
        ServerUnavailableError: where no server answers.
        ServerRefusedError: where it has no such model or version, or the model does not fit; says what does not.
    """

    def __init__(
        self,
        model: str,
        address: str = "localhost:8001",
        *,
        version: str = "",
        spec: ClosureSpec | None = None,
        memory: Memory = "auto",
        device: int = 0,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        local: Closure | Callable[[], Closure] | None = None,
        timeout: float = 10.0,
        attempts: int = 3,
        batch: int | None = None,
        breaker: Breaker | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        place = Place(address, model, version, tls, headers, memory, device)
        self._timeout, self._attempts, self._breaker = timeout, attempts, breaker or Breaker()
        self.ledger = Ledger() if ledger is None else ledger
        connection = Connection(place, spec, batch, time.monotonic() + timeout)
        self.spec, self.version = connection.spec, connection.version
        self._batch, self._outputs = connection.batch, connection.outputs
        self._place = replace(place, version=self.version)
        self._reference = np.array(self.spec.reference)
        self._local = None if local is None else LocalCopy(local, self.spec, self.ledger)
        self._connection: Connection | None = None
        self._take(connection)

    def initial_state(self, n: int) -> None:
        """No state."""

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """Flux, tangent and status of n points, from the server.

        Raises:
            ServerError: where neither the server nor a local copy can answer.
        """
        n = check_arguments(self.spec, gradient, state, hint)
        self.ledger.count("server/calls")
        self.ledger.count("server/points", n)
        finite = np.asarray(np.isfinite(gradient).all(axis=1))
        safe = gradient if finite.all() else np.where(finite[:, None], gradient, self._reference)
        try:
            values = self._ask(safe) if n else {}
        except ServerError:
            if self._local is None:
                raise
            return self._local.evaluate(gradient, state, dt, hint)
        return mark_unusable(self._response(n, values), ~finite, Status.INADMISSIBLE)

    def close(self) -> None:
        """Leave the server."""
        if self._connection is not None:
            self._leave()
            self._connection = None

    def __enter__(self) -> TritonSurrogate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _response(self, n: int, values: dict[str, NDArray[Any]]) -> Response:
        spec = self.spec
        if not n:
            values = {o.name: np.empty((0, *o.shape), o.dtype) for o in self._outputs}
        tangent = values["tangent"]
        if tangent.ndim == 2:
            tangent = unpacked(tangent, spec.k)
        status = values["status"][:, 0] if "status" in values else np.zeros(n, np.int8)
        optional = {
            name: np.ascontiguousarray(values[name][:, 0]) for name in ("uncertainty", "energy") if name in values
        }
        return Response(values["flux"], tangent, status, **optional)

    def _ask(self, gradient: Array) -> dict[str, NDArray[Any]]:
        """The server's results, asked for again after a loss while the time lasts."""
        if self._breaker.open:
            raise ServerUnavailableError(
                f"the server at {self._place.address} has failed again and again, and is not asked for a while"
            )
        deadline, attempts, (pause, longest) = time.monotonic() + self._timeout, 0, PAUSES
        while True:
            attempts += 1
            try:
                if self._connection is None:
                    self._take(Connection(self._place, self.spec, self._batch, deadline))
                assert self._connection is not None
                return self._connection.evaluate(gradient, deadline)
            except ServerError as error:
                self._lose()
                hopeless = attempts >= self._attempts or time.monotonic() + pause > deadline
                if hopeless or not isinstance(error, ServerUnavailableError):
                    self._breaker.lost()
                    raise
            with self.ledger.phase("server/recovery"):
                time.sleep(pause)
            pause = min(2.0 * pause, longest)
            self.ledger.count("server/sent again", len(gradient))

    def _take(self, connection: Connection) -> None:
        self._connection = connection
        self._leave = weakref.finalize(self, connection.close)

    def _lose(self) -> None:
        self.ledger.count("server/losses")
        self.close()
