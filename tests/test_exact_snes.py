"""The exact mode behind plain petsc4py solvers: the classical answer from DMDA grids, with less work, on any ranks."""

import gc
import weakref
from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coupling import AcceleratedClosure, ClosureSpec, ContractError, RangeGate
from coupling.closed_forms import ClosedFormSurrogate, FailingClosure
from coupling.contract import Response, check_arguments
from coupling.guess import Guess
from coupling.ledger import merged
from coupling.predictors.dmd import DMDPredictor
from coupling.predictors.edmd import EDMDPredictor
from demos.plate import Plate
from solver_adapters.exact_snes import ExactSNES, exact_time_steps
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.level import EVALUATE, Level
from solver_adapters.petsc_fd import FaceFlux
from solver_adapters.petsc_snes import warm_start
from solver_adapters.petsc_versions import DIVERGED_NAN
from solver_adapters.rve.energies import FieldConduction
from solver_adapters.rve.kinematics import ScalarField
from solver_adapters.rve.meshes import centred_fibre
from solver_adapters.warm_starts.vectors import owned
from surrogates import box_design, fit_polynomial_flux, sample
from tests.hostile_surrogates import HOSTILE, Hostile, random_weights

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:surrogate failed:RuntimeWarning"),
]
WORLD = MPI.COMM_WORLD
BOX = (-0.2, -9.0, -9.0), (2.5, 9.0, 9.0)


class Conductor:
    """q = −(1 + θ²/2 + |g|²/20) g, in closed form."""

    spec = ClosureSpec(("θ", "g1", "g2"), ("q1", "q2"), (0.0, 0.0, 0.0))

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        n = check_arguments(self.spec, gradient, state, hint)
        theta, g = gradient[:, 0], gradient[:, 1:]
        factor = 1 + theta**2 / 2 + (g**2).sum(axis=1) / 20
        tangent = np.empty((n, 2, 3))
        tangent[:, :, 0] = -theta[:, None] * g
        tangent[:, :, 1:] = -factor[:, None, None] * np.eye(2) - g[:, :, None] * g[:, None, :] / 10
        return Response(-factor[:, None] * g, tangent, np.zeros(n, np.int8))


class Relaxing(Conductor):
    """τ q̇ + q = q∞(θ, g) by backward Euler; the state is q."""

    spec = ClosureSpec(("θ", "g1", "g2"), ("q1", "q2"), (0.0, 0.0, 0.0), state_size=2, history=True)

    def initial_state(self, n):
        return np.zeros((n, 2))

    def evaluate(self, gradient, state, dt, hint=None):
        check_arguments(self.spec, gradient, state, hint)
        far, tau = Conductor().evaluate(gradient, None, dt), 0.05
        q = (tau * state + dt * far.flux) / (tau + dt)
        return Response(q, dt / (tau + dt) * far.tangent, far.status, q.copy())


class Exponential(Conductor):
    """q = −exp(3θ) g, of which a linear model knows nothing but where it is."""

    def evaluate(self, gradient, state, dt, hint=None):
        n = check_arguments(self.spec, gradient, state, hint)
        factor, g = np.exp(3 * gradient[:, 0]), gradient[:, 1:]
        tangent = np.empty((n, 2, 3))
        tangent[:, :, 0] = -3 * factor[:, None] * g
        tangent[:, :, 1:] = -factor[:, None, None] * np.eye(2)
        return Response(-factor[:, None] * g, tangent, np.zeros(n, np.int8))


def composite(tolerance=1e-8):
    laws = {1: FieldConduction(lambda theta: 1 + 0.5 * theta), 2: FieldConduction(lambda theta: 8 + theta**2)}
    return PeriodicRVE(centred_fibre(fraction=0.25, size=0.3), laws, ScalarField(), tolerance=tolerance)


def exact(fine, surrogate):
    return AcceleratedClosure(fine, surrogate, gate=RangeGate(), mode="exact")


def good(law):
    return ClosedFormSurrogate(law, 1e-3, *map(list, BOX))


def fourier(spec):
    return Hostile(spec, lambda g: (-3 * g[:, 1:], np.tile(-3 * np.eye(2, 3, 1), (len(g), 1, 1))))


class Steady:
    """div q = s on the unit square, θ = load (1 + y²) at the right edge and 0 at the left.

    ``strong``: rows divided by the nodes' volumes; ``rhs``: the source as right-hand side b of the solver.
    """

    def __init__(self, closure, n=9, strong=False, rhs=False, rtol=1e-8):
        self.da = PETSc.DMDA().create(sizes=(n, n), dof=1, stencil_type="box", stencil_width=1, comm=WORLD)
        self.da.setUniformCoordinates(0, 1, 0, 1)
        self.fluxes, self.strong, self.load = FaceFlux(self.da, closure), strong, 0.0
        self.x = self.da.createGlobalVec()
        x, self.y = self.da.getCoordinates().array_r.reshape(-1, 2).T
        self.left, self.right = np.flatnonzero(x < 1e-12), np.flatnonzero(x > 1 - 1e-12)
        first, _ = self.x.getOwnershipRange()
        self.held = (np.concatenate([self.left, self.right]) + first).astype(PETSc.IntType)
        source = self.fluxes.volumes * 2.0
        source.array_w[np.concatenate([self.left, self.right])] = 0.0
        if strong:
            source.pointwiseDivide(source, self.fluxes.volumes)
        self.b = source if rhs else None
        self.source = None if rhs else source
        J = self.da.createMatrix()
        J.setOption(PETSc.Mat.Option.KEEP_NONZERO_PATTERN, True)
        self.snes = PETSc.SNES().create(WORLD)
        self.snes.setFunction(self.residual, self.da.createGlobalVec())
        self.snes.setJacobian(self.jacobian, J)
        self.snes.setTolerances(rtol=rtol, stol=0.0)
        self.snes.ksp.setType("preonly")
        self.snes.ksp.pc.setType("lu")
        self.snes.ksp.pc.setFactorSolverType("mumps")
        self.snes.setFromOptions()
        self.exact = ExactSNES(self.snes, [self.fluxes])

    def residual(self, snes, x, f):
        f.set(0.0)
        self.fluxes.add_divergence(x, f)
        if self.strong:
            f.pointwiseDivide(f, self.fluxes.volumes)
        if self.source is not None:
            f.axpy(-1.0, self.source)
        f.array_w[self.left] = x.array_r[self.left]
        f.array_w[self.right] = x.array_r[self.right] - self.load * (1 + self.y[self.right] ** 2)

    def jacobian(self, snes, x, J, P):
        P.zeroEntries()
        self.fluxes.add_jacobian(x, P)
        P.assemble()
        if self.strong:
            inverse = self.fluxes.volumes.copy()
            inverse.reciprocal()
            P.diagonalScale(L=inverse)
        P.zeroRows(self.held, 1.0)

    def run(self, loads=(0.4, 0.8, 1.2), checked=True):
        """The solution after the loads; where checked, its true residual meets the tolerance of a classical solve."""
        for self.load in loads:
            start = self.norm() if checked else np.inf
            self.exact.solve(self.b, self.x)
            assert self.snes.getConvergedReason() > 0
            self.fluxes.accept(self.x)
            rtol, atol, *_ = self.snes.getTolerances()
            assert not checked or self.norm() <= max(atol, rtol * start)
        return self.x.copy()

    def norm(self):
        """‖F − b‖ with fluxes of the fine scale, leaving the fluxes as they were."""
        fine = self.fluxes.closure.fine if isinstance(self.fluxes.closure, AcceleratedClosure) else self.fluxes.closure
        if fine.spec.history:
            return np.inf
        other, f = FaceFlux(self.da, fine), self.da.createGlobalVec()
        self.fluxes, kept = other, self.fluxes
        self.residual(None, self.x, f)
        self.fluxes = kept
        if self.b is not None:
            f.axpy(-1.0, self.b)
        return f.norm()


def same(x, y, tolerance=1e-7):
    return (x - y).norm(PETSc.NormType.INFINITY) < tolerance * y.norm(PETSc.NormType.INFINITY)


def counts_of(problem, *parts):
    return merged(WORLD, problem.exact.ledger, *parts).counts


@pytest.mark.parametrize("name", ["good", "wrong law", *HOSTILE])
@pytest.mark.parametrize("law", [Conductor, Relaxing])
def test_any_surrogate_gives_the_classical_answer(law, name):
    surrogate = {"good": good(law()), "wrong law": fourier(law.spec)}.get(name) or HOSTILE[name](law.spec)
    classical, ours = Steady(law()), Steady(exact(law(), surrogate))
    assert same(ours.run(), classical.run())
    if law.spec.history:
        own = ours.fluxes.state[:, : law.spec.state_size]
        assert np.abs(own - classical.fluxes.state).max(initial=0.0) < 1e-7
    if name == "good":
        counts = counts_of(ours)
        assert "macro/models refused" not in counts
        assert counts["macro/exact sweeps"] <= 2 * 3
        assert "macro/classical solves" not in counts


@pytest.mark.parametrize("rhs", [False, True])
@pytest.mark.parametrize("strong", [False, True])
def test_rows_may_be_scaled_and_loads_be_right_hand_sides(strong, rhs):
    """The RVEs' sweeps stop early; what they leave is on the scale of whatever residual the user made of the fluxes."""
    fine = composite()
    ours = Steady(exact(fine, random_weights(fine.spec)), n=5, strong=strong, rhs=rhs)
    assert same(ours.run((0.4, 0.8)), Steady(composite(1e-12), n=5, strong=strong, rhs=rhs).run((0.4, 0.8)))
    assert "macro/classical solves" not in counts_of(ours)


@pytest.fixture(scope="module")
def surrogate():
    data = sample(composite(), box_design(*BOX, 240, seed=0), comm=WORLD, progress=False)
    return fit_polynomial_flux(data, degree=6)


@pytest.mark.parametrize("name", ["fitted", "constant", "exception"])
def test_a_fraction_of_the_work_with_rves(surrogate, name):
    fine, plain = composite(), composite()
    ours = Steady(exact(fine, surrogate if name == "fitted" else HOSTILE[name](fine.spec)))
    classical = Steady(plain)
    assert same(ours.run(checked=False), classical.run(checked=False))
    few, many = counts_of(ours, fine.ledger), counts_of(classical, plain.ledger)
    assert few["rve/factorisations"] < 0.1 * many["rve/factorisations"]
    assert few.get("rve/points", 0) <= WORLD.size  # the reference state
    if name == "fitted":
        assert few["macro/exact sweeps"] <= 2.5 * 3
        assert "macro/models refused" not in few


def test_a_single_level_is_the_classical_solve():
    classical, off = (
        Steady(Conductor()),
        Steady(AcceleratedClosure(Conductor(), Conductor(), gate=RangeGate(), mode="off")),
    )
    assert (classical.run() - off.run()).norm() == 0.0
    assert classical.snes.getIterationNumber() == off.snes.getIterationNumber()


def test_the_solver_is_given_back_as_it_was():
    ours = Steady(exact(Conductor(), good(Conductor())))
    asked = []

    def guess(snes, x):
        asked.append(x.norm())
        x.set(0.3)

    ours.snes.setInitialGuess(guess)
    ours.snes.setTolerances(rtol=1e-7, atol=1e-11, stol=1e-9, max_it=17)
    ours.snes.setErrorIfNotConverged(True)
    ours.load = 1.0
    ours.exact.solve(ours.b, ours.x)
    assert len(asked) == 1 and ours.snes.getInitialGuess()[0] is guess
    assert ours.snes.getTolerances() == (1e-7, 1e-11, 1e-9, 17)
    assert ours.snes.getErrorIfNotConverged()
    assert ours.snes.getConvergedReason() == PETSc.SNES.ConvergedReason.CONVERGED_FNORM_RELATIVE
    assert ours.snes.getFunctionNorm() == pytest.approx(ours.norm(), rel=1e-6)
    assert ours.fluxes.level == EVALUATE
    sweeps = counts_of(ours)["macro/exact sweeps"]
    ours.exact.solve(ours.b, ours.x)  # the guess is where it starts again
    assert len(asked) == 2 and counts_of(ours)["macro/exact sweeps"] > sweeps


def test_warm_starts_learn_what_was_solved_exactly():
    classical, ours = Steady(Conductor()), Steady(exact(Conductor(), good(Conductor())))
    found: list[Any] = []

    class Watching:
        def predict(self, known):
            return Guess.none(1, 0)

        def observe(self, known, values):
            found.append((known[0, 0], values[0] - classical_at[len(found)]))

    loads = (0.4, 0.8, 1.2)
    classical_at = [owned(classical.run((load,), checked=False)) for load in loads]
    with warm_start(ours.snes, Watching(), parameter=lambda: ours.load):
        ours.run(loads, checked=False)
    assert [known for known, _ in found] == list(loads)
    assert max(np.abs(error).max(initial=0.0) for _, error in found) < 1e-7


def test_a_start_that_is_a_solution_is_left_alone():
    ours = Steady(exact(Conductor(), good(Conductor())))
    ours.source = None
    ours.exact.solve(None, ours.x)
    assert ours.snes.getConvergedReason() == PETSc.SNES.ConvergedReason.CONVERGED_FNORM_ABS
    assert ours.x.norm() == 0.0


@pytest.mark.parametrize("name", ["good", "random weights"])
def test_points_that_fail_end_as_in_a_classical_solve(name):
    """A range of the fine scale that the solution leaves: no answer in either mode, one reason on all ranks."""
    fine = FailingClosure(Conductor(), lambda g: g[:, 0] > 0.6)
    ours = Steady(exact(fine, good(Conductor()) if name == "good" else random_weights(fine.spec)))
    ours.load = 0.9
    ours.exact.solve(None, ours.x)
    assert set(WORLD.allgather(ours.snes.getConvergedReason())) == {DIVERGED_NAN}
    assert counts_of(ours)["macro/classical solves"] == 1


def test_what_a_closure_raises_on_one_rank_reaches_all():
    class Raising(Conductor):
        def evaluate(self, gradient, state, dt, hint=None):
            if (gradient[:, 0] > 0.7).any():
                raise ValueError("too warm")
            return super().evaluate(gradient, state, dt, hint)

    ours = Steady(exact(Raising(), good(Conductor())))
    ours.load = 0.9
    with pytest.raises(PETSc.Error):
        ours.exact.solve(None, ours.x)
    assert ours.fluxes.level == EVALUATE
    assert ours.snes.getTolerances()[0] == 1e-8


def test_fluxes_are_needed():
    with pytest.raises(ContractError, match="got none"):
        ExactSNES(PETSc.SNES().create(WORLD), [])


def plate(closure, *, two_level=True, predictor=None, steps=6):
    run = Plate(WORLD, closure, nodes=5)
    exactly = exact_time_steps(run.ts, [run.fluxes]) if two_level else None
    if predictor is not None:
        warm_start(run.ts, predictor)
    run.ts.setMaxSteps(steps)
    run.ts.solve(run.theta)
    assert run.ts.getStepNumber() == steps
    return run, exactly


@pytest.mark.parametrize(("name", "predictor"), [("good", None), ("good", "linear"), *((h, None) for h in HOSTILE)])
def test_time_steps(name, predictor):
    law = Conductor()
    classical, _ = plate(law, two_level=False)
    ours, exactly = plate(exact(law, good(law) if name == "good" else HOSTILE[name](law.spec)), predictor=predictor)
    assert np.abs(ours.temperatures() - classical.temperatures()).max() < 1e-6
    if name == "good":
        counts = exactly.ledger.gathered(WORLD).counts
        assert "macro/classical solves" not in counts
        assert counts["macro/exact sweeps"] <= 2.5 * 6


@pytest.mark.parametrize("predictor", [DMDPredictor, EDMDPredictor])
def test_dynamic_modes_start_time_steps(predictor):
    """Through the period of the heating: the same temperatures with fewer iterations."""
    classical, _ = plate(Conductor(), two_level=False, steps=50)
    ours, _ = plate(Conductor(), two_level=False, predictor=predictor(window=30, comm=WORLD), steps=50)
    assert np.abs(ours.temperatures() - classical.temperatures()).max() < 1e-6
    assert ours.ts.getSNESIterations() < 0.9 * classical.ts.getSNESIterations()


@pytest.mark.parametrize("predictor", ["linear", "tangent", "wild"])
def test_starts_are_compared_by_sweeps(surrogate, predictor):
    """One over the standard start and one over the guess, and a finer one where the guess is almost a solution."""
    law, random = composite(), np.random.default_rng(WORLD.rank)
    if predictor == "wild":
        predictor = Told(lambda u: 100.0 * random.standard_normal(u.shape))
    classical, _ = plate(composite(), two_level=False)
    ours, exactly = plate(exact(law, surrogate), predictor=predictor)
    assert np.abs(ours.temperatures() - classical.temperatures()).max() < 1e-6
    counts = merged(WORLD, exactly.ledger, law.ledger).counts
    assert counts.get("rve/points", 0) <= WORLD.size  # the reference state
    assert "macro/classical solves" not in counts
    assert 6 < counts["macro/start sweeps"] <= 3 * 6


class Answers:
    """A predictor that answers once, by asking a function."""

    def __init__(self, answer):
        self.answer = answer

    def predict(self, known):
        answer, self.answer = self.answer, None
        if answer is None:
            return Guess.none(1, 0)
        return Guess(owned(answer())[None], np.zeros(1, np.int8))

    def observe(self, known, found):
        pass


def judged(fluxes, norm, at):
    """Residual norm at a state with the plain models and with the fine scale."""
    found = []
    for level in (Level(learned=False), EVALUATE):
        fluxes.discard()
        fluxes.level = level
        found.append(norm(at))
    fluxes.discard()
    return found


@pytest.mark.parametrize("rhs", [False, True])
@pytest.mark.parametrize("what", ["praised", "condemned"])
def test_true_residuals_decide_between_starts_of_a_snes(what, rhs):
    """A guess that the models praise wrongly is refused, one that they condemn wrongly is used."""
    law, r = Exponential(), None
    solution = Steady(law, rhs=rhs).run((0.2, 0.8), checked=False)
    ours, alone = (Steady(exact(law, good(law)), rhs=rhs) for _ in range(2))
    for problem in (ours, alone):
        problem.run((0.2,), checked=False)
        problem.load = 0.8
    modelled, r = ours.x.copy(), ours.x.duplicate()
    ours.fluxes.level = Level(learned=False)
    ours.snes.solve(ours.b, modelled)
    if what == "condemned":
        for problem in (ours, alone):
            problem.x.aypx(0.2, 0.8 * modelled)

    def norm(y):
        ours.residual(None, y, r)
        return (r if ours.b is None else r - ours.b).norm()

    guess = modelled if what == "praised" else solution
    (modelled_there, there), (modelled_here, here) = (judged(ours.fluxes, norm, y) for y in (guess, ours.x))
    assert (there > here and modelled_there < modelled_here) == (what == "praised")
    assert (there < here and modelled_there > modelled_here) == (what == "condemned")
    ours.fluxes.level = EVALUATE
    ours.exact.ledger.reset()
    with warm_start(ours.snes, Answers(lambda: guess)) as handle:
        ours.exact.solve(ours.b, ours.x)
        assert handle.used == (what == "condemned")
    assert ours.snes.getConvergedReason() > 0 and same(ours.x, solution)
    assert counts_of(ours)["macro/start sweeps"] == (2 if what == "praised" else 3)  # finer, as it is a solution
    if what == "praised":  # and leaves no trace
        alone.exact.solve(alone.b, alone.x)
        assert (alone.x - ours.x).norm() == 0.0


@pytest.mark.parametrize("what", ["praised", "condemned"])
def test_true_residuals_decide_between_starts_of_a_time_step(what):
    law, solutions = Exponential(), []
    judgements: list[list[float]] = []
    classical = Plate(WORLD, law, nodes=5)
    classical.ts.setMonitor(lambda ts, step, t, x: solutions.append(x.copy()))
    run = Plate(WORLD, exact(law, good(law)), nodes=5)
    exactly = exact_time_steps(run.ts, [run.fluxes])

    def answer():
        snes, f = run.ts.getSNES(), run.theta.duplicate()
        guess = solutions[1] if what == "condemned" else snes.getSolution().copy()
        if what == "praised":
            exactly.snes.solve(None, guess)  # with plain models, as all that predictors evaluate

        def norm(y):
            snes.computeFunction(y, f)
            return f.norm()

        judgements.extend(judged(run.fluxes, norm, y) for y in (guess, snes.getSolution()))
        return guess

    handle = warm_start(run.ts, Answers(answer))
    for problem in (classical, run):
        problem.ts.setMaxSteps(2)
        problem.ts.solve(problem.theta)
    (modelled_there, there), (modelled_here, here) = judgements
    assert (there > here and modelled_there < modelled_here) == (what == "praised")
    assert (there < here and modelled_there > modelled_here) == (what == "condemned")
    counts = WORLD.bcast(handle.ledger.counts)
    assert counts[f"snes/guesses {'refused' if what == 'praised' else 'used'}"] == 1
    assert "snes/guesses failed" not in counts
    assert np.abs(run.temperatures() - classical.temperatures()).max() < 1e-5


@pytest.mark.parametrize("failing", ["guess", "standard start"])
def test_a_start_at_which_a_point_fails_on_one_rank_is_infinitely_bad(failing):
    fine = FailingClosure(Conductor(), lambda g: g[:, 0] > 3.0)
    ours, classical = Steady(exact(fine, good(Conductor()))), Steady(Conductor())
    for problem in (ours, classical):
        problem.run((0.4,), checked=False)
        problem.load = 0.5
    classical.snes.solve(None, classical.x)
    bad = ours.x.copy()
    if WORLD.rank == WORLD.size - 1:
        bad.array_w[bad.getLocalSize() // 2] = 9.0
    guess = bad
    if failing == "standard start":
        guess, ours.x = ours.x, bad
    with warm_start(ours.snes, Answers(lambda: guess)) as handle:
        ours.exact.solve(None, ours.x)
        assert handle.used == (failing == "standard start")
    assert same(ours.x, classical.x)


@pytest.mark.parametrize("strong", [False, True])
def test_errors_of_starts_are_bounded(strong):
    """Sweeps over RVEs leave errors in residuals, less than they say and far less than the residual, however small."""
    ours, true = (Steady(closure, 5, strong) for closure in (exact_random(composite()), composite(1e-12)))
    for problem in (ours, true):
        problem.run((0.4,), checked=False)
        problem.load = 0.8
    r, solution = ours.x.duplicate(), true.x.copy()
    true.snes.solve(None, solution)
    ours.exact.starts.begin()
    for distance in (1.0, 0.3, 1e-2, 1e-4):
        true.x.array_w[:] = solution.array_r + distance * (ours.x.array_r - solution.array_r)
        error = ours.exact.starts.evaluate(true.x, r)
        assert abs(r.norm() - true.norm()) <= error
        assert 0.0 < error <= 0.1 * r.norm()


def exact_random(fine):
    return exact(fine, random_weights(fine.spec))


def test_what_a_time_stepper_is_given_goes_with_it():
    run = Plate(WORLD, exact(Conductor(), good(Conductor())), nodes=5)
    gone = weakref.ref(exact_time_steps(run.ts, [run.fluxes]))
    gc.collect()
    run.ts.setMaxSteps(2)
    run.ts.solve(run.theta)
    assert gone() is not None and run.ts.getStepNumber() == 2
    run.ts.destroy()
    gc.collect()
    assert gone() is None


class Told:
    """A predictor that answers the solutions before, changed as it is told."""

    def __init__(self, change):
        self.change, self.found = change, None

    def predict(self, known):
        if self.found is None:
            return Guess.none(1, 0)
        return Guess(self.change(self.found), np.zeros(1, np.int8))

    def observe(self, known, found):
        self.found = found


@settings(max_examples=10)
@given(seed=st.integers(0, 2**20), size=st.floats(1e-2, 1e2), scale=st.floats(1e-3, 1e3), failing=st.booleans())
def test_no_surrogate_and_no_guess_changes_the_answer(seed, size, scale, failing):
    """Together, also where the fine scale has no answer at what was guessed."""
    law = FailingClosure(Conductor(), lambda g: np.abs(g).max(axis=1) > 50.0) if failing else Conductor()
    rng = np.random.default_rng(seed + WORLD.rank)
    predictor = Told(lambda u: u + scale * rng.standard_normal(u.shape))
    ours, _ = plate(exact(law, random_weights(law.spec, seed, size)), predictor=predictor, steps=3)
    classical, _ = plate(Conductor(), two_level=False, steps=3)
    assert np.abs(ours.temperatures() - classical.temperatures()).max() < 1e-5


@settings(max_examples=10)
@given(seed=st.integers(0, 2**20), scale=st.floats(1e-3, 1e3), law=st.sampled_from([Conductor, Relaxing]))
def test_no_guess_changes_the_answer_or_the_history(seed, scale, law):
    rng = np.random.default_rng(seed + WORLD.rank)
    classical, ours = Steady(law()), Steady(exact(law(), good(law())))
    with warm_start(ours.snes, Told(lambda u: u + scale * rng.standard_normal(u.shape))):
        ours.run((0.4, 0.8), checked=False)
    assert same(ours.x, classical.run((0.4, 0.8), checked=False), 1e-6)
    if law.spec.history:
        own = ours.fluxes.state[:, : law.spec.state_size]
        assert np.abs(own - classical.fluxes.state).max(initial=0.0) < 1e-6
