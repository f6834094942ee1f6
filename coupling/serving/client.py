"""A client as the server sees it: its socket, its segment, and what it may do next."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from coupling.contract import ClosureSpec
from coupling.errors import ServerRefusedError
from coupling.serving.address import peer
from coupling.serving.batching import Piece
from coupling.serving.evaluation import nothing
from coupling.serving.frames import (
    PROTOCOL,
    REQUEST_BYTES,
    REQUEST_MAGIC,
    Code,
    Kind,
    Reply,
    Request,
    pack_json,
    pack_reply,
    receive_with_descriptors,
    unpack_json,
    unpack_request,
)
from coupling.serving.models import Model, Version
from coupling.serving.segment import Segment, attach


class Gone(Exception):
    """The client has left, or no longer reads what it is told."""


class Desk(Protocol):
    """What a client can ask of its server."""

    def hello(self, client: Client, message: dict[str, Any]) -> None:
        """Answer the first message."""
        ...

    def enqueue(self, piece: Piece[Client]) -> None:
        """Take a request."""
        ...


class Client:
    """One connection. Whatever it sends has consequences for itself alone.

    ``receive`` deals with the next packet; it raises Gone or OSError where there is nobody to answer to, and
    BlockingIOError where there is no packet.

    A slot is served once at a time, so what a client can have in the queue is bounded by its segment. One that does not
    read its replies has left.
    """

    def __init__(self, sock: socket.socket, desk: Desk) -> None:
        self.sock, self._desk = sock, desk
        self.pid, self.user = peer(sock)
        self.model: Model | None = None
        self.version: Version | None = None
        self.segment: Segment | None = None
        self._unpin: Callable[[], None] = nothing
        self._busy: set[int] = set()
        self.receive: Callable[[], None] = self._receive_hello
        self._buffer = memoryview(bytearray(REQUEST_BYTES + 1))

    def send(self, packet: bytes) -> None:
        """Send a packet, without waiting.

        Raises:
            Gone: where the client is, or does not read.
        """
        try:
            self.sock.send(packet)
        except OSError as error:
            raise Gone(str(error)) from error

    def refuse(self, error: Exception) -> None:
        """Say no to a message in JSON."""
        self.send(pack_json({"ok": False, "error": str(error)}))

    def welcome(self, model: Model, version: Version) -> None:
        """Assign the client a version, and tell it what that is."""
        self.model = model
        self.hold(version)
        self.receive = self._receive_segment
        self.send(
            pack_json(
                {
                    "ok": True,
                    "protocol": PROTOCOL,
                    "model": model.name,
                    "version": version.number,
                    "current": model.current,
                    "fingerprint": version.fingerprint,
                    "optional": version.optional,
                    "slot_bytes": version.evaluator.slot_bytes,
                    "spec": spec_as_json(version.evaluator.spec),
                    "server": os.getpid(),
                }
            )
        )

    def hold(self, version: Version | None) -> None:
        """Use that version from now on."""
        if self.version is not None:
            self.version.users -= 1
        if version is not None:
            version.users += 1
        self.version = version
        if self.model is not None:
            self.model.forget()

    def close(self) -> None:
        """Let go of everything."""
        self.hold(None)
        self._unpin()
        self.segment = None
        self.sock.close()

    def answer(self, piece: Piece[Client], code: Code, text: str) -> None:
        """Answer a request; unless it is still being worked on, its slot is free again."""
        request = piece.request
        if code is not Code.WORKING:
            self._busy.discard(request.slot)
        n, current = request.points, piece.model.current
        self.send(pack_reply(Reply(code, request.sequence, request.slot, n, current, piece.compute_ns, text)))

    def _receive_hello(self) -> None:
        packet, descriptors = receive_with_descriptors(self.sock)
        _close(descriptors)
        if not packet:
            raise Gone
        message = unpack_json(packet)
        if message is None or message.get("protocol") != PROTOCOL:
            got = "no JSON" if message is None else repr(message.get("protocol"))
            self.refuse(ServerRefusedError(f"this server speaks version {PROTOCOL} of the protocol, got {got:.40}"))
            return
        self.receive = self._receive_nothing
        self._desk.hello(self, message)

    def expect_hello(self) -> None:
        """Take another first message: the last one could not be granted."""
        self.receive = self._receive_hello

    def _receive_nothing(self) -> None:
        if not self.sock.recv(1):
            raise Gone

    def _receive_segment(self) -> None:
        packet, descriptors = receive_with_descriptors(self.sock)
        try:
            if not packet:
                raise Gone
            assert self.version is not None
            self.segment = attach(self.version.evaluator.spec, unpack_json(packet) or {}, descriptors)
        except ServerRefusedError as error:
            self.refuse(error)
            return
        finally:
            _close(descriptors)
        if self.version.initial_state is not None:
            self.segment.slots[0].new_state[:1] = self.version.initial_state  # type: ignore[index]
        self._pin(self.segment, self.version)
        self.receive = self._receive_request
        self.send(pack_json({"ok": True}))

    def _pin(self, segment: Segment, version: Version) -> None:
        """Prepare the segment for the version that will use it."""
        self._unpin()
        self._unpin = version.evaluator.pin(segment.memory)

    def _receive_request(self) -> None:
        size = self.sock.recv_into(self._buffer)
        if not size:
            raise Gone
        request = unpack_request(self._buffer) if size == REQUEST_BYTES else None
        if request is None:
            what = f"a request has {REQUEST_BYTES} bytes and begins with {REQUEST_MAGIC:#x}"
            self._answer(Code.MALFORMED, Request(0, 0), what)
        elif request.kind == Kind.EVALUATE:
            self._evaluate(request)
        elif request.kind == Kind.ADOPT:
            self._adopt(request)
        else:
            self._answer(Code.MALFORMED, request, f"no such kind of request: {request.kind}")

    def _evaluate(self, request: Request) -> None:
        assert self.segment is not None and self.version is not None and self.model is not None
        layout = self.segment.layout
        if not (request.slot < layout.slots and 0 < request.points <= layout.capacity):
            what = f"no slot {request.slot} for {request.points} points: {layout.slots} slots of {layout.capacity}"
            self._answer(Code.MALFORMED, request, what)
        elif request.slot in self._busy:
            self._answer(Code.MALFORMED, request, f"slot {request.slot} is still being served")
        elif request.version != self.version.number:
            what = f"this client has version {self.version.number}, not {request.version}"
            self._answer(Code.NO_SUCH_VERSION, request, what)
        else:
            self._busy.add(request.slot)
            slot = self.segment.slots[request.slot]
            self._desk.enqueue(Piece(self, request, slot, self.model, self.version, time.monotonic_ns()))

    def _adopt(self, request: Request) -> None:
        assert self.model is not None and self.version is not None
        version = self.model.versions.get(request.version)
        if version is None or version.evaluator.spec != self.version.evaluator.spec or self._busy:
            there = ", ".join(map(str, self.model.versions))
            why = f"version {request.version} of {self.model.name} cannot be had now; there are {there}"
            self._answer(Code.NO_SUCH_VERSION, request, why)
            return
        self.hold(version)
        assert self.segment is not None
        self._pin(self.segment, version)
        self._answer(Code.DONE, request, version.fingerprint)

    def _answer(self, code: Code, request: Request, text: str) -> None:
        assert self.model is not None
        self.send(pack_reply(Reply(code, request.sequence, 0, 0, self.model.current, 0, text)))


def spec_as_json(spec: ClosureSpec) -> dict[str, Any]:
    """A specification for JSON; ``ClosureSpec`` of the values, lists made tuples, is the specification again."""
    return dict(vars(spec))


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
