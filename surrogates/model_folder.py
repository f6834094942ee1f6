"""Model folders: a trained surrogate on disk, as ``weights.safetensors`` beside ``card.json``.

The card says in plain JSON what the model takes and gives, where it may be used and how well it did there; the
weights are arrays and nothing else, so that loading a model cannot run code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.array_file import packed
from surrogates.backend import Precision
from surrogates.energy_network import EnergyNetwork
from surrogates.energy_surrogate import EnergySurrogate
from surrogates.folders import (
    CARD,
    PREDICTOR_FAMILY,
    PROGRAM_FAMILY,
    WEIGHTS,
    check_complete,
    check_format,
    check_replaceable,
    check_seal,
    installed_versions,
    load_whole,
    read_card,
    read_weights,
    sealed,
    write_folder,
)
from surrogates.model_card import ModelCard
from surrogates.polynomial_energy import PolynomialEnergy
from surrogates.polynomial_flux import PolynomialFlux
from surrogates.potential import Potential

FORMAT = 1


TrainedSurrogate: TypeAlias = EnergySurrogate | PolynomialFlux
"""What a model folder keeps: a family, an architecture, weights, and a card."""
POTENTIALS: dict[str, type[Potential]] = {
    EnergyNetwork.family: EnergyNetwork,
    PolynomialEnergy.family: PolynomialEnergy,
}
FAMILIES = (*POTENTIALS, PolynomialFlux.family)


def save_model(surrogate: TrainedSurrogate, folder: str | Path) -> None:
    """Write a model folder; an existing folder of that name is replaced as a whole.

    How, and what a crash can leave behind, says :func:`surrogates.folders.write_folder`.

    Raises:
        ModelError: where the card has a value that :func:`load_model` would refuse, or the folder is there and holds
            something other than a model; nothing is written then.
        OSError: where the folder cannot be written.
        TypeError, ValueError: where provenance or training hold what JSON cannot.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    weights = packed(surrogate.weights)
    card = _card_of(surrogate, weights)
    _check_card(folder, card)
    write_folder(folder, {WEIGHTS: weights}, card)


def _card_of(surrogate: TrainedSurrogate, weights: bytes) -> dict[str, Any]:
    """The card as it comes out of JSON, with hashes of the weights and of all the rest of the card."""
    return sealed(
        {
            "format": FORMAT,
            "family": surrogate.family,
            "architecture": surrogate.architecture,
            **surrogate.card.as_json(),
            "versions": installed_versions("twoscale", "torch", "numpy", "scipy", "safetensors"),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        }
    )


def load_model(folder: str | Path, device: str = "cpu", precision: Precision = "float64") -> TrainedSurrogate:
    """The surrogate of a model folder, bit for bit as it was saved.

    Where :func:`save_model` replaces the folder meanwhile, this is the old model or the new one, never parts of both.

    Args:
        folder: written by :func:`save_model`.
        device: where it evaluates, see :func:`surrogates.backend.backend_of`.
        precision: in which it evaluates. In float32 the flux has noise of the size that the card states, below which no
            Newton iteration can reduce its residual: the solver's tolerance has to be above it.

    Raises:
        ModelError: where anything is missing, damaged, of a newer format or of an unknown family, nothing is ever
            executed; for float32 where the card does not say that it adds a tenth of the errors or less.
    """
    return load_whole(Path(folder), lambda path: _load(path, device, precision))


def _load(folder: Path, device: str, precision: Precision) -> TrainedSurrogate:
    card = read_card(folder)
    if card.get("family") == PROGRAM_FAMILY:
        raise ModelError(f"{folder} is a program: load it with surrogates.loading.load_folder")
    if card.get("family") == PREDICTOR_FAMILY:
        raise ModelError(f"{folder} is a field predictor and no closure: load it with surrogates.load_predictor")
    known = _check_card(folder, card)
    if precision != "float64" and not known.allows_float32:
        measured = "nobody has measured what float32 adds to its errors" if known.float32 is None else known.float32
        raise ModelError(
            f"{folder} has to be evaluated in float64: {measured}, and a tenth of the hold-out errors is allowed"
        )
    weights = read_weights(folder, card["weights_sha256"])
    try:
        return _rebuilt(card["family"], card["architecture"], weights, known, device, precision)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder}: the architecture in {CARD} is damaged ({type(error).__name__}: {error})"
        ) from error


def _rebuilt(
    family: str,
    architecture: Mapping[str, Any],
    weights: Mapping[str, Array],
    card: ModelCard,
    device: str,
    precision: Precision,
) -> TrainedSurrogate:
    if family == PolynomialFlux.family:
        return PolynomialFlux.from_architecture(architecture, weights, card, device, precision)
    potential = POTENTIALS[family].from_architecture(architecture, weights, device, precision)
    k = len(potential.weights["scale"])
    if k != card.spec.k:
        raise ModelError(f"weights for {k} components, a card for {card.spec.k}: the files do not belong together")
    return EnergySurrogate(potential, card)


def _check_card(folder: Path, card: dict[str, Any]) -> ModelCard:
    check_complete(folder, card, "format", "family", "architecture", "weights_sha256", "card_sha256")
    check_format(folder, card, FORMAT)
    if not isinstance(card["family"], str) or card["family"] not in FAMILIES:
        raise ModelError(
            f"{folder} is of the unknown family {card['family']!r}: known are {', '.join(sorted(FAMILIES))}"
        )
    try:
        known = ModelCard.from_json(card, of_energy=card["family"] in POTENTIALS)
    except ModelError as error:
        raise ModelError(f"{folder / CARD}: {error}") from error
    if (k := known.spec.k) != known.box.k:
        raise ModelError(f"{folder / CARD} has {k} components and a range of {known.box.k}: save the model again")
    check_seal(folder, card)
    return known
