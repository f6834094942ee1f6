"""Model folders: a trained surrogate on disk, as ``weights.safetensors`` beside ``card.json``.

The card says in plain JSON what the model takes and gives, where it may be used and how well it did there; the
weights are arrays and nothing else, so that loading a model cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.numpy import load, save

from coupling.contract import Array
from coupling.errors import ModelError
from coupling.files import write_atomically
from surrogates.energy_network import EnergyNetwork
from surrogates.energy_surrogate import EnergySurrogate
from surrogates.model_card import ModelCard
from surrogates.polynomial_energy import PolynomialEnergy
from surrogates.potential import Potential

FORMAT = 1
WEIGHTS, CARD = "weights.safetensors", "card.json"


class _Family(Protocol):
    def __call__(
        self, architecture: Mapping[str, Any], weights: Mapping[str, Array], device: str = "cpu"
    ) -> Potential: ...


FAMILIES: dict[str, _Family] = {
    EnergyNetwork.family: EnergyNetwork.from_architecture,
    PolynomialEnergy.family: PolynomialEnergy.from_architecture,
}


def save_model(surrogate: EnergySurrogate, folder: str | Path) -> None:
    """Write a model folder, aside and renamed: a folder of that name holds the old model or the new one, whole."""
    folder = Path(folder)
    potential = surrogate.potential
    weights = save(potential.weights)
    card = {
        "format": FORMAT,
        "family": potential.family,
        "architecture": potential.architecture,
        **surrogate.card.as_json(),
        "versions": {name: _version(name) for name in ("twoscale", "torch", "numpy", "scipy", "safetensors")},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_atomically(aside / WEIGHTS, weights)
    write_atomically(aside / CARD, json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _replace_folder(aside, folder)


def load_model(folder: str | Path, device: str = "cpu") -> EnergySurrogate:
    """The surrogate of a model folder, bit for bit as it was saved.

    Raises:
        ModelError: where anything is missing, damaged, of a newer format or of an unknown family; nothing is ever
            executed.
    """
    folder = Path(folder)
    card = _read_card(folder / CARD)
    known = _check_card(folder, card)
    weights = _read_weights(folder / WEIGHTS, card["weights_sha256"])
    try:
        potential = FAMILIES[card["family"]](card["architecture"], weights, device)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder}: the architecture in {CARD} is damaged ({type(error).__name__}: {error})"
        ) from error
    _check_size(folder, potential, known)
    return EnergySurrogate(potential, known)


def _check_card(folder: Path, card: dict[str, Any]) -> ModelCard:
    missing = sorted({"format", "family", "architecture", "weights_sha256"} - card.keys())
    if missing:
        raise ModelError(f"{folder / CARD} lacks {', '.join(missing)}: it is not complete, save the model again")
    if not isinstance(card["format"], int) or card["format"] < 1:
        raise ModelError(f"{folder / CARD} has the format {card['format']!r}, expected a number from 1 to {FORMAT}")
    if card["format"] > FORMAT:
        raise ModelError(
            f"{folder} has format {card['format']}, newer than {FORMAT}: update twoscale or save it with this version"
        )
    if not isinstance(card["family"], str) or card["family"] not in FAMILIES:
        raise ModelError(
            f"{folder} is of the unknown family {card['family']!r}: known are {', '.join(sorted(FAMILIES))}"
        )
    try:
        return ModelCard.from_json(card)
    except ModelError as error:
        raise ModelError(f"{folder / CARD}: {error}") from error


def _check_size(folder: Path, potential: Potential, card: ModelCard) -> None:
    k = len(potential.weights["scale"])
    if not k == card.spec.k == card.box.k:
        raise ModelError(
            f"{folder}: weights for {k} components, a card for {card.spec.k} and a range of {card.box.k}: "
            "the files do not belong together"
        )


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} has no {path.name}: it is not a model folder, or it was copied in part"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as JSON ({error}): it was edited or damaged, copy the model again"
        ) from error
    if not isinstance(card, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(card).__name__}")
    return card


def _read_weights(path: Path, sha256: str) -> dict[str, Array]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}): copy the model again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path} has SHA-256 {found}, its card says {sha256}: truncated or changed, copy the model again"
        )
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is not a safetensors file ({error}), though its hash is right: save the model again"
        ) from error


def _replace_folder(aside: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
