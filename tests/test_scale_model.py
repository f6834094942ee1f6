"""The model of ranks and servers where its answer is known in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("simpy")

from coupling.serving.models import prepare
from tests.benchmarks.scale_model import Costs, Layout, Load, simulate
from tests.serving_processes import NEO_HOOKEAN

COSTS = Costs(lambda n: 1e-5 + 3e-6 * n, lambda n: np.ones(1), 2e-5, 1e-6, 1e-9, 4e-9, 5e-6, 1e-5)


@pytest.fixture(scope="module")
def version():
    return prepare(NEO_HOOKEAN, 1, "cpu")


def idle(rank, iterate):
    return 0.0


def test_one_request_takes_the_sum_of_its_parts(version):
    run = simulate(Layout(1, 1, 1, cores=2), Load(100, idle, 3), COSTS, version)
    client, server = 5e-6 + 100 * 5e-9, 2e-5 + 1e-6 + 1e-5 + 3e-4
    np.testing.assert_allclose(run.latencies, client + server + 2 * 1e-5)
    np.testing.assert_allclose(run.busy, [3 * server])


def test_one_server_serves_one_batch_after_the_other(version):
    costs = Costs(lambda n: 1e-6 * n)
    most = version.evaluator.batch
    run = simulate(Layout(5, 5, 5), Load(most, idle, 1), costs, version)
    np.testing.assert_allclose(np.sort(run.latencies[0]), 1e-6 * most * np.arange(1, 6))


def test_small_requests_that_come_together_share_a_batch(version):
    costs = Costs(lambda n: 1e-3 + 1e-6 * n)
    run = simulate(Layout(8, 8, 8), Load(10, lambda rank, _: 1e-4 * (rank > 0), 1), costs, version)
    np.testing.assert_allclose(run.latencies[0, 0], 1e-3 + 1e-5)
    np.testing.assert_allclose(run.latencies[0, 1:], (1e-3 + 1e-5) + (1e-3 + 7e-5) - 1e-4)


def test_an_iteration_takes_as_long_as_the_slowest_rank(version):
    costs = Costs(lambda n: 1e-5)
    run = simulate(Layout(6, 1, 6), Load(10, lambda rank, iterate: 1e-3 * (rank + iterate), 4), costs, version)
    np.testing.assert_allclose(run.iterates, 1e-3 * (5 + np.arange(4)) + 1e-5)


def test_the_slowest_station_sets_the_pace(version):
    """Batches follow each other through way in, computation and way out."""
    slot, n = 2048, 16
    way = 1e-6
    costs = Costs(lambda n: 0.5e-6 * n, way_in=way, way_out=0.25e-6)
    run = simulate(Layout(1, 1, 1, slot=slot, slots=n), Load(n * slot, idle, 1), costs, version)
    np.testing.assert_allclose(run.latencies, slot * (n * way + 0.5e-6 + 0.25e-6))


def test_ranks_of_a_node_share_its_interface_and_its_cores(version):
    costs = Costs(lambda n: 0.0, network_in=1e-6)
    run = simulate(Layout(8, 1, 4), Load(100, idle, 1), costs, version)
    np.testing.assert_allclose(np.sort(run.latencies[0]), np.repeat(1e-4 * np.arange(1, 5), 2))
    crowded = simulate(Layout(4, 4, 4, cores=2), Load(1, lambda *_: 1e-3, 1), replace(costs, network_in=0.0), version)
    np.testing.assert_allclose(crowded.iterates, 2e-3)
