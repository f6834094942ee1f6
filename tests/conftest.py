"""One readable and finite pytest run on any number of ranks.

On several ranks (``mpirun -n 2 python -m pytest -m mpi``) rank 0 writes pytest's usual output with the failures of all
ranks in it, and all ranks end with the same exit code. The ranks meet after every test, so that one which failed does
not disturb the others in the next; where they do not come, because they wait inside the test for the one that failed,
it prints its failure and ends the run.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Generator
from typing import Any

from mpi4py import MPI

import pytest
from hypothesis import settings

collect_ignore = ["triton_backend.py"]  # runs inside Triton, with packages that are only there

GRACE = 30.0  # seconds that a rank whose test failed gives the others to come out of theirs

os.environ.setdefault("SCOTCH_DETERMINISTIC", "1")  # tests compare solutions on meshes that are made alike

comm = MPI.COMM_WORLD.Dup()
failures: list[pytest.TestReport | pytest.CollectReport] = []  # what failed on this rank

# The same examples on every rank and in every run.
settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
settings.load_profile("reproducible")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let rank 0 alone write."""
    if comm.rank > 0:
        config.get_terminal_writer()._file = io.StringIO()


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Keep what could not be collected."""
    if report.failed:
        failures.append(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what failed."""
    if report.failed:
        failures.append(report)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop on every rank where one could not collect."""
    session.testsfailed = comm.allreduce(session.testsfailed, MPI.MAX)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Meet the other ranks after every test."""
    before = len(failures)
    outcome = yield
    _meet(failures[before:])
    return outcome


def _meet(failed: list[pytest.TestReport | pytest.CollectReport]) -> None:
    arrival = comm.Ibarrier()
    end = time.monotonic() + GRACE
    while not arrival.Test():
        if failed and time.monotonic() > end:
            for report in failed:
                print(f"\n____ rank {comm.rank} of {comm.size}: {report.nodeid} ____\n{report.longreprtext}")
            print(f"rank {comm.rank}: others are still in this test {GRACE:.0f} s later; ending the run", flush=True)
            comm.Abort(1)
        time.sleep(1e-4)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Agree on the exit code, and let rank 0 write its summary before any rank ends."""
    hook, config = session.config.hook, session.config
    mine = [hook.pytest_report_to_serializable(config=config, report=report) for report in failures]
    everyone = comm.allgather((mine, int(session.exitstatus)))
    for rank in range(1, comm.size):
        for data in everyone[rank][0]:
            _enter(config, rank, hook.pytest_report_from_serializable(config=config, data=data))
    codes = {code for _, code in everyone}
    if comm.size > 1:
        codes -= {pytest.ExitCode.NO_TESTS_COLLECTED}
    yield
    session.exitstatus = max(codes, default=0)
    comm.barrier()


def _enter(config: pytest.Config, rank: int, report: Any) -> None:
    """Add another rank's failure to the summary."""
    report.nodeid = f"{report.nodeid} on rank {rank}"
    if isinstance(report, pytest.TestReport):
        report.location = (*report.location[:2], f"{report.location[2]} on rank {rank}")
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    stats.setdefault("failed" if report.when == "call" else "error", []).append(report)
