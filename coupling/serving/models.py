"""The models of a server: loaded, warmed up, validated, and switched from version to version.

Versions of a model are numbered from 1. New clients get the current one and keep it until they ask for another
(all ranks of a run together: :meth:`coupling.serving.remote_surrogate.RemoteSurrogate.adopt`), so that no answer is a
mixture. A version is forgotten when it is neither current nor the one before, and no client has it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coupling.contract import Array, Closure, ClosureSpec, check_response, finite_rows, usable
from coupling.errors import ModelError, ServerRefusedError
from coupling.serving.evaluation import (
    DeviceEvaluator,
    Evaluator,
    HostEvaluator,
    OnDevice,
    in_place,
    optional_results,
    out_of_memory,
)
from coupling.serving.loading import load_with_fingerprint
from coupling.serving.statistics import Statistics

BATCH = {"cpu": 2048, "cuda": 65_536}
"""Points that one call of a model gets at most, for models without an attribute ``batch``. Models cut them further to
what fits a cache; here they bound what a client has to wait for others, and hide the cost of a call."""


@dataclass(eq=False)
class Version:
    """One version of a model, ready to answer."""

    number: int
    source: str
    fingerprint: str
    evaluator: Evaluator
    optional: int
    probe_flux: Array
    initial_state: Array | None
    users: int = 0


@dataclass(eq=False)
class Model:
    """The versions of a model; ``previous`` is what a rollback goes back to."""

    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    current: int = 0
    previous: int = 0
    newest: int = 0
    statistics: Statistics = field(default_factory=Statistics)

    def find(self, number: int | None, print_: str | None) -> Version:
        """The version of that number or fingerprint, the current one where neither is given.

        Raises:
            ServerRefusedError: where it is not served; names those that are.
        """
        if number is None and print_ is None:
            return self.versions[self.current]
        matching = [v for v in self.versions.values() if number in (None, v.number) and print_ in (None, v.fingerprint)]
        if not matching:
            there = ", ".join(f"{v.number} ({v.fingerprint})" for v in self.versions.values())
            wanted = number if print_ is None else print_
            raise ServerRefusedError(
                f"{self.name} is not served in version {wanted}; there are: {there}, current is {self.current}"
            )
        return max(matching, key=lambda v: (v.number == self.current, v.number))

    def has(self, print_: str) -> bool:
        """Whether a version of that fingerprint is served."""
        return any(version.fingerprint == print_ for version in self.versions.values())

    def switch(self, version: Version) -> None:
        """Make a version the current one; it gets the next number where its own has been given away meanwhile."""
        if version.number in self.versions:
            version.number = self.newest + 1
        self.versions[version.number] = version
        self.newest = max(self.newest, version.number)
        self.previous, self.current = self.current, version.number
        self.forget()

    def rollback(self) -> None:
        """Make the version before the current one current again.

        Raises:
            ServerRefusedError: where there is none.
        """
        if self.previous not in self.versions:
            raise ServerRefusedError(f"{self.name} has no version before {self.current} to go back to")
        self.previous, self.current = self.current, self.previous

    def forget(self) -> None:
        """Let go of versions that nobody can need."""
        for number, version in list(self.versions.items()):
            if number not in (self.current, self.previous) and not version.users:
                del self.versions[number]


def prepare(
    source: str,
    number: int,
    device: str,
    precision: str = "float64",
    *,
    like: Version | None = None,
    tolerance: float | None = None,
) -> Version:
    """A version loaded, warmed up and validated.

    Args:
        source: see :mod:`coupling.serving.loading`.
        number: of the version.
        device: where it computes.
        precision: in which, for model folders.
        like: the version it is to replace: the specification must be the same.
        tolerance: largest relative difference of the flux to that version, at gradients around the reference.

    Raises:
        ModelError: where it fails in any of this; says in what.
    """
    gc.collect()  # versions that nobody uses any more, whose memory a device may need
    closure, print_ = load_with_fingerprint(source, device, precision)
    on_device = getattr(closure, "on_device", None)
    batch = getattr(on_device or closure, "batch", None) or BATCH[device.partition(":")[0]]
    optional, batch = _warmed_up(source, closure, batch)
    flux = _probe_flux(closure, batch)
    if like is not None:
        _validate(source, closure.spec, flux, like, tolerance)
    evaluator: Evaluator = HostEvaluator(closure, batch, optional)
    if isinstance(on_device, OnDevice) and in_place(closure, optional) is not None:
        evaluator = DeviceEvaluator(closure.spec, on_device)
    return Version(number, source, print_, evaluator, optional, flux, closure.initial_state(1))


def _warmed_up(source: str, closure: Closure, batch: int) -> tuple[int, int]:
    """Which optional results the model has, and the size of a batch, halved until memory suffices for it."""
    while True:
        try:
            return _warm_up(source, closure, batch), batch
        except ModelError as error:
            if batch == 1 or error.__cause__ is None or not out_of_memory(error.__cause__):
                raise
        batch = (batch + 1) // 2


def _warm_up(source: str, closure: Closure, batch: int) -> int:
    flags = 0
    for n in (1, batch, batch, 2):
        gradient = probes(closure.spec, n)
        try:
            response = closure.evaluate(gradient, closure.initial_state(n), 1.0)
            check_response(closure.spec, response, n)
        except Exception as error:  # a user's model may raise anything
            raise ModelError(f"{source} fails on {n} points: {type(error).__name__}: {error}") from error
        flags = optional_results(closure.spec, response, n)
        good = usable(response.status)
        if not good[0] or not finite_rows(response)[good].all():
            raise ModelError(f"{source} has no usable answer in the reference state, or numbers that are not finite")
    return flags


def _probe_flux(closure: Closure, batch: int, n: int = 64) -> Array:
    gradient, step = probes(closure.spec, n), min(batch, n)
    parts = [gradient[a : a + step] for a in range(0, n, step)]
    return np.concatenate([closure.evaluate(g, closure.initial_state(len(g)), 1.0).flux for g in parts])


def _validate(source: str, spec: ClosureSpec, flux: Array, like: Version, tolerance: float | None) -> None:
    if spec != like.evaluator.spec:
        raise ModelError(f"{source} has another specification than version {like.number}: {spec}")
    error = float(np.linalg.norm(flux - like.probe_flux) / (np.linalg.norm(like.probe_flux) or 1.0))
    if tolerance is not None and not error <= tolerance:
        allowed = f"allowed: {tolerance:.1e}"
        raise ModelError(f"the flux of {source} differs from version {like.number} by {error:.1e}, {allowed}")


def probes(spec: ClosureSpec, n: int, amplitude: float = 0.01) -> Array:
    """The reference gradient and n − 1 others within ± amplitude of it, the same in every process."""
    offsets = np.random.default_rng(0).uniform(-amplitude, amplitude, (n, spec.k))
    offsets[:1] = 0.0
    return np.asarray(np.array(spec.reference) + offsets)


class ModelTable:
    """All models of a server by name; short names (the last part of a path) stand for the long ones where unique."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.models: dict[str, Model] = {}
        self._changed = changed

    def find(self, name: str) -> Model | None:
        """The model of that name."""
        if name in self.models:
            return self.models[name]
        matching = [m for m in self.models.values() if m.name.rpartition("/")[2] == name]
        return matching[0] if len(matching) == 1 else None

    def add(self, name: str, version: Version) -> Model:
        """Make a version the current one of a model, new or known."""
        model = self.models.setdefault(name, Model(name))
        model.switch(version)
        self._changed()
        return model

    def rollback(self, model: Model) -> None:
        """Go back to the version before."""
        model.rollback()
        self._changed()

    def plan(self) -> list[dict[str, Any]]:
        """What is served, for the process that will take over; :meth:`restore` makes it again."""
        return [
            {
                "name": m.name,
                "current": m.current,
                "previous": m.previous,
                "newest": m.newest,
                "versions": {
                    str(v.number): {"source": v.source, "fingerprint": v.fingerprint} for v in m.versions.values()
                },
            }
            for m in self.models.values()
        ]

    def restore(self, plan: list[dict[str, Any]], device: str, precision: str = "float64") -> list[ModelError]:
        """Load what a plan says; what cannot be loaded any more is returned as errors and left out.

        A version whose files are no longer those of the plan is another version, and gets the next number.
        """
        errors = []
        for entry in plan:
            model = Model(entry["name"], newest=entry["newest"], previous=entry["previous"])
            for number, known in entry["versions"].items():
                try:
                    version = prepare(known["source"], int(number), device, precision)
                except ModelError as error:
                    errors.append(error)
                    continue
                if known["fingerprint"] not in (None, version.fingerprint):
                    model.newest += 1
                    version.number = model.newest
                model.versions[version.number] = version
            if model.versions:
                current = entry["current"]
                model.current = current if current in model.versions else max(model.versions)
                self.models[model.name] = model
        return errors
