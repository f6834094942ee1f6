"""Data sets: what a closure answered at sampled gradients, with where it came from, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from coupling.contract import Array, ClosureSpec
from coupling.errors import ContractError, ModelError
from coupling.files import write_atomically
from surrogates.array_file import packed
from surrogates.box import Box
from surrogates.stretch_space import StretchBox, box_of

FORMAT = 1
_ARRAYS = ("gradient", "energy", "flux", "tangent", "fields")


@dataclass(frozen=True)
class Dataset:
    """Fluxes and tangents, and energies of stretches, at n gradients.

    Args:
        spec: specification of the closure that was sampled.
        box: the box that was sampled, the range of a surrogate trained on it.
        gradient: g (n, k); the stretch U for energy surrogates.
        energy: Ŵ (n,), per reference volume, in the flux's unit; None where the closure has none.
        flux: q (n, m); T = ∂Ŵ/∂U for energy surrogates.
        tangent: ∂q/∂g (n, m, k).
        provenance: how the samples came about (RVE, closure, seed, dropped points); anything that JSON holds.
        fields: (n, N) solutions of the fine scale, such as fluctuation fields, where they were kept.

    Raises:
        ModelError: where shapes do not fit or a number is not finite.
    """

    spec: ClosureSpec
    box: Box
    gradient: Array
    energy: Array | None
    flux: Array
    tangent: Array
    provenance: dict[str, Any]
    fields: Array | None = None

    def __post_init__(self) -> None:
        n, m, k = len(self), self.spec.m, self.spec.k
        shapes = {"gradient": (n, k), "energy": (n,), "flux": (n, m), "tangent": (n, m, k)}
        if self.fields is not None:
            shapes["fields"] = (n, *self.fields.shape[1:2])
        for name, array in self.arrays.items():
            shape = shapes[name]
            if array.shape != shape or array.dtype != np.float64:
                raise ModelError(f"{name} of the data set must be float64 {shape}, got {array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise ModelError(f"{name} of the data set has numbers that are not finite: drop those samples")

    def __len__(self) -> int:
        return len(self.gradient)

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays that there are, by name."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def energies(self) -> Array:
        """The energies.

        Raises:
            ContractError: where there are none.
        """
        if self.energy is None:
            raise ContractError(
                "the data set has no energies, which energy surrogates are trained on: sample stretches"
            )
        return self.energy

    @property
    def stretches(self) -> StretchBox:
        """The box of a data set of stretches.

        Raises:
            ContractError: where it is one of something else.
        """
        if not isinstance(self.box, StretchBox):
            raise ContractError(
                f"energy surrogates are trained on stretches, the data set has {', '.join(self.spec.gradient)}: "
                "fit a polynomial flux to it"
            )
        return self.box

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the box and the arrays, in hexadecimal."""
        digest = hashlib.sha256(json.dumps([self.box.lower, self.box.upper]).encode())
        for name, array in self.arrays.items():
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    def split(self, fractions: Sequence[float], seed: int) -> list[Dataset]:
        """Disjoint random parts: the rest to train on, then one of one sample or more for each fraction.

        The same for the same seed; the last part depends on its own fraction only.

        Raises:
            ContractError: where there are fewer than 10 samples, a fraction is not above 0, or nothing would be left.
        """
        possible = len(self) >= 10 and min(fractions) > 0.0 and sum(fractions) < 1.0
        counts = [max(1, round(fraction * len(self))) for fraction in fractions if possible]
        if not possible or sum(counts) >= len(self):
            raise ContractError(
                "training needs 10 samples or more, and fractions to hold out and to validate on that are above 0 and "
                f"leave something to train on, got {len(self)} samples and {' and '.join(map(str, fractions))}"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        parts = np.split(order, np.cumsum(counts[::-1]))[::-1]
        return [self.subset(np.sort(part)) for part in parts]

    def subset(self, index: Any) -> Dataset:
        """The samples of an index array or slice."""
        parts: dict[str, Any] = {name: np.ascontiguousarray(array[index]) for name, array in self.arrays.items()}
        return replace(self, **parts)

    def save(self, path: str | Path) -> None:
        """Write one file; a file of that name is replaced at once, never half."""
        card = {
            "format": FORMAT,
            "spec": asdict(self.spec),
            "lower": self.box.lower,
            "upper": self.box.upper,
            "provenance": self.provenance,
            "fingerprint": self.fingerprint,
        }
        write_atomically(path, packed(self.arrays, {"card": json.dumps(card, allow_nan=False)}))

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """Read a file that :meth:`save` wrote.

        Raises:
            ModelError: where the file is missing, damaged, of a newer format, or not what was saved.
        """
        arrays, card = _read(Path(path))
        try:
            if card["format"] > FORMAT:
                raise ModelError(f"{path}: data set format {card['format']} is newer than {FORMAT}: update twoscale")
            spec = spec_from_json(card["spec"])
            box = box_of(spec, card["lower"], card["upper"])
            dataset = cls(spec, box, **{"energy": None, **arrays}, provenance=card["provenance"])  # type: ignore[arg-type]
            expected = card["fingerprint"]
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path}: the data set lacks or garbles {error}: sample it again") from error
        if dataset.fingerprint != expected:
            raise ModelError(
                f"{path}: fingerprint {dataset.fingerprint} differs from the recorded {expected}: file damaged"
            )
        return dataset


def spec_from_json(values: dict[str, Any]) -> ClosureSpec:
    """The specification whose ``dataclasses.asdict`` went through JSON."""
    arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return ClosureSpec(**arguments)


def _read(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads((file.metadata() or {})["card"])  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such data set file") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(
            f"{path} is not a whole data set file ({type(error).__name__}: {error}): sample it again"
        ) from error
