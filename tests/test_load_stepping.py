"""Load stepping on a scalar problem with a known path, and with guesses on a membrane."""

from mpi4py import MPI

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coupling import ContractError, Ledger, RemoteRankError, StepError
from coupling.closed_forms.hyperelastic import NeoHookean
from coupling.guess import Guess
from coupling.predictors.pod import PODPredictor
from coupling.predictors.polynomial import PolynomialPredictor
from demos.cook import membrane
from solver_adapters.macro.load_stepping import Solved, StepRecord, load_steps

comm = MPI.COMM_WORLD


class Spring:
    """x with f(x) = λ by Newton from the guess; refuses steps in λ longer than ``reach``."""

    def __init__(self, f, df, reach=np.inf):
        self.f, self.df, self.reach = f, df, reach
        self.comm, self.solution, self.ledger = MPI.COMM_WORLD, np.zeros(1), Ledger()
        self.load = self.committed_load = 0.0
        self.guesses, self.increments, self.commits = [], [], 0

    def apply(self, load):
        self.load = load

    def solve(self, dt):
        if abs(self.load - self.committed_load) > self.reach:
            self.solution[:] = np.nan
            raise StepError("too far")
        self.guesses.append(self.solution[0])
        for iteration in range(50):
            residual = self.f(self.solution) - self.load
            if np.abs(residual).max() < 1e-13:
                self.increments.append(dt)
                return Solved(iteration, "converged")
            self.solution -= residual / self.df(self.solution)
        raise StepError("no convergence")

    def count(self, name):
        self.ledger.count(name)

    def commit(self):
        self.committed_load, self.commits = self.load, self.commits + 1


def cubic(reach=np.inf):
    return Spring(lambda x: x + x**3, lambda x: 1 + 3 * x**2, reach)


def linear(reach=np.inf):
    return Spring(lambda x: 0.5 * x, lambda x: 0.5, reach)


def root(reach=np.inf):
    """x = λ² + λ, a path that quadratic extrapolation hits exactly."""
    return Spring(lambda x: (np.sqrt(1 + 4 * x) - 1) / 2, lambda x: 1 / np.sqrt(1 + 4 * x), reach)


@pytest.mark.parametrize("predictor", ["previous", "linear", "quadratic"])
def test_every_full_step_is_reached_exactly(predictor):
    problem = cubic()
    records = load_steps(problem, problem.apply, steps=7, end=2.0, duration=5.0, predictor=predictor)
    assert [r.load for r in records] == [*(2.0 / 7 * i for i in range(1, 7)), 2.0]
    assert problem.solution[0] == pytest.approx(1.0, abs=1e-13)
    assert sum(problem.increments) == pytest.approx(5.0)
    assert problem.commits == len(records) == 7


def test_a_failed_step_is_halved_and_grows_back():
    problem = cubic(reach=0.3)
    seen: list[StepRecord] = []
    records = load_steps(problem, problem.apply, steps=2, end=2.0, duration=2.0, on_step=seen.append)
    assert problem.solution[0] == pytest.approx(1.0, abs=1e-13)
    assert max(r.size for r in records) <= 0.3
    assert records[0].cutbacks == 2 and records[0].size == 0.25
    assert records[1].cutbacks == 1  # it tried to double
    assert {1.0, 2.0} <= {r.load for r in records}
    assert seen == records and problem.commits == len(records)
    assert problem.ledger.counts["macro/cutbacks"] == sum(r.cutbacks for r in records)
    np.testing.assert_allclose(problem.increments, [r.size for r in records])


@pytest.mark.parametrize(
    ("problem", "predictor", "exact_from"),
    [(linear(), "linear", 1), (root(), "quadratic", 2), (root(0.15), "quadratic", 2)],
)
def test_predictors_reproduce_polynomial_paths(problem, predictor, exact_from):
    records = load_steps(problem, problem.apply, steps=4, predictor=predictor)
    exact = [r.load / 0.5 if predictor == "linear" else r.load**2 + r.load for r in records]
    np.testing.assert_allclose(problem.guesses[exact_from:], exact[exact_from:], rtol=1e-12)
    assert problem.guesses[0] == 0.0


def test_previous_solution_as_the_guess():
    problem = linear()
    load_steps(problem, problem.apply, steps=4, predictor="previous")
    np.testing.assert_allclose(problem.guesses, [0.0, 0.5, 1.0, 1.5])


class Prescribed(Spring):
    """Its solutions are known."""

    def __init__(self, *solutions):
        super().__init__(None, None)
        self.solutions = iter(solutions)

    def solve(self, dt):
        self.guesses.append(self.solution[0])
        self.solution[:] = next(self.solutions)
        return Solved(0, "converged")


@pytest.mark.mpi
@pytest.mark.parametrize(("largest", "extrapolated"), [(1e-3, True), (1e-9, False)])
def test_errors_of_solves_are_not_extrapolated(largest, extrapolated):
    """Nor on one rank alone: all of them extrapolate where any unknown of any rank changes."""
    change = largest if comm.rank == comm.size - 1 else 1e-9
    problem = Prescribed(1.0, 1.0 + change, 1.0 + change)
    load_steps(problem, problem.apply, steps=3)
    third = 1.0 + (2 if extrapolated else 1) * change
    np.testing.assert_allclose(problem.guesses, [0.0, 2.0, third], rtol=1e-14)


def test_a_load_that_stays_from_the_start_is_not_extrapolated():
    """A second leg, whose first step changes nothing."""
    problem = Prescribed(1.0 + 1e-12, 2.0)
    problem.solution[:] = 1.0
    load_steps(problem, problem.apply, steps=2)
    assert problem.guesses[1] == 1.0 + 1e-12


def test_giving_up_restores_the_last_converged_step():
    problem = cubic(reach=0.3)
    problem.f = lambda x: np.where(x < 0.4, x + x**3, np.nan)
    with pytest.raises(StepError, match=r"from load factor 0\.\d+ to 0\.\d+ .* after \d+ cut-backs .*no convergence"):
        load_steps(problem, problem.apply, steps=4, min_step=1e-3)
    assert 0.4 < problem.load < 0.464  # f(0.4) = 0.464
    assert problem.load == problem.committed_load
    assert problem.solution[0] + problem.solution[0] ** 3 == pytest.approx(problem.load, abs=1e-12)


def test_other_errors_pass_through_and_restore_the_state():
    problem = cubic()

    def apply(load):
        problem.apply(load)
        if load > 0.6:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load_steps(problem, lambda load: apply(min(load, 1.0)), steps=4)
    assert problem.load == problem.committed_load == 0.5
    assert problem.solution[0] + problem.solution[0] ** 3 == pytest.approx(0.5, abs=1e-12)


def test_unloading_runs_backwards():
    problem = cubic(reach=0.3)
    load_steps(problem, problem.apply, steps=3)
    records = load_steps(problem, problem.apply, steps=2, start=1.0, end=0.0)
    assert problem.solution[0] == pytest.approx(0.0, abs=1e-12)
    assert all(r.size < 0 for r in records)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"predictor": "cubic"}, "quadratic"), ({"steps": 0}, "steps >= 1")]
)
def test_unusable_arguments_are_named(arguments, message):
    problem = cubic()
    with pytest.raises(ContractError, match=message):
        load_steps(problem, problem.apply, **arguments)


@pytest.mark.mpi
@pytest.mark.parametrize("where", ["apply_load", "on_step"])
def test_what_a_callback_raises_on_one_rank_ends_the_stepping_on_all(where):
    problem = cubic()

    def failing(value):
        if problem.comm.rank == 0 and problem.commits == 2:
            raise ZeroDivisionError("no such load")

    def apply(load):
        problem.apply(load)
        if where == "apply_load" and load > problem.committed_load:
            failing(load)

    expected = ZeroDivisionError if problem.comm.rank == 0 else RemoteRankError
    with pytest.raises(expected, match="no such load"):
        load_steps(problem, apply, steps=4, on_step=failing if where == "on_step" else None)
    assert problem.load == problem.committed_load == 0.5
    assert problem.solution[0] + problem.solution[0] ** 3 == pytest.approx(0.5, abs=1e-12)


@pytest.mark.mpi
def test_a_load_that_one_rank_refuses_cuts_back_on_all():
    problem = cubic()

    def apply(load):
        if problem.comm.rank == 0 and load - problem.committed_load > 0.3:
            raise StepError("too much at once")
        problem.apply(load)

    records = load_steps(problem, apply, steps=2)
    assert [record.load for record in records] == [0.25, 0.5, 0.75, 1.0]


class GuardedSpring(Spring):
    """A spring that can also say how good a trial x is."""

    owned = 1

    def residual_bounds(self, values, dt):
        return 2 * (float(np.abs(self.f(values) - self.load).max()),)


class Answer:
    """A predictor that answers what it is told."""

    def __init__(self, answer):
        self.answer = answer

    def predict(self, known):
        return Guess(np.atleast_2d(self.answer(known[0, 0])), np.zeros(1, dtype=np.int8))

    def observe(self, known, found):
        pass


def guarded(reach=np.inf):
    return GuardedSpring(lambda x: (np.sqrt(1 + 4 * x) - 1) / 2, lambda x: 1 / np.sqrt(1 + 4 * x), reach)


def test_a_predictor_that_knows_the_path():
    problem = guarded(reach=0.15)
    records = load_steps(problem, problem.apply, steps=4, predictor=Answer(lambda t: t**2 + t))
    assert [r.iterations for r in records] == [0] * len(records)
    assert problem.ledger.counts["macro/guesses used"] >= len(records)


def test_a_predictor_that_learns_the_path():
    problem, linear = guarded(), guarded()
    records = load_steps(problem, problem.apply, steps=6, predictor=PODPredictor())
    assert max(r.iterations for r in records[2:]) <= 1  # quadratic, through the start and two steps
    assert min(r.iterations for r in load_steps(linear, linear.apply, steps=6)) >= 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_predictor_that_says_anything(number):
    plain, problem = cubic(), GuardedSpring(cubic().f, cubic().df)
    expected = load_steps(plain, plain.apply, steps=3)
    with np.errstate(over="ignore"):
        records = load_steps(problem, problem.apply, steps=3, predictor=Answer(lambda t: number))
    assert [r.load for r in records] == [r.load for r in expected]
    assert problem.solution[0] == pytest.approx(plain.solution[0], abs=1e-12)


def test_a_step_that_fails_from_a_guess_starts_again_before_it_is_cut():
    class Picky(GuardedSpring):
        def solve(self, dt):
            if self.solution[0] == self.load**2 + self.load + 1e-6:
                self.solution[:] = np.nan
                raise StepError("not from here")
            return super().solve(dt)

    problem = Picky(guarded().f, guarded().df)
    records = load_steps(problem, problem.apply, steps=4, predictor=Answer(lambda t: t**2 + t + 1e-6))
    assert len(records) == 4 and not any(r.cutbacks for r in records)
    assert problem.ledger.counts["macro/guesses failed"] == 4


def test_a_predictor_for_a_problem_without_a_residual():
    problem = cubic()
    with pytest.raises(ContractError, match="Spring lacks owned, residual_bounds"):
        load_steps(problem, problem.apply, predictor=PODPredictor())
    with pytest.raises(ContractError, match="predict and observe, got int"):
        load_steps(problem, problem.apply, predictor=3)  # type: ignore[arg-type]


@pytest.mark.mpi
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_finite_elements_with_a_closure_and_a_predictor():
    """Cook's membrane of a closed-form material: the same answer from a guess, less work or none more."""

    def run(predictor):
        macro = membrane(comm, NeoHookean(1.0, 2.0), cells=(4, 2), load=0.1)
        records = load_steps(macro.problem, macro.apply_load, steps=8, predictor=predictor)
        counts = macro.problem.ledger.gathered(comm).counts
        return macro.tip(), sum(r.iterations for r in records), counts

    tip, iterations, _ = run("linear")
    guessed_tip, fewer, counts = run(PODPredictor(comm=comm))
    np.testing.assert_allclose(guessed_tip, tip, rtol=1e-7)
    assert fewer <= iterations - 3 and counts["macro/guesses used"] >= 5
    hostile_tip, same, counts = run(Answer(lambda t: np.full(3, np.nan)))
    np.testing.assert_array_equal(hostile_tip, tip)
    assert same == iterations and counts["macro/predictor faults"] == 8
    huge_tip, same, _ = run(PolynomialPredictor(7))
    np.testing.assert_allclose(huge_tip, tip, rtol=1e-7)
