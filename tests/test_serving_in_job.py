"""Some ranks of the job serve the others."""

from __future__ import annotations

import os
import time

from mpi4py import MPI

import numpy as np
import pytest

from coupling import AcceleratedClosure, RangeGate
from coupling.closed_forms import StretchNeoHookean
from coupling.errors import ContractError, ModelError, RemoteRankError, ServerError
from coupling.serving.in_job import in_job_servers
from coupling.serving.models import probes
from coupling.serving.waiting import BackOff, crowded
from tests import serving_models
from tests.serving_processes import MODELS, NEO_HOOKEAN

comm = MPI.COMM_WORLD
pytestmark = [pytest.mark.mpi, pytest.mark.four_ranks, pytest.mark.timeout(60)]
several = pytest.mark.skipif(comm.size == 1, reason="takes a rank to serve and one to solve")


def check(surrogate, local, n, dt=1.0):
    gradient = probes(local.spec, n, 0.05) if n else np.empty((0, local.spec.k))
    state = surrogate.initial_state(n)
    expected, answer = local.evaluate(gradient, state, dt), surrogate.evaluate(gradient, state, dt)
    for name in ("flux", "tangent", "state", "energy", "uncertainty"):
        mine, its = getattr(answer, name), getattr(expected, name)
        assert (mine is None) == (its is None)
        if its is not None:
            np.testing.assert_allclose(mine, its, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(answer.status, expected.status)


def test_one_rank_has_to_be_left_to_solve():
    with (
        pytest.raises(ContractError, match="one at least has to solve"),
        in_job_servers(comm, NEO_HOOKEAN, per_node=comm.size),
    ):
        pass


@several
@pytest.mark.parametrize("per_node", range(1, comm.size))
def test_ranks_that_solve_keep_their_order_and_get_the_same_answers_as_from_a_local_model(per_node):
    local = serving_models.neo_hookean()
    with in_job_servers(comm, NEO_HOOKEAN, per_node=per_node) as job:
        assert (job is None) == (comm.rank >= comm.size - per_node)
        if job is not None:
            assert (job.comm.rank, job.comm.size) == (comm.rank, comm.size - per_node)
            for n in (0, 1, 64, 7000 * comm.rank, 30_000):
                check(job.surrogate(), local, n)
            job.comm.barrier()


@several
def test_several_models_with_states_and_requests_under_way_at_once():
    sources = {"solid": f"{MODELS}standard_linear_solid", "law": NEO_HOOKEAN}
    solid, law = serving_models.standard_linear_solid(), serving_models.neo_hookean()
    with in_job_servers(comm, sources) as job:
        if job is not None:
            check(job.surrogate("solid"), solid, 5000, dt=0.1)
            gradient = probes(law.spec, 40_000, 0.05)
            tickets = [job.surrogate("law").submit(gradient[a:], None, 1.0) for a in (0, 10_000, 39_000)]
            check(job.surrogate("solid"), solid, 100, dt=0.2)
            for a, ticket in zip((0, 10_000, 39_000), tickets, strict=True):
                flux = job.surrogate("law").collect(ticket).flux
                np.testing.assert_allclose(flux, law.evaluate(gradient[a:], None, 1.0).flux, rtol=1e-13)
            with pytest.raises(ModelError, match="give one of solid, law"):
                job.surrogate("steel")


@several
def test_an_error_of_one_rank_is_an_error_of_all():
    expected = ValueError if comm.rank == 0 else RemoteRankError
    with pytest.raises(expected, match="too hot"), in_job_servers(comm, NEO_HOOKEAN) as job:
        assert job is not None
        job.surrogate().submit(probes(job.surrogate().spec, 5000), None, 1.0)  # and never collected
        if comm.rank == 0:
            raise ValueError("too hot")
    comm.barrier()


@several
def test_a_model_that_fails_fails_for_those_who_asked():
    local = serving_models.Sensitive()
    with in_job_servers(comm, f"{MODELS}Sensitive") as job:
        if job is not None:
            gradient = probes(local.spec, 10)
            gradient[0, 0] = 3.5 if comm.rank == 0 else 1.0
            closure = AcceleratedClosure(StretchNeoHookean(1.0, 2.0), job.surrogate(), gate=RangeGate())
            if comm.rank == 0:
                with pytest.raises(ServerError, match="U11 is larger than 3"):
                    job.surrogate().evaluate(gradient, None, 1.0)
                with pytest.warns(RuntimeWarning, match="the fine scale serves"):
                    closure.evaluate(gradient, None, 1.0)
            check(job.surrogate(), local, 20)


@several
def test_a_model_that_cannot_be_loaded_is_an_error_everywhere():
    expected = ModelError if comm.rank == comm.size - 1 else RemoteRankError
    with pytest.raises(expected, match="no_such_law"), in_job_servers(comm, f"{MODELS}no_such_law"):
        pass


@several
def test_nothing_is_asked_after_the_block():
    with in_job_servers(comm, NEO_HOOKEAN) as job:
        pass
    if job is not None:
        with pytest.raises(ServerError, match="inside the block"):
            job.surrogate().evaluate(probes(job.surrogate().spec, 1), None, 1.0)


def test_waiting_on_a_crowded_node_leaves_the_core_to_others():
    used, end, waiting = time.process_time(), time.monotonic() + 0.3, BackOff(crowded=True)
    while time.monotonic() < end:
        waiting.pause()
    assert time.process_time() - used < 0.1


def test_ranks_are_crowded_where_they_outnumber_cores():
    cores = comm.allgather(sorted(os.sched_getaffinity(0)))
    assert crowded(comm) == (comm.size > len({core for mine in cores for core in mine}))
