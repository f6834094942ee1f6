"""Folders of field predictors: ``weights.safetensors`` beside ``card.json``, like those of models.

The card says how the coefficients follow from what is known, how wrong the fields were on samples held out, and where
the samples come from; the weights are arrays and nothing else, so that loading a predictor cannot run code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from coupling.contract import Array
from coupling.errors import ModelError
from surrogates.array_file import packed
from surrogates.field_predictor import Coefficients, FieldPredictor
from surrogates.folders import (
    CARD,
    PREDICTOR_FAMILY,
    WEIGHTS,
    check_complete,
    check_format,
    check_seal,
    installed_versions,
    load_whole,
    read_card,
    read_weights,
    sealed,
    write_folder,
)
from surrogates.kernel_interpolation import Interpolant
from surrogates.potential import check_weights
from surrogates.vector_network import VectorNetwork

FORMAT = 2
_KINDS: dict[str, type[Interpolant] | type[VectorNetwork]] = {"kernel": Interpolant, "network": VectorNetwork}


def save_predictor(predictor: FieldPredictor, folder: str | Path) -> None:
    """Write a folder; an existing one of that name is replaced as a whole (:func:`surrogates.folders.write_folder`).

    Raises:
        ModelError: the folder is there and holds something other than a model or predictor; nothing is written then.
        OSError: where the folder cannot be written.
        TypeError, ValueError: where ``origin`` holds what JSON cannot.
    """
    kind = next(name for name, of in _KINDS.items() if isinstance(predictor.coefficients, of))
    weights = packed({"modes": predictor.modes, **predictor.coefficients.weights})
    card = {
        "format": FORMAT,
        "family": PREDICTOR_FAMILY,
        "coefficients": kind,
        "error": predictor.error,
        "origin": predictor.origin,
        "versions": installed_versions("twoscale", "numpy", "scipy", "safetensors"),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_folder(Path(folder).resolve(), {WEIGHTS: weights}, sealed(card))


def load_predictor(folder: str | Path) -> FieldPredictor:
    """The predictor of a folder, bit for bit as it was saved.

    Raises:
        ModelError: where anything is missing, damaged, of a newer format or not a field predictor.
    """
    return load_whole(Path(folder), _load)


def _load(folder: Path) -> FieldPredictor:
    card = read_card(folder)
    check_complete(folder, card, "format", "family", "coefficients", "error", "origin", "weights_sha256", "card_sha256")
    if card["family"] != PREDICTOR_FAMILY:
        raise ModelError(f"{folder} is no field predictor but of the family {card['family']!r}")
    check_format(folder, card, FORMAT)
    check_seal(folder, card)
    if card["coefficients"] not in _KINDS:
        raise ModelError(
            f"{folder / CARD} has coefficients {card['coefficients']!r}: known are {', '.join(sorted(_KINDS))}"
        )
    arrays = read_weights(folder, card["weights_sha256"])
    try:
        return _rebuilt(card, arrays)
    except (ModelError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: its arrays are no field predictor ({error}): save it again") from error


def _rebuilt(card: dict[str, Any], arrays: dict[str, Array]) -> FieldPredictor:
    modes = arrays.pop("modes")
    coefficients: Coefficients = _KINDS[card["coefficients"]].from_weights(arrays)
    check_weights({"modes": modes}, {"modes": (coefficients.outputs, *modes.shape[1:2])})
    return FieldPredictor(modes, coefficients, float(card["error"]), card["origin"])
