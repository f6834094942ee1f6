"""What asking a shared server costs over evaluating the same points oneself.

    ./run bench serve [--device cpu|cuda:K] [--clients 1 2 4] [--points 64 1000 20000 100000] [--json PATH]

Client processes evaluate in lockstep, each its own points: from the model server, from a rank more of their MPI job,
from Triton over gRPC with messages and with shared memory, through Redis. They take turns, and between their rounds the
bare closure evaluates the points of all of them here, as the server would. With times of the same stretch of the run,

* total / bare is the time of a round over that of the bare evaluation;
* added is the round trip minus the model's time: for one client that which the server reports, where it does; else the
  bare time of all clients, which are served one after the other;
* exchange is the same number of bytes sent forth and back between two processes that do nothing else: what the kernel
  takes for waking them, below which no server can get.

Where ranks outnumber cores, clients that copy take time from the server: that is part of what is measured. What is not
installed is left out, with a message.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from coupling.serving.frames import REPLY_BYTES, REQUEST_BYTES
from coupling.serving.loading import load
from coupling.serving.models import probes
from tests.benchmarks.serve_crews import MODEL, Absent, Crew, in_job, shared_server, timed
from tests.benchmarks.serve_redis import redis_worker
from tests.benchmarks.serve_triton import triton_messages, triton_shared_memory
from tests.benchmarks.timing import show, write_json

Making: TypeAlias = Callable[[int, str], AbstractContextManager[Crew]]
CREWS: dict[str, Making] = {
    "server": shared_server,
    "in-job MPI": in_job,
    "Triton shm": triton_shared_memory,
    "Triton gRPC": triton_messages,
    "Redis": redis_worker,
}
BLOCKS, BLOCK_SECONDS = 8, 0.25
GOALS = {
    "added": {(1, 64): 4e-5, (1, 20_000): 6e-4, (4, 64): 2e-4, (4, 20_000): 4e-3},
    "total_over_bare": {(1, 64): 1.25, (1, 1000): 1.05, (1, 20_000): 1.03},
}
P99_GOAL = 2.0


def exchange(rounds: int = 3000) -> float:
    """Median seconds of sending a request's bytes to another process and getting a reply's back."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    echo = f"import socket; s = socket.socket(fileno={theirs.fileno()})\n"
    echo += f"while s.recv({REQUEST_BYTES}): s.send(bytes({REPLY_BYTES}))"
    process = subprocess.Popen([sys.executable, "-c", echo], pass_fds=(theirs.fileno(),))
    theirs.close()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        ours.send(bytes(REQUEST_BYTES))
        ours.recv(REPLY_BYTES)
        seconds.append(time.perf_counter() - start)
    ours.close()
    process.wait()
    return float(np.median(seconds))


def measure(closure: Any, crews: dict[str, Crew], count: int, points: int) -> list[dict[str, Any]]:
    """All figures of every crew for one number of points per client, in seconds."""
    gradient = probes(closure.spec, points, 0.05)

    def bare(gradient: Any) -> None:
        for _ in range(count):
            closure.evaluate(gradient, None, 1.0)

    once = min(timed(bare, gradient, 3))
    rounds = max(1, int(BLOCK_SECONDS / once))
    for crew in crews.values():
        crew.rounds(points, 2)
    blocks: dict[str, list[Any]] = {name: [] for name in crews}
    for _ in range(BLOCKS if once < BLOCK_SECONDS else BLOCKS // 2):
        for name, crew in crews.items():
            alone = float(np.median(timed(bare, gradient, rounds)))
            blocks[name].append(_figures(crew.rounds(points, rounds), alone))
    return [
        {"by": name, "clients": count, "points": points, **dict(zip(_FIGURES, np.median(found, axis=0), strict=True))}
        for name, found in blocks.items()
    ]


_FIGURES = ("bare", "trip", "added", "total_over_bare", "p99_over_median")


def _figures(clients: list[dict[str, list[float]]], alone: float) -> tuple[float, ...]:
    trips = np.array([client["trips"] for client in clients])
    trip = float(np.median(trips))
    known = len(clients) == 1 and "computed" in clients[0]
    added = float(np.median(trips - np.array(clients[0]["computed"]))) if known else trip - alone
    return alone, trip, added, trip / alone, float(np.percentile(trips, 99)) / trip


def benchmark(device: str, counts: list[int], sizes: list[int], wanted: list[str]) -> list[dict[str, Any]]:
    """All rows."""
    closure, results = load(MODEL, device), []
    for count in counts:
        with ExitStack() as stack:
            crews = {}
            for name in wanted:
                try:
                    crews[name] = stack.enter_context(CREWS[name](count, device))
                except Absent as why:
                    print(f"{name} is left out: {why}", flush=True)
            for points in sizes:
                results += measure(closure, crews, count, points)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:K")
    parser.add_argument("--clients", type=int, nargs="+", default=_counts(), help="numbers of client processes")
    parser.add_argument("--points", type=int, nargs="+", default=[64, 1000, 20_000, 100_000], help="per client")
    parser.add_argument("--by", nargs="+", choices=CREWS, default=list(CREWS), help="what is compared")
    parser.add_argument("--json", type=Path, default=Path("results/bench_serve.json"), help="file for the result")
    args = parser.parse_args()
    floor = exchange()
    results = benchmark(args.device, args.clients, args.points, args.by)
    columns = ["", "clients", "points", "bare ms", "trip ms", "added ms", "goal", "total/bare", "goal", "p99/median"]
    title = f"Shared models on {args.device}, {os.cpu_count()} cores; bare exchange {1e6 * floor:.0f} µs"
    show(title, columns, [_row(r) for r in results])
    goals = {name: [[*case, goal] for case, goal in cases.items()] for name, cases in GOALS.items()}
    write_json(
        args.json,
        {"benchmark": "serve", "device": args.device, "exchange": floor, "goals": goals, "results": results},
    )


def _counts() -> list[int]:
    return [1, 2, 4] + [count for count in (8, 16) if count <= (os.cpu_count() or 1)]


def _row(r: dict[str, Any]) -> list[str]:
    ours, case = r["by"] == "server", (r["clients"], r["points"])
    added, ratio = (cases.get(case) if ours else None for cases in GOALS.values())
    return [
        r["by"],
        f"{r['clients']}",
        f"{r['points']:,}",
        f"{1e3 * r['bare']:.3f}",
        f"{1e3 * r['trip']:.3f}",
        f"{1e3 * r['added']:.3f}",
        f"{1e3 * added:g}" if added else "",
        f"{r['total_over_bare']:.3f}",
        f"{ratio or ''}",
        f"{r['p99_over_median']:.2f}{' !' if ours and r['p99_over_median'] > P99_GOAL else ''}",
    ]


if __name__ == "__main__":
    main()
