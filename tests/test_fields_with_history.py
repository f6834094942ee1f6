"""Field predictors with features of the history: an RVE whose matrix flows plastically, under random strains.

The fluctuation field at the end of an increment depends on the plastic strain at its start: what is known are the
strain and the averages of the committed history.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest

from coupling import Status
from coupling.closed_forms import lame
from coupling.errors import ModelError
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import isotropic
from solver_adapters.rve.histories import VonMisesPlasticity
from solver_adapters.rve.kinematics import SmallStrain
from solver_adapters.rve.voxels import voxel_cell
from surrogates import FieldPredictor

IMAGE = np.pad(np.full((2, 2), 2), 2, constant_values=1)  # a square with a stiff square inside
MATERIALS = {1: VonMisesPlasticity(*lame(70.0, 0.3), 0.2, 1.0), 2: isotropic(*lame(400.0, 0.2))}
AMPLITUDE, STEPS, PATHS = 0.008, 5, 60
CELL: dict[str, Any] = {"cell": voxel_cell(IMAGE, simplices=True), "materials": MATERIALS, "kinematics": SmallStrain()}
create_rve = partial(PeriodicRVE, **CELL, boundary="linear", degree=1, tolerance=1e-6)


class FromLastField(PeriodicRVE):
    """An RVE whose iterations start from the last field, and know nothing of how it changes."""

    def _start_rows(self, gradient, rows, committed, good):
        rows = super()._start_rows(gradient, rows, committed, good)
        self._memory(rows).sensitivity[:] = 0.0
        return rows


class StrainAlone:
    """A predictor that is told of the history and does not listen."""

    def __init__(self, fields):
        self.fields = fields

    def predict(self, known):
        return self.fields.predict(np.ascontiguousarray(known[:, :3]))

    def observe(self, known, found):
        pass


def paths(n, seed):
    """Strains (steps, n, 3) of random paths."""
    return AMPLITUDE * np.random.default_rng(seed).uniform(-1, 1, (n, STEPS, 3)).transpose(1, 0, 2)


def recorded(n, seed):
    """Known (n·steps, 7) and fields (n·steps, N) of random paths."""
    rve, known, fields = create_rve(), [], []
    state = rve.initial_state(n)
    for strain in paths(n, seed):
        response = rve.evaluate(np.ascontiguousarray(strain), state, 1.0)
        assert (response.status == Status.OK).all()
        known.append(np.hstack([strain, rve.features(state)]))
        fields.append(rve.fluctuations(response.state))
        state = response.state
    return np.vstack(known), np.vstack(fields)


def follow(rve, path):
    """Fluxes (steps, n, 3) and histories of a path, and the Newton iterations they took."""
    state, fluxes = rve.initial_state(path.shape[1]), []
    rve.ledger.reset()
    for strain in path:
        response = rve.evaluate(np.ascontiguousarray(strain), state, 1.0)
        assert (response.status == Status.OK).all()
        state = response.state
        fluxes.append(response.flux)
    return np.array(fluxes), rve.features(state), rve.ledger.counts["rve/newton iterations"]


@pytest.fixture(scope="module")
def samples():
    return recorded(PATHS, seed=0)


def relative_error(fields, known, found):
    return np.linalg.norm(fields.predict(known).values - found) / np.linalg.norm(found)


@pytest.mark.parametrize(
    ("method", "training", "least_gain", "share"), [("kernel", 400, 2.0, 0.8), ("network", PATHS, 1.3, 0.85)]
)
def test_history_in_further_columns_improves_fields_and_saves_iterations(method, training, least_gain, share):
    known, found = recorded(training, seed=0)
    fresh, exact = recorded(10, seed=1)
    unseen = paths(16, seed=2)
    flux, history, usual = follow(create_rve(), unseen)
    *_, from_last = follow(FromLastField(**create_rve.keywords), unseen)
    fit = partial(FieldPredictor.fit, coefficients=method, most_modes=10)
    informed = fit(known, found, reference=np.zeros(7))
    naive = fit(known[:, :3], found, reference=np.zeros(3))
    errors = relative_error(informed, fresh, exact), relative_error(naive, fresh[:, :3], exact)
    iterations = []
    for predictor in (informed, StrainAlone(naive)):
        rve = create_rve(predictor=predictor)
        ours, our_history, took = follow(rve, unseen)
        iterations.append(took)
        assert rve.ledger.counts["rve/guesses used"] > 0
        np.testing.assert_allclose(ours, flux, atol=1e-8)
        np.testing.assert_allclose(our_history, history, atol=1e-8 * AMPLITUDE)
    assert errors[0] < errors[1] / least_gain
    assert iterations[0] < share * from_last
    assert iterations[0] < min(usual, iterations[1])


def test_sweeps_from_predicted_fields(samples):
    """Guesses and their sensitivities are those at the committed history, also in sweeps that go on from a sweep."""
    rve, usual = create_rve(predictor=FieldPredictor.fit(*samples, reference=np.zeros(7))), create_rve()
    state, hint = usual.initial_state(12), None
    none = np.zeros(12, bool)
    for strain in paths(12, seed=3):
        for g in (0.9 * strain, strain):
            swept = rve.sweep(np.ascontiguousarray(g), state, 1.0, hint, tolerance=1e-9, tangent=none)
            hint = swept.state
        exact = usual.evaluate(np.ascontiguousarray(strain), state, 1.0)
        assert (swept.status == Status.OK).all()
        np.testing.assert_allclose(swept.flux, exact.flux, atol=1e-8)
        np.testing.assert_allclose(rve.features(swept.state), usual.features(exact.state), atol=1e-8 * AMPLITUDE)
        state, hint = exact.state, None
    assert rve.ledger.counts["rve/guesses used"] > 12


def test_features_that_follow_from_others_are_refused(samples):
    """Plastic strain is isochoric: with all of its components the polynomial is not determined."""
    known, found = samples
    dependent = np.column_stack((known, -known[:, 3] - known[:, 4]))
    constant = np.column_stack((known[:, :3], np.ones(len(known))))
    for columns in (dependent, constant):
        with pytest.raises(ModelError, match="follow from others"):
            FieldPredictor.fit(columns, found, reference=np.zeros(columns.shape[1]))
