"""Client processes of the serve benchmark, and what serves them: each crew is another way to share a model.

A crew evaluates in lockstep, each client its own points. Between its turns nothing of it runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from coupling.contract import Array, Closure
from coupling.serving import RemoteSurrogate
from coupling.serving.in_job_surrogate import InJobSurrogate
from coupling.serving.models import probes
from coupling.serving.starting import server_environment
from tests.serving_processes import running

MODEL = "tests.serving_models:energy_network"
PATIENCE = 1e-3


class Absent(Exception):
    """Something that a crew needs is not on this machine."""


class Crew(Protocol):
    """Clients that take turns with the other crews."""

    def rounds(self, points: int, rounds: int) -> list[dict[str, list[float]]]:
        """Seconds of each evaluation of each client ("trips"), and of the model in it ("computed") where known."""
        ...


class Processes:
    """Clients in processes of their own, which evaluate "points rounds" for every such line they are sent."""

    def __init__(self, *commands: list[str], environment: dict[str, str] | None = None) -> None:
        pipe, environment = subprocess.PIPE, environment or server_environment(1)
        self._processes = [
            subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for command in commands
        ]
        for process in self._processes:
            if self._line(process) != "ready\n":
                raise Absent("its clients do not start")

    def rounds(self, points: int, rounds: int) -> list[dict[str, list[float]]]:
        """See :class:`Crew`."""
        for process in self._processes:
            process.stdin.write(f"{points} {rounds}\n")
            process.stdin.flush()
        answers = [json.loads(self._line(process)) for process in self._processes]
        return [times for answer in answers for times in (answer if isinstance(answer, list) else [answer])]

    def end(self) -> None:
        """End them."""
        for process in self._processes:
            process.communicate(timeout=30)

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> str:
        while (line := process.stdout.readline()) and line[0] not in "r[{":  # mpirun may say something first
            pass
        return line


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a client."""
    return [sys.executable, "-m", module, *arguments]


@contextmanager
def processes(*commands: list[str], environment: dict[str, str] | None = None) -> Iterator[Processes]:
    """Clients that are ended afterwards."""
    crew = Processes(*commands, environment=environment)
    try:
        yield crew
    finally:
        crew.end()


@contextmanager
def shared_server(count: int, device: str) -> Iterator[Crew]:
    """The model server of this project."""
    with running(MODEL, device=device) as server:
        clients = [command("tests.benchmarks.serve_crews", "socket", server.address)] * count
        with processes(*clients) as crew:
            yield crew


@contextmanager
def in_job(count: int, device: str) -> Iterator[Crew]:
    """A rank more, which serves the others."""
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        raise Absent("there is no mpirun")
    line = [mpirun, "-n", str(count + 1), *command("tests.benchmarks.serve_crews", "in-job", device)]
    with processes(line, environment={**server_environment(1), **os.environ}) as crew:
        yield crew


def timed(evaluate: Callable[[Array], Any], gradient: Array, rounds: int) -> list[float]:
    """Seconds of each evaluation."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        evaluate(gradient)
        seconds.append(time.perf_counter() - start)
    return seconds


def times(surrogate: RemoteSurrogate | InJobSurrogate, points: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round trip, and of the model in it."""
    computed = []

    def evaluate(gradient: Array) -> None:
        ticket = surrogate.submit(gradient, None, 1.0)
        surrogate.collect(ticket)
        computed.append(1e-9 * ticket.compute_ns)

    trips = timed(evaluate, probes(surrogate.spec, points, 0.05), rounds)
    return {"trips": trips, "computed": computed}


def answer_lines(times_of: Callable[[int, int], Any]) -> None:
    """The life of a client: for every line "points rounds" print the times as JSON."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(times_of(*map(int, line.split()))), flush=True)


def simple_client(surrogate: Closure) -> None:
    """A client that knows no more than how long its evaluations took."""

    def times_of(points: int, rounds: int) -> dict[str, list[float]]:
        gradient = probes(surrogate.spec, points, 0.05)
        return {"trips": timed(lambda g: surrogate.evaluate(g, None, 1.0), gradient, rounds)}

    answer_lines(times_of)


def in_job_client(device: str) -> None:
    """A rank of a job: rank 0 hears of the rounds, the servers serve only while there are any."""
    from mpi4py import MPI

    from coupling.serving.in_job import in_job_servers

    comm = MPI.COMM_WORLD

    def times_of(points: int, rounds: int) -> list[Any]:
        with in_job_servers(comm, MODEL, device=device) as job:
            mine = None
            if job is not None:
                times(job.surrogate(), points, 1)
                job.comm.barrier()
                mine = times(job.surrogate(), points, rounds)
        return [found for found in comm.gather(mine) or [] if found]

    if comm.rank:
        while (task := _told(comm)) is not None:
            times_of(*task)
        return

    def tell(task: tuple[int, int] | None) -> None:
        for rank in range(1, comm.size):
            comm.send(task, rank)

    def lead(points: int, rounds: int) -> list[Any]:
        tell((points, rounds))
        return times_of(points, rounds)

    answer_lines(lead)
    tell(None)


def _told(comm: Any) -> tuple[int, int] | None:
    """What rank 0 says next; others have the core until then."""
    while not comm.Iprobe(0):
        time.sleep(PATIENCE)
    task: tuple[int, int] | None = comm.recv(source=0)
    return task


if __name__ == "__main__":
    kind, where = sys.argv[1:]
    if kind == "in-job":
        in_job_client(where)
    else:
        remote = RemoteSurrogate(MODEL, address=where)
        answer_lines(lambda points, rounds: times(remote, points, rounds))
