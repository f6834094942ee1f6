"""Load balance: the same answers wherever a point is evaluated, and an even spread of the work."""

from __future__ import annotations

import time

from mpi4py import MPI

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coupling import AcceleratedClosure, BalancedClosure, ContractError, RemoteRankError, Status, StretchFrame
from coupling.agreement import collective_over
from coupling.closed_forms import ClosedFormSurrogate, NeoHookean, StandardLinearSolid, StretchNeoHookean
from coupling.conformance import assert_conforms
from coupling.work_sharing import Journey, chosen, least_gain, transfers
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve import energies
from solver_adapters.rve.meshes import centred_fibre

comm = MPI.COMM_WORLD
SOLID = StandardLinearSolid(1.0, 2.0, branch_mu=0.5, branch_lmbda=0.3, relaxation_time=0.7)
LAW = NeoHookean(1.0, 2.0)
several_ranks = pytest.mark.skipif(comm.size == 1, reason="there is nobody to give work to")


class Costly:
    """The inner closure, slowed down and saying what work its points make; keeps how many it was asked for."""

    def __init__(self, inner, cost=lambda gradient: np.ones(len(gradient)), fail=None, seconds=0.01):
        self.inner, self.spec, self.initial_state = inner, inner.spec, inner.initial_state
        self.cost, self.fail, self.seconds, self.calls = cost, fail, seconds, []

    def evaluate(self, gradient, state, dt, hint=None):
        self.calls.append(len(gradient))
        if self.fail is not None and self.fail(gradient):
            raise ZeroDivisionError("a point that cannot be divided")
        self.point_work = self.cost(gradient)
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return self.inner.evaluate(gradient, state, dt, hint)


class InACorner:
    """A gate that accepts nothing at the points where F11 is above 1.2."""

    def accepts(self, gradient, response):
        return gradient[:, 0] < 1.2


def gradients(n, seed=0):
    rows = np.random.default_rng([seed, comm.rank]).uniform(-0.2, 0.2, (n, 4))
    return rows + [1.0, 0.0, 0.0, 1.0]


def uneven(n):
    """All of n points on rank 0."""
    return n if comm.rank == 0 else 0


def assert_same(response, expected):
    for name in ("flux", "tangent", "status", "state", "energy", "uncertainty"):
        np.testing.assert_array_equal(getattr(response, name), getattr(expected, name), err_msg=name)


# ---- who gives what to whom ------------------------------------------------------------------------------------------


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1e3)))
def test_transfers_even_out_the_loads(loads):
    moves = transfers(loads)
    after = loads.copy()
    for giver, taker, amount in moves:
        assert loads[giver] > loads.mean() > loads[taker] and amount > 0
        after[giver] -= amount
        after[taker] += amount
    np.testing.assert_allclose(after, loads.mean(), rtol=0, atol=1e-9 * (1 + loads.max()))
    assert len(moves) < len(loads)


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0.1, 3.0)), st.integers(2, 5))
def test_whole_points_come_within_half_a_point_and_gain_what_was_promised(costs, ranks):
    loads = np.array([costs.sum(), *np.zeros(ranks - 1)])
    amounts = {taker: amount for _, taker, amount in transfers(loads)}
    given_away = chosen(costs, amounts)
    indices = np.concatenate([*given_away.values()])
    assert len(set(indices.tolist())) == len(indices)
    shares = [costs[rows].sum() for rows in given_away.values()]
    np.testing.assert_array_less(shares, np.array([*amounts.values()]) + costs.max() / 2 + 1e-9)
    most = max(costs.sum() - sum(shares), *shares)
    if (promised := least_gain(loads, costs.max())) > 0 and ranks == 2:
        assert most <= loads.max() - promised + 1e-9


def test_a_single_point_stays_where_it_is():
    assert least_gain(np.array([1.0, 0.0, 0.0]), 1.0) <= 0.0


@pytest.mark.mpi
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float64, np.int8])
def test_rows_travel_and_come_home(shape, dtype):
    n = 5 + 2 * comm.rank
    rows = np.random.default_rng(comm.rank).integers(-9, 9, (n, *shape)).astype(dtype)
    sent = {rank: np.array([rank, n - 1 - rank]) for rank in range(2) if rank != comm.rank and rank < comm.size}
    journey = Journey(comm, n, sent)
    out = journey.out(rows)
    takers = min(comm.size, 2)
    assert len(out) == n - len(journey.away) + (2 * (comm.size - 1) if comm.rank < takers else 0)
    np.testing.assert_array_equal(journey.home(2 * out), 2 * rows)
    np.testing.assert_array_equal(rows[journey.stay], out[: len(journey.stay)])


# ---- the balanced closure --------------------------------------------------------------------------------------------


@pytest.mark.mpi
def test_it_conforms():
    cost = 10.0 if comm.rank == 0 else 1.0  # so that points are on the move in every evaluation
    assert_conforms(BalancedClosure(Costly(SOLID, cost=lambda e: np.full(len(e), cost)), comm))


@pytest.mark.mpi
@pytest.mark.parametrize("law", [SOLID, LAW], ids=["history", "energy"])
def test_answers_are_those_of_the_inner_closure(law):
    costly = Costly(law)
    balanced = BalancedClosure(costly, comm)
    n, k = uneven(12), law.spec.k
    g = np.ascontiguousarray(gradients(n)[:, :k])
    state = law.initial_state(n)
    for _ in range(4):
        response = balanced.evaluate(g, state, 0.1, state)
        assert_same(response, law.evaluate(g, state, 0.1, state))
        state = response.state
    if comm.size > 1:
        assert costly.calls == [n] + 3 * [12 // comm.size]
        counts = balanced.ledger.gathered(comm).counts
        assert counts == {"balance/evaluations": 3, "balance/moved points": 3 * 12 * (comm.size - 1) // comm.size}
    else:
        assert costly.calls == [12] * 4 and not balanced.ledger.counts


@several_ranks
@pytest.mark.mpi
def test_dear_points_are_told_from_cheap_ones():
    """Points 0 to 9 on rank 0, with costs 9 to 0: what moves are the dearest of them."""
    costly = Costly(LAW, cost=lambda F: np.round(F[:, 1] * 1e3))
    balanced = BalancedClosure(costly, comm)
    F = gradients(uneven(10))
    F[:, 1] = np.arange(10.0)[: len(F)][::-1] * 1e-3
    for _ in range(3):
        assert_same(balanced.evaluate(F, None, 1.0), LAW.evaluate(F, None, 1.0))
    work = comm.allgather(costly.point_work.sum())
    assert sum(work) == 45.0 and max(work) <= 45.0 / comm.size + 4.5


@pytest.mark.mpi
def test_even_work_stays():
    costly = Costly(LAW)
    balanced = BalancedClosure(costly, comm)
    F = gradients(6)
    for _ in range(3):
        balanced.evaluate(F, None, 1.0)
    assert costly.calls == [6, 6, 6] and "balance/evaluations" not in balanced.ledger.counts


@pytest.mark.mpi
def test_work_that_moving_would_not_repay_stays():
    costly = Costly(LAW, seconds=0.0)
    balanced = BalancedClosure(costly, comm)
    for _ in range(3):
        balanced.evaluate(gradients(uneven(20)), None, 1.0)
    assert costly.calls == [uneven(20)] * 3


@pytest.mark.mpi
def test_points_count_alike_where_the_closure_does_not_say():
    costly = Costly(LAW, cost=lambda F: None)
    balanced = BalancedClosure(costly, comm)
    F = gradients(uneven(12))
    for _ in range(3):
        assert_same(balanced.evaluate(F, None, 1.0), LAW.evaluate(F, None, 1.0))
    assert costly.calls == [len(F), 12 // comm.size, 12 // comm.size]


@pytest.mark.mpi
def test_numbers_of_points_may_change_and_ranks_may_have_none():
    costly = Costly(SOLID)
    balanced = BalancedClosure(costly, comm)
    for i, n in enumerate([4, 9, 0, 1, 7, 30]):
        mine = n if comm.rank == i % comm.size else i % 2
        e = np.ascontiguousarray(gradients(mine, i)[:, :3])
        state = SOLID.initial_state(mine)
        assert_same(balanced.evaluate(e, state, 0.1), SOLID.evaluate(e, state, 0.1))
    assert sum(sum(calls) for calls in comm.allgather(costly.calls)) == sum(
        comm.allreduce(n if comm.rank == i % comm.size else i % 2) for i, n in enumerate([4, 9, 0, 1, 7, 30])
    )


@several_ranks
@pytest.mark.mpi
def test_nothing_moves_where_ranks_do_not_pass_alike():
    costly = Costly(SOLID)
    balanced = BalancedClosure(costly, comm)
    n = 2 + 10 * (comm.rank == 0)
    e, state = np.ascontiguousarray(gradients(n)[:, :3]), SOLID.initial_state(n)
    balanced.evaluate(e, state, 0.1)
    balanced.evaluate(e, state, 0.1, state if comm.rank else None)
    balanced.evaluate(e, state, 0.1 + comm.rank)
    assert costly.calls == [n, n, n]
    balanced.evaluate(e, state, 0.1, state)
    assert costly.calls[-1] != n


@pytest.mark.mpi
@pytest.mark.parametrize("moved", [False, True])
def test_what_one_rank_raises_all_raise(moved):
    """Also where the point that raises is a guest on another rank."""
    F = gradients(uneven(12))
    F[:, 0] = 1.0 + 0.1 * (np.arange(len(F)) == 5)
    costly = Costly(LAW, cost=lambda F: 1.0 + F[:, 0])
    balanced = BalancedClosure(costly, comm)
    if moved:
        balanced.evaluate(F, None, 1.0)  # the dear point is the first to move now
    costly.fail = lambda F: (F[:, 0] > 1.05).any()
    with pytest.raises((ZeroDivisionError, RemoteRankError), match="cannot be divided"):
        balanced.evaluate(F, None, 1.0)
    costly.fail = None
    assert_same(balanced.evaluate(F, None, 1.0), LAW.evaluate(F, None, 1.0))


@several_ranks
@pytest.mark.mpi
def test_arguments_that_do_not_fit_are_an_error_everywhere():
    balanced = BalancedClosure(LAW, comm)
    F = gradients(4)[:, : 4 if comm.rank else 3]
    with pytest.raises((ContractError, RemoteRankError), match="gradient must have shape"):
        balanced.evaluate(np.ascontiguousarray(F), None, 1.0)
    with pytest.raises(ContractError, match="differ in their specification"):
        BalancedClosure(LAW if comm.rank else SOLID, comm)


@several_ranks
@pytest.mark.mpi
def test_work_of_other_points_is_refused_everywhere():
    costly = Costly(LAW, cost=lambda F: np.ones(len(F) + (comm.rank == 0)))
    with pytest.raises((ContractError, RemoteRankError), match="point_work must have shape"):
        BalancedClosure(costly, comm).evaluate(gradients(3), None, 1.0)


# ---- inside of an accelerated closure --------------------------------------------------------------------------------


def accelerated(fine, mode="replace", gate=None):
    surrogate = ClosedFormSurrogate(LAW, 0.01, [-9.0] * 4, [9.0] * 4)
    return AcceleratedClosure(fine, surrogate, gate=gate or InACorner(), mode=mode)


@pytest.mark.mpi
@pytest.mark.parametrize("mode", ["replace", "off"])
@pytest.mark.parametrize("frame", [False, True])
def test_rejected_points_of_one_rank_are_shared_by_all(mode, frame):
    """The other ranks accept all of their points, or have none, and still serve their part."""
    costly = Costly(StretchNeoHookean(1.0, 2.0) if frame else LAW)
    fine = BalancedClosure(costly, comm)
    plain = StretchFrame(costly.inner) if frame else LAW
    closure = accelerated(StretchFrame(fine) if frame else fine, mode)
    assert closure.collective is comm and collective_over(accelerated(LAW)) is None
    F = gradients(0 if comm.rank == 2 else 8)
    F[:, 0] = 1.25 if comm.rank == 0 else 1.0
    for _ in range(3):
        assert_same(closure.evaluate(F, None, 1.0), accelerated(plain, mode).evaluate(F, None, 1.0))
    worked = comm.allgather(costly.calls)
    rejected = 8 if mode == "replace" else 8 * min(comm.size, 2)
    assert [sum(calls) for calls in zip(*worked, strict=True)] == [rejected] * 3
    if comm.size > 1:
        last = [calls[-1] for calls in worked]
        assert max(last) - min(last) <= 1 or (mode == "off" and comm.size == 2)


@pytest.mark.mpi
def test_a_fault_of_one_rank_does_not_leave_the_others_waiting():
    """Neither where its gate raises nor where its surrogate does, whose points the fine scale then serves."""

    class Faulty(InACorner):
        def accepts(self, gradient, response):
            if comm.rank == comm.size - 1:
                raise ZeroDivisionError("no decision")
            return super().accepts(gradient, response)

    F = gradients(6)
    closure = accelerated(BalancedClosure(Costly(LAW), comm), gate=Faulty())
    with pytest.raises((ZeroDivisionError, RemoteRankError), match="no decision"):
        closure.evaluate(F, None, 1.0)
    closure = accelerated(BalancedClosure(Costly(LAW), comm))
    if comm.rank == 0:
        closure.surrogate = Costly(closure.surrogate, fail=lambda F: True)
        with pytest.warns(RuntimeWarning, match="surrogate failed"):
            response = closure.evaluate(F, None, 1.0)
    else:
        response = closure.evaluate(F, None, 1.0)
    np.testing.assert_array_equal(response.flux[F[:, 0] > 1.2], LAW.evaluate(F, None, 1.0).flux[F[:, 0] > 1.2])
    assert (response.status == Status.FALLBACK).all() or comm.rank > 0


@pytest.mark.mpi
def test_rves_move_with_their_state_and_answer_bit_by_bit_alike():
    laws = {1: energies.NeoHookean(1.0, 2.0), 2: energies.NeoHookean(20.0, 40.0)}
    rve = PeriodicRVE(centred_fibre(size=0.25), laws, energy=True)
    balanced = BalancedClosure(Costly(StretchFrame(rve)), comm)
    n = uneven(7)
    state, hint = balanced.initial_state(n), None
    for scale in (0.3, 0.6, 0.6):
        F = [1.0, 0.0, 0.0, 1.0] + scale * (gradients(n) - [1.0, 0.0, 0.0, 1.0])
        expected = StretchFrame(rve).evaluate(F, state, 0.0, hint)
        response = balanced.evaluate(F, state, 0.0, hint)
        assert_same(response, expected)
        hint = response.state
    assert balanced.ledger.gathered(comm).counts.get("balance/moved points", 0) > 0 or comm.size == 1


def test_an_rve_says_what_work_its_points_make():
    laws = {1: energies.NeoHookean(1.0, 2.0), 2: energies.NeoHookean(20.0, 40.0)}
    rve = PeriodicRVE(centred_fibre(size=0.25), laws)
    stretch = np.array([[1.0, 1.0, 0.0], [1.2, 0.9, 0.2], [-1.0, 1.0, 0.0]])
    rve.evaluate(stretch, rve.initial_state(3), 0.0)
    assert rve.point_work[2] == 0 < rve.point_work[0] < rve.point_work[1]
