"""Designs and data sets: determinism, coverage, any number of ranks, dropped points, damaged files."""

import warnings
from dataclasses import dataclass, replace

from mpi4py import MPI

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import qmc

from coupling import ClosureError, ContractError, ModelError, RemoteRankError, StretchFrame
from coupling.closed_forms import FailingClosure, LinearElastic, StretchNeoHookean
from coupling.polar import positive_definite
from surrogates import Dataset, sample, stretch_design
from tests.surrogate_cases import BOX, neo_hookean_data

LAW = StretchNeoHookean(1.0, 1.5)


@given(n=st.integers(1, 600), seed=st.integers(0, 100), dim=st.sampled_from([2, 3]))
def test_design_is_deterministic_and_nested(n, seed, dim):
    design = stretch_design(*BOX[dim], n, seed=seed)
    longer = stretch_design(*BOX[dim], n + 37, seed=seed)
    assert design.points.shape == (n, 3 if dim == 2 else 6)
    np.testing.assert_array_equal(longer.points[:n], design.points)
    assert design.box.contains(design.points).all()
    np.testing.assert_array_equal(design.points[0], LAW.spec.reference if dim == 2 else [1, 1, 1, 0, 0, 0])


def test_seeds_differ():
    first, second = (stretch_design(*BOX[2], 50, seed=seed).points for seed in (0, 1))
    assert np.abs(first[1:] - second[1:]).min(axis=0).max() > 0.0


def test_design_covers_the_box_better_than_random_points():
    points = stretch_design(*BOX[2], 256, seed=0, include_reference=False).points
    unit = (points - BOX[2][0]) / np.subtract(BOX[2][1], BOX[2][0])
    random = np.random.default_rng(0).random(unit.shape)
    assert qmc.discrepancy(unit) < 0.1 * qmc.discrepancy(random)


@given(seed=st.integers(0, 1000))
def test_scramble_is_a_linear_map_with_a_shift(seed):
    """Four points in turn, from a multiple of four on, have digits that cancel; Owen's nested scramble breaks that."""
    points = stretch_design(*BOX[2], 256, seed=seed, include_reference=False).points
    unit = (points - BOX[2][0]) / np.subtract(BOX[2][1], BOX[2][0])
    digits = np.rint(unit * 2**30).astype(np.int64).reshape(-1, 4, 3)
    assert not np.bitwise_xor.reduce(digits, axis=1).any()


def test_inadmissible_stretches_are_skipped():
    design = stretch_design((0.1, 0.1, -1.5), (1.5, 1.5, 1.5), 300, seed=0)
    assert len(design.points) == 300
    assert positive_definite(design.points).all()


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ((0.8, 0.8, 0.2), (1.2, 1.2, -0.2), "below its upper"),
        ((1.1, 0.8, -0.2), (1.2, 1.2, 0.2), "must contain the reference"),
        ((0.8, 0.8), (1.2, 1.2), "3 .2D. or 6 .3D."),
        ((0.8, 0.8, -0.2), (1.2, 1.2, 0.2, 0.1), "3 lower and 4 upper"),
        ((0.8, np.nan, -0.2), (1.2, 1.2, 0.2), "below its upper"),
    ],
)
def test_boxes_that_are_none(lower, upper, message):
    with pytest.raises(ContractError, match=message):
        stretch_design(lower, upper, 10, seed=0)


@pytest.mark.mpi
@pytest.mark.parametrize("n", [1, 5, 100])
def test_samples_do_not_depend_on_the_number_of_ranks(n):
    comm = MPI.COMM_WORLD
    design = stretch_design(*BOX[2], n, seed=4)
    alone = sample(LAW, design, comm=MPI.COMM_SELF, batch=8, progress=False)
    together = sample(LAW, design, comm=comm, batch=8, progress=False)
    assert together.fingerprint == alone.fingerprint
    assert len(set(comm.allgather(together.fingerprint))) == 1
    np.testing.assert_array_equal(together.gradient, design.points)


@pytest.mark.mpi
def test_failed_points_are_dropped_and_counted():
    failing = FailingClosure(LAW, lambda U: U[:, 0] > 1.1)
    design = stretch_design(*BOX[2], 200, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = sample(failing, design, comm=MPI.COMM_WORLD, progress=False)
    bad = int((design.points[:, 0] > 1.1).sum())
    assert 0 < bad < 200
    assert len(data) == 200 - bad
    assert data.gradient[:, 0].max() <= 1.1
    assert data.provenance["dropped"] == {"fine-scale iteration did not converge": bad}
    told = [str(w.message) for w in caught if "dropped" in str(w.message)]
    assert [message.startswith(f"{bad} of 200") for message in told] == [True] * (MPI.COMM_WORLD.rank == 0)


@pytest.mark.mpi
def test_nothing_usable_is_an_error_everywhere():
    failing = FailingClosure(LAW, lambda U: U[:, 0] > 0.0)
    with pytest.raises(ClosureError, match="none of the 20 samples"):
        sample(failing, stretch_design(*BOX[2], 20, seed=0), comm=MPI.COMM_WORLD, progress=False)


@dataclass
class Broken:
    """Raises on the last rank, in the batch where it meets the last point."""

    comm: MPI.Comm
    spec = LAW.spec

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        if self.comm.rank == self.comm.size - 1:
            raise FloatingPointError("broken on purpose")
        return LAW.evaluate(gradient, state, dt)


@pytest.mark.mpi
def test_an_exception_on_one_rank_ends_all():
    comm = MPI.COMM_WORLD
    expected = FloatingPointError if comm.rank == comm.size - 1 else RemoteRankError
    with pytest.raises(expected, match="broken on purpose"):
        sample(Broken(comm), stretch_design(*BOX[2], 40, seed=0), comm=comm, batch=4, progress=False)


class OtherFlux(StretchNeoHookean):
    """Names a stress that is not the Biot stress."""

    def __init__(self):
        super().__init__(1.0, 1.5)
        self.spec = replace(self.spec, flux=("S11", "S22", "√2·S12"))


class WithoutEnergy(StretchNeoHookean):
    """Answers flux and tangent alone."""

    def evaluate(self, gradient, state, dt, hint=None):
        return replace(super().evaluate(gradient, state, dt, hint), energy=None)


def test_closures_that_cannot_be_sampled():
    design = stretch_design(*BOX[2], 10, seed=0)
    for closure, message in (
        (WithoutEnergy(1.0, 1.5), "answers no energy"),
        (LinearElastic(1.0, 1.5), "closure of the stretch"),
        (OtherFlux(), "Biot stress .* got .'S11'"),
        (StretchFrame(LAW), "3 .2D. or 6 .3D."),
        (StretchNeoHookean(1.0, 1.5, 3), "make one for the other"),
    ):
        with pytest.raises(ContractError, match=message):
            sample(closure, design, comm=MPI.COMM_SELF, progress=False)


def test_data_set_round_trip_is_exact(tmp_path):
    data = replace(neo_hookean_data(30), provenance={"rve": {"kind": "void", "size": 0.1}, "seed": 3})
    data.save(tmp_path / "data.safetensors")
    loaded = Dataset.load(tmp_path / "data.safetensors")
    for name in ("gradient", "energy", "flux", "tangent"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(data, name))
    assert (loaded.spec, loaded.box, loaded.provenance) == (data.spec, data.box, data.provenance)
    assert [path.name for path in tmp_path.iterdir()] == ["data.safetensors"]


def test_data_sets_in_any_order_of_memory(tmp_path):
    data = neo_hookean_data(30)
    replace(data, tangent=np.asfortranarray(data.tangent)).save(tmp_path / "data.safetensors")
    np.testing.assert_array_equal(Dataset.load(tmp_path / "data.safetensors").tangent, data.tangent)


def test_fingerprint_sees_every_number():
    data = neo_hookean_data(30)
    tangent = data.tangent.copy()
    tangent[7, 1, 2] = np.nextafter(tangent[7, 1, 2], np.inf)
    assert replace(data, tangent=tangent).fingerprint != data.fingerprint
    assert replace(data, provenance={"other": 1}).fingerprint == data.fingerprint


def test_split_keeps_every_sample_once():
    data = neo_hookean_data(40)
    parts = data.split((0.2, 0.25), seed=2)
    assert [len(part) for part in parts] == [22, 8, 10]
    together = np.vstack([part.gradient for part in parts])
    assert {tuple(row) for row in together} == {tuple(row) for row in data.gradient}
    np.testing.assert_array_equal(data.split((0.25,), seed=2)[-1].gradient, parts[-1].gradient)


@pytest.mark.parametrize("cut", [0, 7, 100, 1000, -1])
def test_truncated_data_set(tmp_path, cut):
    path = tmp_path / "data.safetensors"
    neo_hookean_data(30).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match="not a whole data set"):
        Dataset.load(path)


def test_changed_number_in_a_data_set(tmp_path):
    path = tmp_path / "data.safetensors"
    neo_hookean_data(30).save(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="fingerprint"):
        Dataset.load(path)


def test_data_that_is_no_data_set(tmp_path):
    with pytest.raises(ModelError, match="no such"):
        Dataset.load(tmp_path / "nothing")
    data = neo_hookean_data(30)
    with pytest.raises(ModelError, match="flux of the data set must be"):
        replace(data, flux=data.flux[:, :2])
    with pytest.raises(ModelError, match="not finite"):
        replace(data, energy=np.where(np.arange(30) == 3, np.inf, data.energy))
