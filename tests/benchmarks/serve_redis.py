"""Redis between the clients and a worker that evaluates: the comparator of the serve benchmark.

The way of workflow tools such as SmartSim: inputs are pushed to a list as bytes, a worker pops them, evaluates, and
pushes the results to a list of the client. Over a Unix socket, without persistence. Needs the package ``redis`` and a
``redis-server`` on PATH.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from coupling.contract import Array, Response
from coupling.serving.exchange import empty_response
from coupling.serving.frames import ENERGY, UNCERTAINTY
from coupling.serving.loading import load
from coupling.serving.starting import server_environment
from tests.benchmarks.serve_crews import MODEL, Absent, Crew, command, processes, simple_client
from tests.serving_processes import short_folder

REQUESTS = "requests"
_HEADER = struct.Struct("<Q")


class RedisSurrogate:
    """Asks the worker."""

    def __init__(self, path: str) -> None:
        self._redis, self._client = _connect(path), os.getpid()
        self.spec = load(MODEL, "cpu").spec

    def initial_state(self, n: int) -> Array | None:
        """No state."""
        return None

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """One list there, one back."""
        self._redis.lpush(REQUESTS, _HEADER.pack(self._client) + gradient.tobytes())
        _, packet = self._redis.brpop(f"results of {self._client}")
        response, start = empty_response(self.spec, len(gradient), UNCERTAINTY | ENERGY), 0
        for array in _arrays(response):
            array[...] = np.frombuffer(packet, array.dtype, array.size, start).reshape(array.shape)
            start += array.nbytes
        return response


def work(path: str, device: str) -> None:
    """The worker: evaluates requests one after the other."""
    redis, closure = _connect(path), load(MODEL, device)
    redis.lpush("ready", b"")
    while True:
        _, packet = redis.brpop(REQUESTS)
        (client,) = _HEADER.unpack_from(packet)
        gradient = np.frombuffer(packet, np.float64, offset=_HEADER.size).reshape(-1, closure.spec.k)
        response = closure.evaluate(gradient, None, 1.0)
        redis.lpush(f"results of {client}", b"".join(array.tobytes() for array in _arrays(response)))


def _arrays(response: Response) -> list[Any]:
    return [response.flux, response.tangent, response.status, response.uncertainty, response.energy]


def _connect(path: str) -> Any:
    import redis

    return redis.Redis(unix_socket_path=path)


@contextmanager
def redis_worker(count: int, device: str) -> Iterator[Crew]:
    """Redis, a worker, and clients."""
    server = shutil.which("redis-server")
    if server is None or importlib.util.find_spec("redis") is None:
        raise Absent("it takes redis-server on PATH and the package redis")
    with short_folder() as folder:
        path = str(folder / "redis.sock")
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", str(folder)]
        helpers = [subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)]
        try:
            while not os.path.exists(path):
                time.sleep(0.01)
            worker = command("tests.benchmarks.serve_redis", "worker", path, device)
            helpers.append(subprocess.Popen(worker, env=server_environment(1)))
            _connect(path).brpop("ready", 60)
            with processes(*[command("tests.benchmarks.serve_redis", "client", path)] * count) as crew:
                yield crew
        finally:
            for helper in reversed(helpers):
                helper.kill()
                helper.wait()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        work(*sys.argv[2:])
    else:
        simple_client(RedisSurrogate(sys.argv[2]))
