"""Finding the server of a model: at the given address, the environment's, or the node's, started on demand."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from coupling.errors import ServerRefusedError, ServerUnavailableError
from coupling.serving.address import VARIABLE, node_address
from coupling.serving.link import Link, Wanted
from coupling.serving.loading import canonical, fingerprint, is_folder
from coupling.serving.locality import own_device
from coupling.serving.settings import Settings
from coupling.serving.starting import ensure_running, log_beside

IDLE = 3.0
"""Seconds that a server started on demand stays after its last client."""
_PAUSE = 0.005


class Lookup:
    """Makes links to whatever server has, or can load, a model.

    Args:
        model: name of a model, path of a model folder, or ``module:object``.
        address: of the server, None to look it up.
        device: of the node's server; "auto" for this process's own GPU.
        timeout: seconds without any answer after which a server counts as hanging.
        start_timeout: seconds that a server may take to start, to be replaced, or to load the model.
    """

    def __init__(self, model: str, address: str | None, device: str, timeout: float, start_timeout: float) -> None:
        self.model = canonical(model)
        self.source = self.model if ":" in self.model or Path(self.model).is_dir() else None
        self._given = address or os.environ.get(VARIABLE)
        self._device = own_device() if device == "auto" and self._given is None else device
        self._timeout, self._start_timeout = timeout, start_timeout

    @property
    def address(self) -> str:
        """Where the server is looked for."""
        return self._given or node_address(self._device)

    def first_link(self, version: int | None) -> Link:
        """A link to that version, or to the one with the files of the model folder, or to the current one.

        Raises:
            ServerUnavailableError: where no server answers at an address that was given, or none can be started.
            ServerRefusedError: where it does not serve what is wanted.
        """
        print_ = None
        if version is None and self.source is not None and is_folder(self.source):
            print_ = fingerprint(self.source)
        wanted = Wanted(self.model, self.source, version, print_)
        return self._link(wanted, 0.0 if self._given else self._start_timeout)

    def link(self, *, version: int | None = None, fingerprint: str | None = None, patience: float = math.inf) -> Link:
        """A link to that version, or the one of that fingerprint, from a server that may still have to be replaced.

        Raises:
            As :meth:`first_link`, after ``patience`` seconds or ``start_timeout``.
        """
        wanted = Wanted(self.model, self.source, version, fingerprint)
        link = self._link(wanted, min(patience, self._start_timeout), limited=patience < self._start_timeout)
        if fingerprint not in (None, link.fingerprint):
            link.close()
            raise ServerRefusedError(f"{self.model} is not served in version {fingerprint}: it holds another model now")
        return link

    def _link(self, wanted: Wanted, patience: float, limited: bool = False) -> Link:
        """A link, tried for so many seconds; where that is ``limited``, starting and loading may not take more."""
        end = time.monotonic() + patience
        while True:
            left = max(end - time.monotonic(), _PAUSE)
            loading = left if limited else max(self._start_timeout, self._timeout)
            try:
                if self._given is None:
                    ensure_running(self._settings(), self._start_timeout if limited else left, left)
                return Link(self.address, wanted, self._timeout, loading)
            except ServerUnavailableError:
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE)

    def _settings(self) -> Settings:
        address, models = self.address, {} if self.source is None else {self.model: self.source}
        return Settings(address, models, self._device, idle=IDLE, log=log_beside(address))
