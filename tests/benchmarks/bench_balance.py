"""Cook's membrane whose surrogate knows small stretches only: the RVEs of its clamped corner, shared by the ranks.

    ./run bench balance [--rve fibre|void] [--repeats N] [--json PATH]

The points outside of the surrogate's range lie in few macro cells, most of them on one rank. Runs with and without
balance take turns on 2 and on 3 ranks, the fastest of each counts. The critical work is the number of Newton iterations
on the RVEs of the slowest rank, summed over all evaluations; ideal gains are those of an even spread of the same work,
for whole runs over no more ranks than cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.timing import show, write_json

GAINS = ("gain", "ideal gain", "gain of critical work", "ideal gain of critical work")


def measure(name: str, ranks: int, repeats: int) -> dict[str, Any]:
    """The result of one case, measured on that many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        program = [sys.executable, "-m", "tests.benchmarks.balance_run", name, str(repeats), str(path)]
        subprocess.run(["mpirun", "-n", str(ranks), *program], check=True, stdout=subprocess.DEVNULL)
        result: dict[str, Any] = json.loads(path.read_text())
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rve", choices=("fibre", "void"), default="fibre", help="which RVE")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument(
        "--json", type=Path, default=Path("results/bench_balance.json"), help="where the result is written"
    )
    args = parser.parse_args()
    results = [measure(args.rve, ranks, args.repeats) for ranks in (2, 3)]
    write_json(args.json, {"benchmark": "balance", "results": results})
    columns = ["RVE", "dofs", "ranks", "cores", "RVE solves", "moved", "unbalanced [s]", "balanced [s]", *GAINS]
    show("Load balance of fine solves", columns, [_row(result) for result in results])


def _row(r: dict[str, Any]) -> list[str]:
    counts = r["balanced"]["counts"]
    numbers = [counts["rve/points"], counts.get("balance/moved points", 0)]
    seconds = [f"{r[variant]['seconds']:.2f}" for variant in ("unbalanced", "balanced")]
    return [r["rve"], *(str(r[n]) for n in ("dofs", "ranks", "cores")), *map(str, numbers), *seconds] + [
        f"{r[name]:.2f}" for name in GAINS
    ]


if __name__ == "__main__":
    main()
