"""What is known about a trained surrogate: specification, range, hold-out errors, data, origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from coupling.contract import Array, ClosureSpec
from coupling.errors import ModelError
from surrogates.dataset import Dataset
from surrogates.stretch_space import StretchBox


@dataclass(frozen=True)
class HoldOutErrors:
    """Errors on samples that the fit did not see.

    ``…_rms`` is the root mean square of the error over that of the data, ``…_max`` the largest error over the root
    mean square of the data, both in the Euclidean (Frobenius) norm at each point; ``flux_max_absolute`` is the
    largest flux error in the flux's unit; ``samples`` counts the samples.
    """

    energy_rms: float
    energy_max: float
    flux_rms: float
    flux_max: float
    tangent_rms: float
    tangent_max: float
    flux_max_absolute: float
    samples: int

    @classmethod
    def of(cls, data: Dataset, energy: Array, flux: Array, tangent: Array) -> HoldOutErrors:
        """Errors of predictions (n,), (n, k), (n, k, k) at the samples of a data set."""
        figures: dict[str, float] = {}
        for name, value, exact in (
            ("energy", energy, data.energy),
            ("flux", flux, data.flux),
            ("tangent", tangent, data.tangent),
        ):
            error, scale = _norms(value - exact), _rms(_norms(exact))
            figures |= {f"{name}_rms": _rms(error) / scale, f"{name}_max": float(error.max()) / scale}
        return cls(**figures, flux_max_absolute=float(_norms(flux - data.flux).max()), samples=len(data))


def _norms(values: Array) -> Array:
    return np.asarray(np.linalg.norm(values.reshape(len(values), -1), axis=1))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


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
    """

    spec: ClosureSpec
    box: StretchBox
    errors: HoldOutErrors
    dataset: str
    provenance: dict[str, Any]
    training: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The card as JSON values."""
        spec = self.spec
        return {
            "inputs": {"components": spec.gradient, "unit": spec.gradient_unit, "reference": spec.reference},
            "outputs": {"components": spec.flux, "unit": spec.flux_unit},
            "range": {"lower": self.box.lower, "upper": self.box.upper},
            "hold_out_errors": asdict(self.errors),
            "dataset": {"sha256": self.dataset, "provenance": self.provenance},
            "training": self.training,
        }

    @classmethod
    def from_json(cls, card: Mapping[str, Any]) -> ModelCard:
        """The card of :meth:`as_json`.

        Raises:
            ModelError: where keys are missing or values are of the wrong kind.
        """
        try:
            inputs, outputs, errors = card["inputs"], card["outputs"], card["hold_out_errors"]
            spec = ClosureSpec(
                gradient=tuple(inputs["components"]),
                flux=tuple(outputs["components"]),
                reference=tuple(float(v) for v in inputs["reference"]),
                gradient_unit=inputs["unit"],
                flux_unit=outputs["unit"],
                symmetric=True,
            )
            box = StretchBox.of(card["range"]["lower"], card["range"]["upper"])
            held_out = HoldOutErrors(**{f.name: errors[f.name] for f in fields(HoldOutErrors)})
            dataset = card["dataset"]
            return cls(spec, box, held_out, dataset["sha256"], dataset["provenance"], card["training"])
        except KeyError as error:
            raise ModelError(f"the model card lacks {error}: it is not complete, save the model again") from error
        except (TypeError, ValueError) as error:
            raise ModelError(f"the model card has a wrong value ({error}): it was edited or damaged") from error
