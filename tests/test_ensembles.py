"""Statistics over random RVEs, on any number of ranks."""

from mpi4py import MPI

import numpy as np
import pytest

from coupling import ContractError, RemoteRankError
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import Conduction
from solver_adapters.rve.ensembles import Ensemble, ensemble, size_study
from solver_adapters.rve.kinematics import ScalarGradient
from solver_adapters.rve.meshes import random_inclusions

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
    known = Ensemble(np.array([1.0, 2.0, 3.0, 4.0, 5.0], dtype=np.float64))
    assert known.mean == 3 and known.spread == pytest.approx(np.sqrt(2.5))
    assert known.half_width == pytest.approx(2.7764 * np.sqrt(2.5 / 5), rel=1e-4)
    assert known.interval == pytest.approx((3 - known.half_width, 3 + known.half_width))
    assert known.realisations_for(0.1) == np.ceil((2.7764 * np.sqrt(2.5) / 0.3) ** 2)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [Ensemble(values, 0.9).interval for values in np.asarray(rng.normal(size=(2000, 6)))]
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


def test_statistics_of_random_rves_against_size():
    """Conductivity of equal disks, contrast 10, fraction 0.3: within the bounds, and less random in larger cells.

    The bounds are those of Hashin and Shtrikman (1962) in 2D; the numbers are those of these seeds.
    """
    study = size_study(conductivity, (4, 16), range(12), comm=WORLD)
    lower, upper = 1 + 0.3 / (1 / 9 + 0.7 / 2), 10 + 0.7 / (-1 / 9 + 0.3 / 20)
    for result in study.values():
        assert ((result.values > lower) & (result.values < upper)).all()
    assert study[4].spread > study[16].spread
    np.testing.assert_allclose([study[4].mean, study[16].mean], [1.6751, 1.6877], rtol=2e-3)
    np.testing.assert_allclose([study[4].half_width, study[16].half_width], [0.0073, 0.0048], rtol=0.15)
    assert study[16].realisations_for(1e-3) == pytest.approx(
        12 * (study[16].half_width / study[16].mean / 1e-3) ** 2, 1
    )
