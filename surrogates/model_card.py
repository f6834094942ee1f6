"""What is known about a trained surrogate: specification, range, hold-out errors, data, origin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from coupling.contract import Array, ClosureSpec
from coupling.errors import ContractError, ModelError
from surrogates.box import Box
from surrogates.dataset import Dataset
from surrogates.stretch_space import StretchBox, box_of, check_stretch_spec

T = TypeVar("T")
FLOAT32_SHARE = 0.1
"""Of the hold-out errors: what float32 may add where it is allowed."""
_REMEDY = "the card was edited or damaged, copy the model again or save it anew"


@dataclass(frozen=True)
class HoldOutErrors:
    """Errors on samples that the fit did not see.

    ``…_rms`` is the root mean square of the error over that of the data, ``…_max`` the largest error over the root
    mean square of the data, both in the Euclidean (Frobenius) norm at each point; ``flux_max_absolute`` is the
    largest flux error in the flux's unit; ``samples`` counts the samples. Surrogates without energy have None for its
    errors, and tangents with respect to coordinates in which the range has the half width 1, since their gradients may
    have components of several units.
    """

    energy_rms: float | None
    energy_max: float | None
    flux_rms: float
    flux_max: float
    tangent_rms: float
    tangent_max: float
    flux_max_absolute: float
    samples: int

    @classmethod
    def of(cls, data: Dataset, energy: Array | None, flux: Array, tangent: Array) -> HoldOutErrors:
        """Errors of predictions (n,), (n, m), (n, m, k) at the samples of a data set; without energy, None for it."""
        scale = data.box.half_width if energy is None else 1.0
        figures: dict[str, Any] = {"energy_rms": None, "energy_max": None}
        pairs = {"flux": (flux, data.flux), "tangent": (tangent * scale, data.tangent * scale)}
        if energy is not None:
            pairs["energy"] = energy, data.energies
        for name, (values, exact) in pairs.items():
            figures[f"{name}_rms"], figures[f"{name}_max"] = _relative_errors(values, exact)
        return cls(**figures, flux_max_absolute=float(_norms(flux - data.flux).max()), samples=len(data))

    @property
    def known(self) -> dict[str, Any]:
        """The figures that there are, by name."""
        return {name: figure for name, figure in asdict(self).items() if figure is not None}


def _relative_errors(values: Array, exact: Array) -> tuple[float, float]:
    """Root mean square and maximum of the error at n points, over the root mean square of the exact values."""
    error, scale = _norms(values - exact), _rms(_norms(exact))
    return _rms(error) / scale, float(error.max()) / scale


def _norms(values: Array) -> Array:
    return np.asarray(np.linalg.norm(values.reshape(len(values), -1), axis=1))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


@dataclass(frozen=True)
class Float32Errors:
    """What evaluating in float32 adds: largest differences from float64 at the hold-out samples.

    Relative to the root mean square of the float64 values, in the norms of :class:`HoldOutErrors`.
    """

    energy_max: float
    flux_max: float
    tangent_max: float

    @classmethod
    def of(cls, single: Sequence[Array], double: Sequence[Array]) -> Float32Errors:
        """From energy (n,), flux (n, k) and tangent (n, k, k) in both precisions."""
        return cls(*(float(_norms(s - d).max()) / _rms(_norms(d)) for s, d in zip(single, double, strict=True)))


@dataclass(frozen=True)
class ModelCard:
    """Everything about a surrogate but its weights.

    Args:
        spec: inputs and outputs, their order and units.
        box: the range it was trained on.
        errors: on the hold-out samples.
        dataset: fingerprint of the data set it was trained on.
        provenance: of that data set, with the description of the RVE.
        training: how it was fitted.
        float32: what evaluating in float32 adds to the errors, None where nobody has measured it.
    """

    spec: ClosureSpec
    box: Box
    errors: HoldOutErrors
    dataset: str
    provenance: dict[str, Any]
    training: dict[str, Any]
    float32: Float32Errors | None = None

    @property
    def stretches(self) -> StretchBox:
        """The range of a surrogate of stretches.

        Raises:
            ContractError: where it is one of something else.
        """
        if not isinstance(self.box, StretchBox):
            raise ContractError(f"the surrogate takes {', '.join(self.spec.gradient)}, which is no stretch")
        return self.box

    @property
    def allows_float32(self) -> bool:
        """Whether float32 adds a tenth of the hold-out errors or less; a residual still falls no further than it."""
        single, errors = self.float32, self.errors
        return single is not None and all(
            getattr(single, f.name) <= FLOAT32_SHARE * getattr(errors, f.name) for f in fields(single)
        )

    def as_json(self) -> dict[str, Any]:
        """The card as JSON values."""
        spec = self.spec
        return {
            "inputs": {"components": spec.gradient, "unit": spec.gradient_unit, "reference": spec.reference},
            "outputs": {"components": spec.flux, "unit": spec.flux_unit, "symmetric_tangent": spec.symmetric},
            "range": {"lower": self.box.lower, "upper": self.box.upper},
            "hold_out_errors": self.errors.known,
            "dataset": {"sha256": self.dataset, "provenance": self.provenance},
            "training": self.training,
            "float32_errors": None if self.float32 is None else asdict(self.float32),
        }

    @classmethod
    def from_json(cls, card: Mapping[str, Any], *, of_energy: bool) -> ModelCard:
        """The card of :meth:`as_json`.

        Args:
            card: JSON values.
            of_energy: whether it is the card of an energy.

        Raises:
            ModelError: naming the key that is missing, or the key and the value that no trained surrogate has: an
                error that is not a finite number ≥ 0, a range that is no box of the gradients; for an energy a range
                without the reference, other components than those of a stretch and its Biot stress, another
                reference than the identity.
        """
        known = [f.name for f in fields(HoldOutErrors) if of_energy or not f.name.startswith("energy")]
        errors: dict[str, Any] = {"energy_rms": None, "energy_max": None}
        errors |= {name: _error(card, f"hold_out_errors.{name}") for name in known if name != "samples"}
        samples = _entry(card, "hold_out_errors.samples")
        if type(samples) is not int or samples < 1:
            raise _wrong("hold_out_errors.samples", samples, "a whole number above 0")
        spec = _spec(card, of_energy=of_energy)
        return cls(
            spec=spec,
            box=_box(card, spec),
            errors=HoldOutErrors(**errors, samples=samples),
            dataset=_typed(card, "dataset.sha256", str, "a text"),
            provenance=_typed(card, "dataset.provenance", dict, "an object"),
            training=_typed(card, "training", dict, "an object"),
            float32=_float32(card),
        )


def _spec(card: Mapping[str, Any], *, of_energy: bool) -> ClosureSpec:
    """Cards of energies written before others were kept do not say that the tangent is symmetric."""
    outputs = _typed(card, "outputs", dict, "an object")
    said = not of_energy or "symmetric_tangent" in outputs
    try:
        spec = ClosureSpec(
            gradient=_list(card, "inputs.components", _is_text, "names"),
            flux=_list(card, "outputs.components", _is_text, "names"),
            reference=_list(card, "inputs.reference", _is_number, "finite numbers"),
            gradient_unit=_typed(card, "inputs.unit", str, "a text"),
            flux_unit=_typed(card, "outputs.unit", str, "a text"),
            symmetric=_typed(card, "outputs.symmetric_tangent", bool, "true or false") if said else True,
        )
        if of_energy:
            check_stretch_spec(spec)
    except ContractError as error:
        raise ModelError(f"inputs and outputs of the model card do not fit ({error}); {_REMEDY}") from error
    return spec


def _box(card: Mapping[str, Any], spec: ClosureSpec) -> Box:
    lower, upper = (_list(card, f"range.{bound}", _is_number, "finite numbers") for bound in ("lower", "upper"))
    try:
        return box_of(spec, lower, upper)
    except ContractError as error:
        raise ModelError(f"range of the model card is wrong ({error}); {_REMEDY}") from error


def _float32(card: Mapping[str, Any]) -> Float32Errors | None:
    """Cards written before it was measured have none."""
    if card.get("float32_errors") is None:
        return None
    return Float32Errors(*(_error(card, f"float32_errors.{f.name}") for f in fields(Float32Errors)))


def _entry(card: Mapping[str, Any], path: str) -> Any:
    """The value under keys that dots separate."""
    value: Any = card
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise ModelError(f"the model card lacks {path}: it is not complete, save the model again")
        value = value[key]
    return value


def _typed(card: Mapping[str, Any], path: str, kind: type[T], expected: str) -> T:
    value = _entry(card, path)
    if not isinstance(value, kind):
        raise _wrong(path, value, expected)
    return value


def _list(card: Mapping[str, Any], path: str, fits: Callable[[Any], bool], expected: str) -> tuple[Any, ...]:
    values = _entry(card, path)
    if not isinstance(values, list | tuple) or not all(fits(value) for value in values):
        raise _wrong(path, values, f"a list of {expected}")
    return tuple(values)


def _error(card: Mapping[str, Any], path: str) -> float:
    value = _entry(card, path)
    if not _is_number(value) or value < 0.0:
        raise _wrong(path, value, "a finite number that is not negative")
    return float(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _wrong(path: str, value: Any, expected: str) -> ModelError:
    return ModelError(f"{path} of the model card must be {expected}, got {value!r}: {_REMEDY}")
