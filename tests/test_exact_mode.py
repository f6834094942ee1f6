"""The exact mode: whatever the surrogate says, the answer is that of the fine scale, on any number of ranks."""

import time
from dataclasses import replace
from functools import cache
from itertools import count

from mpi4py import MPI

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh
from hypothesis import given, settings
from hypothesis import strategies as st

from coupling import AcceleratedClosure, ContractError, RangeGate, StepError, StretchFrame
from coupling.closed_forms import (
    ClosedFormSurrogate,
    FailingClosure,
    LinearElastic,
    NeoHookean,
    StandardLinearSolid,
    StretchNeoHookean,
    VonMisesPlasticity,
    lame,
)
from coupling.conformance import assert_conforms
from coupling.guess import Guess
from coupling.predictors.pod import PODPredictor
from coupling.surrogate_choice import SurrogateChoice
from coupling.tangent_choice import TangentChoice
from demos.cook import membrane
from demos.cook_runs import CASES, create_rve, run
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem, load_steps, mandel
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import NeoHookean as NeoHookeanEnergy
from solver_adapters.rve.meshes import centred_fibre
from surrogates import FieldPredictor, KernelSurrogate, sample, stretch_design
from tests.hostile_surrogates import HOSTILE, Hostile, random_weights

WORLD = MPI.COMM_WORLD
COARSE = replace(CASES["fibre"], size=0.25, samples=150)
LAW = StretchNeoHookean(1.0, 2.0)
MU, LMBDA = lame(200.0, 0.3)
PLASTIC = VonMisesPlasticity(MU, LMBDA, 0.3, hardening=5.0)
prefixes = (f"exact{i}_" for i in count())
pytestmark = pytest.mark.filterwarnings("ignore:surrogate failed:RuntimeWarning")


def exact(fine, surrogate):
    return AcceleratedClosure(fine, surrogate, gate=RangeGate(), mode="exact")


def erring(law, error=0.02):
    return ClosedFormSurrogate(law, error, [-10.0] * law.spec.k, [10.0] * law.spec.k)


def bent(closure, load=0.05, steps=2, comm=WORLD):
    """Cook's membrane with a closure of F; the problem and its load steps."""
    macro = membrane(comm, closure, cells=(3, 2), load=load, rtol=1e-9)
    return macro, load_steps(macro.problem, macro.apply_load, steps=steps)


def pulled(closure, steps=3, amount=0.006):
    """A notched strip of small strain, pulled: the displacement and the closure's flux."""
    strip = mesh.create_unit_square(WORLD, 3, 3)
    V = fem.functionspace(strip, ("Lagrange", 2, (2,)))
    u, v = fem.Function(V), ufl.TestFunction(V)
    low = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[1], 0.0))
    high = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[1], 1.0) & (x[0] < 0.6))
    end = fem.Function(V)
    sigma = ClosureFlux(mandel(ufl.sym(ufl.grad(u))), closure, ufl.dx(strip, degree=2))
    residual = ufl.inner(sigma.vector, mandel(ufl.sym(ufl.grad(v)))) * sigma.dx
    bcs = [fem.dirichletbc(np.zeros(2), low, V), fem.dirichletbc(end, high)]
    problem = MultiscaleProblem(residual, u, fluxes=[sigma], bcs=bcs, petsc_options_prefix=next(prefixes))

    def stretch(t):
        end.interpolate(lambda x: np.stack([0.0 * x[0], amount * np.sin(np.pi * t) + 0.0 * x[0]]))

    records = load_steps(problem, stretch, steps=steps, end=0.8)
    return problem, sigma, records


def largest(values):
    return WORLD.allreduce(float(np.abs(values).max(initial=0.0)), op=MPI.MAX)


def test_conforms():
    assert_conforms(StretchFrame(exact(LAW, erring(LAW))))
    assert_conforms(exact(PLASTIC, LinearElastic(MU, LMBDA)), amplitude=5e-3)


def test_only_the_exact_mode_has_two_levels():
    assert exact(LAW, erring(LAW)).two_level is not None
    assert StretchFrame(exact(LAW, erring(LAW))).two_level is not None
    assert AcceleratedClosure(LAW, erring(LAW), gate=RangeGate()).two_level is None
    assert StretchFrame(LAW).two_level is None
    with pytest.raises(ContractError, match="differ in flux_unit"):
        exact(LAW, erring(StretchNeoHookean(1.0, 2.0), 0.0).__class__(_in_pascal(), 0.0, [-9] * 3, [9] * 3))


def _in_pascal():
    law = StretchNeoHookean(1.0, 2.0)
    law.spec = replace(law.spec, flux_unit="Pa")
    return law


def test_model_is_exact_where_it_is_anchored_and_sweeps_give_the_fine_scales_flux():
    closure = exact(LAW, random_weights(LAW.spec, size=0.1))
    levels, rng = closure.two_level, np.random.default_rng(0)
    state = closure.initial_state(6)
    g = np.array(LAW.spec.reference) + rng.uniform(-0.1, 0.1, (6, 3))
    swept = levels.sweep(g, state, 1.0, tolerance=1e-12)
    np.testing.assert_array_equal(swept.flux, LAW.evaluate(g, None, 1.0).flux)
    for learned in (True, False):
        model = levels.model(g, state, 1.0, swept.state, learned=learned)
        np.testing.assert_allclose(model.flux, swept.flux, atol=1e-14)
        np.testing.assert_allclose(model.tangent, LAW.evaluate(g, None, 1.0).tangent, atol=1e-12)
        assert model.state is swept.state


class Secretive:
    """A fine scale that never tells its tangent."""

    def __init__(self, law):
        self.law, self.spec = law, law.spec
        self.initial_state, self.evaluate = law.initial_state, law.evaluate

    def sweep(self, gradient, state, dt, hint=None, *, tolerance, tangent):
        answer = self.law.evaluate(gradient, state, dt)
        return replace(answer, tangent=np.full_like(answer.tangent, np.nan), uncertainty=np.zeros(len(gradient)))


def test_model_without_tangents_learns_them_by_secants():
    """Its error falls from sweep to sweep at fixed steps."""
    closure = exact(Secretive(LAW), HOSTILE["constant"](LAW.spec))
    levels, state, g = closure.two_level, closure.initial_state(4), np.tile(LAW.spec.reference, (4, 1))
    hint, errors = None, []
    g = g + 0.2
    for step in np.tile(np.eye(3), (3, 1)) * 1e-3:
        hint = levels.sweep(g, state, 1.0, hint, tolerance=1e-12).state
        g = g + step
        predicted = levels.model(g, state, 1.0, hint, learned=False).flux
        errors.append(np.abs(predicted - LAW.evaluate(g, None, 1.0).flux).max())
    assert max(errors[-3:]) < 0.02 * max(errors[:3])


@pytest.mark.parametrize("learned", [False, True])
def test_where_a_path_turns_models_respond_as_at_rest(learned):
    """One sweep on the way back tells the elastic tangent to both models, whatever directions the path went in."""
    elastic = LinearElastic(MU, LMBDA)
    closure = exact(Secretive(PLASTIC), erring(elastic, 0.3))
    levels, state, n = closure.two_level, closure.initial_state(4), 4
    loaded = 4e-3 * np.random.default_rng(0).uniform(0.5, 1.0, (n, 3)) * [1.0, -1.0, 1.0]
    for part in (0.5, 1.0):
        hint = None
        for g in (0.9 * part * loaded, part * loaded):
            hint = levels.sweep(g, state, 1.0, hint, tolerance=1e-12).state
        state = hint
    assert (PLASTIC.evaluate(loaded, PLASTIC.initial_state(n), 1.0).state[:, -1] > 1e-4).all()
    flowing = levels.model(loaded, state, 1.0, learned=learned).tangent
    back = levels.sweep(0.95 * loaded, state, 1.0, tolerance=1e-12).state
    turned = levels.model(0.95 * loaded, state, 1.0, back, learned=learned).tangent
    stiffness = elastic.evaluate(loaded, None, 1.0).tangent
    size = np.linalg.norm(stiffness[0])
    changed, left = (np.linalg.norm(tangent - stiffness, axis=(1, 2)) for tangent in (flowing, turned))
    assert (changed > 0.1 * size).all() and (left < 1e-6 * size).all()


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["good", "wrong law", *HOSTILE])
def test_any_surrogate_gives_the_classical_answer(name):
    surrogate = {"good": erring(LAW), "wrong law": StretchNeoHookean(3.0, 0.5)}.get(name) or HOSTILE[name](LAW.spec)
    classical, records = bent(StretchFrame(LAW))
    macro, ours = bent(StretchFrame(exact(LAW, surrogate)))
    assert largest(macro.problem.solution - classical.problem.solution) < 1e-8 * largest(classical.problem.solution)
    assert [r.load for r in ours] == [r.load for r in records]
    assert largest(macro.flux.response.flux - classical.flux.response.flux) < 1e-8


@pytest.mark.mpi
def test_surrogate_that_takes_more_time_than_it_saves_is_asked_rarely():
    calls = []

    class Slow(ClosedFormSurrogate):
        def evaluate(self, gradient, state, dt, hint=None):
            calls.append(len(gradient))
            time.sleep(0.02)
            return super().evaluate(gradient, state, dt, hint)

    classical, _ = bent(StretchFrame(LAW), steps=8)
    macro, _ = bent(StretchFrame(exact(LAW, Slow(LAW, 0.02, [-10.0] * 3, [10.0] * 3))), steps=8)
    assert largest(macro.problem.solution - classical.problem.solution) < 1e-8 * largest(classical.problem.solution)
    assert len(calls) < 0.5 * WORLD.bcast(macro.problem.ledger.counts.get("macro/residuals"))


def test_a_surrogate_is_left_out_of_ever_more_increments_while_it_is_not_worth_its_time():
    choice, asked = SurrogateChoice(), []
    for _ in range(30):
        asked.append(choice.asks)
        if choice.asks:
            choice.answered(0.1)
        choice.judge(plain=0.1, learned=0.01, seconds=0.01)
    assert [i for i, now in enumerate(asked) if now] == [0, 2, 6, 14]
    choice = SurrogateChoice()
    for _ in range(30):  # three sweeps of 0.05 s are saved
        choice.answered(0.1)
        choice.judge(plain=0.1, learned=0.01, seconds=0.05)
        assert choice.asks


def followed(choice, increments, seconds, *, repeated=()):
    """Tangents in each increment of two sweeps, which take ``seconds`` with many and with few of them."""
    asked = []
    for i in range(increments):
        choice.begin(repeated=i in repeated)
        wanted = choice.among(np.array([0.2, 0.1]))
        asked.append(bool(wanted.any()))
        for tangents in (int(wanted.sum()), 0):
            choice.learn(2, tangents, seconds[not asked[-1]] / 2)
    return asked


def test_increments_with_few_tangents_lead_where_they_take_less_time():
    assert followed(TangentChoice(), 6, (2.0, 1.0)) == [True] + [False] * 5
    assert followed(TangentChoice(), 6, (1.0, 2.0)) == [True, False] + [True] * 4
    choice = TangentChoice()
    followed(choice, 4, (2.0, 1.0))
    np.testing.assert_array_equal(choice.among(np.array([0.5, 0.2])), [True, False])
    assert followed(choice, 8, (2.0, 30.0))[-1]


def test_increments_with_few_tangents_that_had_to_be_repeated_are_not_tried_again():
    assert followed(TangentChoice(), 6, (2.0, 1.0), repeated=[2]) == [True, False] + [True] * 4


def test_increments_with_many_tangents_that_had_to_be_repeated_still_lead_where_they_take_less_time():
    assert followed(TangentChoice(), 6, (1.0, 3.0), repeated=[1]) == [True, True, False] + [True] * 3


def test_model_is_anchored_anew_after_sweeps_that_did_not_ask_the_surrogate():
    levels = exact(LAW, erring(LAW)).two_level
    state = levels.initial_state(5)
    g = np.array(LAW.spec.reference) + np.random.default_rng(0).normal(size=(5, 3)) / 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SurrogateChoice, "asks", False)
        silent = levels.sweep(g, state, 1.0, tolerance=1e-12)
    plain, learned = (levels.model(g + 0.05, silent.state, 1.0, learned=which) for which in (False, True))
    exactly = LAW.evaluate(g + 0.05, None, 1.0).flux
    assert np.abs(learned.flux - exactly).max() < 0.1 * np.abs(plain.flux - exactly).max()
    again = levels.model(g, silent.state, 1.0, learned=True)
    np.testing.assert_allclose(again.flux, silent.flux, atol=1e-14)


@pytest.mark.parametrize("first", [1e200, np.nan, 1.0])
def test_errors_that_are_no_numbers_are_not_small(first):
    """A surrogate answers ``first`` at the start of an increment, and then so much that its norm overflows."""

    def answer(g):
        return np.where(g[:, :1] < 1.11, first, 1e200 * g), np.zeros((len(g), 3, 3))

    levels = exact(LAW, Hostile(LAW.spec, answer)).two_level
    state, g = levels.initial_state(4), np.tile(LAW.spec.reference, (4, 1))
    state = levels.sweep(g + 0.1, state, 1.0, tolerance=1e-12).state
    hint = None
    for step in (0.12, 0.13, 0.14):
        hint = levels.sweep(g + step, state, 1.0, hint, tolerance=1e-12).state
        plain, learned = (levels.model(g + step + 0.01, state, 1.0, hint, learned=which) for which in (False, True))
        np.testing.assert_array_equal(learned.flux, plain.flux)


def test_a_surrogate_that_failed_in_the_reference_state_is_unheard_there():
    values = iter([1, 1, 0])

    def answer(g):
        if next(values):
            raise ArithmeticError("not there yet")
        return np.full((len(g), 3), 7.0), np.zeros((len(g), 3, 3))

    levels, g = exact(LAW, Hostile(LAW.spec, answer)).two_level, np.tile(LAW.spec.reference, (4, 1))
    model = levels.model(g, levels.initial_state(4), 1.0, learned=True)
    np.testing.assert_allclose(model.flux, 0.0, atol=1e-14)


@pytest.mark.mpi
@pytest.mark.parametrize("share", [0.98, 1.02])
def test_residuals_close_to_the_tolerance_are_no_reason_to_refuse_models(share):
    rtol, (classical, ours) = 1e-6, (bent(StretchFrame(c), steps=1)[0].problem for c in (LAW, exact(LAW, erring(LAW))))
    ours.snes.setTolerances(rtol=rtol)
    solution, reactions = classical.solution.copy(), classical._force_scale.scale
    change = 1e-9 * np.sin(np.arange(len(solution))) * (solution != 0.0)
    least, _ = classical.residual_bounds((solution + change)[: classical.owned])
    ours.solution[:] = solution + share * rtol * reactions / least * change
    assert ours.solve().reason.startswith("CONVERGED_EXACT_SWEEPS")
    assert "macro/models refused" not in ours.ledger.counts


@pytest.mark.mpi
def test_good_surrogate_saves_solves():
    classical, _ = bent(StretchFrame(LAW))
    macro, _ = bent(StretchFrame(exact(LAW, erring(LAW, 1e-4))))
    counts = macro.problem.ledger.gathered(WORLD).counts
    assert counts["macro/exact sweeps"] < 0.75 * classical.problem.ledger.gathered(WORLD).counts["macro/residuals"]
    assert "macro/models refused" not in counts


@cache
def bent_classically():
    return bent(StretchFrame(LAW), steps=1, load=0.08, comm=MPI.COMM_SELF)[0].problem.solution.copy()


@settings(max_examples=12)
@given(seed=st.integers(0, 2**20), size=st.floats(1e-3, 1e3), wrapped=st.booleans())
def test_random_surrogates_never_change_the_answer(seed, size, wrapped):
    classical = bent_classically()
    hostile = random_weights(LAW.spec, seed, size)
    closure = (
        StretchFrame(exact(LAW, hostile)) if wrapped else exact(StretchFrame(LAW), StretchFrame(_stretchy(hostile)))
    )
    macro, _ = bent(closure, steps=1, load=0.08, comm=MPI.COMM_SELF)
    np.testing.assert_allclose(macro.problem.solution, classical, atol=1e-8 * np.abs(classical).max())


def _stretchy(hostile):
    hostile.spec = LAW.spec
    return hostile


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["elastic", "softer", *HOSTILE])
def test_history_is_the_fine_scales_own(name):
    """J₂ plasticity, loaded and unloaded: the committed plastic strains are those of the classical run."""
    softer = VonMisesPlasticity(MU, LMBDA, 0.25, hardening=5.0)
    surrogate = {"elastic": LinearElastic(MU, LMBDA), "softer": softer}.get(name) or HOSTILE[name](PLASTIC.spec)
    problem, sigma, _ = pulled(PLASTIC)
    ours, flux, _ = pulled(exact(PLASTIC, surrogate))
    assert largest(sigma.state[:, -1]) > 1e-4
    assert largest(ours.solution - problem.solution) < 1e-8 * largest(problem.solution)
    own = PLASTIC.spec.state_size
    assert largest(flux.state[:, :own] - sigma.state) < 1e-9
    np.testing.assert_array_equal(flux.response.state, flux.state)


@pytest.mark.mpi
def test_rates_enter():
    solid = StandardLinearSolid(1.0, 2.0, branch_mu=0.5, branch_lmbda=0.3, relaxation_time=0.7)
    problem, *_ = pulled(solid)
    ours, *_ = pulled(exact(solid, LinearElastic(1.2, 2.1)))
    assert largest(ours.solution - problem.solution) < 1e-8 * largest(problem.solution)


@pytest.mark.mpi
@pytest.mark.parametrize("surrogate", [erring(LAW), HOSTILE["random weights"](LAW.spec)])
def test_failing_points_cut_back_as_in_a_classical_run(surrogate):
    def run_with(closure_of):
        committed, last, cutbacks = [1.0], [1.0], []

        def changes_too_much(u):
            stretch = WORLD.allreduce(float(np.abs(u - np.array(LAW.spec.reference)).max(initial=0.0)), op=MPI.MAX)
            last[0] = stretch
            return np.full(len(u), stretch > committed[0])

        committed[0] = 0.04
        macro = membrane(
            WORLD, StretchFrame(closure_of(FailingClosure(LAW, changes_too_much))), cells=(3, 2), load=0.08
        )

        def on_step(record):
            committed[0] = 2.0
            cutbacks.append(record.cutbacks)

        load_steps(macro.problem, macro.apply_load, steps=1, on_step=on_step)
        return macro, cutbacks

    classical, expected = run_with(lambda fine: fine)
    macro, cutbacks = run_with(lambda fine: exact(fine, surrogate))
    assert sum(expected) > 0 and cutbacks == expected
    assert macro.tip() == pytest.approx(classical.tip(), rel=1e-8)


@pytest.mark.mpi
def test_hopeless_step_raises_on_all_ranks_and_leaves_the_start():
    closure = StretchFrame(exact(FailingClosure(LAW, lambda u: u[:, 0] > 1.0005), erring(LAW)))
    macro = membrane(WORLD, closure, cells=(3, 2), load=0.08)
    with pytest.raises(StepError, match="fine-scale iteration did not converge"):
        load_steps(macro.problem, macro.apply_load, steps=1)
    assert largest(macro.problem.solution) == 0.0


def test_failed_factorisation_is_forgotten():
    """A model whose stiffness is singular fails, and the classical iteration with the same solver does not."""

    class Slack:
        spec = NeoHookean(1.0, 2.0).spec
        initial_state = NeoHookean(1.0, 2.0).initial_state
        slack = True

        def evaluate(self, gradient, state, dt, hint=None):
            answer = NeoHookean(1.0, 2.0).evaluate(gradient, state, dt)
            return replace(answer, tangent=0.0 * answer.tangent) if self.slack else answer

    closure = Slack()
    macro = membrane(MPI.COMM_SELF, closure, cells=(3, 2))
    macro.apply_load(0.1)
    with pytest.raises(StepError, match="DIVERGED_LINEAR_SOLVE"):
        macro.problem.solve()
    closure.slack = False
    assert macro.problem.solve().iterations > 1


@pytest.fixture(scope="module")
def samples():
    rve = create_rve(COARSE, for_training=True)
    design = stretch_design(COARSE.lower, COARSE.upper, COARSE.samples, seed=0)
    return sample(rve, design, comm=WORLD, fields=rve.fluctuations, progress=False)


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["learned", "constant", "random weights"])
def test_exact_mode_with_rves_and_their_fields(samples, name):
    """Real RVEs: the classical answer with a fraction of the work."""
    surrogate = KernelSurrogate(samples) if name == "learned" else HOSTILE[name](samples.spec)
    predictor = FieldPredictor.of(samples) if name == "learned" else None
    phases = {1: NeoHookeanEnergy(1.0, 2.0), 2: NeoHookeanEnergy(20.0, 40.0)}
    rve = PeriodicRVE(centred_fibre(size=0.25), phases, tolerance=1e-6, predictor=predictor)
    classical = run(WORLD, StretchFrame(create_rve(COARSE)), COARSE, steps=4, rtol=1e-9)
    ours = run(WORLD, StretchFrame(exact(rve, surrogate)), COARSE, steps=4, rtol=1e-9)
    assert ours.tip == pytest.approx(classical.tip, rel=1e-8)
    counts, theirs = ours.ledger.counts, classical.ledger.counts
    outside = AcceleratedClosure(StretchFrame(rve), StretchFrame(surrogate), gate=RangeGate(), mode="exact")
    assert run(WORLD, outside, COARSE, steps=4, rtol=1e-9).tip == pytest.approx(classical.tip, rel=1e-8)
    assert counts["rve/factorisations"] < 0.1 * theirs["rve/factorisations"] * WORLD.size
    if name == "learned":
        assert rve.ledger.counts["rve/newton iterations"] < 0.1 * theirs["rve/newton iterations"]
        assert counts["macro/exact sweeps"] <= 3 * 4
        assert counts["rve/guesses used"] > 10 * counts.get("rve/guesses refused", 0)
        assert counts.get("rve/tangents", 0) == 0


@pytest.mark.mpi
def test_guesses_of_load_steps_are_compared_by_sweeps(samples):
    """Without a full evaluation, and with bounds of the true residual."""
    phases, checked = {1: NeoHookeanEnergy(1.0, 2.0), 2: NeoHookeanEnergy(20.0, 40.0)}, []
    rve = PeriodicRVE(centred_fibre(size=0.25), phases, tolerance=1e-6, predictor=FieldPredictor.of(samples))
    true = membrane(WORLD, StretchFrame(create_rve(COARSE, for_training=True)), load=COARSE.load)

    def watch(ours):
        bounds = ours.problem.residual_bounds

        def compared(values, dt):
            true.traction.value[:] = ours.traction.value
            checked.append((*bounds(values, dt), true.problem.residual_bounds(values, dt)[0]))
            return checked[-1][:2]

        ours.problem.residual_bounds = compared

    closure = StretchFrame(exact(rve, KernelSurrogate(samples)))
    guessed = run(WORLD, closure, COARSE, steps=4, rtol=1e-9, predictor=PODPredictor(comm=WORLD), watch=watch)
    classical = run(WORLD, StretchFrame(create_rve(COARSE)), COARSE, steps=4, rtol=1e-9)
    assert guessed.tip == pytest.approx(classical.tip, rel=1e-8)
    counts = guessed.ledger.counts
    assert counts["macro/guesses used"] >= 1 and counts["macro/start sweeps"] == len(checked)
    assert counts["rve/points"] <= WORLD.size  # the reference state
    assert all(least <= norm <= most < 1.1 * least for least, most, norm in checked)


@pytest.mark.mpi
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_guesses_of_load_steps_that_are_refused_leave_no_trace(size):
    class Random:
        def __init__(self):
            self.random = np.random.default_rng(WORLD.rank)

        def predict(self, known):
            return Guess(size * self.random.standard_normal((1, self.owned)), np.zeros(1, np.int8))

        def observe(self, known, found):
            self.owned = found.shape[1]

    found = []
    for predictor in ("linear", Random()):
        macro = membrane(WORLD, StretchFrame(exact(LAW, erring(LAW))), cells=(3, 2), load=0.05, rtol=1e-9)
        load_steps(macro.problem, macro.apply_load, steps=3, predictor=predictor)
        found.append((macro.tip(), macro.problem.ledger.counts.get("macro/exact sweeps")))
    assert WORLD.bcast(macro.problem.ledger.counts)["macro/guesses refused"] == 3
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-11)  # meshes may be partitioned otherwise
    assert found[0][1] == found[1][1]
