"""The demo of warm starts, small: the same solutions with fewer iterations."""

from mpi4py import MPI

import pytest

from demos.demo_warm_start_snes import check, compare, run_all, table, write_figures

comm = MPI.COMM_WORLD


@pytest.mark.mpi
def test_demo(tmp_path):
    out = comm.bcast(tmp_path)
    bar, loads, studies, training = run_all(comm, cells=1, steps=6)
    summary = compare(comm, studies, training)
    check(summary)
    assert summary["solves"] == 30 and table(summary).row_count == len(studies)
    files = write_figures(comm, bar, loads, studies, out)
    comm.barrier()
    assert all(file.stat().st_size > 10_000 for file, _ in files)
