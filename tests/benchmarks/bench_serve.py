"""What asking a shared server costs over evaluating the same points oneself.

    ./run bench serve [--device cpu|cuda:K] [--clients 1 2 4] [--points 64 1000 20000 100000] [--json PATH]

Client processes evaluate in lockstep, each its own points; between their rounds, the bare closure evaluates the points
of all of them here, as the server would. With times of the same stretch of the run,

* total / bare is the time of a round over that of the bare evaluation;
* added is the round trip minus the model's time: that which the server reports for one client; the bare time of all
  clients for several, which are served one after the other;
* exchange is the same number of bytes sent forth and back between two processes that do nothing else: what the kernel
  takes for waking them, below which no server can get.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from coupling.serving import RemoteSurrogate
from coupling.serving.frames import REPLY_BYTES, REQUEST_BYTES
from coupling.serving.loading import load
from coupling.serving.models import probes
from coupling.serving.starting import server_environment
from tests.benchmarks.timing import show, write_json
from tests.serving_processes import running

MODEL = "tests.serving_models:energy_network"
BLOCKS, BLOCK_SECONDS = 8, 0.4
GOALS = {
    "added_ms": {(1, 64): 0.04, (1, 20_000): 0.6, (4, 64): 0.2, (4, 20_000): 4.0},
    "total_over_bare": {(1, 64): 1.25, (1, 1000): 1.05, (1, 20_000): 1.03},
}


def client(address: str) -> None:
    """A client process: for every line "points rounds" on standard input, evaluate, and print the times."""
    remote = RemoteSurrogate(MODEL, address=address)
    print("ready", flush=True)
    for line in sys.stdin:
        points, rounds = map(int, line.split())
        gradient = probes(remote.spec, points, 0.05)
        trips, computed = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            ticket = remote.submit(gradient, None, 1.0)
            remote.collect(ticket)
            trips.append(time.perf_counter() - start)
            computed.append(1e-9 * ticket.compute_ns)
        print(json.dumps({"trips": trips, "computed": computed}), flush=True)


class Clients:
    """Client processes in lockstep."""

    def __init__(self, count: int, address: str) -> None:
        line = [sys.executable, __file__, "--client", address]
        pipe = subprocess.PIPE
        self.processes = [
            subprocess.Popen(line, env=server_environment(1), stdin=pipe, stdout=pipe, text=True) for _ in range(count)
        ]
        for process in self.processes:
            assert _line(process) == "ready\n"

    def rounds(self, points: int, rounds: int) -> list[dict[str, Any]]:
        """Times of so many evaluations of each client, all at once."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{points} {rounds}\n")
            process.stdin.flush()
        return [json.loads(_line(process)) for process in self.processes]

    def end(self) -> None:
        """End them."""
        for process in self.processes:
            process.communicate(timeout=10)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def exchange(rounds: int = 3000) -> float:
    """Median seconds of sending a request's bytes to another process and getting a reply's back."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        while theirs.recv(REQUEST_BYTES):
            theirs.send(bytes(REPLY_BYTES))
        os._exit(0)
    theirs.close()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        ours.send(bytes(REQUEST_BYTES))
        ours.recv(REPLY_BYTES)
        seconds.append(time.perf_counter() - start)
    ours.close()
    os.wait()
    return float(np.median(seconds))


def bare(closure: Any, gradient: Any, count: int, rounds: int) -> list[float]:
    """Seconds of evaluating the points of all clients, one after the other."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            closure.evaluate(gradient, None, 1.0)
        seconds.append(time.perf_counter() - start)
    return seconds


def measure(closure: Any, clients: Clients, points: int) -> dict[str, Any]:
    """All figures for one number of points per client, in seconds."""
    count, gradient = len(clients.processes), probes(closure.spec, points, 0.05)
    once = min(bare(closure, gradient, count, 2))
    rounds = max(1, int(BLOCK_SECONDS / once))
    clients.rounds(points, 1)
    blocks = []
    for _ in range(BLOCKS if once < BLOCK_SECONDS else BLOCKS // 2):
        alone = float(np.median(bare(closure, gradient, count, rounds)))
        times = clients.rounds(points, rounds)
        trips = np.array([t["trips"] for t in times])
        own = np.array([t["computed"] for t in times])
        trip = float(np.median(trips))
        added = float(np.median(trips - own)) if count == 1 else trip - alone
        blocks.append((alone, trip, added, trip / alone, np.percentile(trips, 99) / trip))
    alone, trip, added, ratio, late = np.median(blocks, axis=0)
    return {
        "clients": count,
        "points": points,
        "bare": alone,
        "trip": trip,
        "added": added,
        "total_over_bare": ratio,
        "p99_over_median": late,
        "points_per_second": count * points / (ratio * alone),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:K")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4], help="numbers of client processes")
    parser.add_argument("--points", type=int, nargs="+", default=[64, 1000, 20_000, 100_000], help="per client")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        client(args.client)
        return
    floor, results = exchange(), []
    closure = load(MODEL, args.device)
    for count in args.clients:
        with running(MODEL, device=args.device) as server:
            clients = Clients(count, server.address)
            results += [measure(closure, clients, points) for points in args.points]
            clients.end()
    columns = [
        "clients",
        "points",
        "bare ms",
        "trip ms",
        "added ms",
        "goal",
        "total/bare",
        "goal",
        "p99/median",
        "points/s",
    ]
    show(f"Shared server on {args.device}; bare exchange {1e6 * floor:.0f} µs", columns, [_row(r) for r in results])
    write_json(args.json, {"benchmark": "serve", "device": args.device, "exchange": floor, "results": results})


def _row(r: dict[str, Any]) -> list[str]:
    case = (r["clients"], r["points"])
    goals = {name: cases.get(case) for name, cases in GOALS.items()}
    return [
        f"{r['clients']}",
        f"{r['points']:,}",
        f"{1e3 * r['bare']:.3f}",
        f"{1e3 * r['trip']:.3f}",
        f"{1e3 * r['added']:.3f}",
        f"{goals['added_ms'] or ''}",
        f"{r['total_over_bare']:.3f}",
        f"{goals['total_over_bare'] or ''}",
        f"{r['p99_over_median']:.2f}",
        f"{r['points_per_second']:,.0f}",
    ]


if __name__ == "__main__":
    main()
