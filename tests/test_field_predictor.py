"""Field predictors, kernel interpolation, and the guard in front of the starts of an RVE."""

import hashlib
from dataclasses import replace

from mpi4py import MPI

import numpy as np
import pytest
import safetensors.numpy

from coupling.closed_forms import StretchNeoHookean
from coupling.conformance import assert_conforms
from coupling.contract import Status
from coupling.errors import ContractError, ModelError
from coupling.guess import DifferentiablePredictor, Guess, Predictor
from coupling.ledger import Ledger
from demos.cook_runs import CASES, MATERIALS
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import NeoHookean
from solver_adapters.rve.meshes import centred_fibre, centred_void
from solver_adapters.rve.shared_factors import SharedFactors
from surrogates import (
    Dataset,
    FieldPredictor,
    KernelSurrogate,
    load_model,
    load_predictor,
    sample,
    save_predictor,
    stretch_design,
)
from surrogates.folders import WEIGHTS, read_card, sealed, write_folder
from surrogates.kernel_interpolation import Interpolant, _left_out_error
from surrogates.vector_network import LeastSquaresFit
from tests.cold_starts import cold_starts, drawn

BOX = (0.8, 0.9, -0.1), (1.15, 1.15, 0.25)


def rve(cell=centred_fibre, **options):
    return PeriodicRVE(cell(size=0.25), MATERIALS, **options)


def learned(cell, lower, upper, n):
    """A predictor from n samples of a coarse cell."""
    fine = rve(cell, energy=True)
    design = stretch_design(lower, upper, n, seed=0)
    return FieldPredictor.of(
        sample(fine, design, comm=MPI.COMM_SELF, fields=fine.fluctuations, progress=False), coefficients="kernel"
    )


@pytest.fixture(scope="module")
def samples():
    fine = rve(energy=True)
    return sample(fine, stretch_design(*BOX, 200, seed=0), comm=MPI.COMM_SELF, fields=fine.fluctuations, progress=False)


@pytest.fixture(scope="module", params=["kernel", "network"])
def predictor(request, samples):
    return FieldPredictor.of(samples, coefficients=request.param)


def far_stretches(n, seed=5):
    return drawn(*BOX, n, seed=seed)


@pytest.mark.parametrize("adapted", [False, True])
def test_interpolant_passes_through_its_samples_and_reproduces_cubics(adapted):
    rng = np.random.default_rng(0)
    x, new = rng.uniform(-1, 1, (60, 2)), rng.uniform(-1, 1, (9, 2))

    def cubic(x):
        return np.stack([x[:, 0] ** 3 - x[:, 1], 2.0 + x[:, 0] * x[:, 1] ** 2], axis=1)

    slope = np.stack(
        [
            np.stack([3 * new[:, 0] ** 2, -np.ones(9)], axis=1),
            np.stack([new[:, 1] ** 2, 2 * new[:, 0] * new[:, 1]], axis=1),
        ],
        axis=1,
    )
    f = Interpolant.through(x, cubic(x), reference=np.array([0.1, -0.2]), adapted=adapted)
    np.testing.assert_allclose(f(x), cubic(x), atol=1e-10)
    np.testing.assert_allclose(f(new), cubic(new), atol=1e-9)
    np.testing.assert_allclose(f.derivative(new), slope, atol=1e-8)
    np.testing.assert_array_equal(f.both(new)[1], f.derivative(new))


@pytest.mark.parametrize("adapted", [False, True])
def test_interpolant_has_the_derivative_of_its_values(adapted):
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (80, 3))
    f = Interpolant.through(x, np.sin(3 * x) + x[:, ::-1] ** 2, reference=np.zeros(3), adapted=adapted)
    at, h = rng.uniform(-0.8, 0.8, (5, 3)), 1e-6
    differences = [(f(at + h * e) - f(at - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(f.derivative(at), np.stack(differences, axis=2), atol=1e-7)


def layers(x, normal):
    """A steep oblique layer."""
    return np.tanh(8.0 * (x @ normal))[:, None] + 0.1 * np.sin(x)


def test_distances_follow_oblique_layers():
    """The longest axis is the layer's normal, in units of the components, and the error shrinks."""
    rng, scale, normal = np.random.default_rng(3), np.array([1.0, 100.0, 0.01]), np.array([0.6, -0.8, 0.2])
    x, new = rng.uniform(-1, 1, (700, 3)), rng.uniform(-0.8, 0.8, (300, 3))
    f = Interpolant.through(x * scale, layers(x, normal), reference=np.zeros(3), adapted=True)
    rows = f.axes * scale
    longest = rows[np.argmax(np.linalg.norm(rows, axis=1))]
    assert abs(longest @ normal) > 0.99 * np.linalg.norm(longest) * np.linalg.norm(normal)
    round_ones = Interpolant.through(x, layers(x, normal), reference=np.zeros(3))
    ours, theirs = f(new * scale) - layers(new, normal), round_ones(new) - layers(new, normal)
    assert np.linalg.norm(ours) < np.linalg.norm(theirs) / 4
    np.testing.assert_allclose(f(x * scale), layers(x, normal), atol=1e-8)


def test_error_at_samples_left_out_is_that_of_the_interpolants_of_all_others():
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, (40, 2))
    y = np.exp(x)
    errors = []
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        f = Interpolant._along(np.eye(2), x[others], y[others], np.zeros(2))
        errors.append(np.linalg.norm(f(x[[i]]) - y[i]))
    assert _left_out_error(x, y) == pytest.approx(np.median(errors), rel=1e-6)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones((5, 3)), np.ones((5, 1))),
        (np.full((40, 3), np.nan), np.ones((40, 1))),
        (np.random.default_rng(0).normal(size=(40, 3)), np.ones((39, 1))),
    ],
)
def test_interpolant_refuses_what_it_cannot_pass_through(x, y):
    with pytest.raises(ModelError, match="interpolation needs more than"):
        Interpolant.through(x, y, reference=np.zeros(3))


@pytest.mark.parametrize("adapted", [False, True])
def test_interpolant_refuses_samples_that_contradict_each_other(adapted):
    x = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    x[-1] = x[0]
    with pytest.raises(ModelError, match="drop repeated ones"):
        Interpolant.through(x, np.cumsum(np.ones((60, 1)), axis=0), reference=np.zeros(2), adapted=adapted)


@pytest.mark.filterwarnings("ignore:Ill-conditioned matrix")
def test_distances_are_not_adapted_to_samples_that_leave_the_polynomial_undetermined():
    """A feature that is zero but for some samples, of which the few that would tell the axes have too few."""
    x = np.random.default_rng(0).uniform(-1, 1, (1500, 3))
    x[:-15, 2] = 0.0
    y = np.tanh(4 * x[:, :1] + 2 * x[:, 1:2])
    plain, adapted = (Interpolant.through(x, y, reference=np.zeros(3), adapted=which) for which in (False, True))
    np.testing.assert_array_equal(adapted.axes, plain.axes)


def test_fields_that_vanish_are_predicted_to_vanish():
    x = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    predictor = FieldPredictor.fit(x, np.zeros((60, 7)), reference=np.zeros(2))
    assert predictor.error == 0.0
    np.testing.assert_array_equal(predictor.predict(x).values, np.zeros((60, 7)))


def test_kernel_surrogate_conforms_and_is_close(samples):
    surrogate = KernelSurrogate(samples)
    assert_conforms(surrogate, gradients=far_stretches(8), tolerance=1e-4, tangent_tolerance=2e-2)
    g = far_stretches(20)
    fine = rve().evaluate(g, rve().initial_state(20), 0.0)
    assert np.abs(surrogate.evaluate(g, None, 0.0).flux - fine.flux).max() < 1e-3 * np.abs(fine.flux).max()
    outside = surrogate.evaluate(np.array([[1.3, 1.0, 0.0], [-1.0, 1.0, 0.0]]), None, 0.0)
    assert outside.status.tolist() == [Status.OUTSIDE_RANGE, Status.INADMISSIBLE]


def test_networks_know_their_derivatives():
    """With respect to inputs, and those of the residuals with respect to parameters, against central differences."""
    rng, h = np.random.default_rng(0), 1e-6
    x, y, decay = rng.uniform(-1, 1, (300, 3)), rng.normal(size=(300, 4)), 1e-3
    for widths in ((3, 7, 6, 4), (3, 5, 4), (3, 4)):
        fit = LeastSquaresFit(x, y, widths, decay)
        theta = fit.initial(rng)

        def residuals(theta, fit=fit):
            errors = (fit.network(theta)(x) - y) / np.sqrt(len(x))
            return np.concatenate([errors.ravel(), np.sqrt(decay) * theta])

        def differences(f, at):
            return np.stack([(f(at + h * e) - f(at - h * e)) / (2 * h) for e in np.eye(at.shape[-1])], axis=-1)

        J, r = differences(residuals, theta), residuals(theta)
        gram, gradient = fit.normal_equations(theta)
        np.testing.assert_allclose(np.triu(gram), np.triu(J.T @ J), atol=1e-8)
        np.testing.assert_allclose(gradient, J.T @ r, atol=1e-8)
        assert fit.cost(theta) == pytest.approx(r @ r)
        network = fit.network(theta)
        np.testing.assert_allclose(network.derivative(x[:5]), differences(network, x[:5]), atol=1e-8)


def test_predicted_fields_and_sensitivities_are_close(predictor):
    fine, g = rve(), far_stretches(12)
    assert isinstance(predictor, Predictor) and isinstance(predictor, DifferentiablePredictor)
    solved = fine.evaluate(g, fine.initial_state(12), 0.0)
    fields, known = fine.fluctuations(solved.state), [fine.equilibrium(row) for row in solved.state]
    guess, slopes = predictor.predict(g), predictor.sensitivity(g)
    assert (guess.status == Status.OK).all()
    assert np.linalg.norm(guess.values - fields) < 2e-3 * np.linalg.norm(fields)
    exact = np.stack([k.sensitivity for k in known])
    assert np.linalg.norm(slopes - exact) < 1e-2 * np.linalg.norm(exact)
    assert predictor.predict(np.full((1, 3), np.nan)).status.tolist() == [Status.FAILED]


def test_predictors_state_their_error(predictor):
    """Within a factor of 3 of what fresh samples of the same range show."""
    fine, g = rve(), drawn(*BOX, 40, seed=5, inner=1.0)
    fields = fine.fluctuations(fine.evaluate(g, fine.initial_state(40), 0.0).state)
    found = np.linalg.norm(predictor.predict(g).values - fields) / np.linalg.norm(fields)
    assert predictor.error / 3 < found < 3 * predictor.error


def test_unknown_coefficients_are_named(samples):
    with pytest.raises(ContractError, match="'kernel', 'network'"):
        FieldPredictor.of(samples, coefficients="spline")  # type: ignore[arg-type]


def test_predictors_are_kept_in_folders(predictor, samples, tmp_path):
    save_predictor(predictor, tmp_path / "fields")
    again = load_predictor(tmp_path / "fields")
    g = far_stretches(5)
    np.testing.assert_array_equal(again.predict(g).values, predictor.predict(g).values)
    np.testing.assert_array_equal(again.sensitivity(g), predictor.sensitivity(g))
    assert again.error == predictor.error and again.origin["dataset"]["sha256"] == samples.fingerprint
    with pytest.raises(ModelError, match="field predictor and no closure"):
        load_model(tmp_path / "fields")
    save_predictor(FieldPredictor.of(samples, most_modes=3), tmp_path / "fields")
    assert len(load_predictor(tmp_path / "fields").modes) == 3


def _resealed(folder, arrays, **changes):
    """Write other arrays or another card, hashes and all."""
    weights = safetensors.numpy.save(arrays)
    card = read_card(folder) | {"weights_sha256": hashlib.sha256(weights).hexdigest()} | changes
    write_folder(folder, {WEIGHTS: weights}, sealed({k: v for k, v in card.items() if k != "card_sha256"}))


def test_damaged_folders_of_predictors_are_refused(predictor, tmp_path):
    folder = tmp_path / "fields"
    with pytest.raises(ModelError, match="has no card"):
        load_predictor(folder)
    save_predictor(predictor, folder)
    arrays = {"modes": predictor.modes, **predictor.coefficients.weights}
    other = "network" if isinstance(predictor.coefficients, Interpolant) else "kernel"
    spoilt = {name: np.full_like(array, np.nan) for name, array in arrays.items()}
    for message, content, changes in (
        ("newer than", arrays, {"format": 99}),
        ("known are kernel, network", arrays, {"coefficients": "spline"}),
        ("no field predictor but of", arrays, {"family": "energy-network"}),
        ("do not belong together", arrays, {"coefficients": other}),
        ("must be float64", arrays | {"modes": predictor.modes[:-1]}, {}),
        ("modes", predictor.coefficients.weights, {}),
        ("not finite", spoilt, {}),
    ):
        _resealed(folder, content, **changes)
        with pytest.raises(ModelError, match=message):
            load_predictor(folder)
        save_predictor(predictor, folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])
    with pytest.raises(ModelError, match="truncated or changed"):
        load_predictor(folder)
    save_predictor(predictor, folder)
    card = (folder / "card.json").read_text()
    (folder / "card.json").write_text(card.replace(repr(predictor.error), "0.0"))
    with pytest.raises(ModelError, match="edited or damaged"):
        load_predictor(folder)


def test_fields_survive_saving_and_are_asked_for(samples, tmp_path):
    samples.save(tmp_path / "samples")
    again = Dataset.load(tmp_path / "samples")
    np.testing.assert_array_equal(again.fields, samples.fields)
    assert again.fingerprint == samples.fingerprint != replace(samples, fields=None).fingerprint
    assert again.subset(slice(0, 7)).fields.shape == (7, samples.fields.shape[1])
    with pytest.raises(ModelError, match="has no fields"):
        FieldPredictor.of(replace(samples, fields=None))
    with pytest.raises(ContractError, match="keeps no state"):
        law = StretchNeoHookean(1.0, 2.0)
        sample(law, stretch_design(*BOX, 4, seed=0), comm=MPI.COMM_SELF, fields=lambda s: s, progress=False)


def test_kept_batches_keep_their_fields(tmp_path):
    fine, design = rve(energy=True), stretch_design(*BOX, 8, seed=0)
    options = {"comm": MPI.COMM_SELF, "fields": fine.fluctuations, "progress": False, "keep": tmp_path / "kept"}
    first, calls = sample(fine, design, **options), fine.ledger.counts["rve/points"]
    np.testing.assert_array_equal(sample(fine, design, **options).fields, first.fields)
    assert fine.ledger.counts["rve/points"] == calls


def test_cold_starts_take_two_iterations_instead_of_four(predictor):
    """From rest to far stretches: Newton iterations with guesses and from a zero start."""
    n = 25
    g = far_stretches(n)
    guessed, usual = rve(predictor=predictor), rve()
    rest = usual.initial_state(n)
    rest[:, 3 + usual.problem.n :] = 0.0  # forget the sensitivity: a zero start
    answers = [fine.evaluate(g, rest, 0.0) for fine in (guessed, usual)]
    np.testing.assert_allclose(answers[0].flux, answers[1].flux, atol=1e-10)
    ours, theirs = (fine.ledger.counts["rve/newton iterations"] / n for fine in (guessed, usual))
    assert ours <= 2.0 and theirs >= 4.0, (ours, theirs)
    assert guessed.ledger.counts["rve/guesses used"] == n


@pytest.mark.parametrize("what", ["fibre", "void"])
def test_where_a_zero_start_takes_four_iterations_a_predicted_one_takes_two(what):
    """Each point of the inner part of the first demo's range; close to it lies the void's instability."""
    case = CASES[what]
    g = drawn(case.lower, case.upper, 150, seed=5)
    predictor = learned(case.cell, case.lower, case.upper, 300)
    (zero, cut, exact), (ours, _, fluxes) = (cold_starts(rve(case.cell, predictor=p), g) for p in (None, predictor))
    four = (zero == 4) & ~cut
    assert four.sum() >= 100
    assert ours[four].max() <= 2
    assert ours[zero > 4].max() <= 2
    np.testing.assert_allclose(fluxes, exact, atol=1e-10)


@pytest.mark.parametrize(
    ("cell", "lower", "upper"),
    [(centred_fibre, (0.6, 0.75, -0.4), (1.4, 1.4, 0.4)), (centred_void, (0.75, 0.85, -0.15), (1.15, 1.15, 0.3))],
)
def test_predicted_starts_do_not_fail_where_zero_starts_do(cell, lower, upper):
    """Far out Newton's method fails from zero, and the path is cut into substeps; not so from predicted fields."""
    n = 150
    guessed = rve(cell, predictor=learned(cell, lower, upper, 300))
    g = drawn(lower, upper, n, seed=5)
    (zero, cut, exact), (ours, ours_cut, fluxes) = (cold_starts(fine, g) for fine in (rve(cell), guessed))
    assert cut.sum() >= 3 and not ours_cut.any()
    assert guessed.ledger.counts["rve/guesses used"] == n
    assert ours[cut].max() < zero[cut].min()
    np.testing.assert_allclose(fluxes, exact, rtol=1e-8, atol=1e-10)


class Wild:
    """Predicts something else than the field."""

    def __init__(self, n, what):
        self.n, self.what = n, what

    def predict(self, known):
        values = np.full((len(known), self.n), 0.0)
        if self.what == "failed":
            return Guess.none(len(known), self.n)
        if self.what == "NaN":
            values[:] = np.nan
        if self.what == "noise":
            values = np.random.default_rng(0).normal(size=values.shape) * np.linalg.norm(known, axis=1)[:, None]
        if self.what == "folded":
            values[:, ::2] = 3.0 * known[:, :1]
        return Guess(values, np.zeros(len(known), np.int8))

    def sensitivity(self, known):
        return np.full((len(known), self.n, known.shape[1]), 1e3)

    def observe(self, known, found):
        pass


@pytest.mark.parametrize("what", ["failed", "NaN", "noise", "folded"])
def test_wild_guesses_are_refused_and_change_nothing(what):
    g, usual = far_stretches(6), rve()
    misled = rve(predictor=Wild(usual.problem.n, what))
    assert isinstance(misled.predictor, DifferentiablePredictor)
    ours, theirs = (fine.evaluate(g, fine.initial_state(6), 0.0) for fine in (misled, usual))
    np.testing.assert_array_equal(ours.flux, theirs.flux)
    assert misled.ledger.counts.get("rve/guesses used", 0) == 0
    assert misled.ledger.counts["rve/newton iterations"] == usual.ledger.counts["rve/newton iterations"]
    near = np.array([1.0, 1.0, 0.0]) + (g - [1.0, 1.0, 0.0]) / 4
    exact = usual.evaluate(near, usual.initial_state(6), 0.0)
    swept = misled.sweep(near, misled.initial_state(6), 0.0, tolerance=1e-9, tangent=np.zeros(6, bool))
    np.testing.assert_allclose(swept.flux, exact.flux, atol=1e-8)


class Failing:
    """Raises, has nothing to say, or says something of the wrong size."""

    def __init__(self, what):
        self.what = what

    def predict(self, known):
        if self.what == "raises":
            raise ZeroDivisionError("no field")
        if self.what == "shape":
            return Guess(np.zeros((len(known), 5)), np.zeros(len(known), np.int8))
        return Guess.none(len(known), 0)

    def observe(self, known, found):
        pass


@pytest.mark.parametrize("what", ["raises", "shape", "nothing"])
def test_predictors_that_fail_change_nothing(what):
    g, usual, misled = far_stretches(3), rve(), rve(predictor=Failing(what))
    expected = usual.evaluate(g, usual.initial_state(3), 0.0)
    if what == "nothing":
        answer = misled.evaluate(g, misled.initial_state(3), 0.0)
    else:
        with pytest.warns(RuntimeWarning, match="Failing failed: (ZeroDivisionError: no field|.*must have shape)"):
            answer = misled.evaluate(g, misled.initial_state(3), 0.0)
    np.testing.assert_array_equal(answer.flux, expected.flux)
    assert misled.ledger.counts.get("rve/predictor faults", 0) == (what != "nothing")


class Slopes:
    """Right fields with wrong sensitivities."""

    def __init__(self, right, what, here):
        self.right, self.what, self.here = right, what, here

    def predict(self, known):
        return self.right.predict(known)

    def sensitivity(self, known):
        slopes = self.right.sensitivity(known)
        if self.what == "raises":
            raise ZeroDivisionError("no slope")
        wrong = {"zero": np.zeros_like(slopes), "NaN": np.full_like(slopes, np.nan), "shape": slopes[:, :-1]}
        wrong["read-only"] = np.broadcast_to(0, slopes.shape)
        noise = np.random.default_rng(0).normal(size=slopes.shape)
        if self.what in ("across", "across, some"):  # right along the step
            step = known - self.here
            noise -= (noise @ step[:, :, None]) * step[:, None, :] / (step**2).sum(axis=1)[:, None, None]
            return slopes + (noise if self.what == "across" else noise * (np.arange(len(known)) == 7)[:, None, None])
        if self.what in ("right", "slightly"):
            return slopes * (1.0 if self.what == "right" else 1.02)
        return wrong.get(self.what, slopes + 1e3 * noise)

    def observe(self, known, found):
        pass


@pytest.mark.filterwarnings("ignore:Slopes failed")
@pytest.mark.parametrize("what", ["noise", "slightly", "across", "zero", "read-only", "NaN", "shape", "raises"])
def test_wrong_sensitivities_of_right_fields_spoil_no_flux(samples, what):
    """The flux is condensed with the sensitivity, whose error must not be taken for that of the field."""
    n, usual = 20, rve()
    start = usual.evaluate(far_stretches(n), usual.initial_state(n), 0.0)
    g = far_stretches(n) + np.random.default_rng(3).uniform(-0.03, 0.03, (n, 3))
    exact = usual.evaluate(g, start.state, 0.0)
    for tolerance in (1e-5, 1e-8):
        misled = rve(predictor=Slopes(FieldPredictor.of(samples), what, far_stretches(n)))
        swept = misled.sweep(g, start.state, 0.0, tolerance=tolerance, tangent=np.zeros(n, bool))
        assert misled.ledger.counts["rve/guesses used"] == n
        assert (swept.status == Status.OK).all() and np.isfinite(swept.state).all()
        assert (np.linalg.norm(swept.flux - exact.flux, axis=1) <= tolerance).all()


@pytest.mark.parametrize("what", ["right", "slightly", "across, some"])
def test_sweeps_after_guesses_know_what_they_were_told(samples, what):
    """Steps in other directions, ever smaller: one correction for each where the sensitivity was right, else more."""
    n, usual, random = 20, rve(), np.random.default_rng(4)
    g, start, none = far_stretches(n), usual.initial_state(n), np.zeros(n, bool)
    told = rve(predictor=Slopes(FieldPredictor.of(samples), what, np.array([1.0, 1.0, 0.0])))
    swept = told.sweep(g, start, 0.0, tolerance=1e-9, tangent=none)
    for size in (1e-5, 1e-6, 1e-7):
        g, before = g + size * random.normal(size=g.shape), told.ledger.counts["rve/corrections"]
        swept = told.sweep(g, start, 0.0, swept.state, tolerance=1e-9, tangent=none)
        exact = usual.evaluate(g, start, 0.0)
        error = np.linalg.norm(swept.flux - exact.flux, axis=1)
        assert (error <= 1e-9).all() and (swept.uncertainty <= 1e-9).all()
        spent = told.ledger.counts["rve/corrections"] - before
        assert spent == n if what == "right" else spent > n


@pytest.mark.parametrize("what", ["fibre", "void"])
def test_sweeps_meet_their_tolerance_and_say_so(what):
    """Fluxes against converged ones, and tangents where they are asked for."""
    cell = {"fibre": centred_fibre, "void": centred_void}[what](size=0.25)
    fine = PeriodicRVE(cell, MATERIALS)
    g = np.array([1.0, 1.0, 0.0]) + np.random.default_rng(2).uniform(-0.04, 0.04, (7, 3))
    exact = fine.evaluate(g, fine.initial_state(7), 0.0)
    asked = np.arange(7) < 3
    for tolerance in (1e-4, 1e-7, 1e-10):
        swept = fine.sweep(g, fine.initial_state(7), 0.0, tolerance=tolerance, tangent=asked)
        error = np.linalg.norm(swept.flux - exact.flux, axis=1)
        assert (error <= tolerance).all() and (swept.uncertainty <= tolerance).all()
        np.testing.assert_allclose(swept.tangent[asked], exact.tangent[asked], rtol=0, atol=0.05 * tolerance**0.25 * 40)
        assert np.isnan(swept.tangent[~asked]).all()


def test_sweep_from_sweep_goes_on_where_it_was():
    fine, g = rve(), far_stretches(4)
    none = np.zeros(4, bool)
    first = fine.sweep(g, fine.initial_state(4), 0.0, tolerance=1e-6, tangent=none)
    before = fine.ledger.counts["rve/corrections"]
    again = fine.sweep(g + 1e-7, fine.initial_state(4), 0.0, first.state, tolerance=1e-6, tangent=none)
    assert fine.ledger.counts["rve/corrections"] - before == 4
    assert (again.status == Status.OK).all()


def test_an_inadmissible_start_leaves_no_factor_behind():
    """Factors that reach no further than 0.1, one point at rest and another that is folded: the latter gets none."""
    problem, rest, far = rve().problem, np.array([1.0, 1.0, 0.0]), np.array([1.1, 0.9, 0.1])
    factors = SharedFactors(problem, rest, Ledger())
    factors.learn(far[None], np.zeros(1, dtype=np.intp), np.array([2.0]))
    folded = np.random.default_rng(0).normal(size=problem.n)
    problem.residual(far, folded, residual := np.empty(problem.n), form=problem.guarded_residual)
    assert not np.isfinite(residual).all()
    which = factors.cover(np.array([rest, far]), np.array([np.zeros(problem.n), folded]))
    assert which.tolist() == [0, 0] and len(factors) == 1
    assert factors.cover(far[None], np.zeros((1, problem.n))).tolist() == [1]
    assert np.isfinite(factors.solve(np.array([0, 1]), np.ones((2, problem.n)))).all()


@pytest.mark.parametrize("boundary", ["periodic", "linear", "uniform"])
def test_sweeps_under_every_boundary_condition(boundary):
    fine = PeriodicRVE(centred_fibre(size=0.3), MATERIALS, boundary=boundary)
    g = np.array([[1.03, 0.98, 0.04], [0.97, 1.02, -0.03]])
    exact = fine.evaluate(g, fine.initial_state(2), 0.0)
    swept = fine.sweep(g, fine.initial_state(2), 0.0, tolerance=1e-9, tangent=np.ones(2, bool))
    np.testing.assert_allclose(swept.flux, exact.flux, atol=1e-8)
    told = np.isfinite(swept.tangent).all(axis=(1, 2))
    np.testing.assert_allclose(swept.tangent[told], exact.tangent[told], atol=1e-4)
    assert told.all() == (boundary != "uniform")


def test_a_point_that_cannot_be_swept_says_so():
    fine = PeriodicRVE(centred_fibre(size=0.3), {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)})
    g = np.array([[1.01, 1.0, 0.0], [0.05, 3.0, 0.1], [0.05, 3.0, 0.1], [np.nan, 1.0, 0.0]])
    swept = fine.sweep(g, fine.initial_state(4), 0.0, tolerance=1e-9, tangent=np.zeros(4, bool))
    assert swept.status.tolist() == [Status.OK, Status.NOT_CONVERGED, Status.NOT_CONVERGED, Status.INADMISSIBLE]
    np.testing.assert_array_equal(swept.state[1:], fine.initial_state(3))


class Relaxing:
    """Fields that take all strain away at the boundary: no equilibria where that holds one average strain."""

    def __init__(self, problem):
        points = problem.full_space.tabulate_dof_coordinates()[:, :2]
        self.points, self.blocks = points, problem.blocks

    def predict(self, known):
        return Guess(self._fields(known - [1.0, 1.0, 0.0]), np.zeros(len(known), np.int8))

    def sensitivity(self, known):
        return np.tile(self._fields(np.eye(3)).T, (len(known), 1, 1))

    def _fields(self, strain):
        shear = strain[:, 2] / np.sqrt(2.0)
        H = np.stack([strain[:, 0], shear, shear, strain[:, 1]], axis=1).reshape(-1, 2, 2)
        fields = np.empty((len(strain), self.blocks.max() + 1, 2))
        fields[:, self.blocks] = -(self.points - self.points[self.blocks == 0][0]) @ H
        return fields.reshape(len(strain), -1)

    def observe(self, known, found):
        pass


@pytest.mark.parametrize("tolerance", [1e-6, 1e-9])
def test_guesses_that_break_the_boundary_condition_are_mended(tolerance):
    """A fluctuation of minus the macroscopic strain has no residual at all, and no stress."""
    usual = PeriodicRVE(centred_fibre(size=0.3), MATERIALS, boundary="uniform")
    misled = PeriodicRVE(
        centred_fibre(size=0.3), MATERIALS, boundary="uniform", predictor=Relaxing(usual.problem), tolerance=tolerance
    )
    g = np.array([[1.03, 0.98, 0.04], [0.97, 1.02, -0.03]])
    exact = usual.evaluate(g, usual.initial_state(2), 0.0)
    answer = misled.evaluate(g, misled.initial_state(2), 0.0)
    np.testing.assert_allclose(answer.flux, exact.flux, atol=100 * tolerance)
    swept = misled.sweep(g, misled.initial_state(2), 0.0, tolerance=tolerance, tangent=np.zeros(2, bool))
    np.testing.assert_allclose(swept.flux, exact.flux, atol=tolerance)


@pytest.mark.filterwarnings("error")
def test_points_that_fail_from_a_guess_keep_what_they_knew():
    """A field that never changes is better than one carried much too far, and no way leads on from there."""
    usual = rve()
    fine = rve(predictor=Wild(usual.problem.n, "nothing"))
    g = np.array([[1.01, 1.0, 0.0], [0.05, 3.0, 0.1], [0.05, 3.0, 0.1]])
    swept = fine.sweep(g, fine.initial_state(3), 0.0, tolerance=1e-9, tangent=np.zeros(3, bool))
    assert fine.ledger.counts["rve/guesses used"] >= 2
    assert swept.status.tolist() == [Status.OK, Status.NOT_CONVERGED, Status.NOT_CONVERGED]
    np.testing.assert_array_equal(swept.state[1:], fine.initial_state(2))
