"""Samplings that are interrupted: what is kept, and what goes on from it."""

import os
import signal
import time
from dataclasses import dataclass, field

from mpi4py import MPI

import numpy as np
import pytest

from coupling import ModelError, RemoteRankError
from coupling.closed_forms import StretchNeoHookean
from surrogates import sample, stretch_design
from surrogates.sampling import SamplingInterrupted
from tests.surrogate_cases import BOX

COMM = MPI.COMM_WORLD
LAW = StretchNeoHookean(1.0, 1.5)
pytestmark = pytest.mark.mpi


@dataclass
class Counting:
    """Counts points; sends this process Ctrl-C in its call number ``interrupt``."""

    interrupt: int | None = None
    points: list[int] = field(default_factory=list)
    spec = LAW.spec

    def initial_state(self, n):
        return None

    def evaluate(self, gradient, state, dt, hint=None):
        if len(self.points) == self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        self.points.append(len(gradient))
        time.sleep(0.004)
        return LAW.evaluate(gradient, state, dt)


@pytest.fixture
def folder(tmp_path):
    return COMM.bcast(tmp_path / "partial")


def sampled(closure, folder, n=40, **options):
    design = stretch_design(*BOX[2], n, seed=0)
    return sample(closure, design, comm=COMM, batch=4, progress=False, keep=folder, **options)


def total(closure):
    return COMM.allreduce(sum(closure.points))


@pytest.mark.parametrize("interrupted", [0, -1], ids=["first", "every"])
def test_an_interrupt_on_one_rank_or_all_ends_every_rank_and_loses_one_batch_each(folder, interrupted):
    first = Counting(interrupt=2 if interrupted in (-1, COMM.rank) else None)
    with pytest.raises(SamplingInterrupted, match="of 400 samples done"):
        sampled(first, folder, n=400)
    COMM.barrier()
    kept = 4 * len(list(folder.glob("batch-*")))
    COMM.barrier()
    assert 8 <= kept < 150  # the other ranks did not do their share to its end
    second = Counting()
    data = sampled(second, folder, n=400)
    assert total(second) == 400 - kept
    assert data.fingerprint == sampled(Counting(), None, n=400).fingerprint


def test_a_larger_design_takes_what_is_there(folder):
    sampled(Counting(), folder, n=22)
    more = Counting()
    data = sampled(more, folder, n=40)
    assert total(more) == 40 - 20  # the last batch of 22 has two points and is not the batch of four asked for
    np.testing.assert_array_equal(data.flux, LAW.evaluate(data.gradient, None, 0.0).flux)


def test_damaged_files_are_computed_again(folder):
    sampled(Counting(), folder)
    COMM.barrier()
    if COMM.rank == 0:
        (folder / "batch-00000004.safetensors").write_bytes(b"half a fi")
    COMM.barrier()
    again = Counting()
    sampled(again, folder)
    assert total(again) == 4


def test_another_fine_scale_is_refused_on_every_rank(folder):
    sampled(Counting(), folder, provenance={"size": 0.1})
    with pytest.raises(ModelError if COMM.rank == 0 else RemoteRankError, match="sampling of something else"):
        sampled(Counting(), folder, provenance={"size": 0.2})
