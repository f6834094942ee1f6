"""Real Triton servers for tests and benchmarks, in processes that are gone when the test is."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.serving_processes import short_folder

FOLDER = "TWOSCALE_TRITON"
REQUIRED = "TWOSCALE_REQUIRE_TRITON"


class Triton:
    """A server of a model repository, at free ports of the loopback interface."""

    def __init__(self, folder: Path, repository: Path, *options: str) -> None:
        self.folder, self._repository, self._options = folder, repository, options
        self.log = folder / "log"
        self._ports = _free_ports(2)
        self.address = f"localhost:{self._ports[0]}"
        self.start()

    def start(self) -> None:
        """Start it, also again at the same address, and wait until it is ready."""
        command, environment = _command(self.folder)
        grpc, http = self._ports
        command += [f"--model-repository={self._repository}", f"--grpc-port={grpc}", f"--http-port={http}"]
        command += ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--allow-metrics=false", *self._options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait(http)

    def _wait(self, port: int, timeout: float = 60.0) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1.0):
                return
            assert self.process.poll() is None, f"Triton ended: {self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        raise AssertionError(f"Triton is not ready after {timeout:.0f} s: {self.log.read_text()[-3000:]}")

    def signal(self, number: int) -> None:
        """To the server and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def triton(repository: Path, *options: str) -> Iterator[Triton]:
    """A running server; skips the test where Triton is not installed."""
    with short_folder() as folder:
        server = Triton(folder, repository, *options)
        try:
            yield server
        finally:
            server.end()


def _command(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Triton's command line as far as it depends on the installation, and its environment."""
    if FOLDER in os.environ:
        return _from_wheel(Path(os.environ[FOLDER]), folder)
    found = shutil.which("tritonserver")
    if found is not None:
        return [found], dict(os.environ)
    words = f"Triton is not installed: no tritonserver on PATH, and {FOLDER} is not set, as './run test' does"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{words}; {REQUIRED}=1 forbids to skip its tests")
    pytest.skip(words)


def _from_wheel(environment: Path, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The server of nvidia-pytriton, its Python backend, and by that our backend for ONNX models.

    The stub of the Python backend is moved away from the libpython of the wheel, which lacks modules that Debian builds
    into its own: under that one's name it finds the system's.
    """
    packages = next((environment / "lib").glob("python3*/site-packages"))
    version = packages.parent.name.removeprefix("python")
    server, libraries = packages / "pytriton" / "tritonserver", packages / "nvidia_pytriton.libs"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        pytest.skip(f"this wheel of Triton has no Python backend for Python {version}")
    python, onnx, ours = (folder / part for part in ("backends/python", "backends/onnxruntime", "libraries"))
    if not python.exists():
        shutil.copytree(server / "backends" / "python", python)
        shutil.copy(stub, python)
        onnx.mkdir()
        shutil.copy(Path(__file__).with_name("triton_backend.py"), onnx / "model.py")
        ours.mkdir()
        for bundled in libraries.glob(f"libpython3-*.{version.partition('.')[2]}.so.1.0"):
            (ours / bundled.name).symlink_to(_libpython(version))
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {
        "LD_LIBRARY_PATH": f"{ours}:{libraries}",
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
    }
    return [str(server / "bin" / "tritonserver"), f"--backend-directory={folder / 'backends'}"], variables


def _libpython(version: str) -> Path:
    candidates = [
        Path(base) / f"libpython{version}.so.1.0" for base in ("/usr/lib/x86_64-linux-gnu", f"{sys.base_prefix}/lib")
    ]
    return next((path for path in candidates if path.exists()), candidates[0])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
