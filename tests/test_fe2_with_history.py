"""Two-scale runs whose RVEs have history, classically and in exact mode, on any number of ranks."""

from functools import cache

from mpi4py import MPI

import numpy as np
import pytest

from coupling import Status
from coupling.closed_forms import FailingClosure, LinearElastic, VonMisesPlasticity, lame
from coupling.contract import mark_unusable
from coupling.two_level import SweepingClosure
from solver_adapters.rve import histories
from surrogates import OnlinePolynomial
from tests.hostile_surrogates import HOSTILE
from tests.pulled_square import HARDENING, METAL, MODULI, YIELD, exact, pulled, rve

WORLD = MPI.COMM_WORLD
pytestmark = [pytest.mark.mpi, pytest.mark.filterwarnings("ignore:surrogate failed:RuntimeWarning")]


def largest(values):
    return WORLD.allreduce(float(np.abs(values).max(initial=0.0)), op=MPI.MAX)


@cache
def pulled_classically():
    return pulled(rve())


def test_homogeneous_rves_are_the_closed_form():
    closed, stresses, _ = pulled(VonMisesPlasticity(*MODULI, YIELD, hardening=HARDENING))
    ours, fluxes, _ = pulled(rve(inclusion=METAL))
    assert largest(stresses.state[:, -1]) > 1e-3
    np.testing.assert_allclose(ours.solution, closed.solution, atol=1e-10)
    np.testing.assert_allclose(fluxes.response.flux, stresses.response.flux, atol=1e-9)


@pytest.mark.parametrize("name", ["elastic", "learning", *HOSTILE])
def test_exact_mode_gives_the_classical_answer(name):
    classical, stresses, records = pulled_classically()
    fine = rve()
    known = {"elastic": LinearElastic(*lame(90.0, 0.3)), "learning": OnlinePolynomial(fine.spec)}
    ours, fluxes, ours_records = pulled(exact(fine, known.get(name) or HOSTILE[name](fine.spec)))
    own = fine.spec.state_size
    assert largest(fine.features(stresses.state)) > 1e-3
    assert largest(ours.solution - classical.solution) < 1e-8 * largest(classical.solution)
    assert largest(fine.features(fluxes.state[:, :own]) - fine.features(stresses.state)) < 1e-9
    assert [r.load for r in ours_records] == [r.load for r in records]
    np.testing.assert_array_equal(fluxes.response.state, fluxes.state)


def test_sweeps_take_fewer_factorisations():
    classical, fine = rve(), rve()
    pulled(classical, steps=12)
    problem, _, _ = pulled(exact(fine, LinearElastic(*lame(90.0, 0.3))), steps=12)
    ours, theirs = (WORLD.allreduce(r.ledger.counts.get("rve/factorisations", 0)) for r in (fine, classical))
    assert ours < 0.7 * theirs
    assert "macro/models refused" not in problem.ledger.gathered(WORLD).counts


def test_after_a_load_that_stays_the_path_turns_as_in_a_classical_run():
    """sin(0.4π) = sin(0.6π): the step between changes nothing but by errors of solves, which are not extrapolated."""
    accuracy, loads = {"tolerance": 1e-6, "size": 0.15}, {"steps": 4, "amount": 6e-3, "cells": 3}
    _, _, classical = pulled(rve(**accuracy), **loads)
    _, _, ours = pulled(exact(rve(**accuracy), LinearElastic(*lame(90.0, 0.3))), **loads)
    assert ours[-1].iterations <= classical[-1].iterations + 1


class Failing(FailingClosure):
    """The same with sweeps."""

    def sweep(self, gradient, state, dt, hint=None, **options):
        assert isinstance(self.inner, SweepingClosure)
        answer = self.inner.sweep(gradient, state, dt, hint, **options)
        return mark_unusable(answer, self.fails(gradient), Status.NOT_CONVERGED)


@pytest.mark.parametrize("surrogate", ["elastic", "random weights"])
def test_cut_back_steps_leave_no_trace_in_the_history(surrogate):
    """Points that change too much in one step fail; the steps are halved, and end where a classical run's do."""

    def run(closure_of):
        fine, committed = rve(), [0.0]

        def jumps(strain):
            change = WORLD.allreduce(float(np.abs(strain).max(initial=0.0)), op=MPI.MAX)
            return np.full(len(strain), change > committed[0] + 6e-3)

        failing = Failing(fine, jumps)

        def on_step(record):
            committed[0] += 6e-3

        problem, sigma, records = pulled(closure_of(failing), steps=2, on_step=on_step)
        return problem, fine.features(sigma.state[:, : fine.spec.state_size]), [r.cutbacks for r in records]

    surrogates = {"elastic": LinearElastic(*lame(90.0, 0.3)), "random weights": None}
    classical, history, cutbacks = run(lambda fine: fine)
    ours, our_history, our_cutbacks = run(
        lambda fine: exact(fine, surrogates[surrogate] or HOSTILE["random weights"](fine.spec))
    )
    assert sum(cutbacks) > 0 and our_cutbacks == cutbacks
    assert largest(ours.solution - classical.solution) < 1e-8 * largest(classical.solution)
    assert largest(our_history - history) < 1e-9


def test_relaxation():
    """Rates enter: steps of another length, another answer; the exact mode gives it."""
    law = histories.GeneralisedMaxwell(*MODULI, ((40.0, 25.0, 0.3),))
    solutions = []
    for steps in (4, 2):
        classical, _, _ = pulled(rve(law), steps=steps)
        ours, _, _ = pulled(exact(rve(law), LinearElastic(*lame(90.0, 0.3))), steps=steps)
        assert largest(ours.solution - classical.solution) < 1e-8 * largest(classical.solution)
        solutions.append(classical.solution.copy())
    assert largest(solutions[0] - solutions[1]) > 1e-5 * largest(solutions[0])


def test_relaxation_takes_two_sweeps_a_step():
    """The first one tells what has relaxed, which is no error of the tangents."""
    fine = rve(histories.GeneralisedMaxwell(*MODULI, ((40.0, 25.0, 0.3),)))
    problem, _, _ = pulled(exact(fine, HOSTILE["random weights"](fine.spec)), steps=8)
    sweeps = problem.ledger.gathered(WORLD).counts["macro/exact sweeps"]
    assert sweeps <= 2 * 8 + 2


def test_iterates_are_compared_on_all_ranks():
    problem, _, _ = pulled(LinearElastic(*lame(90.0, 0.3)), steps=1)
    values = problem.values()
    assert problem.is_at(values)
    if WORLD.rank == 0:
        values[-1] += 1e-12
    assert not problem.is_at(values)
