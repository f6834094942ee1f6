"""A plan for 10,000 ranks and 1,000 GPUs: what one server must sustain, and what saturates when.

    ./run bench scale [--json PATH] [--figure PATH]

1. Measures what a request costs on this machine (:mod:`tests.benchmarks.scale_inputs`).
2. Checks the discrete-event model (:mod:`tests.benchmarks.scale_model`) with it: 1, 2 and 4 ranks that compute for a
   millisecond, ask the server and meet, predicted and measured in the same run.
3. Predicts, with assumed GPUs, buses and networks (:data:`ASSUMED`), jobs of up to 10,000 ranks.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coupling.contract import Array
from coupling.serving.models import BATCH, Version, prepare
from tests.benchmarks.scale_figure import draw
from tests.benchmarks.scale_inputs import Service, as_numbers, measured_costs, measured_run
from tests.benchmarks.scale_model import Costs, Layout, Load, Run, simulate
from tests.benchmarks.serve_crews import MODEL
from tests.benchmarks.timing import show, write_json
from tests.serving_processes import running

CASES = [(1, 64), (2, 64), (4, 64), (1, 1000), (2, 1000), (4, 1000), (1, 20_000), (2, 20_000), (4, 20_000)]
WORK = 1e-3
BLOCKS = 5
QUANTILES = (50, 90, 99)

ASSUMED = {
    "gpu_points_per_second": 5e7,  # 3 x 64 network in float64, 0.1 Mflop a point: 5 of an H100's 34 Tflop/s
    "gpu_call_seconds": 3e-5,  # launch of a captured graph and its end noticed
    "bus_bytes_per_second": 5e10,  # PCIe 5.0 x16: 64e9 a direction by its specification
    "network_bytes_per_second": 2.5e10,  # a 200 Gbit/s interface a node
    "ranks_per_node": 128,  # of nodes without GPUs
    "ranks_per_gpu": 10,
    "gpus_per_node": 4,
    "work_seconds_per_point": 3.4e-6,  # measured: ./run bench fe2, what the macro problem takes without closures
    "imbalance": 0.05,  # standard deviation of a rank's own work
}
BYTES = {"2D": (24, 137), "3D": (48, 353)}
"""There and back, per point: gradient; flux, tangent, uncertainty, energy and status."""
RANKS = {"2D": (10, 100, 1000, 10_000), "3D": (10, 10_000)}
POINTS = (64, 1000, 20_000)


def check(costs: Costs, version: Version, address: str) -> list[dict[str, Any]]:
    """Predicted and measured throughput and latencies, with their errors."""
    rows = []
    for ranks, points in CASES:
        load = Load(points, lambda *_: WORK, _iterates(ranks * points))
        layout = Layout(ranks, ranks, ranks, cores=os.cpu_count())
        services, blocks = list[Service](), []
        for _ in range(BLOCKS):
            services.append(Service(version, repeats=3))
            blocks.append(_summary(measured_run(address, ranks, load), points))
        now = replace(costs, service=_typical(services), scatter=_scatter(services))
        predicted = _summary(simulate(layout, load, now, version), points)
        measured = {name: float(np.median([block[name] for block in blocks])) for name in predicted}
        error = {name: predicted[name] / measured[name] - 1.0 for name in predicted}
        rows.append({"ranks": ranks, "points": points, "predicted": predicted, "measured": measured, "error": error})
    return rows


def _typical(services: list[Service]) -> Callable[[int], float]:
    return lambda n: float(np.median([service(n) for service in services]))


def _scatter(services: list[Service]) -> Callable[[int], Array]:
    return lambda n: np.concatenate([service.scatter(n) for service in services])


def _iterates(points: int) -> int:
    return int(np.clip(100_000 / points, 6, 150))


def _summary(run: Run, points: int) -> dict[str, float]:
    latency = dict(zip(("p50", "p90", "p99"), np.percentile(run.latencies, QUANTILES), strict=True))
    return {"points_per_second": points * run.latencies.size / float(run.iterates.sum()), **latency}


def gpu_costs(costs: Costs, dim: str) -> Costs:
    """What a GPU of the plan takes, with the measured costs of the processes around it."""
    there, back = BYTES[dim]
    rate, call, bus = (ASSUMED[f] for f in ("gpu_points_per_second", "gpu_call_seconds", "bus_bytes_per_second"))
    gpu = Costs(service=lambda n: call + n / rate)
    return replace(costs, service=gpu.service, scatter=gpu.scatter, way_in=there / bus, way_out=back / bus)


def pooled_costs(costs: Costs, dim: str) -> Costs:
    """The same where the GPUs are elsewhere: every byte crosses the interface of the rank's node."""
    there, back = BYTES[dim]
    network = ASSUMED["network_bytes_per_second"]
    return replace(gpu_costs(costs, dim), network_in=there / network, network_out=back / network)


def plan(costs: Costs, version: Version, dim: str = "2D") -> list[dict[str, Any]]:
    """Iterations of jobs of all sizes, with a server for every ten ranks on their node, or in a pool."""
    version.evaluator.batch = BATCH["cuda"]  # type: ignore[misc]
    per_gpu, rows = int(ASSUMED["ranks_per_gpu"]), []
    places = {
        "on the node": (gpu_costs(costs, dim), per_gpu * int(ASSUMED["gpus_per_node"])),
        "in a pool": (pooled_costs(costs, dim), int(ASSUMED["ranks_per_node"])),
    }
    for place, (expense, per_node) in places.items():
        for points in POINTS:
            for ranks in RANKS[dim]:
                layout = Layout(ranks, per_gpu, per_node)
                run = simulate(layout, _load(ranks, points, 3), expense, version)
                rows.append({"place": place, "dim": dim, "ranks": ranks, "points": points, **_shares(run, points)})
    return rows


def _load(ranks: int, points: int, iterates: int) -> Load:
    work = ASSUMED["work_seconds_per_point"] * points
    spread = 1.0 + ASSUMED["imbalance"] * np.random.default_rng(0).standard_normal((iterates, ranks)).clip(-3.0, 3.0)
    return Load(points, lambda rank, iterate: float(work * spread[iterate, rank]), iterates)


def _shares(run: Run, points: int) -> dict[str, float]:
    iterate = float(run.iterates.mean())
    return {
        "iterate": iterate,
        "latency_median": float(np.median(run.latencies)),
        "latency_worst": float(run.latencies.max()),
        "closure_share": float(run.latencies.mean()) / iterate,
        "server_busy": float(np.mean(run.busy)) / float(run.iterates.sum()),
        "points_per_second_and_server": points * run.latencies.size / len(run.busy) / float(run.iterates.sum()),
    }


def limits(costs: Costs) -> dict[str, Any]:
    """Where the parts saturate: in closed form."""
    bus, network = ASSUMED["bus_bytes_per_second"], ASSUMED["network_bytes_per_second"]
    need = 10.0 / ASSUMED["work_seconds_per_point"]
    return {
        "points_per_second_for_a_tenth_of_the_time": {n: n * need for n in (1, 10, 20, 40)},
        "bus_points_per_second": {dim: bus / max(both) for dim, both in BYTES.items()},
        "network_points_per_second": {dim: network / max(both) for dim, both in BYTES.items()},
        "requests_per_second": {
            "one by one": 1.0 / (costs.per_batch + costs.per_piece),
            "together": 1.0 / max(costs.per_piece, 1e-9),
        },
    }


def main() -> None:
    """Measure, check, predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("results/bench_scale.json"), help="file for the result")
    parser.add_argument("--figure", type=Path, default=Path("results/bench_scale.png"), help="file for the figure")
    args = parser.parse_args()
    version = prepare(MODEL, 1, "cpu")
    with running(MODEL, device="cpu") as server:
        costs = measured_costs(version, server.address)
        checked = check(costs, version, server.address)
    found, numbers = limits(costs), as_numbers(costs)
    _print_check(numbers, checked)
    planned = plan(costs, version) + plan(costs, version, "3D")
    _print_plan(planned, found)
    result = {"assumed": ASSUMED, "measured": numbers, "limits": found, "check": checked, "plan": planned}
    write_json(args.json, {"benchmark": "scale", **result})
    draw(args.figure, checked, planned)


def _print_check(numbers: dict[str, Any], checked: list[dict[str, Any]]) -> None:
    print("µs:", ", ".join(f"{n} {1e6 * v:.3g}" for n, v in numbers.items() if isinstance(v, float)))
    columns = ["ranks", "points", *(f"{q}: predicted, measured, error" for q in ("points/s", "p50 ms", "p99 ms"))]
    show("The model against measurement on this machine", columns, [_check_row(row) for row in checked])


def _print_plan(planned: list[dict[str, Any]], found: dict[str, Any]) -> None:
    columns = ["GPUs", "", "ranks", "points", "iterate ms", "latency ms", "worst", "closure share", "busy"]
    show("Predicted, with assumed GPUs", columns, [_plan_row(row) for row in planned if row["ranks"] in RANKS["3D"]])
    for name, values in found.items():
        print(f"{name}: " + ", ".join(f"{key}: {value:.2g}" for key, value in values.items()))


def _check_row(row: dict[str, Any]) -> list[str]:
    def three(name: str, scale: float, form: str) -> str:
        p, m = (format(scale * row[kind][name], form) for kind in ("predicted", "measured"))
        return f"{p}  {m}  {100 * row['error'][name]:+.0f} %"

    columns = three("points_per_second", 1.0, ",.0f"), three("p50", 1e3, ".3f"), three("p99", 1e3, ".3f")
    return [f"{row['ranks']}", f"{row['points']:,}", *columns]


def _plan_row(row: dict[str, Any]) -> list[str]:
    seconds = (f"{1e3 * row[name]:.3f}" for name in ("iterate", "latency_median", "latency_worst"))
    shares = (f"{100 * row[name]:.0f} %" for name in ("closure_share", "server_busy"))
    return [row["place"], row["dim"], f"{row['ranks']:,}", f"{row['points']:,}", *seconds, *shares]


if __name__ == "__main__":
    main()
