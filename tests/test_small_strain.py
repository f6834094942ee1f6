"""Small strain in the space of stretches: the same numbers under other names, and a surrogate trained that way."""

from mpi4py import MPI

import numpy as np
import pytest

from coupling import AcceleratedClosure, ContractError, RangeGate, StrainFrame, StretchOfStrain
from coupling.closed_forms import LinearElastic, StretchNeoHookean
from coupling.conformance import assert_conforms
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import isotropic
from solver_adapters.rve.kinematics import SmallStrain
from solver_adapters.rve.meshes import centred_fibre
from surrogates import fit_polynomial, sample, stretch_design


@pytest.mark.parametrize("dim", [2, 3])
def test_there_and_back_is_the_closure_itself(dim):
    law = LinearElastic(1.0, 2.0, dim)
    stretch = StretchOfStrain(law)
    assert stretch.spec.gradient[0] == "U11" and stretch.spec.flux[0] == "T11" and sum(stretch.spec.reference) == dim
    back = StrainFrame(stretch)
    assert back.spec == law.spec
    for closure in (stretch, back):
        assert_conforms(closure, samples=3)
    strain = np.random.default_rng(0).uniform(-0.1, 0.1, (5, law.spec.k))
    ours, exact = (closure.evaluate(strain, None, 0.0) for closure in (back, law))
    np.testing.assert_allclose(ours.flux, exact.flux, atol=1e-14)
    np.testing.assert_array_equal(ours.tangent, exact.tangent)


def test_a_linear_rve_is_learned_exactly():
    rve = PeriodicRVE(
        centred_fibre(size=0.3), {1: isotropic(1.0, 2.0), 2: isotropic(20.0, 10.0)}, SmallStrain(), energy=True
    )
    design = stretch_design((0.9, 0.9, -0.1), (1.1, 1.1, 0.1), 20, seed=0)
    data = sample(StretchOfStrain(rve), design, comm=MPI.COMM_SELF, progress=False)
    closure = AcceleratedClosure(rve, StrainFrame(fit_polynomial(data, degree=2)), gate=RangeGate())
    strain = np.array([[0.02, -0.01, 0.03], [0.5, 0.0, 0.0]])
    response = closure.evaluate(strain, closure.initial_state(2), 0.0)
    np.testing.assert_allclose(response.flux, strain @ rve.reference.tangent, atol=1e-10)
    assert closure.ledger.counts["fallback/points"] == 1


def test_other_closures_are_refused():
    for frame, inner in ((StretchOfStrain, StretchNeoHookean(1.0, 2.0)), (StrainFrame, LinearElastic(1.0, 2.0))):
        with pytest.raises(ContractError, match="this frame needs a closure from"):
            frame(inner)
