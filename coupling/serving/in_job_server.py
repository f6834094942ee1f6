"""The server of an MPI job: a rank that evaluates for the others until they have all left."""

from __future__ import annotations

import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mpi4py import MPI

from coupling.serving.batching import FairQueue, Piece
from coupling.serving.frames import Code, Reply, unpack_request
from coupling.serving.log import Log
from coupling.serving.models import Model
from coupling.serving.parcels import Parcel
from coupling.serving.segment import Layout
from coupling.serving.waiting import BackOff
from coupling.serving.work import Work

LEAVE = 1 << 10
"""Tag of a client's last message: nothing, or what went wrong there. Other tags are numbers of parcels."""


@dataclass(eq=False)
class Channel:
    """Messages about one model: a communicator of clients and servers, and the model where this rank serves it."""

    comm: Any
    layout: Layout
    model: Model
    parcels: dict[tuple[int, int], Parcel] = field(default_factory=dict)

    def parcel(self, client: int, number: int) -> Parcel:
        """A client's parcel of that number."""
        parcel = self.parcels.get((client, number))
        if parcel is None:
            parcel = self.parcels[client, number] = Parcel(self.layout)
        return parcel


Sender: TypeAlias = tuple[Channel, int]


class InJobServer:
    """Serves the channels until all clients have left. Anything unforeseen ends the job: nobody else could answer.

    Args:
        channels: one for each model; clients leave through the first.
        clients: how many there are.
        waiting: how it waits.

    ``left`` are the clients that have left.
    """

    def __init__(self, channels: list[Channel], clients: int, waiting: BackOff) -> None:
        self._channels, self._clients, self._waiting = channels, clients, waiting
        self.left: list[int] = []
        self._queue: FairQueue[Sender] = FairQueue()
        self._work = Work(self._queue, self._answer, Log())
        self._sending: list[MPI.Request] = []
        self._errors: list[str] = []

    def run(self) -> list[str]:
        """What went wrong on clients, once all of them have left."""
        try:
            while len(self.left) < self._clients:
                if self._receive():
                    self._waiting.reset()
                elif self._queue:
                    self._work.next_batch()
                elif self._sends():
                    os.sched_yield()
                else:
                    self._waiting.pause()
            MPI.Request.Waitall(self._sending)
        except Exception:
            traceback.print_exc()
            sys.stderr.flush()
            self._channels[0].comm.Abort(1)
        return self._errors

    def _receive(self) -> bool:
        """Take one message of each channel that has some; whether there was any."""
        status, got = MPI.Status(), False
        for channel in self._channels:
            message = channel.comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
            if message is None:
                continue
            got, client = True, status.Get_source()
            if status.Get_tag() == LEAVE:
                self._leaves(client, message, status.Get_count(MPI.BYTE))
            else:
                self._take((channel, client), status.Get_tag(), message)
        return got

    def _take(self, sender: Sender, number: int, message: MPI.Message) -> None:
        channel, client = sender
        parcel = channel.parcel(client, number)
        message.Recv([parcel.incoming, MPI.BYTE])
        request = unpack_request(parcel.incoming)
        assert request is not None and request.slot == number
        slot = parcel.laid(request.points).slot
        version = channel.model.versions[channel.model.current]
        self._queue.add(Piece(sender, request, slot, channel.model, version, time.monotonic_ns()))

    def _sends(self) -> bool:
        """Whether replies are still on their way, which takes looking after."""
        self._sending = [request for request in self._sending if not request.Test()]
        return bool(self._sending)

    def _leaves(self, client: int, message: MPI.Message, size: int) -> None:
        text = bytearray(size)
        message.Recv([text, MPI.BYTE])
        self.left.append(client)
        if text:
            self._errors.append(text.decode())

    def _answer(self, piece: Piece[Sender], code: Code, text: str) -> None:
        (channel, client), request = piece.client, piece.request
        reply = Reply(code, request.sequence, request.slot, request.points, request.version, piece.compute_ns, text)
        message = channel.parcel(client, request.slot).with_reply(reply, request.points)
        self._sending.append(channel.comm.Isend([message, MPI.BYTE], client, request.slot))
