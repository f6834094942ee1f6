"""Clients that send nonsense, do not read, leave at the wrong moment: they harm nobody but themselves."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections import Counter

import numpy as np
import pytest

from coupling.serving.address import connect
from coupling.serving.frames import (
    REQUEST_BYTES,
    Code,
    Kind,
    Request,
    pack_json,
    pack_request,
    unpack_reply,
)
from coupling.serving.models import probes
from coupling.serving.segment import create
from tests import serving_models
from tests.serving_processes import MODELS, NEO_HOOKEAN, SLOW, running, wait_for
from tests.test_serving_transport import FITS, HELLO, LAYOUT, open_link

pytestmark = pytest.mark.timeout(60)
SPEC = serving_models.neo_hookean().spec


@pytest.fixture(scope="module")
def server():
    with running(NEO_HOOKEAN, SLOW) as server:
        yield server


def malformed(rng):
    """A frame that is wrong in one way or another, now and then by a little only."""
    request = Request(Kind.EVALUATE, rng.getrandbits(32), rng.randrange(64), rng.getrandbits(31), 1)
    right = bytearray(pack_request(request))
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 2 * REQUEST_BYTES))
    if kind == 1:
        return bytes(right[: rng.randrange(1, REQUEST_BYTES)])
    if kind == 2:
        struct.pack_into("<I", right, 4 * rng.randrange(REQUEST_BYTES // 4), rng.getrandbits(32))
    return bytes(right)


def test_a_hundred_thousand_malformed_frames(server):
    """Each is answered, and another client gets right answers meanwhile; the server stays the same process."""
    pid, rng, count = server.pid, random.Random(0), 100_000
    local, gradient = serving_models.neo_hookean(), probes(SPEC, 100)
    expected = local.evaluate(gradient, None, 1.0).flux
    with server.surrogate() as other:
        sock, sent = attached(server.address), 0
        while sent < count:
            for _ in range(50):
                sock.send(malformed(rng))
            assert all(unpack_reply(sock.recv(2048)) is not None for _ in range(50))
            sent += 50
            if sent % 10_000 == 0:
                np.testing.assert_array_equal(other.evaluate(gradient, None, 1.0).flux, expected)
        sock.close()
        np.testing.assert_array_equal(other.evaluate(gradient, None, 1.0).flux, expected)
    assert server.pid == pid


def attached(address):
    sock = connect(address, 5.0)
    sock.send(pack_json(HELLO))
    sock.recv(4096)
    segment, descriptor = create(LAYOUT)
    socket.send_fds(sock, [pack_json(FITS)], [descriptor])
    os.close(descriptor)
    assert b'"ok": true' in sock.recv(4096)
    del segment
    return sock


def test_a_client_that_never_reads_is_dropped_and_delays_nobody(server):
    deaf = attached(server.address)
    with server.surrogate() as other, pytest.raises(OSError):  # noqa: PT012
        for number in range(1_000_000):
            deaf.send(bytes(8))
            if number % 1000 == 0:
                start = time.monotonic()
                other.evaluate(probes(SPEC, 8), None, 1.0)
                assert time.monotonic() - start < 2.0
    deaf.close()


def test_a_client_that_is_busy_itself_is_not_flooded(server):
    """It has asked for eight things and does not read: it hears once in a while that they are worked on."""
    link = open_link(server, SLOW)
    for slot in range(LAYOUT.slots):
        link.segment.slots[slot].gradient[:600] = 1.0
        link.ring(Request(Kind.EVALUATE, slot, slot, 600, 1, 0, 1.0, 2**63))
    start, codes = time.monotonic(), Counter[int]()
    while codes[Code.DONE] < LAYOUT.slots:
        codes[link.reply().code] += 1
    assert 0 < codes[Code.WORKING] <= 2.0 * (time.monotonic() - start)
    link.close()


def test_garbage_in_the_segment_harms_its_owner_alone(server):
    link = open_link(server)
    bits = np.random.default_rng(0).integers(0, 2**63, (LAYOUT.capacity, 3))
    link.segment.slots[0].gradient.view(np.uint64)[...] = bits
    link.ring(Request(Kind.EVALUATE, 1, 0, LAYOUT.capacity, 1, 0xFFFF, float("nan"), 2**63))
    assert link.reply().code in (Code.DONE, Code.MODEL_FAILED)
    link.close()
    with server.surrogate() as other:
        assert (other.evaluate(probes(SPEC, 8), None, 1.0).status == 0).all()


def test_requests_of_a_client_that_died_are_forgotten(server):
    with server.surrogate(SLOW) as surrogate:
        surrogate.submit(probes(SPEC, 30_000), None, 1.0)
        wait_for(lambda: server.status()["queue"]["points"] > 10_000)
    wait_for(lambda: server.status()["queue"]["points"] == 0, timeout=2.0)


def test_clients_that_come_and_go_leave_nothing_behind(server):
    memory = []
    for number in range(400):
        link = open_link(server)
        link.segment.slots[0].gradient[:] = 1.0
        link.ring(Request(Kind.EVALUATE, 1, 0, 8, 1, 0, 1.0, 2**63))
        if number % 2:
            link.reply()
        link.close()
        if number % 100 == 99:
            wait_for(lambda: server.status()["clients"] == 0)
            memory.append(server.status()["memory_bytes"])
    assert memory[-1] - memory[0] < 1 << 20


def test_a_server_that_waits_a_moment_joins_its_clients():
    """With one client of two asking, a batch waits for the other for 100 µs and no longer."""
    with running(NEO_HOOKEAN, linger=1.0) as server, server.surrogate() as one, server.surrogate() as two:
        for _ in range(200):
            tickets = [s.submit(probes(SPEC, 8), None, 1.0) for s in (one, two)]
            for surrogate, ticket in zip((one, two), tickets, strict=True):
                surrogate.collect(ticket)
        joined = server.status()["models"][0]["batch_sizes"]
        start = time.monotonic()
        for _ in range(50):
            one.evaluate(probes(SPEC, 8), None, 1.0)
        assert time.monotonic() - start < 1.0
    assert joined["<32"] > joined.get("<16", 0)


def test_a_client_that_leaves_while_its_model_is_loaded(server):
    pid = server.pid
    for want in ({"want": "model", "model": "late"}, {"want": "swap", "model": NEO_HOOKEAN}):
        for wait in (0.0, 0.28, 0.3, 0.32):
            sock = connect(server.address, 5.0)
            sock.send(pack_json({"protocol": 1, **want, "source": f"{MODELS}slowly_loaded", "fingerprint": str(wait)}))
            time.sleep(wait)
            sock.close()
    with server.surrogate() as surrogate:
        assert (surrogate.evaluate(probes(SPEC, 8), None, 1.0).status == 0).all()
    assert server.pid == pid


def test_others_are_served_while_a_model_is_loaded(server):
    with server.surrogate() as surrogate:
        sock = connect(server.address, 5.0)
        late = {"protocol": 1, "want": "model", "model": "later", "source": f"{MODELS}slowly_loaded"}
        start = time.monotonic()
        sock.send(pack_json(late))
        surrogate.evaluate(probes(SPEC, 8), None, 1.0)
        assert time.monotonic() - start < 0.2
        assert b'"ok": true' in sock.recv(4096)
        assert time.monotonic() - start > 0.3
        sock.close()
