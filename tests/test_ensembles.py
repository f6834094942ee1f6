"""Statistics over random RVEs, on any number of ranks."""

from mpi4py import MPI

import numpy as np
import pytest

from coupling import ContractError, RemoteRankError
from solver_adapters.energies import Conduction
from solver_adapters.ensembles import Ensemble, ensemble, size_study
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.kinematics import ScalarGradient
from solver_adapters.rve_meshes import random_inclusions

WORLD = MPI.COMM_WORLD
CONDUCTORS = {1: Conduction(1.0), 2: Conduction(10.0)}

pytestmark = pytest.mark.mpi


def conductivity(count, seed):
    """Mean of the two principal conductivities of a cell with inclusions of always the same size of mesh."""
    cell = random_inclusions(count=count, fraction=0.3, seed=seed, size=0.4 / np.sqrt(count), order=2)
    rve = PeriodicRVE(cell, CONDUCTORS, ScalarGradient())
    return -np.trace(rve.reference.tangent) / 2


def test_interval_of_known_numbers():
    """Five numbers: mean 3, s = √2.5, t₀.₉₇₅,₄ = 2.776."""
    known = Ensemble(np.arange(1.0, 6.0))
    assert known.mean == 3 and known.spread == pytest.approx(np.sqrt(2.5))
    assert known.half_width == pytest.approx(2.7764 * np.sqrt(2.5 / 5), rel=1e-4)
    assert known.interval == pytest.approx((3 - known.half_width, 3 + known.half_width))
    assert known.realisations_for(0.1) == np.ceil((2.7764 * np.sqrt(2.5) / 0.3) ** 2)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [Ensemble(np.asarray(rng.normal(size=6)), 0.9).interval for _ in range(2000)]
    covered = np.mean([low < 0 < high for low, high in intervals])
    assert covered == pytest.approx(0.9, abs=0.02)


def test_order_of_seeds_on_any_number_of_ranks():
    result = ensemble(lambda seed: [seed, seed**2], range(7), comm=WORLD)
    np.testing.assert_array_equal(result.values, [[i, i**2] for i in range(7)])


def test_a_failing_realisation_fails_on_every_rank():
    def properties(seed):
        if seed == 1:
            raise ValueError("no equilibrium")
        return 1.0

    with pytest.raises((ValueError, RemoteRankError), match="no equilibrium"):
        ensemble(properties, range(2), comm=WORLD)


@pytest.mark.parametrize(("seeds", "confidence"), [([1], 0.95), ([1, 2], 1.0), ([1, 2], 0.0)])
def test_impossible_statistics(seeds, confidence):
    with pytest.raises(ContractError, match="two seeds or more and a confidence between 0 and 1"):
        ensemble(float, seeds, comm=WORLD, confidence=confidence)


def test_spread_shrinks_with_size():
    """Conductivity of equal disks, contrast 10, fraction 0.3: within the bounds, and less and less random.

    The standard deviation goes as the inverse edge length (Kanit et al. 2003, eq. 11, in 2D).
    """
    study = size_study(conductivity, (4, 16), range(12), comm=WORLD)
    lower = 1 + 0.3 / (1 / 9 + 0.7 / 2)
    upper = 10 + 0.7 / (-1 / 9 + 0.3 / 20)
    for result in study.values():
        assert ((result.values > lower) & (result.values < upper)).all()
    assert 1.2 < study[4].spread / study[16].spread < 4
    assert study[16].half_width < 0.02 * study[16].mean
    low, high = study[16].interval
    assert low < SEED_MEAN[16] < high and study[16].mean == pytest.approx(SEED_MEAN[16], rel=5e-3)
    assert study[4].mean == pytest.approx(SEED_MEAN[4], rel=5e-3)


SEED_MEAN = {4: 1.7, 16: 1.7}
