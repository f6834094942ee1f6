"""The demo of the shared server, small: one answer with copies of the model, with a server, and with a killed one."""

import json
from dataclasses import replace
from pathlib import Path

from mpi4py import MPI

import numpy as np
import pytest

from coupling import together
from demos.cook_runs import CASES, create_rve
from demos.demo_shared_server import AGREEMENT, check, compare, demonstrate, ready_again, table
from demos.served_figures import write_figures
from demos.served_runs import BEGIN, END, RANK
from surrogates import fit_polynomial, sample, save_model, stretch_design

pytestmark = pytest.mark.mpi
WORLD = MPI.COMM_WORLD


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


def test_demo(folder):
    case, log = replace(CASES["fibre"], size=0.25), folder / "log"
    rve = create_rve(case, for_training=True)
    data = sample(rve, stretch_design(case.lower, case.upper, 80, seed=0), comm=WORLD, progress=False)
    together(WORLD, lambda: save_model(fit_polynomial(data, degree=5), folder / "model") if WORLD.rank == 0 else None)
    runs = demonstrate(WORLD, case, folder / "model", log, steps=4, cells=(6, 3))
    summary = compare(WORLD, runs)

    check(summary)
    for name in ("server", "server, killed"):
        assert runs[name].run.tip == pytest.approx(runs["local"].run.tip, rel=AGREEMENT)
        assert [r.iterations for r in runs[name].run.records] == [r.iterations for r in runs["local"].run.records]
        assert len(runs[name].requests) == len(runs["local"].requests)
    killed = runs["server, killed"]
    assert killed.ledger.counts["server/losses"] == WORLD.size == killed.interrupted.sum()
    assert set(killed.requests[killed.interrupted, RANK]) == set(range(WORLD.size))
    assert (killed.requests[killed.interrupted, END] > killed.killed).all()
    assert killed.interruption > 0.0
    assert not runs["server"].interrupted.any() and runs["server"].interruption == 0.0
    assert (np.diff(killed.requests[:, BEGIN]) >= 0.0).all() and killed.requests[0, BEGIN] == 0.0
    assert json.loads(json.dumps(summary))["points"] == 108
    assert table(summary).row_count == 14

    if WORLD.rank == 0:
        ready = ready_again(killed, log)
        assert killed.killed < ready < killed.requests[killed.interrupted, END].max()
        assert all(file.read_bytes().startswith(b"\x89PNG") for file, _ in write_figures(runs, ready, folder))
    WORLD.barrier()


def test_a_difference_or_an_unnoticed_death_ends_the_demo():
    run = {"displacement difference": 0.0, "fallback points": 3, "clients": {"counts": {"server/losses": 1}}}
    check({"runs": {"local": run, "server": run, "server, killed": run}})
    changes: tuple[dict[str, object], ...] = (
        {"displacement difference": 1e-6},
        {"fallback points": 4},
        {"clients": {"counts": {}}},
    )
    for change in changes:
        with pytest.raises(SystemExit):
            check({"runs": {"local": run, "server": run, "server, killed": {**run, **change}}})
