"""What travels over the socket: JSON to say hello, fixed-size frames afterwards. Numbers travel in shared memory.

A connection begins with two exchanges in JSON, one object per packet:

1. ``{"protocol": 1, "want": "model", "model": …}`` is answered by what is served under that name (specification,
   version, fingerprint); the other wishes ("status", "swap", "rollback", "stop") by one object, and that is all.
2. ``{"slots": …, "capacity": …, "bytes": …}`` comes with the descriptor of the client's segment
   (:mod:`coupling.serving.segment`), and is answered by ``{"ok": true}``; where the model has a state, the first slot
   then holds the initial one.

Then the client rings with a :class:`Request` for every slot it has filled, and the server answers each with a
:class:`Reply`, whose text says why where the code is not DONE; while there is much to do, it says now and then that it
is WORKING on it. Requests are numbered; answering one twice does no harm.
"""

from __future__ import annotations

import json
import socket
import struct
from enum import IntEnum
from typing import Any, NamedTuple

PROTOCOL = 1
REQUEST_MAGIC, REPLY_MAGIC = 0x54574F51, 0x54574F52
LARGEST_PACKET = 1 << 16
_REQUEST = struct.Struct("<IIQIIIIdQ")
_REPLY = struct.Struct("<IIQIIIQ")
REQUEST_BYTES = _REQUEST.size
REPLY_BYTES = _REPLY.size
LONGEST_TEXT = 1024


class Kind(IntEnum):
    """What a request asks for."""

    EVALUATE = 1
    ADOPT = 2


class Code(IntEnum):
    """How a request ended; with WORKING it has not."""

    DONE = 0
    MALFORMED = 1
    EXPIRED = 2
    MODEL_FAILED = 3
    NO_SUCH_VERSION = 4
    WORKING = 5


HINT, UNCERTAINTY, ENERGY = 1, 2, 4
"""Flags: which optional arrays of a slot are used. Plain numbers, as they are on the path of every request."""


class Request(NamedTuple):
    """``points`` rows of ``slot`` are to be evaluated by ``version`` until ``deadline`` (monotonic clock, ns)."""

    kind: int
    sequence: int
    slot: int = 0
    points: int = 0
    version: int = 0
    flags: int = 0
    dt: float = 0.0
    deadline: int = 0


class Reply(NamedTuple):
    """The request of that ``sequence`` ended with ``code``; ``current`` is the version new clients get."""

    code: int
    sequence: int
    slot: int = 0
    points: int = 0
    current: int = 0
    compute_ns: int = 0
    text: str = ""


def pack_request(request: Request) -> bytes:
    """The request as one packet."""
    return _REQUEST.pack(REQUEST_MAGIC, *request)


def unpack_request(packet: bytes | memoryview) -> Request | None:
    """The request that a packet begins with, None where that is none."""
    if len(packet) < REQUEST_BYTES:
        return None
    magic, *values = _REQUEST.unpack_from(packet)
    return Request._make(values) if magic == REQUEST_MAGIC else None


def pack_reply(reply: Reply) -> bytes:
    """The reply as one packet, its text after the fixed part."""
    *values, text = reply
    packet = _REPLY.pack(REPLY_MAGIC, *values)
    return packet + text.encode()[:LONGEST_TEXT] if text else packet


def unpack_reply(packet: bytes | memoryview) -> Reply | None:
    """The reply of a packet, None where that is no reply."""
    if len(packet) < REPLY_BYTES:
        return None
    magic, code, sequence, slot, points, current, compute_ns = _REPLY.unpack_from(packet)
    if magic != REPLY_MAGIC:
        return None
    text = bytes(packet[REPLY_BYTES:]).decode(errors="replace") if len(packet) > REPLY_BYTES else ""
    return Reply(code, sequence, slot, points, current, compute_ns, text)


def pack_json(message: dict[str, Any]) -> bytes:
    """An object as one packet."""
    return json.dumps(message, ensure_ascii=False).encode()


def unpack_json(packet: bytes) -> dict[str, Any] | None:
    """The object of a packet, None where that is none."""
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def receive_with_descriptors(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it, which the caller must close."""
    packet, descriptors, _, _ = socket.recv_fds(sock, LARGEST_PACKET, 1, socket.MSG_CMSG_CLOEXEC)
    return packet, descriptors
