"""One outcome for all ranks."""

from __future__ import annotations

from mpi4py import MPI

import pytest

from coupling.agreement import together
from coupling.errors import ContractError, RemoteRankError

comm = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi


def test_results_stay_local():
    assert together(comm, lambda: comm.rank) == comm.rank
    assert together(comm, lambda: None) is None


@pytest.mark.parametrize("failing", range(3))
def test_an_error_on_one_rank_is_an_error_on_all(failing):
    failing %= comm.size

    def local():
        if comm.rank == failing:
            raise ContractError("gradient must have 4 components")

    if comm.rank == failing:
        with pytest.raises(ContractError, match="gradient must have 4 components"):
            together(comm, local)
    else:
        message = f"rank {failing} of {comm.size} failed: ContractError: gradient must have 4 components"
        with pytest.raises(RemoteRankError, match=message):
            together(comm, local)


def test_every_rank_that_fails_raises_its_own_error():
    def local():
        raise ValueError(f"here is rank {comm.rank}")

    with pytest.raises(ValueError, match=f"here is rank {comm.rank}"):
        together(comm, local)


def test_the_first_failing_rank_is_named():
    def local():
        if comm.rank > 0:
            raise ValueError("late")

    if comm.size == 1:
        together(comm, local)
    else:
        with pytest.raises(RemoteRankError if comm.rank == 0 else ValueError, match="rank 1 of|late"):
            together(comm, local)
