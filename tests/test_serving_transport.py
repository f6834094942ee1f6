"""Frames, segments, sockets: what a foreign or malformed client can do to a server, which is nothing."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
import time

import numpy as np
import pytest

from coupling.closed_forms import StandardLinearSolid
from coupling.errors import ServerRefusedError
from coupling.serving.address import connect
from coupling.serving.frames import (
    REQUEST_BYTES,
    Code,
    Kind,
    Reply,
    Request,
    pack_json,
    pack_reply,
    pack_request,
    unpack_reply,
    unpack_request,
)
from coupling.serving.link import Link, Wanted
from coupling.serving.segment import SEALS, Layout, attach, create
from tests import serving_models
from tests.serving_processes import NEO_HOOKEAN, SLOW, running, wait_for

pytestmark = pytest.mark.timeout(60)
SPEC = serving_models.neo_hookean().spec
HELLO = {"protocol": 1, "want": "model", "model": NEO_HOOKEAN}


@pytest.fixture(scope="module")
def server():
    with running(NEO_HOOKEAN, SLOW) as server:
        yield server


def test_frames_survive_the_way():
    request, reply = Request(Kind.EVALUATE, 7, 1, 2, 3, 4, 0.5, 2**63), Reply(Code.EXPIRED, 7, 1, 2, 3, 4, "so späť")
    assert unpack_request(pack_request(request)) == request
    assert unpack_reply(pack_reply(reply)) == reply


@pytest.mark.parametrize("packet", [b"", b"x", bytes(REQUEST_BYTES), pack_request(Request(1, 1))[:-1]])
def test_what_is_no_frame_is_none(packet):
    assert unpack_request(packet) is None
    assert unpack_reply(packet) is None


def test_slots_hold_all_arrays_without_overlap():
    solid = StandardLinearSolid(1.0, 2.0, branch_mu=0.5, branch_lmbda=0.3, relaxation_time=0.7, dim=3)
    layout = Layout.fitting(solid.spec, slots=3)
    segment, descriptor = create(layout)
    os.close(descriptor)
    arrays = [a for slot in segment.slots for a in vars(slot).values() if isinstance(a, np.ndarray)]
    assert len(arrays) == 3 * 9
    assert all(len(a) == layout.capacity and not a.any() for a in arrays)
    for number, array in enumerate(arrays):
        array[...] = number + 1
    assert all((array == number + 1).all() for number, array in enumerate(arrays))
    assert sum(a.nbytes for a in arrays) <= layout.bytes


def a_file(size):
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        return os.dup(file.fileno())


def a_memfd(size, seals):
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


LAYOUT = Layout.fitting(SPEC)
FITS = {"slots": LAYOUT.slots, "capacity": LAYOUT.capacity, "bytes": LAYOUT.bytes}


@pytest.mark.parametrize(
    ("change", "make", "message"),
    [
        ({"slots": 0}, a_memfd, "1 to 64 slots"),
        ({"slots": True}, a_memfd, "1 to 64 slots"),
        ({"capacity": "8"}, a_memfd, "1 point or more"),
        ({"capacity": 1 << 29}, a_memfd, "different versions of twoscale"),
        ({"bytes": LAYOUT.bytes - 1}, a_memfd, "different versions of twoscale"),
        ({}, None, "expected the descriptor of one segment, got 0"),
        ({}, lambda size, _: a_file(size), "not memory that can be sealed"),
        ({}, lambda size, _: os.pipe()[0], "not memory that can be sealed"),
        ({}, lambda size, _: a_memfd(size, fcntl.F_SEAL_SHRINK), "is sealed"),
        ({}, lambda size, _: a_memfd(size - 4096, SEALS), "is sealed"),
        ({}, lambda size, _: a_memfd(size, SEALS | fcntl.F_SEAL_WRITE), "cannot be mapped"),
    ],
)
def test_segments_that_could_hurt_are_refused(change, make, message):
    descriptors = [make(LAYOUT.bytes, SEALS)] if make else []
    try:
        with pytest.raises(ServerRefusedError, match=message):
            attach(SPEC, FITS | change, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_segment_cannot_be_shrunk_under_the_server():
    _, descriptor = create(LAYOUT)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def open_link(server, model=NEO_HOOKEAN):
    return Link(server.address, Wanted(model), 10.0, 10.0)


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (Request(99, 1), Code.MALFORMED, "no such kind"),
        (Request(Kind.EVALUATE, 1, 99, 1, 1), Code.MALFORMED, "no slot 99"),
        (Request(Kind.EVALUATE, 1, 0, 1 << 31, 1), Code.MALFORMED, "for 2147483648 points"),
        (Request(Kind.EVALUATE, 1, 0, 0, 1), Code.MALFORMED, "for 0 points"),
        (Request(Kind.EVALUATE, 1, 0, 1, 8), Code.NO_SUCH_VERSION, "has version 1, not 8"),
        (Request(Kind.EVALUATE, 1, 0, 1, 1), Code.EXPIRED, ""),
        (Request(Kind.ADOPT, 1, version=5), Code.NO_SUCH_VERSION, "version 5 of .* cannot be had"),
    ],
)
def test_requests_that_cannot_be_served(server, request_, code, words):
    link = open_link(server)
    link.ring(request_)
    reply = link.reply()
    assert reply.code == code
    assert reply.sequence == 1
    assert re.search(words, reply.text)
    link.close()


def test_a_slot_is_served_once_at_a_time(server):
    link = open_link(server, SLOW)
    late = time.monotonic_ns() + 10**10
    for sequence in (1, 2):
        link.ring(Request(Kind.EVALUATE, sequence, 0, 64, 1, 0, 1.0, late))
    replies = [link.reply(), link.reply()]
    assert [(r.sequence, r.code) for r in replies] == [(2, Code.MALFORMED), (1, Code.DONE)]
    link.close()


FIRST = [
    b"{",
    b"[]",
    b"\xff\xfe",
    b"[" * 60_000,
    b'{"protocol": 2}',
    pack_json({"protocol": 1}),
    pack_json({"protocol": 1, "want": ["model"]}),
    pack_json({"protocol": 1, "want": "model", "model": 3}),
    pack_json({"protocol": 1, "want": "model", "model": NEO_HOOKEAN, "version": "one"}),
    pack_json({"protocol": 1, "want": "swap", "model": "nothing", "source": "x"}),
    pack_json({"protocol": 1, "want": "rollback", "model": NEO_HOOKEAN}),
]


@pytest.mark.parametrize("packet", FIRST)
def test_first_messages_that_make_no_sense_are_answered(server, packet):
    sock = connect(server.address, 5.0)
    for _ in range(3):
        sock.send(packet)
        answer = sock.recv(4096)
        assert b'"ok": false' in answer
    sock.close()


def test_an_oversized_first_message_and_foreign_descriptors_change_nothing(server):
    before = len(os.listdir(f"/proc/{server.pid}/fd"))
    for _ in range(20):
        sock = connect(server.address, 5.0)
        with open(os.devnull) as file:
            socket.send_fds(sock, [b"x" * 100_000], [file.fileno()] * 5)
            assert b'"ok": false' in sock.recv(4096)
            sock.send(pack_json(HELLO))
            assert b'"ok": true' in sock.recv(4096)
            socket.send_fds(sock, [pack_json(FITS)], [file.fileno()] * 3)
            assert b'"ok": false' in sock.recv(4096)
        sock.close()
    wait_for(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) <= before)
