"""Whose rows are evaluated next."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest

from coupling.serving.batching import FairQueue, Piece
from coupling.serving.frames import Request
from coupling.serving.models import Model, Version, prepare
from coupling.serving.segment import Layout, create
from tests.serving_processes import NEO_HOOKEAN


@pytest.fixture(scope="module")
def version():
    return prepare(NEO_HOOKEAN, 1, "cpu")


def piece(client, points, version: Version, dt=1.0):
    layout = Layout(version.evaluator.spec.k, version.evaluator.spec.m, 0, 1, 8192)
    segment, descriptor = create(layout)
    os.close(descriptor)
    return Piece(client, Request(1, 1, 0, points, version.number, 0, dt), segment.slots[0], Model("m"), version, 0)


def serve(queue):
    """Rows that each client is served in each batch, in order."""
    batches = []
    while queue:
        batch, rows = queue.next_batch(), Counter[Any]()
        for p, part in zip(batch.pieces, batch.parts, strict=True):
            assert part.start == p.done
            p.done = part.stop
            rows[p.client] += part.stop - part.start
            if not p.left:
                queue.finished(p)
        batches.append(rows)
    return batches


def test_a_small_request_rides_in_the_next_batch_beside_giants(version):
    queue = FairQueue[str]()
    most = version.evaluator.batch
    for client, points in (("a", 3 * most), ("b", 3 * most), ("small", 100)):
        queue.add(piece(client, points, version))
    batches = serve(queue)
    assert batches[0] == {"small": 100, "a": most - 100}
    assert batches[1] == {"b": most}
    assert sum(batch.get("a", 0) for batch in batches) == 3 * most
    assert all(sum(batch.values()) <= most for batch in batches)


def test_many_small_requests_leave_half_of_a_batch_to_the_first(version):
    queue = FairQueue[int]()
    most = version.evaluator.batch
    for client, points in [(0, 2 * most)] + [(i, most // 8) for i in range(1, 9)]:
        queue.add(piece(client, points, version))
    first = serve(queue)[0]
    assert first == {0: most // 2} | dict.fromkeys(range(1, 5), most // 8)


def test_clients_take_turns(version):
    queue = FairQueue[str]()
    most = version.evaluator.batch
    for client in "abc":
        queue.add(piece(client, 2 * most, version))
    assert [list(batch) for batch in serve(queue)] == [["a"], ["b"], ["c"], ["a"], ["b"], ["c"]]


def test_every_row_is_served_once(version):
    rng = np.random.default_rng(0)
    queue = FairQueue[int]()
    points = rng.integers(1, 6000, 20)
    for number, n in enumerate(points):
        queue.add(piece(number % 7, int(n), version))
    served = sum(serve(queue), Counter[int]())
    np.testing.assert_array_equal([served[c] for c in range(7)], [points[c::7].sum() for c in range(7)])


def test_other_models_wait_for_their_turn(version):
    other = prepare(NEO_HOOKEAN, 2, "cpu")
    queue = FairQueue[str]()
    queue.add(piece("a", 10, version))
    queue.add(piece("b", 10, other))
    assert serve(queue) == [{"a": 10}, {"b": 10}]
