"""Starting a server: in a session of its own, without anything that would tie it to an MPI job."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from coupling.errors import ServerUnavailableError
from coupling.serving.address import connect, lock
from coupling.serving.settings import Settings

LAUNCHERS = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "MPI_", "MPICH_", "I_MPI_", "HYDRA_", "HYDI_", "MV2_", "PALS_")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def server_environment(threads: int) -> dict[str, str]:
    """This process's environment without what MPI launchers set; modules are found where this process finds them.

    CUDA numbers GPUs as :mod:`coupling.serving.gpus` and nvidia-smi do, not the fastest first.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    environment |= dict.fromkeys(_THREADS, str(threads)) | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return environment


def command(settings: Settings) -> list[str]:
    """The command line of a supervised server."""
    return [sys.executable, "-m", "coupling.serving", settings.as_json()]


def ensure_running(settings: Settings, timeout: float, patience: float = math.inf) -> None:
    """Start the server where none answers at its address; of processes that do this at once, one starts it.

    Args:
        settings: of the server.
        timeout: seconds after which a server that is still not there has failed to start, and is ended.
        patience: seconds to wait at most; what has begun to start by then goes on.

    Raises:
        ServerAddressError: where nothing can listen there.
        ServerUnavailableError: where it is not there in time.
    """
    patience = min(patience, timeout)
    end = time.monotonic() + patience
    while not _answers(settings.address):
        descriptor = lock(settings.address)
        if descriptor is not None:
            try:
                if _answers(settings.address):
                    return
                _start(settings, descriptor, max(0.0, end - time.monotonic()), patience < timeout)
            finally:
                os.close(descriptor)
        if time.monotonic() > end:
            raise ServerUnavailableError(f"no server at {settings.address} after {patience:.1f} s: see {settings.log}")
        time.sleep(0.005)


def _answers(address: str) -> bool:
    try:
        connect(address, 1.0).close()
    except ServerUnavailableError:
        return False
    return True


def _start(settings: Settings, descriptor: int, timeout: float, leave: bool) -> None:
    """Start the server with the lock it is to hold, and wait until it listens and has detached itself.

    One that does not do so in time is ended, or left to itself.
    """
    settings = replace(settings, lock=descriptor, detach=True)
    with open(settings.log or os.devnull, "ab") as log:
        process = subprocess.Popen(
            command(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=server_environment(settings.threads),
            start_new_session=True,
            pass_fds=(descriptor,),
        )
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        if leave:
            raise ServerUnavailableError(f"the server at {settings.address} is still starting") from error
        process.kill()
        code = process.wait()
    if code:
        raise ServerUnavailableError(f"no server started at {settings.address} (code {code}): see {settings.log}")


def log_beside(address: str) -> str | None:
    """The log file of a server that is started on demand."""
    return None if address.startswith("@") else str(Path(address).with_suffix(".log"))
