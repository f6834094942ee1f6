"""One model server for all ranks: an accelerated FE² run whose surrogate is in another process, which is killed.

    ./run mpi 4 demos/demo_shared_server.py
    ./run demo shared_server                  the same on one rank

1. An energy network is trained on samples of the RVE; the model that the first demo keeps is used where there is one.
2. Cook's membrane is loaded in steps with a copy of the model on every rank.
3. The same, with one server that all ranks ask: `RemoteSurrogate(folder)` in place of `load_model(folder)`.
4. The same once more; in the middle of the run, while it is at work, the server is killed (SIGKILL). Its supervisor has
   another one there within milliseconds, and what was not answered is asked again.
5. The displacements of the three runs are compared: they agree to the tolerance of the solver.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpi4py import MPI

import numpy as np
from rich.console import Console
from rich.table import Table

from coupling import together
from coupling.errors import ModelError
from coupling.files import write_atomically
from coupling.report import write_report
from coupling.serving import RemoteSurrogate
from coupling.serving.settings import Settings
from coupling.serving.starting import ensure_running
from demos.cook_runs import CASES, Case, create_rve
from demos.served_figures import write_figures
from demos.served_runs import POINTS, Killer, ServedRun, Timed, displacement_difference, served
from surrogates import load_model, sample, save_model, stretch_design, train_energy_network

AGREEMENT = 1e-9
"""Largest relative difference of displacements: ten times the tolerance of the macro Newton iteration."""
FIRST_DEMO = Path("results/cooks_membrane_fibre/model")
INTRODUCTION = (
    "The same accelerated FE² run three times: with a copy of the model on every rank; with one model server that all "
    "ranks ask; and with that server killed in the middle of the run, while it was evaluating."
)


def model_folder(comm: MPI.Comm, case: Case, own: Path, *, samples: int) -> Path:
    """The model of the first demo, where it is there and readable; else one that is trained quickly (collective)."""

    def readable() -> bool:
        try:
            load_model(FIRST_DEMO)
        except ModelError:
            return False
        return True

    if comm.bcast(readable() if comm.rank == 0 else None):
        return FIRST_DEMO
    rve = create_rve(case, for_training=True)
    data = sample(rve, stretch_design(case.lower, case.upper, samples, seed=0), comm=comm, provenance=rve.description)
    together(comm, lambda: save_model(train_energy_network(data, hidden=(16, 16)), own) if comm.rank == 0 else None)
    return own


def start_server(comm: MPI.Comm, model: Path, log: Path) -> str:
    """Start a server of this demo's own, which stops after its last client, and return its address (collective)."""
    address: str = comm.bcast(f"@twoscale-demo-{os.getpid()}")
    settings = Settings(address, {str(model.resolve()): str(model.resolve())}, "cpu", idle=2.0, log=str(log.resolve()))
    together(comm, lambda: ensure_running(settings, 60.0) if comm.rank == 0 else None)
    return address


def demonstrate(
    comm: MPI.Comm, case: Case, model: Path, log: Path, *, steps: int, cells: tuple[int, int]
) -> dict[str, ServedRun]:
    """The three runs (collective)."""
    local = together(comm, lambda: load_model(model))
    options: dict[str, Any] = {"steps": steps, "cells": cells}
    runs = {"local": served(comm, Timed(local), case, title="a copy on every rank", **options)}
    address = start_server(comm, model, log)
    middle = len(runs["local"].requests) // (2 * comm.size)
    for name, victim in (("server", None), ("server, killed", middle if comm.rank == 0 else None)):
        with together(comm, lambda: RemoteSurrogate(model, address=address)) as remote:
            remote.evaluate(np.tile(remote.spec.reference, (1, 1)), None, 0.0)
            comm.barrier()
            runs[name] = served(comm, Killer(remote, victim), case, title=name, **options)
            comm.barrier()
    return runs


def ready_again(run: ServedRun, log: Path) -> float | None:
    """When the successor of the killed server was ready, in seconds of the run."""
    assert run.killed is not None
    wall = time.time() - time.monotonic() + run.origin
    events = [json.loads(line) for line in log.read_text().splitlines()]
    ready = [float(e["time"]) - wall for e in events if e["event"] == "ready"]
    return next((t for t in ready if t > run.killed), None)


def compare(comm: MPI.Comm, runs: Mapping[str, ServedRun]) -> dict[str, Any]:
    """All numbers of the table (collective)."""
    exact = runs["local"].run
    differences = {name: displacement_difference(comm, run.run, exact) for name, run in runs.items()}
    return {
        "ranks": comm.size,
        "points": int(runs["local"].requests[: comm.size, POINTS].sum()),
        "runs": {
            name: {
                "seconds": r.run.seconds,
                "tip": r.run.tip.tolist(),
                "macro iterations": [record.iterations for record in r.run.records],
                "requests": len(r.requests),
                "points": int(r.requests[:, POINTS].sum()),
                "fallback points": r.run.ledger.counts.get("fallback/points", 0),
                "latency ms": {f"p{q}": 1e3 * float(np.percentile(r.latencies, q)) for q in (50, 90, 99, 100)},
                "displacement difference": differences[name],
                "interruption ms": 1e3 * r.interruption,
                "clients": r.ledger.as_dict(),
            }
            for name, r in runs.items()
        },
    }


def check(summary: Mapping[str, Any]) -> None:
    """Assert what the demo claims.

    Raises:
        SystemExit: where the runs differ, the kill was not noticed, or the fine scale had to help out.
    """
    local, _, killed = summary["runs"].values()
    for name, run in summary["runs"].items():
        if run["displacement difference"] > AGREEMENT:
            raise SystemExit(f"the run '{name}' differs by {run['displacement difference']:.1e} from the local one")
        if run["fallback points"] != local["fallback points"]:
            raise SystemExit(f"in the run '{name}' the fine scale served {run['fallback points']} points")
    if not killed["clients"]["counts"].get("server/losses"):
        raise SystemExit("no rank noticed that the server was killed")


def table(summary: Mapping[str, Any]) -> Table:
    """The comparison as a table."""
    runs = summary["runs"]
    title = f"{summary['points']:,} points on {summary['ranks']} rank(s)"
    shown = Table("", *runs, title=title)
    for column in shown.columns[1:]:
        column.justify = "right"

    def row(name: str, value: Callable[[Mapping[str, Any]], str]) -> None:
        shown.add_row(name, *(value(r) for r in runs.values()))

    def client(name: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda r: f"{r['clients']['counts'].get(name, 0):,}" if r["clients"]["counts"] else "–"

    row("wall time of the load steps", lambda r: f"{r['seconds']:.3f} s")
    row("macro Newton iterations", lambda r: f"{sum(r['macro iterations'])}")
    row("requests", lambda r: f"{r['requests']:,}")
    row("points evaluated", lambda r: f"{r['points']:,}")
    row("  by the fine scale", lambda r: f"{r['fallback points']:,}")
    row("latency, median", lambda r: f"{r['latency ms']['p50']:.2f} ms")
    row("latency, p99", lambda r: f"{r['latency ms']['p99']:.2f} ms")
    row("latency, longest", lambda r: f"{r['latency ms']['p100']:.2f} ms")
    shown.add_section()
    row("ranks that lost the server", client("server/losses"))
    row("points sent again", client("server/sent again"))
    row("  by local copies", client("server/local points"))
    row("the interruption took", lambda r: f"{r['interruption ms']:.0f} ms" if r["interruption ms"] else "–")
    row("vertical tip displacement", lambda r: f"{r['tip'][1]:.10f}")
    row("difference of displacements", lambda r: f"{r['displacement difference']:.1e}")
    return shown


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="load steps (default 20)")
    parser.add_argument("--cells", type=int, nargs=2, default=(24, 12), help="macro mesh (default 24 12)")
    parser.add_argument("--samples", type=int, default=200, help="RVE samples to train on, if need be (default 200)")
    parser.add_argument("--out", type=Path, default=Path("results/shared_server"), help="folder for results")
    args = parser.parse_args()
    comm, case, out = MPI.COMM_WORLD, CASES["fibre"], args.out
    out.mkdir(parents=True, exist_ok=True)
    if comm.size == 1:
        advice = "One rank has the server to itself; four share it with: ./run mpi 4 demos/demo_shared_server.py"
        Console().print(advice, soft_wrap=True)

    model, log = model_folder(comm, case, out / "model", samples=args.samples), out / "server.log"
    if comm.rank == 0:
        log.unlink(missing_ok=True)
        Console().print(f"model: {model}")
    runs = demonstrate(comm, case, model, log, steps=args.steps, cells=tuple(args.cells))
    summary = compare(comm, runs)

    def tell() -> None:
        write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        figures = write_figures(runs, ready_again(runs["server, killed"], log), out)
        write_report(out / "report.html", "One model server for all ranks", INTRODUCTION, table(summary), figures)
        Console().print(table(summary))
        for name, what in (("report.html", "everything on one page"), ("server.log", "what the server says")):
            Console().print(f"{out / name}: {what}")

    together(comm, tell if comm.rank == 0 else lambda: None)
    check(summary)


if __name__ == "__main__":
    main()
