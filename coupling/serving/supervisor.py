"""The supervisor: owns the address, and has a server there at all times.

It binds the socket and forks the server, which inherits it: while a dead server is being replaced, clients that connect
wait instead of being turned away. Whatever model folders need is imported before the fork, so that a new server is
there in milliseconds. A server that stops (SIGSTOP) or gives no sign of life is killed and replaced; one that keeps
dying is given up.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from coupling.errors import ServerAddressError
from coupling.serving.address import listen, lock, remove
from coupling.serving.loading import canonical, chosen_device, is_folder, preload
from coupling.serving.log import Log
from coupling.serving.models import ModelTable
from coupling.serving.server import Server
from coupling.serving.settings import Settings

WINDOW = 10.0
"""Seconds within which deaths are counted."""


class Supervisor:
    """Keeps a server running until it ends by itself or SIGTERM comes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = Log(settings.log)
        self._lock = settings.lock if settings.lock is not None else lock(settings.address)
        if self._lock is None:
            raise ServerAddressError(f"another server is running at {settings.address}")
        self._listener = listen(settings.address)
        if settings.detach:
            if os.fork():
                os._exit(0)
            _leave_binding()
        self._plan: list[dict[str, Any]] = [
            {"name": name, "current": 1, "previous": 0, "newest": 1, "versions": {"1": _unread(source)}}
            for name, source in settings.models.items()
        ]
        self._alive = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._deaths: list[float] = []
        self._child, self._ending = 0, False

    def run(self) -> int:
        """Exit code of the server: 0 where it ended by itself."""
        wake, waker = socket.socketpair()
        for end in (wake, waker):
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, self._terminate)
        try:
            code: int | None = None
            while code is None and not self._ending:
                code = self._one_server(wake)
            return code or 0
        finally:
            remove(self.settings.address)

    def _one_server(self, wake: socket.socket) -> int | None:
        """Fork a server and watch it; its exit code, or None where it has to be replaced."""
        self._preload()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._alive[0] = 0
        if self._ending:
            return 0
        self._child = os.fork()
        if not self._child:
            ours.close()
            wake.close()
            self._serve(theirs)
        theirs.close()
        try:
            return self._watch(ours, wake)
        finally:
            ours.close()

    def _watch(self, plans: socket.socket, wake: socket.socket) -> int | None:
        poll = select.poll()
        poll.register(plans, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll(1000 * self.settings.hang / 4):
                if descriptor == wake.fileno():
                    wake.recv(4096)
                elif packet := plans.recv(1 << 20):
                    self._plan = json.loads(packet)
                    self._preload()
                else:
                    poll.unregister(plans)
            pid, status = os.waitpid(self._child, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                self._kill("stopped")
            elif pid:
                return self._ended(os.waitstatus_to_exitcode(status))
            elif self._hangs():
                self._kill("no sign of life")

    def _preload(self) -> None:
        """Import what model folders need; a forked server need not look through all of that for garbage."""
        if any(is_folder(v["source"]) for entry in self._plan for v in entry["versions"].values()):
            try:
                preload()
            except ImportError as error:  # the server will say so to whoever asks for such a model
                self.log.warning("cannot load model folders", error=str(error))
        gc.collect()
        gc.freeze()

    def _hangs(self) -> bool:
        since = self._alive[0]
        return bool(since) and time.monotonic_ns() - since > 1e9 * self.settings.hang

    def _kill(self, why: str) -> None:
        self.log.warning("server killed", server=self._child, why=why)
        os.kill(self._child, signal.SIGKILL)

    def _terminate(self, *_: Any) -> None:
        self._ending = True
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGTERM)

    def _ended(self, code: int) -> int | None:
        if code in (0, -signal.SIGTERM):
            self.log.info("server ended", server=self._child)
            return 0
        now = time.monotonic()
        self._deaths = [t for t in self._deaths if now - t < WINDOW] + [now]
        self.log.warning("server died", server=self._child, code=code, deaths=len(self._deaths))
        if len(self._deaths) < self.settings.deaths:
            return None
        self.log.warning("server given up", deaths=len(self._deaths), seconds=WINDOW)
        return 1

    def _serve(self, plans: socket.socket) -> None:
        """The forked process."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _die_with_parent()
            serve(self.settings, self._listener, self._plan, self.log, self._alive, plans)
            code = 0
        except BaseException as error:
            self.log.warning("server failed", error=f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)


def serve(
    settings: Settings,
    listener: socket.socket,
    plan: list[dict[str, Any]],
    log: Log,
    alive: memoryview[int],
    plans: socket.socket,
) -> None:
    """Load the models of the plan and serve them; changed plans are sent to the supervisor."""
    start = time.monotonic()
    settings = Settings(**{**vars(settings), "device": chosen_device(settings.device)})
    table = ModelTable(lambda: _send_plan(plans, table))
    for error in table.restore(plan, settings.device, settings.precision):
        log.warning("model not loaded", error=str(error))

    server = Server(settings, listener, table, log, alive)
    if settings.metrics is not None:
        from coupling.serving.metrics import export

        export(server, settings.metrics)
    log.info("ready", device=settings.device, models=list(table.models), seconds=round(time.monotonic() - start, 3))
    server.run()
    log.info("stopping", clients=len(server.clients))


def _unread(source: str) -> dict[str, str | None]:
    """A version of a plan whose files nobody has looked at yet."""
    return {"source": canonical(source), "fingerprint": None}


def _send_plan(plans: socket.socket, table: ModelTable) -> None:
    plans.send(json.dumps(table.plan()).encode())


def _leave_binding() -> None:
    """Run on all cores that the system allows, not on those to which MPI has bound the rank that started this."""
    os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))


def _die_with_parent() -> None:
    """Have the kernel end this process when its parent does."""
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)


def main(text: str) -> int:
    """Run a supervised server with settings in JSON; exit code 2 where it cannot listen."""
    settings = Settings.from_json(text)
    try:
        supervisor = Supervisor(settings)
    except ServerAddressError as error:
        print(error, file=sys.stderr)
        return 2
    return supervisor.run()
