"""Warm starts of SNES and TS in plain petsc4py: the same answers with less work, whatever the predictor says."""

import gc
import weakref
from contextlib import contextmanager

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coupling import ContractError, Ledger
from coupling.contract import Status
from coupling.guess import Guess
from coupling.predictors import create_predictor
from solver_adapters.petsc_snes import warm_start
from solver_adapters.warm_starts.trials import set_trials
from solver_adapters.warm_starts.vectors import owned, set_owned
from tests.petsc_problems import Bratu, Diffusion

comm = MPI.COMM_WORLD
LOADS = np.linspace(0.5, 6.0, 12)
TYPES = ("previous", "linear", "quadratic", "tangent", "projection", "pod", "dmd", "edmd")


def needs(kind):
    if "dmd" in kind:
        pytest.importorskip("pydmd")


@pytest.fixture(scope="module")
def classical():
    problem = Bratu(comm, "c_")
    return problem.sweep(LOADS), problem


def warm(kind, prefix="w_", options=None, loads=LOADS):
    problem = Bratu(comm, prefix, options)
    with warm_start(problem.snes, kind, parameter=lambda: problem.load) as handle:
        found = problem.sweep(loads)
    return found, problem, handle


class Answer:
    """A predictor that answers what it is told, on all ranks or on the last."""

    def __init__(self, answer, last_only=False):
        self.answer, self.last_only = answer, last_only
        self.size = 0

    def predict(self, known):
        if self.last_only and comm.rank < comm.size - 1:
            return values(np.zeros(self.size))
        return self.answer(self.size)

    def observe(self, known, found):
        self.size = found.shape[1]


def values(v):
    return Guess(np.atleast_2d(v), np.array([Status.OK], dtype=np.int8))


def fail(size):
    raise ZeroDivisionError("of all things")


@pytest.mark.mpi
@pytest.mark.parametrize("kind", TYPES)
def test_the_same_answers_in_fewer_iterations(kind, classical):
    needs(kind)
    reference, plain = classical
    found, problem, handle = warm(kind)
    np.testing.assert_allclose(found, reference, rtol=0.0, atol=2e-8)
    assert problem.iterations <= plain.iterations - (0 if kind == "previous" else 3)
    assert problem.linear_iterations <= plain.linear_iterations
    used = handle.ledger.counts.get("snes/guesses used", 0)
    assert (used >= 8) == (kind != "previous" and comm.rank == 0)


HOSTILE = {
    "raises": fail,
    "NaN": lambda n: values(np.full(n, np.nan)),
    "huge": lambda n: values(np.full(n, 1e12)),
    "beyond floating point": lambda n: values(np.full(n, 1e308)),
    "random": lambda n: values(np.random.default_rng(n).normal(size=n)),
    "wrong shape": lambda n: values(np.zeros(n + 1)),
    "nothing": lambda n: None,
}


@pytest.mark.mpi
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("last_only", [False, True], ids=["everywhere", "on the last rank"])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_predictors_change_nothing(what, last_only, classical):
    reference, plain = classical
    found, problem, _ = warm(Answer(HOSTILE[what], last_only), loads=LOADS[:5])
    np.testing.assert_array_equal(found, reference[:5])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6), st.floats(0.0, 1.0))
def test_random_predictors_change_no_answer(seed, scale, nans):
    rng = np.random.default_rng(seed)

    def answer(n):
        return values(np.where(rng.random(n) < nans / 100, np.nan, scale * rng.standard_normal(n)))

    plain, loads = Bratu(comm, "r_", n=4), LOADS[::3]
    problem = Bratu(comm, "r_", n=4)
    with warm_start(problem.snes, Answer(answer)):
        found = problem.sweep(loads)
    np.testing.assert_allclose(found, plain.sweep(loads), rtol=0.0, atol=1e-7)


@pytest.mark.mpi
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_residual_function_that_raises_on_one_rank(classical):
    class Strict(Bratu):
        def residual(self, snes, x, f):
            super().residual(snes, x, f)
            if comm.rank == comm.size - 1 and np.abs(x.array_r).max() > 1e3:
                raise ValueError("no such temperature")

    problem = Strict(comm, "s_")
    with warm_start(problem.snes, Answer(lambda n: values(np.full(n, 1e4)))) as handle:
        found = problem.sweep(LOADS[:4])
    np.testing.assert_array_equal(found, classical[0][:4])
    assert handle.ledger.counts.get("snes/guesses refused", 0) == (3 if comm.rank == 0 else 0)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "options",
    [
        {"snes_mf": None, "pc_type": "none"},
        {"pc_type": "fieldsplit", "fieldsplit_u_pc_type": "jacobi", "fieldsplit_v_pc_type": "jacobi"},
        {"snes_linesearch_type": "l2"},
        {"snes_linesearch_type": "cp"},
        {"snes_type": "newtontr"},
        {"snes_type": "qn", "snes_max_it": 500},
        {"snes_type": "ngmres", "npc_snes_type": "newtonls", "npc_snes_max_it": 1},
        {"snes_ksp_ew": None},
        {"snes_lag_jacobian": 3},
        {"ksp_guess_type": "fischer"},
        {"ksp_guess_type": "pod"},
    ],
    ids=lambda o: " ".join(f"{k} {v or ''}" for k, v in o.items())[:40],
)
def test_the_users_solver_stays_as_it_is(options, classical):
    plain = Bratu(comm, "o_", options)
    plain.sweep(LOADS)
    if "snes_mf" in options:
        options = {**options, "snes_fd_color": "false"}
    found, problem, _ = warm("quadratic", "o_", options)
    np.testing.assert_allclose(found, classical[0], rtol=0.0, atol=1e-7)
    effort, classical_effort = (p.linear_iterations or p.iterations for p in (problem, plain))
    assert effort < classical_effort
    assert problem.snes.getType() == plain.snes.getType()
    assert problem.snes.ksp.getPC().getType() == plain.snes.ksp.getPC().getType()


@pytest.mark.mpi
def test_the_tolerance_is_that_of_the_standard_start(classical):
    """An exact guess needs no iteration, though PETSc's own test would divide by its residual."""
    reference = classical[1]

    class Oracle:
        def __init__(self):
            self.known = {}

        def predict(self, known):
            return values(self.known[known[0, 0]])

        def observe(self, known, found):
            self.known.setdefault(known[0, 0], found[0].copy())

    oracle = Oracle()
    problem = Bratu(comm, "t_")
    with warm_start(problem.snes, oracle, parameter=lambda: problem.load):
        with pytest.warns(RuntimeWarning, match="KeyError"):
            problem.sweep(LOADS)
        taught = problem.iterations
        assert taught == reference.iterations
        problem.x.set(0.0)
        before = problem.snes.getTolerances(), problem.snes.getDivergenceTolerance()
        again = problem.sweep(LOADS)
    assert problem.iterations - taught <= 1
    assert (problem.snes.getTolerances(), problem.snes.getDivergenceTolerance()) == before
    np.testing.assert_allclose(again, classical[0], rtol=0.0, atol=2e-8)


@pytest.mark.mpi
def test_monitors_and_guesses_of_the_user_stay_and_come_back(classical):
    seen, guessed = [], []
    problem = Bratu(comm, "m_")
    problem.snes.setMonitor(lambda snes, it, norm: seen.append(it))
    problem.snes.setInitialGuess(lambda snes, x: guessed.append(x.norm()))
    mine = problem.snes.getInitialGuess(), list(problem.snes.getMonitor())
    handle = warm_start(problem.snes, "linear", parameter=lambda: problem.load)
    problem.sweep(LOADS[:6])
    assert len(guessed) == 6 and len(seen) == problem.iterations + 6
    handle.remove()
    assert (problem.snes.getInitialGuess(), problem.snes.getMonitor()) == mine
    counts = dict(handle.ledger.counts)
    found = problem.sweep(LOADS[6:])
    assert len(guessed) == 12 and handle.ledger.counts == counts
    np.testing.assert_allclose(found, classical[0][6:], rtol=0.0, atol=2e-8)


def told(snes):
    """What petsc4py tells of a SNES, but for attributes of ours."""
    found = {name: getattr(snes, f"get{name}")() for name in SETTINGS}
    return found | {"attributes": {name for name in snes.getDict() or () if not name.startswith("twoscale")}}


def viewed(snes, folder):
    """What ``-snes_view`` prints."""
    path = folder / "view.txt"
    viewer = PETSc.Viewer().createASCII(str(path), comm=comm)
    snes.view(viewer)
    viewer.destroy()
    return path.read_text() if comm.rank == 0 else ""


SETTINGS = (
    "InitialGuess",
    "Monitor",
    "ConvergenceTest",
    "Update",
    "Tolerances",
    "DivergenceTolerance",
    "ErrorIfNotConverged",
    "Type",
    "NormSchedule",
    "UseEW",
    "UseMF",
    "ApplicationContext",
)


@pytest.mark.mpi
@pytest.mark.parametrize("times", [1, 2])
def test_removed_without_a_guess_of_the_user(times, classical, tmp_path):
    reference, plain = classical
    problem = Bratu(comm, "n_")
    found, view = told(problem.snes), viewed(problem.snes, tmp_path)
    for _ in range(times):
        with warm_start(problem.snes, "linear"):
            assert told(problem.snes) != found
    assert told(problem.snes) == found and viewed(problem.snes, tmp_path) == view
    assert problem.snes.getInitialGuess() is None
    gc.collect()  # PETSc goes on to call what it has
    np.testing.assert_array_equal(problem.sweep(LOADS), reference)
    assert problem.iterations == plain.iterations and problem.evaluations == plain.evaluations
    assert not problem.snes.getMonitor()


@pytest.mark.mpi
def test_removed_amid_solves(classical):
    """What comes after is as it would be without what was before, but for where it starts."""
    problem, later = Bratu(comm, "n_"), Bratu(comm, "n_")
    found = told(problem.snes)
    with warm_start(problem.snes, "linear", parameter=lambda: problem.load):
        problem.sweep(LOADS[:6])
    assert told(problem.snes) == found
    problem.x.copy(later.x)
    before = problem.evaluations, problem.iterations
    np.testing.assert_array_equal(problem.sweep(LOADS[6:]), later.sweep(LOADS[6:]))
    assert (problem.evaluations - before[0], problem.iterations - before[1]) == (later.evaluations, later.iterations)
    guessed = []
    problem.snes.setInitialGuess(lambda snes, x: guessed.append(x.norm()))
    problem.sweep(LOADS[:1])
    assert len(guessed) == 1


def test_learning_survives_cancelled_monitors():
    problem = Bratu(comm, "n_")
    with warm_start(problem.snes, "linear", parameter=lambda: problem.load) as handle:
        for load in LOADS[:6]:
            problem.snes.monitorCancel()
            problem.sweep([load])
    assert handle.ledger.counts["snes/guesses used"] == 4


@pytest.mark.mpi
def test_the_command_line_has_the_last_word(capfd):
    database = PETSc.Options()
    options = {"warmstart_type": "pod", "warmstart_rank": 2, "warmstart_window": 5}
    flags = {"warmstart_monitor": None, "warmstart_view": None}
    for name, value in (options | flags).items():
        database.setValue(f"d_{name}", value)
    try:
        _, _, handle = warm("linear", "d_", loads=LOADS[:4])
    finally:
        for name in options | flags:
            database.delValue(f"d_{name}")
    assert handle.type == "pod" and handle.predictor.rank == 2
    text = capfd.readouterr().out
    if comm.rank == 0:
        assert text.count("warm start (pod) at") == 4 and text.count("Warm start of SNES Object: (d_)") == 4
        assert "no guess: standard" in text and ": guess\n" in text
        assert "\n  type: pod\n  parameter: given\n  guesses used: 2\n" in text
    else:
        assert not text


@pytest.mark.mpi
def test_none_is_the_classical_run(classical):
    found, problem, _ = warm("none")
    np.testing.assert_array_equal(found, classical[0])
    assert problem.iterations == classical[1].iterations
    assert problem.evaluations == classical[1].evaluations


def test_by_default_the_solves_are_counted():
    problem = Bratu(comm, "k_")
    with warm_start(problem.snes) as handle:
        problem.sweep(LOADS)  # equal steps: as good as the load itself
    assert handle.type == "linear" and handle.ledger.counts["snes/guesses used"] == len(LOADS) - 2


@pytest.mark.mpi
@pytest.mark.parametrize("guess", ["fischer", "pod"])
def test_guesses_of_linear_solves_besides(guess):
    """With one Jacobian for all iterations, as PETSc forgets what they know when the matrix changes."""
    modified = {"snes_lag_jacobian": -2, "snes_lag_jacobian_persists": None, "snes_max_it": 200}
    plain, linear, both = (Bratu(comm, "g_", modified | more) for more in ({}, *2 * [{"ksp_guess_type": guess}]))
    expected = plain.sweep(LOADS)
    linear.sweep(LOADS)
    with warm_start(both.snes, "quadratic", parameter=lambda: both.load):
        found = both.sweep(LOADS)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-6)
    assert both.linear_iterations < linear.linear_iterations < plain.linear_iterations


ESCAPES = {"snes_linesearch_type": "basic", "snes_max_it": 8, "pc_type": "jacobi"}


def diagonal(comm, n=3):
    """A vector, and a matrix for the derivatives of functions of its entries."""
    x, A = PETSc.Vec().createMPI(n, comm=comm), PETSc.Mat().createAIJ([n, n], nnz=1, comm=comm)
    start, end = x.getOwnershipRange()
    for i in range(start, end):
        A.setValue(i, i, 1.0)
    A.assemble()
    return x, A


def set_diagonal(P, slopes):
    P.setDiagonal(PETSc.Vec().createWithArray(slopes, comm=P.comm))
    P.assemble()


def escape(prefix, strict=False, options=None):
    """u/(1 + u²) = 0: Newton's method finds 0 from 0.5, but from 10, where the residual is lower, it runs away."""
    snes = PETSc.SNES().create(comm)
    x, A = diagonal(comm)

    def residual(snes, x, f):
        f.array_w[:] = x.array_r / (1.0 + x.array_r**2)

    def jacobian(snes, x, J, P):
        u = x.array_r
        set_diagonal(P, (1.0 - u**2) / (1.0 + u**2) ** 2)

    snes.setFunction(residual, x.duplicate())
    snes.setJacobian(jacobian, A, A)
    set_options(snes, prefix, ESCAPES | (options or {}))
    snes.setErrorIfNotConverged(strict)
    x.set(0.5)
    return snes, x


def set_options(solver, prefix, options):
    database = PETSc.Options()
    for name, value in options.items():
        database.setValue(prefix + name, value)
    solver.setOptionsPrefix(prefix)
    solver.setFromOptions()
    for name in options:
        database.delValue(prefix + name)


def far(x, value=10.0):
    return Answer(lambda n: values(np.full(x.getLocalSize(), value)))


def entered(counts):
    return counts if comm.rank == 0 else {}


@pytest.mark.mpi
@pytest.mark.parametrize("strict", [False, True])
def test_a_solve_that_fails_from_a_guess_is_repeated(strict):
    snes, x = escape("e_", strict)
    seen = []
    snes.setMonitor(lambda snes, it, norm: seen.append(it))
    handle = warm_start(snes, far(x))
    snes.solve(None, x)
    assert snes.getConvergedReason() > 0 and np.abs(x.array_r).max(initial=0.0) < 1e-8
    assert handle.ledger.counts == entered({"snes/guesses used": 1, "snes/guesses failed": 1})
    assert snes.getErrorIfNotConverged() is strict
    assert seen == [*range(9), *range(snes.getIterationNumber() + 1)]


@pytest.mark.mpi
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("how", ["iterations", "line search"])
def test_all_is_given_back_where_a_solve_fails_from_both_starts(strict, how):
    """Monitors see no end of a solve whose line search failed."""
    options = {"snes_linesearch_type": "bt", "snes_stol": 0.0} if how == "line search" else {"snes_max_it": 2}
    snes, x = escape("f_", strict, options)
    if how == "line search":
        _, A = diagonal(comm)
        snes.setJacobian(lambda snes, x, J, P: set_diagonal(P, np.where(abs(x.array_r) < 1, -1.0, 1.0)), A, A)
    handle = warm_start(snes, far(x))
    before = snes.getTolerances(), snes.getDivergenceTolerance(), strict
    if strict:
        with pytest.raises(PETSc.Error):
            snes.solve(None, x)
    else:
        snes.solve(None, x)
    assert snes.getConvergedReason() < 0
    assert handle.ledger.counts == entered({"snes/guesses used": 1, "snes/guesses failed": 1})
    assert (snes.getTolerances(), snes.getDivergenceTolerance(), snes.getErrorIfNotConverged()) == before


@pytest.mark.mpi
def test_after_a_function_that_raised_the_handle_gives_all_back():
    snes, x = escape("h_", strict=True)
    jacobian, armed = snes.getJacobian()[2][0], [True]

    def raising(snes, x, J, P):
        if armed:
            raise ValueError("no such temperature")
        jacobian(snes, x, J, P)

    _, A = diagonal(comm)
    snes.setJacobian(raising, A, A)
    handle = warm_start(snes, far(x))
    before = snes.getTolerances(), snes.getDivergenceTolerance()
    with pytest.raises(PETSc.Error):
        snes.solve(None, x)
    handle.remove()
    assert (snes.getTolerances(), snes.getDivergenceTolerance()) == before and snes.getErrorIfNotConverged()
    armed.clear()
    y, _ = diagonal(comm)
    y.set(0.5)
    snes.solve(None, y)
    assert np.abs(y.array_r).max(initial=0.0) < 1e-8


@pytest.mark.mpi
def test_a_function_that_raises_while_a_solve_is_repeated(capfd):
    """PETSc raises an error of its own; the cause is printed."""
    snes, x = escape("i_")
    jacobian = snes.getJacobian()[2][0]

    def raising(snes, x, J, P):
        if comm.allreduce(np.abs(x.array_r).max(initial=0.0)) < 5.0:
            raise ValueError("no such temperature")
        jacobian(snes, x, J, P)

    _, A = diagonal(comm)
    snes.setJacobian(raising, A, A)
    with warm_start(snes, far(x)), pytest.raises(PETSc.Error):
        snes.solve(None, x)
    assert "ValueError: no such temperature" in capfd.readouterr().err
    assert snes.getConvergedReason() < 0 and not snes.getErrorIfNotConverged()
    other, y = escape("i_")  # PETSc goes on to tell of ends
    with warm_start(other, far(y)):
        other.solve(None, y)
    assert other.getConvergedReason() > 0


@pytest.mark.mpi
def test_handles_that_come_and_go_are_no_more_than_one():
    """PETSc keeps five functions at most for the end of a solve."""
    for prefix in ("j_", "k_"):
        snes, x = escape(prefix)
        for _ in range(8):
            with warm_start(snes, far(x)) as handle:
                x.set(0.5)
                snes.solve(None, x)
            assert handle.ledger.counts == entered({"snes/guesses used": 1, "snes/guesses failed": 1})
        x.set(10.0)
        snes.solve(None, x)
        assert snes.getConvergedReason() < 0


@pytest.mark.mpi
def test_a_handle_around_another(classical):
    """The outer guess fails and its standard start, the inner guess, too; both give back what they held."""
    snes, x = escape("l_")
    before = snes.getTolerances(), snes.getDivergenceTolerance()
    with warm_start(snes, far(x)) as inner, warm_start(snes, far(x, 20.0)) as outer:
        snes.solve(None, x)
    assert snes.getConvergedReason() > 0 and np.abs(x.array_r).max(initial=0.0) < 1e-8
    for handle in (inner, outer):
        assert handle.ledger.counts == entered({"snes/guesses used": 1, "snes/guesses failed": 1})
    assert (snes.getTolerances(), snes.getDivergenceTolerance()) == before


class Escaping:
    """(u̇ + u)/(1 + u²) = 0 by TS: a start far away has the lower residual, and Newton's method runs away from it."""

    def __init__(self, kind, options=None):
        self.x, A = diagonal(comm)
        self.ts = PETSc.TS().create(comm)
        self.ts.setType(kind)
        self.ts.setIFunction(self.residual, self.x.duplicate())
        self.ts.setIJacobian(self.jacobian, A, A)
        self.ts.setTimeStep(0.1)
        self.ts.setMaxSteps(6)
        self.ts.setMaxTime(10.0)
        set_options(self.ts, "esc_", ESCAPES | {"ts_adapt_type": "none"} | (options or {}))
        self.x.set(0.5)

    def residual(self, ts, t, x, xdot, f):
        f.array_w[:] = (xdot.array_r + x.array_r) / (1.0 + x.array_r**2)

    def jacobian(self, ts, t, x, xdot, shift, J, P):
        u, v = x.array_r, xdot.array_r
        set_diagonal(P, (shift + 1.0) / (1.0 + u**2) - 2.0 * u * (u + v) / (1.0 + u**2) ** 2)

    def run(self):
        """The state at the end on this rank; no step may have been rejected."""
        self.ts.solve(self.x)
        assert self.ts.getConvergedReason() > 0 and self.ts.getStepNumber() == 6
        assert (self.ts.getSNESFailures(), self.ts.getStepRejections()) == (0, 0)
        return owned(self.x)


@pytest.mark.mpi
@pytest.mark.parametrize("kind", ["beuler", "cn", "theta", "bdf", "alpha"])
def test_guesses_that_lead_astray_cost_a_ts_no_step(kind):
    expected = Escaping(kind).run()
    problem = Escaping(kind)
    with warm_start(problem.ts, far(problem.x, 1e3)) as handle, np.errstate(over="ignore"):
        found = problem.run()
    np.testing.assert_array_equal(found, expected)
    assert comm.rank or handle.ledger.counts["snes/guesses failed"] == handle.ledger.counts["snes/guesses used"] >= 1


@settings(max_examples=25)
@given(st.lists(st.floats(-4.0, 4.0), min_size=6, max_size=6), st.sampled_from([-1.0, 1.0]))
def test_no_guess_changes_an_answer_or_makes_a_run_fail(exponents, sign):
    guesses = iter(sign * 10.0 ** np.array(exponents * 2))
    predictor = Answer(lambda n: values(np.full(n, next(guesses))))
    problem = Escaping("beuler")
    with warm_start(problem.ts, predictor):
        found = problem.run()
    np.testing.assert_allclose(found, 0.5 / 1.1**6, rtol=1e-6)
    snes, x = escape("p_")
    with warm_start(snes, Answer(lambda n: values(np.full(x.getLocalSize(), sign * 10.0 ** exponents[0])))):
        snes.solve(None, x)
    assert snes.getConvergedReason() > 0 and np.abs(x.array_r).max(initial=0.0) < 1e-6


@pytest.mark.mpi
def test_nested_vectors():
    parts = [PETSc.Vec().createMPI(n, comm=comm) for n in (5, 3)]
    nest = PETSc.Vec().createNest(parts, comm=comm)
    numbers = np.arange(sum(p.getLocalSize() for p in parts), dtype=float)
    set_owned(nest, numbers)
    np.testing.assert_array_equal(owned(nest), numbers)
    assert nest.norm() == pytest.approx(np.sqrt(comm.allreduce(numbers @ numbers)))


@pytest.mark.mpi
@pytest.mark.parametrize("scheme", ["beuler", "cn", "theta", "bdf", "alpha"])
@pytest.mark.parametrize("kind", ["tangent", "projection", "dmd"])
def test_time_steps(scheme, kind):
    needs(kind)
    options = {"ts_theta_theta": 0.6} if scheme == "theta" else {}
    reference, plain = Diffusion(comm, scheme, options=options).run()
    problem = Diffusion(comm, scheme, options=options)
    with warm_start(problem.ts, kind) as handle:
        found, iterations = problem.run()
    np.testing.assert_allclose(found, reference, rtol=0.0, atol=1e-9)
    assert iterations < plain
    assert comm.rank or handle.ledger.counts["snes/guesses used"] >= 10


@pytest.mark.mpi
def test_rejected_time_steps():
    options = {"ts_adapt_type": "basic", "ts_rtol": 1e-4, "ts_atol": 1e-5, "ts_theta_adapt": None}
    reference, plain = Diffusion(comm, "bdf", options=options, steps=4).run()
    problem = Diffusion(comm, "bdf", options=options, steps=4)
    with warm_start(problem.ts, "quadratic"):
        found, iterations = problem.run()
    assert problem.ts.getStepRejections() > 0
    np.testing.assert_allclose(found, reference, rtol=0.0, atol=1e-4)
    assert iterations <= plain


def test_options_of_a_time_stepper():
    database = PETSc.Options()
    database.setValue("q_warmstart_type", "quadratic")
    try:
        assert warm_start(Diffusion(MPI.COMM_SELF, "beuler", "q_").ts).type == "quadratic"
    finally:
        database.delValue("q_warmstart_type")


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: warm_start(Bratu(comm, "x_").snes, "cubic"), "quadratic, pod, dmd, edmd, tangent, projection"),
        (lambda: warm_start(Diffusion(comm, "arkimex").ts), "type 'arkimex': use one of these"),
        (lambda: warm_start(Diffusion(comm, "beuler").ts, parameter=lambda: 0.0), "leave parameter out"),
    ],
)
def test_unusable_arguments_are_named(create, message):
    with pytest.raises(ContractError, match=message):
        create()


def test_an_unknown_type_on_the_command_line_is_named():
    PETSc.Options().setValue("y_warmstart_type", "magic")
    try:
        with pytest.raises(ContractError, match="-y_warmstart_type must be one of .* 'magic'"):
            warm_start(Bratu(comm, "y_").snes)
    finally:
        PETSc.Options().delValue("y_warmstart_type")


@pytest.mark.mpi
def test_a_warm_start_nobody_holds_stays_as_long_as_its_solver():
    """The SNES of a TS is held by PETSc alone, which Python's garbage collector does not know."""
    problem, ledger, predictor = Diffusion(comm, "beuler", "g_"), Ledger(), create_predictor("linear", comm=comm)
    warm_start(problem.ts, predictor, ledger=ledger)
    gone = weakref.ref(predictor)
    del predictor
    gc.collect()
    assert gone() is not None
    problem.run()
    assert comm.rank > 0 or ledger.counts["snes/guesses used"] > 3
    problem.ts.destroy()
    gc.collect()
    assert gone() is None


@pytest.mark.mpi
def test_a_handle_may_outlive_its_solver():
    problem = Bratu(comm, "o_")
    handle = warm_start(problem.snes, "tangent")
    problem.sweep(LOADS[:3])
    problem.snes.destroy()
    gc.collect()
    handle.remove()
    with pytest.raises(ContractError, match="has been destroyed"):
        handle.view()


class Vague:
    """Evaluates trial states of a SNES, and says that their norms may be off by a part of the first."""

    def __init__(self, snes, part):
        self.snes, self.part, self.error = snes, part, None

    @contextmanager
    def __call__(self):
        self.error = None
        yield self.evaluate

    def evaluate(self, x, r):
        self.snes.computeFunction(x, r)
        if self.error is None:
            self.error = self.part * r.norm()
        return self.error


@pytest.mark.mpi
@pytest.mark.parametrize(("part", "used"), [(0.0, True), (0.1, True), (0.4, True), (0.6, False)])
def test_errors_of_trial_residuals_decide_for_no_guess_and_loosen_no_tolerance(part, used):
    """What is held is the tolerance of the least residual that there may be at the standard start."""
    problem, found = Bratu(comm, "s_"), []
    set_trials(problem.snes, Vague(problem.snes, part))
    atol = problem.snes.getTolerances()[1]
    with warm_start(problem.snes, "linear", parameter=lambda: problem.load) as handle:
        problem.sweep(LOADS[:2])
        problem.load = LOADS[2]
        r = problem.x.duplicate()
        problem.snes.computeFunction(problem.x, r)
        problem.snes.setMonitor(lambda snes, *_: found.append(snes.getTolerances()[1]))
        problem.snes.solve(None, problem.x)
        assert handle.used is used
    set_trials(problem.snes, None)
    held = max(atol, (1.0 - part) * 1e-8 * r.norm()) if used else atol
    assert found[0] == pytest.approx(held, rel=1e-12)
