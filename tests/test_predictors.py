"""Predictors: what each reproduces exactly, on any number of ranks, and the guard around them."""

import sys
import warnings

from mpi4py import MPI

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coupling import ContractError, Ledger, MissingPackageError
from coupling.contract import Status
from coupling.guarded_predictor import GuardedPredictor
from coupling.guess import Guess, Predictor
from coupling.predictors import NAMES, create_predictor
from coupling.predictors.pod import PODPredictor
from coupling.predictors.polynomial import PolynomialPredictor
from surrogates.state_network import Run, train_state_network

comm = MPI.COMM_WORLD
N = 60
BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((N, 4)))[0].T
MINE = np.array_split(np.arange(N), comm.size)[comm.rank]


def states(coefficients):
    """States (n, N) on this rank with these coefficients (n, r) of an orthonormal basis, away from the origin."""
    return (3.0 + coefficients @ BASIS[: coefficients.shape[1]])[:, MINE]


def errors(predictor, x, y):
    """Errors of the guesses, relative to the last increment, NaN where there was none."""
    found = []
    for k in range(len(x)):
        guess = predictor.predict(x[k : k + 1])
        norm = [np.nan, np.nan]
        if guess.status[0] == Status.OK and k:
            norm = [np.sum((guess.values[0] - y[k]) ** 2), np.sum((y[k] - y[k - 1]) ** 2)]
        total = comm.allreduce(np.array(norm))
        found.append(np.sqrt(total[0] / total[1]))
        predictor.observe(x[k : k + 1], y[k : k + 1])
    return np.array(found)


def times(n, step=0.1):
    return step * np.arange(n)[:, None]


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "degree"), [("previous", 0), ("linear", 1), ("quadratic", 2)])
def test_polynomials_are_reproduced(name, degree):
    x = np.cumsum(np.random.default_rng(1).uniform(0.1, 1.0, 8))[:, None]
    y = states(np.hstack([x**p for p in range(degree + 1)]))
    predictor = create_predictor(name, comm=comm)
    if degree:
        assert errors(predictor, x, y)[degree + 1 :].max() < 1e-12
    else:
        predictor.observe(x[:1], y[:1])
        np.testing.assert_array_equal(predictor.predict(x[1:2]).values, y[:1])


def test_a_polynomial_passes_through_the_last_of_two_states_at_one_parameter():
    predictor = PolynomialPredictor(1)
    for x, y in ((0.0, 0.0), (1.0, 5.0), (1.0, 2.0)):
        predictor.observe(np.array([[x]]), np.array([[y]]))
    assert predictor.predict(np.array([[2.0]])).values[0, 0] == pytest.approx(4.0)


@pytest.mark.mpi
def test_pod_reproduces_what_is_quadratic_in_several_parameters():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1.0, 1.0, (14, 2)) * [1.0, 500.0]
    a, b = x[:, 0], x[:, 1] / 500.0
    y = states(np.column_stack((a + b**2, 2 * b - a * b, a**2)))
    assert errors(PODPredictor(comm=comm), x, y)[6:].max() < 1e-9


@pytest.mark.mpi
def test_pod_leaves_out_what_its_rank_does_not_span():
    x = times(9)
    y = states(np.hstack((x, 1e-4 * np.sin(40 * x))))
    noisy, smooth = (errors(PODPredictor(comm=comm, rank=rank), x, y)[5:] for rank in (2, 1))
    assert smooth.max() < 3e-3 < noisy.max()


@pytest.mark.mpi
def test_dmd_continues_linear_dynamics_towards_a_steady_state():
    pytest.importorskip("pydmd")
    eigenvalues = np.array([0.95, 0.7, 0.4, -0.2])
    y = states([3.0, 2.0, 1.0, 1.0] * eigenvalues ** np.arange(11)[:, None])
    assert errors(create_predictor("dmd", comm=comm), times(11), y)[7:].max() < 1e-6


def test_dmd_predicts_over_another_step_than_it_has_seen():
    pytest.importorskip("pydmd")

    def at(t):
        return states(np.hstack((np.exp(-t), np.exp(-0.3 * t), t)))

    predictor = create_predictor("dmd")
    for t in times(9):
        predictor.observe(t[None], at(t[None]))
    ahead = np.array([[0.8 + 0.037]])
    assert np.abs(predictor.predict(ahead).values - at(ahead)).max() < 1e-6


@pytest.mark.mpi
def test_extended_dmd_continues_nonlinear_dynamics_that_are_linear_in_its_observables():
    """x₁' = λ x₁, x₂' = μ x₂ + (λ² − μ) x₁² (J. H. Tu et al. 2014): x₁, x₂ and x₁² evolve linearly."""
    pytest.importorskip("pydmd")
    z = [np.array([1.0, -0.4])]
    for _ in range(15):
        z.append(np.array([0.9 * z[-1][0], 0.5 * z[-1][1] + 0.31 * z[-1][0] ** 2]))
    extended, plain = (errors(create_predictor(k, comm=comm), times(16), states(np.array(z))) for k in ("edmd", "dmd"))
    assert extended[10:].max() < 1e-8 < 1e-3 < plain[10:].min()


def test_dmd_says_nothing_of_unequal_steps():
    pytest.importorskip("pydmd")
    x = times(6) ** 2
    for name in ("dmd", "edmd"):
        assert np.isnan(errors(create_predictor(name), x, states(np.hstack((x, x**2))))).all()


def test_dmd_without_pydmd(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydmd", None)
    for name in ("dmd", "edmd"):
        with pytest.raises(MissingPackageError, match="pip install"):
            create_predictor(name)


@pytest.mark.mpi
@pytest.mark.parametrize("name", NAMES)
def test_guesses_do_not_depend_on_the_number_of_ranks(name):
    if "dmd" in name:
        pytest.importorskip("pydmd")
    x = times(9)
    coefficients = np.hstack((np.sin(x), np.exp(-3 * x), x**2))
    together, alone = create_predictor(name, comm=comm), create_predictor(name)
    everything = 3.0 + coefficients @ BASIS[:3]
    for k in range(8):
        together.observe(x[k : k + 1], states(coefficients[k : k + 1]))
        alone.observe(x[k : k + 1], everything[k : k + 1])
    assert isinstance(together, Predictor)
    np.testing.assert_allclose(together.predict(x[8:]).values, alone.predict(x[8:]).values[:, MINE], rtol=1e-9)


@pytest.mark.mpi
def test_the_network_learns_a_curve_that_polynomials_miss():
    def run(x):
        return Run(x, states(np.hstack((np.tanh(3 * x), x**2, np.cos(4 * x)))))

    network = train_state_network([run(np.linspace(-1.0, 1.0, 40)[:, None])], comm=comm, max_iterations=80)
    assert network.error < 1e-3
    test = run(np.linspace(-0.9, 0.9, 10)[:, None])
    learned, quadratic = (errors(p, test.known, test.found)[3:] for p in (network, PolynomialPredictor(2)))
    assert learned.max() < 3e-3 < 0.1 < quadratic.max()


@pytest.mark.mpi
def test_the_network_learns_increments_of_a_path_with_history():
    def run(first):
        z = [np.array([first, 0.0])]
        for _ in range(20):
            z.append(z[-1] + 0.2 * np.array([-z[-1][0], z[-1][0] ** 2]))
        return Run(times(21), states(np.array(z)))

    network = train_state_network(
        [run(f) for f in (0.5, 0.8, 1.1, 1.4)], comm=comm, history=True, rank=2, hidden=(12,), max_iterations=80
    )
    test = run(1.0)
    assert errors(network, test.known, test.found)[1:].max() < 0.05


def test_runs_that_do_not_fit_together_are_named():
    with pytest.raises(ContractError, match="8 states"):
        train_state_network([Run(np.zeros((3, 1)), np.zeros((3, 5)))])
    with pytest.raises(ContractError, match=r"\(3, 1\) and \(4, 5\)"):
        train_state_network([Run(np.zeros((3, 1)), np.zeros((4, 5)))])


class Answer:
    """A predictor that answers what it is told, and learns nothing."""

    def __init__(self, answer, *, ranks=range(99)):
        self.answer, self.ranks = answer, ranks

    def predict(self, known):
        if comm.rank in self.ranks:
            return self.answer()
        return Guess(np.zeros((1, 3)), np.zeros(1, dtype=np.int8))

    def observe(self, known, found):
        pass


def fail():
    raise ZeroDivisionError("of all things")


def values(v, status=0):
    return Guess(np.asarray(v, dtype=float), np.array([status], dtype=np.int8))


def guard(predictor):
    ledger = Ledger()
    return GuardedPredictor(predictor, comm=comm, ledger=ledger, name="m"), ledger


def norm(y):
    with np.errstate(over="ignore"):
        return float(np.sqrt(comm.allreduce(y @ y)))


def bounds(y):
    return 2 * (norm(y),)


HOSTILE = {
    "raises": fail,
    "NaN": lambda: values([[0.0, np.nan, 0.0]]),
    "infinite": lambda: values([[0.0, np.inf, 0.0]]),
    "wrong shape": lambda: values([[0.0, 0.0]]),
    "no guess at all": lambda: None,
    "not an array": lambda: Guess([[0.0] * 3], np.zeros(1, dtype=np.int8)),  # type: ignore[arg-type]
    "says it is unusable": lambda: values([[0.0, 0.0, 0.0]], Status.FAILED),
}


@pytest.mark.mpi
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("ranks", [range(99), [comm.size - 1]], ids=["everywhere", "on the last rank"])
def test_a_hostile_answer_on_any_rank_is_refused_on_all(what, ranks):
    guarded, ledger = guard(Answer(HOSTILE[what], ranks=ranks))
    standard = np.ones(3)
    start, used = guarded.start(np.zeros(1), standard, bounds)
    assert start is standard and not used
    entry = "m/guesses missing" if "unusable" in what else "m/predictor faults"
    assert ledger.counts == ({entry: 1} if comm.rank == 0 else {})


@pytest.mark.mpi
def test_the_residual_decides():
    for size, used in ((0.5, True), (1.0, False), (1e200, False), (1e300, False)):
        guarded, ledger = guard(Answer(lambda size=size: values([[size] * 3])))
        start, was = guarded.start(np.zeros(1), np.ones(3), bounds)
        assert was is used and start[0] == (size if used else 1.0)
        assert ledger.counts == ({f"m/guesses {'used' if used else 'refused'}": 1} if comm.rank == 0 else {})


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("at_standard", "at_guess", "used"),
    [
        ((2.0, 4.0), (0.5, 1.9), True),
        ((2.0, 4.0), (0.5, 2.0), False),
        ((2.0, 4.0), (1.0, 3.0), False),
        ((np.nan, np.nan), (0.0, 1e9), True),
        ((np.inf, np.inf), (0.0, 1e9), True),
        ((np.nan, np.nan), (np.nan, np.nan), False),
        ((np.inf, np.inf), (np.inf, np.inf), False),
    ],
)
def test_errors_of_residuals_never_decide_for_a_guess(at_standard, at_guess, used):
    """A standard start that is not admissible is worse than any guess that is."""
    guarded, _ = guard(Answer(lambda: values([[0.0] * 3])))
    told = iter((at_standard, at_guess))
    assert guarded.start(np.zeros(1), np.ones(3), lambda y: next(told))[1] is used


@pytest.mark.mpi
def test_a_predictor_that_cannot_learn_is_not_asked_again():
    class Forgetful(PolynomialPredictor):
        def observe(self, known, found):
            super().observe(known, found)
            if comm.rank == comm.size - 1:
                fail()

    guarded, ledger = guard(Forgetful(0))
    if comm.rank == comm.size - 1:
        with pytest.warns(RuntimeWarning, match="not asked again: ZeroDivisionError"):
            guarded.learn(np.zeros(1), np.zeros(3))
    else:
        guarded.learn(np.zeros(1), np.zeros(3))
    assert not guarded.start(np.zeros(1), np.ones(3), bounds)[1]
    assert ledger.counts == ({"m/predictor faults": 1} if comm.rank == 0 else {})


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=3, max_size=3))
def test_no_start_is_worse_than_the_standard_one(numbers):
    guarded, _ = guard(Answer(lambda: values([numbers])))
    standard = np.array([1.0, -2.0, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        start, used = guarded.start(np.zeros(1), standard, bounds)
    assert norm(start) < norm(standard) if used else start is standard


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: create_predictor("cubic"), "quadratic, pod, dmd, edmd"),
        (lambda: PolynomialPredictor(-1), "degree"),
        (lambda: PODPredictor(window=1), "window"),
        (lambda: PolynomialPredictor(1).observe(np.zeros((1, 2)), np.zeros((1, 3))), "PODPredictor"),
    ],
)
def test_unusable_arguments_are_named(create, message):
    with pytest.raises(ContractError, match=message):
        create()
