"""A connection to a server, as the client sees it: two exchanges of JSON, then doorbells."""

from __future__ import annotations

import math
import os
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from coupling.contract import ClosureSpec
from coupling.errors import ServerRefusedError, ServerUnavailableError
from coupling.serving.address import connect, set_timeout
from coupling.serving.frames import (
    LARGEST_PACKET,
    LONGEST_TEXT,
    PROTOCOL,
    REPLY_BYTES,
    Reply,
    Request,
    pack_json,
    pack_request,
    unpack_json,
    unpack_reply,
)
from coupling.serving.segment import Layout, Segment, create


@dataclass(frozen=True)
class Wanted:
    """The model that a client wants.

    Args:
        model: its name.
        source: to load it from where the server does not have it, None where that is not wanted.
        version: its number, None for the current one.
        fingerprint: what it is to be where the server has that, else what the source is now; None for the current one.
    """

    model: str
    source: str | None = None
    version: int | None = None
    fingerprint: str | None = None


class Link:
    """A connection that is ready for requests.

    Args:
        address: of the server.
        wanted: the model.
        timeout: seconds without an answer after which the server counts as hanging.
        loading: the same while it may be loading the model.

    Raises:
        ServerUnavailableError: where no server answers.
        ServerRefusedError: where it does not serve what is wanted.
    """

    def __init__(self, address: str, wanted: Wanted, timeout: float, loading: float) -> None:
        self.address, self.timeout, self._patience = address, timeout, min(timeout, loading)
        self._sock = connect(address, min(timeout, loading))
        self._buffer = memoryview(bytearray(REPLY_BYTES + LONGEST_TEXT))
        try:
            welcome = self._exchange({"protocol": PROTOCOL, "want": "model", **vars(wanted)}, loading)
            self.spec = spec_from_json(welcome["spec"])
            self.name: str = welcome["model"]
            self.version: int = welcome["version"]
            self.current: int = welcome["current"]
            self.fingerprint: str = welcome["fingerprint"]
            self.optional = int(welcome["optional"])
            self.server: int = welcome["server"]
            self.segment = self._share(Layout.fitting(self.spec, slot_bytes=int(welcome["slot_bytes"])))
            set_timeout(self._sock, timeout)
            first = self.segment.slots[0].new_state
            self.initial_state = None if first is None else first[0].copy()
        except (KeyError, TypeError) as error:
            self.close()
            raise ServerRefusedError(f"what answers at {address} is another kind of server: {error}") from error
        except BaseException:
            self.close()
            raise

    def ring(self, request: Request) -> None:
        """Send a request.

        Raises:
            ServerUnavailableError: where the server has gone or does not take it.
        """
        try:
            self._sock.send(pack_request(request))
        except OSError as error:
            raise self._lost(error) from error

    def reply(self, patience: float = math.inf) -> Reply:
        """The next reply, waiting for it.

        Args:
            patience: seconds to wait at most; never more than the time after which the server counts as hanging.

        Raises:
            ServerUnavailableError: where the server has gone, or does not answer in time.
        """
        if patience < self.timeout and not self._ready(patience):
            raise ServerUnavailableError(f"the server at {self.address} gave no answer before the deadline")
        try:
            size = self._sock.recv_into(self._buffer)
        except OSError as error:
            raise self._lost(error) from error
        reply = unpack_reply(self._buffer[:size])
        if reply is None:
            raise self._lost(None)
        return reply

    def _ready(self, patience: float) -> bool:
        """Whether there is something to receive within so many seconds, the end of the connection included."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(max(0.0, 1e3 * patience)))

    def close(self) -> None:
        """Leave."""
        self._sock.close()

    def _share(self, layout: Layout) -> Segment:
        segment, descriptor = create(layout)
        try:
            message = {"slots": layout.slots, "capacity": layout.capacity, "bytes": layout.bytes}
            self._exchange(message, self._patience, [descriptor])
        finally:
            os.close(descriptor)
        return segment

    def _exchange(
        self, message: dict[str, Any], patience: float, descriptors: list[int] | None = None
    ) -> dict[str, Any]:
        """Send an object and wait up to ``patience`` seconds for the one that answers it."""
        end = time.monotonic() + patience
        try:
            socket.send_fds(self._sock, [pack_json(message)], descriptors or [])
            while True:
                try:
                    packet = self._sock.recv(LARGEST_PACKET)
                    break
                except BlockingIOError:  # the time set on the socket is over
                    if time.monotonic() > end:
                        raise
        except OSError as error:
            raise self._lost(error) from error
        answer = unpack_json(packet) if packet else None
        if answer is None:
            raise self._lost(None)
        if not answer.get("ok"):
            raise ServerRefusedError(str(answer.get("error")))
        return answer

    def _lost(self, error: OSError | None) -> ServerUnavailableError:
        if isinstance(error, BlockingIOError):
            return ServerUnavailableError(f"the server at {self.address} gave no answer for {self.timeout} s")
        why = f": {error.strerror}" if error else ""
        return ServerUnavailableError(f"the server at {self.address} has gone{why}")


def ask(address: str, wish: dict[str, Any], timeout: float = 10.0) -> dict[str, Any]:
    """Ask a server something that takes one exchange ("status", "swap", "rollback", "stop").

    Raises:
        ServerUnavailableError: where no server answers.
        ServerRefusedError: where it says no.
    """
    sock = connect(address, timeout)
    try:
        sock.send(pack_json({"protocol": PROTOCOL, **wish}))
        answer = unpack_json(sock.recv(1 << 20))
    except OSError as error:
        raise ServerUnavailableError(f"the server at {address} gave no answer: {error.strerror}") from error
    finally:
        sock.close()
    if answer is None:
        raise ServerUnavailableError(f"the server at {address} has gone")
    if not answer.get("ok"):
        raise ServerRefusedError(str(answer.get("error")))
    return answer


def spec_from_json(values: dict[str, Any]) -> ClosureSpec:
    """The specification of a welcome."""
    arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return ClosureSpec(**arguments)
