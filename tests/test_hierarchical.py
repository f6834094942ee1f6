"""A surrogate fitted beforehand, alone in a macro problem: no fine scale at run time."""

from mpi4py import MPI

import numpy as np
import pytest

from coupling import ContractError, Status, StepError, StretchFrame
from coupling.closed_forms import NeoHookean, StretchNeoHookean
from solver_adapters.fenicsx import StepRecord, load_steps
from surrogates import fit_polynomial, load_model, sample, save_model, stretch_design
from tests.test_fenicsx_adapter import LMBDA, MU, Stretched, largest, same_everywhere

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

WORLD = MPI.COMM_WORLD


@pytest.fixture(scope="module")
def surrogate():
    """Fitted to 400 samples of a closed form in the box 0.7 ≤ U11, U22 ≤ 1.45, |√2·U12| ≤ 0.45."""
    design = stretch_design((0.7, 0.7, -0.45), (1.45, 1.45, 0.45), 400, seed=1)
    data = sample(StretchNeoHookean(MU, LMBDA), design, comm=MPI.COMM_SELF, progress=False)
    return fit_polynomial(data, degree=8)


@pytest.fixture
def folder(surrogate, tmp_path_factory):
    path = tmp_path_factory.mktemp(f"rank{WORLD.rank}") / "model"
    save_model(surrogate, path)
    return path


def test_a_stored_surrogate_alone_solves_the_macro_problem(folder):
    """Its answer is that of the closed form, up to the error that its card states."""
    trained = load_model(folder)
    run, reference = Stretched(StretchFrame(trained)), Stretched(NeoHookean(MU, LMBDA))
    for r in (run, reference):
        r.run()
    error = largest(run.u.x.array - reference.u.x.array)
    assert 0.0 < error < min(1e-4, trained.card.errors.flux_max_absolute / MU)
    assert largest(run.u.x.array) > 0.15


def test_leaving_the_range_says_so(surrogate):
    """Loaded four times as far: the step is cut back to the edge of the range, and the error names range and point."""
    run = Stretched(StretchFrame(surrogate))
    records: list[StepRecord] = []
    with pytest.raises(StepError) as caught:
        load_steps(run.problem, run.load, steps=4, end=4.0, min_step=0.1, on_step=records.append)
    message = str(caught.value)
    assert same_everywhere(message)
    assert Status.OUTSIDE_RANGE.message in message and "trained" in message
    assert "stress: rank" in message and "F11, F12, F21, F22 = (" in message
    assert records and 0.5 <= records[-1].load < 4.0
    run.load(records[-1].load)
    assert np.isfinite(run.u.x.array).all() and largest(run.u.x.array) > 0.05
    assert run.problem.solve().iterations <= 1


def test_a_surrogate_without_its_frame_is_refused(surrogate):
    """U is not F: the adapter names the components that the surrogate takes."""
    with pytest.raises(ContractError, match=r"4 components .* takes 3: U11, U22, √2·U12"):
        Stretched(surrogate)
