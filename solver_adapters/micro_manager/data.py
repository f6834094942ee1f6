"""Names of coupling data against components of a closure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, ClosureSpec
from coupling.errors import ContractError

Entry: TypeAlias = str | tuple[str, str]
Fields: TypeAlias = Mapping[str, Entry | Sequence[Entry]]
_Index: TypeAlias = int | NDArray[np.intp]


class MicroData:
    """Which component of a closure each named datum of a micro simulation holds.

        reads={"strain": ["ε11", "ε22"], "shear": "√2·ε12"}
        writes={"stress": ["σ11", "σ22"], "C11": ("σ11", "ε11")}

    A datum is a scalar, given as one entry, or a vector, given as a list of entries. Entries of ``reads`` are gradient
    components; those of ``writes`` are flux components, or pairs (flux, gradient component) for entries of the tangent.

    Args:
        spec: the closure's specification.
        reads: data from the macro scale; must have each gradient component, once.
        writes: data for the macro scale.

    Attributes:
        tangent: whether ``writes`` has entries of the tangent.

    Raises:
        ContractError: components that the specification does not have, or gradient components missing or read twice.
    """

    def __init__(self, spec: ClosureSpec, reads: Fields, writes: Fields) -> None:
        self.spec = spec
        gradient: dict[Entry, int] = {name: i for i, name in enumerate(spec.gradient)}
        answer: dict[Entry, int] = {name: i for i, name in enumerate(spec.flux)}
        for a, flux in enumerate(spec.flux):
            answer |= {(flux, g): spec.m + a * spec.k + b for b, g in enumerate(spec.gradient)}
        self._reads = {name: _index("reads", name, entries, gradient) for name, entries in reads.items()}
        self._writes = {name: _index("writes", name, entries, answer) for name, entries in writes.items()}
        read = np.concatenate([np.empty(0, np.intp), *(np.atleast_1d(i) for i in self._reads.values())])
        if sorted(read) != list(range(spec.k)):
            raise ContractError(
                f"reads must have each of the components {', '.join(spec.gradient)} once, got {dict(reads)}"
            )
        written = np.concatenate([np.empty(0, np.intp), *(np.atleast_1d(i) for i in self._writes.values())])
        self.tangent = bool((written >= spec.m).any())
        self._written = np.zeros(spec.m * (1 + spec.k), dtype=bool)
        self._written[written] = True

    def check_complete(self) -> None:
        """Check that a closure can be made of ``writes``: all fluxes, and all of the tangent or nothing of it.

        Of a symmetric tangent one of two entries is enough.

        Raises:
            ContractError: naming what is missing.
        """
        spec = self.spec
        flux, tangent = self._written[: spec.m], self._written[spec.m :].reshape(spec.m, spec.k)
        if spec.symmetric:
            tangent = tangent | tangent.T
        missing: list[Entry] = [name for name, there in zip(spec.flux, flux, strict=True) if not there]
        if self.tangent:
            missing += [(spec.flux[a], spec.gradient[b]) for a, b in np.argwhere(~tangent)]
        if missing:
            raise ContractError(
                f"writes lacks {missing}: a closure needs all fluxes, and all of a tangent or nothing of it"
            )

    def gradient(self, macro_data: Mapping[str, Any]) -> Array:
        """Gradient (k,) of the data that a micro simulation is given."""
        return _collect(self._reads, macro_data, self.spec.k, "macro data")

    def macro_data(self, gradient: Array) -> dict[str, Any]:
        """Data of a gradient (k,): NumPy floats for scalars, arrays for vectors, as preCICE gives them."""
        return _distribute(self._reads, gradient)

    def written(self, flux: Array, tangent: Array) -> dict[str, Any]:
        """Data of a flux (m,) and a tangent (m, k)."""
        return _distribute(self._writes, np.concatenate([flux, tangent.ravel()]))

    def flux_and_tangent(self, written: Mapping[str, Any]) -> tuple[Array, Array]:
        """Flux (m,) and tangent (m, k) of the data that a micro simulation returned; NaN where it gave none."""
        spec = self.spec
        rows = _collect(self._writes, written, spec.m * (1 + spec.k), "result of the micro simulation")
        flux, tangent = rows[: spec.m], rows[spec.m :].reshape(spec.m, spec.k)
        return flux, np.where(np.isnan(tangent), tangent.T, tangent) if spec.symmetric else tangent


def _index(role: str, name: str, entries: Entry | Sequence[Entry], known: Mapping[Entry, int]) -> _Index:
    several = [entries] if isinstance(entries, (str, tuple)) else list(entries)
    if unknown := [entry for entry in several if entry not in known]:
        raise ContractError(f"{role}[{name!r}] has {unknown}, but may only have {', '.join(map(str, known))}")
    if isinstance(entries, (str, tuple)):
        return known[entries]
    return np.array([known[entry] for entry in several], dtype=np.intp)


def _collect(places: Mapping[str, _Index], data: Mapping[str, Any], size: int, what: str) -> Array:
    values = np.full(size, np.nan)
    for name, index in places.items():
        if name not in data:
            raise ContractError(f"the {what} has no {name!r}, only {list(data)}")
        given = np.asarray(data[name], dtype=np.float64)
        if given.size != np.size(index):
            raise ContractError(f"{name!r} in the {what} must have {np.size(index)} values, got shape {given.shape}")
        values[index] = given.reshape(np.shape(index))
    return values


def _distribute(places: Mapping[str, _Index], values: Array) -> dict[str, Any]:
    return {name: values[index] for name, index in places.items()}
