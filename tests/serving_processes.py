"""Servers for tests, in processes that are gone when the test is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coupling.errors import ServerError, ServerUnavailableError
from coupling.serving import RemoteSurrogate, ask
from coupling.serving.settings import Settings
from coupling.serving.starting import command, server_environment

MODELS = "tests.serving_models:"
NEO_HOOKEAN, SLOW = f"{MODELS}neo_hookean", f"{MODELS}Slow"


class Running:
    """A supervised server in a process of its own."""

    def __init__(self, folder: Path, *models: str, **settings: Any) -> None:
        self.address, self.log = str(folder / "s.sock"), folder / "log"
        named = {name.rpartition("=")[0] or name: name.rpartition("=")[2] for name in models}
        device = settings.pop("device", "cpu")
        settings.setdefault("idle", 60.0)  # should the test itself be killed
        self.settings = Settings(self.address, named, device, log=str(self.log), **settings)
        self.start()

    def start(self, word: str = "", by: str = "") -> None:
        """Start it; again, with one word of its settings replaced by another, where they are given."""
        line = command(self.settings)
        if word:
            line[-1] = line[-1].replace(word, by)
        self.process = subprocess.Popen(line, env=server_environment(1), start_new_session=True)
        self.wait()

    def wait(self) -> dict[str, Any]:
        """Its status, as soon as it answers."""
        state: dict[str, Any] = wait_for(lambda: self.status())
        return state

    def status(self) -> dict[str, Any]:
        state: dict[str, Any] = ask(self.address, {"want": "status"})["status"]
        return state

    @property
    def pid(self) -> int:
        """Of the server, not of its supervisor."""
        return int(self.status()["pid"])

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def surrogate(self, model: str | Path = NEO_HOOKEAN, **options: Any) -> RemoteSurrogate:
        return RemoteSurrogate(model, address=self.address, **options)

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(*models: str, **settings: Any) -> Iterator[Running]:
    with short_folder() as folder:
        server = Running(folder, *(models or (NEO_HOOKEAN,)), **settings)
        try:
            yield server
        finally:
            server.end()


@contextmanager
def short_folder() -> Iterator[Path]:
    """pytest's own paths can be too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="ts-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def node_of_its_own() -> Iterator[Path]:
    """A folder for the node's sockets; the servers started in it are ended."""
    before = {name: os.environ.pop(name, None) for name in ("XDG_RUNTIME_DIR", "TWOSCALE_SERVER")}
    with short_folder() as folder:
        os.environ["XDG_RUNTIME_DIR"] = str(folder)
        try:
            yield folder
        finally:
            end_servers(folder)
            del os.environ["XDG_RUNTIME_DIR"]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def end_servers(folder: Path) -> None:
    """Stop what listens in a folder."""
    for path in folder.rglob("*.sock"):
        with suppress(ServerError):
            pid = ask(str(path), {"want": "status"}, 5.0)["status"]["pid"]
            ask(str(path), {"want": "stop"}, 5.0)
            wait_for(lambda pid=pid: not alive(pid))


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Any, timeout: float = 20.0) -> Any:
    """The condition's value, as soon as there is one."""
    end = time.monotonic() + timeout
    while True:
        try:
            if value := condition():
                return value
        except ServerUnavailableError:
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
