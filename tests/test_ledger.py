"""Counting, timing, gathering and writing what a run did."""

from __future__ import annotations

import io
import json
import os
import time

from mpi4py import MPI

import pytest
from rich.console import Console

from coupling import AcceleratedClosure, RangeGate
from coupling.closed_forms import Conduction
from coupling.files import write_atomically
from coupling.ledger import Ledger, ledgers, merged


def test_counts_and_phases():
    ledger = Ledger()
    ledger.count("calls")
    ledger.count("calls", 3)
    with ledger.phase("outer"), ledger.phase("inner"):
        time.sleep(0.01)
    with pytest.raises(KeyError), ledger.phase("outer"):
        raise KeyError
    assert ledger.counts == {"calls": 4}
    assert 0.01 <= ledger.seconds["inner"] <= ledger.seconds["outer"]
    ledger.reset()
    assert ledger.as_dict() == {"counts": {}, "seconds": {}}


@pytest.mark.mpi
def test_gathered_counts_are_summed_and_seconds_are_the_slowest_ranks():
    comm = MPI.COMM_WORLD
    ledger = Ledger()
    ledger.count("points", 10 + comm.rank)
    ledger.count(f"only rank {comm.rank}")
    ledger.seconds["fine"] = 1.0 + comm.rank
    total = ledger.gathered(comm)
    assert total.counts["points"] == sum(10 + r for r in range(comm.size))
    assert all(total.counts[f"only rank {r}"] == 1 for r in range(comm.size))
    assert total.seconds == {"fine": float(comm.size)}
    assert ledger.counts["points"] == 10 + comm.rank


@pytest.mark.mpi
def test_a_merged_ledger_has_the_work_of_each_part_once():
    """An accelerated closure in front of another one, with one ledger for both, and a surrogate with its own."""
    comm, shared, own = MPI.COMM_WORLD, Ledger(), Ledger()
    law = Conduction(1.0)
    fine, surrogate = (AcceleratedClosure(law, law, gate=RangeGate(), ledger=ledger) for ledger in (shared, own))
    closure = AcceleratedClosure(fine, surrogate, gate=RangeGate(), ledger=shared)
    shared.count("calls", 2)
    own.count("calls")
    shared.seconds["fine"], own.seconds["fine"] = 2.0, 1.0
    total = merged(comm, *ledgers(closure))
    assert total.counts == {"calls": 3 * comm.size}
    assert total.seconds == {"fine": 3.0}


def test_table_and_file(tmp_path):
    ledger = Ledger()
    ledger.count("fallback/points", 12345)
    ledger.seconds.update({"surrogate": 0.5, "fine": 2.0})
    console = Console(width=60, file=io.StringIO())
    with console.capture() as capture:
        console.print(ledger.table("Accelerated"))
    text = capture.get()
    assert "Accelerated" in text and "12,345" in text and text.index("fine") < text.index("surrogate")
    ledger.write(tmp_path / "ledger.json")
    assert json.loads((tmp_path / "ledger.json").read_text()) == ledger.as_dict()


@pytest.mark.parametrize(("content", "expected"), [("μ = 1\n", "μ = 1\n".encode()), (b"\x00\xff", b"\x00\xff")])
def test_write_atomically_replaces_and_leaves_nothing_else(tmp_path, content, expected):
    target = tmp_path / "file"
    target.write_text("old")
    write_atomically(target, content)
    assert target.read_bytes() == expected
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_who_has_the_old_file_open_goes_on_reading_it(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with target.open() as file:
        write_atomically(target, "new")
        assert file.read() == "old"
    assert target.read_text() == "new"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, "new")
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_new_files_have_the_users_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "x")
