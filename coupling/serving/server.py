"""The server's loop: one thread that sleeps in the kernel until a client rings, and evaluates whatever is there."""

from __future__ import annotations

import gc
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from coupling.serving.batching import FairQueue, Piece
from coupling.serving.client import Client, Gone
from coupling.serving.frames import Code
from coupling.serving.loader import Loader
from coupling.serving.log import Log
from coupling.serving.models import ModelTable
from coupling.serving.reception import Reception
from coupling.serving.settings import Settings
from coupling.serving.work import Work

MOST_CLIENTS = 1024
_LONGEST_LINGER = 1e-4
_PATIENCE_NS = 500_000_000
"""How long a request waits without a word while there is other work."""


class Server:
    """Serves the models of a table to the clients of a listening socket.

    Args:
        settings: of the server; ``device`` is one, not "auto".
        listener: the listening socket, not blocking.
        table: its models, ready.
        log: where events go.
        alive: one number, the time since when the loop has been at work (monotonic, ns), 0 while it sleeps.
    """

    def __init__(
        self, settings: Settings, listener: socket.socket, table: ModelTable, log: Log, alive: memoryview[int]
    ) -> None:
        self.settings, self.table, self.log = settings, table, log
        self.clients: dict[int, Client] = {}
        self.queue: FairQueue[Client] = FairQueue()
        self._work = Work(self.queue, self._answer, log)
        self.started = time.time()
        self._listener, self._alive = listener, alive
        self._loader = Loader(settings.device, settings.precision)
        self._reception = Reception(self, self._loader)
        self._poll = select.epoll()
        for descriptor in (listener.fileno(), self._loader.descriptor):
            self._poll.register(descriptor, select.EPOLLIN)
        self._stopping = False
        self._last_client = time.monotonic()
        self._linger_end = 0.0
        self._reassured = 0
        self.enqueue = self.queue.add

    def run(self) -> None:
        """Serve until told to stop, or until there has been no client for the time that the settings allow."""
        gc.collect()
        gc.freeze()
        while not self._stopping:
            if self.queue:
                events = self._poll.poll(0)
            elif (patience := self._patience()) == 0.0:
                break
            else:
                self._alive[0] = 0
                events = self._poll.poll(patience)
            self._alive[0] = now = time.monotonic_ns()
            for descriptor, _ in events:
                self._attend(descriptor)
            if self.queue and not (self.settings.linger and self._linger()):
                self._work.next_batch()
                if now - self._reassured > _PATIENCE_NS:
                    self._reassure(now)
        self._loader.close()

    def _reassure(self, now: int) -> None:
        """Tell those who have been waiting for long that this is no server that hangs, each of them once."""
        self._reassured = now
        late = {piece.client: piece for piece in self.queue if now - piece.arrived > _PATIENCE_NS}
        for piece in late.values():
            self._answer(piece, Code.WORKING, "")

    def stop(self) -> None:
        """End :meth:`run` after the batch in progress."""
        self._stopping = True

    @property
    def attached(self) -> int:
        """Clients that can ask for evaluations."""
        return sum(client.segment is not None for client in self.clients.values())

    def has(self, client: Client) -> bool:
        """Whether the client is still there."""
        return self.clients.get(client.sock.fileno()) is client

    def _patience(self) -> float | None:
        """Seconds to sleep at most, None for no limit."""
        if self.clients or self.settings.idle is None:
            return None
        return max(0.0, self._last_client + self.settings.idle - time.monotonic())

    def _linger(self) -> bool:
        """Wait a moment for clients that are likely to ask; whether there is something of theirs to attend to."""
        if self.queue.clients >= self.attached:
            return False
        now = time.monotonic()
        if self._linger_end < now - _LONGEST_LINGER:  # that was for an earlier batch
            self._linger_end = now + min(self.settings.linger, _LONGEST_LINGER)
        left = self._linger_end - now
        return left > 0.0 and bool(select.select([self._poll], [], [], left)[0])

    # ---- clients -----------------------------------------------------------------------------------------------------

    def _attend(self, descriptor: int) -> None:
        client = self.clients.get(descriptor)
        if client is not None:
            self._guarded(client, client.receive)
        elif descriptor == self._listener.fileno():
            self._accept()
        elif descriptor == self._loader.descriptor:
            self._loader.attend()

    def serve(self, client: Client, action: Callable[[], None]) -> None:
        """Do something for a client, if it is still there."""
        if self.has(client):
            self._guarded(client, action)

    def _guarded(self, client: Client, action: Callable[[], None]) -> None:
        """Whatever goes wrong, it goes wrong for this client alone."""
        try:
            action()
        except BlockingIOError:
            return
        except (Gone, OSError):
            self._leave(client)
        except Exception as error:  # whatever a client manages to break
            self.log.warning("client dropped", client=client.pid, error=f"{type(error).__name__}: {error}")
            self._leave(client)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        client = Client(sock, self)
        if client.user != os.getuid() or len(self.clients) >= MOST_CLIENTS:
            self.log.warning("client refused", client=client.pid, user=client.user, clients=len(self.clients))
            sock.close()
            return
        self.clients[sock.fileno()] = client
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _leave(self, client: Client) -> None:
        if not self.has(client):
            return
        descriptor = client.sock.fileno()
        del self.clients[descriptor]
        self._poll.unregister(descriptor)
        self.queue.drop(client)
        if client.model is not None:
            self.log.info("client left", client=client.pid, model=client.model.name)
        client.close()
        self._last_client = time.monotonic()

    def hello(self, client: Client, message: dict[str, Any]) -> None:
        """Answer the first message of a client."""
        self._reception.receive(client, message)

    def _answer(self, piece: Piece[Client], code: Code, text: str) -> None:
        try:
            piece.client.answer(piece, code, text)
        except Gone:
            self._leave(piece.client)
