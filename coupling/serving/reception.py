"""First messages: what clients want of a server, and whether they get it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from coupling.errors import ModelError, ServerRefusedError
from coupling.serving.client import Client
from coupling.serving.frames import pack_json
from coupling.serving.loader import Loader, Outcome
from coupling.serving.loading import canonical
from coupling.serving.log import Log
from coupling.serving.models import Model, Version
from coupling.serving.report import Reported, report


class House(Reported, Protocol):
    """The server that a reception works for."""

    log: Log

    def serve(self, client: Client, action: Callable[[], None]) -> None:
        """Do something for a client, if it is still there."""
        ...

    def stop(self) -> None:
        """End after the batch in progress."""
        ...


class Reception:
    """Grants or refuses the wishes "model", "status", "swap", "rollback" and "stop"."""

    def __init__(self, server: House, loader: Loader) -> None:
        self._server, self._loader = server, loader
        self._wishes = {
            "model": self._model,
            "status": self._status,
            "swap": self._swap,
            "rollback": self._rollback,
            "stop": self._stop,
        }

    def receive(self, client: Client, message: dict[str, Any]) -> None:
        """Answer a first message, at once or when what it needs is loaded."""
        want = message.get("want")
        try:
            if not isinstance(want, str) or want not in self._wishes:
                raise ServerRefusedError(f"expected one of {', '.join(self._wishes)}, got {want!r:.40}")
            if want != "model":
                client.expect_hello()
            self._wishes[want](client, message)
        except (ServerRefusedError, ModelError) as error:
            client.refuse(error)
            client.expect_hello()

    def _model(self, client: Client, message: dict[str, Any]) -> None:
        name, source, print_ = _text(message, "model"), message.get("source"), message.get("fingerprint")
        model = self._server.table.find(name)
        known = model is not None and (print_ is None or model.has(print_))
        if isinstance(source, str) and not known:
            number = 1 if model is None else model.newest + 1
            key = f"{name} {print_}"
            self._loader.load(key, source, number, lambda outcome: self._loaded(client, message, outcome))
            return
        model = self._known(message)
        version = model.find(message.get("version"), print_)
        client.welcome(model, version)
        self._server.log.info("client", client=client.pid, model=model.name, version=version.number)

    def _loaded(self, client: Client, message: dict[str, Any], outcome: Outcome) -> None:
        """A model, or a version of it, has been loaded for this client, and perhaps for others."""
        name = message["model"]
        if isinstance(outcome, Version):
            model = self._server.table.find(name)
            if model is None or not model.has(outcome.fingerprint):
                self._add(name if model is None else model.name, outcome)
        self._server.serve(client, lambda: self._welcome(client, message, outcome))

    def _welcome(self, client: Client, message: dict[str, Any], outcome: Outcome) -> None:
        """Grant what has been loaded: a folder may hold other files by now than when the client looked."""
        if isinstance(outcome, Version):
            self.receive(client, {**message, "source": None, "fingerprint": outcome.fingerprint})
        else:
            client.refuse(outcome)
            client.expect_hello()

    def _status(self, client: Client, message: dict[str, Any]) -> None:
        client.send(pack_json({"ok": True, "status": report(self._server)}))

    def _swap(self, client: Client, message: dict[str, Any]) -> None:
        model, source = self._known(message), canonical(_text(message, "source"))
        tolerance = message.get("tolerance")
        if not isinstance(tolerance, float | int | None):
            raise ServerRefusedError(f"tolerance must be a number, got {tolerance!r:.40}")

        def switch(outcome: Outcome) -> None:
            if isinstance(outcome, Version):
                self._add(model.name, outcome)
            self._server.serve(client, lambda: _tell(client, outcome))

        model.newest += 1
        key, like = f"{model.name} {model.newest}", model.versions[model.current]
        self._loader.load(key, source, model.newest, switch, like, tolerance)

    def _rollback(self, client: Client, message: dict[str, Any]) -> None:
        model = self._known(message)
        self._server.table.rollback(model)
        self._server.log.info("rolled back", model=model.name, version=model.current)
        client.send(pack_json({"ok": True, "version": model.current}))

    def _stop(self, client: Client, message: dict[str, Any]) -> None:
        client.send(pack_json({"ok": True}))
        self._server.stop()

    def _known(self, message: dict[str, Any]) -> Model:
        name = _text(message, "model")
        model = self._server.table.find(name)
        if model is None:
            there = ", ".join(self._server.table.models) or "none"
            raise ServerRefusedError(f"there is no model {name!r} here, and it is no source of one; there are: {there}")
        return model

    def _add(self, name: str, version: Version) -> None:
        self._server.table.add(name, version)
        what = {"source": version.source, "fingerprint": version.fingerprint}
        self._server.log.info("model ready", model=name, version=version.number, **what)


def _tell(client: Client, outcome: Outcome) -> None:
    if isinstance(outcome, Version):
        client.send(pack_json({"ok": True, "version": outcome.number, "fingerprint": outcome.fingerprint}))
    else:
        client.refuse(outcome)


def _text(message: dict[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not value:
        raise ServerRefusedError(f"{key} must be a name, got {value!r:.40}")
    return value
