"""Model folders: a trained surrogate on disk, as ``weights.safetensors`` beside ``card.json``.

The card says in plain JSON what the model takes and gives, where it may be used and how well it did there; the
weights are arrays and nothing else, so that loading a model cannot run code.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.numpy import load, save

from coupling.contract import Array
from coupling.errors import ModelError
from coupling.files import write_atomically
from surrogates.backend import Precision
from surrogates.energy_network import EnergyNetwork
from surrogates.energy_surrogate import EnergySurrogate
from surrogates.model_card import ModelCard
from surrogates.polynomial_energy import PolynomialEnergy
from surrogates.potential import Potential

FORMAT = 1
WEIGHTS, CARD = "weights.safetensors", "card.json"
_AT_FDCWD = -100


class _Family(Protocol):
    def __call__(
        self, architecture: Mapping[str, Any], weights: Mapping[str, Array], device: str, precision: Precision
    ) -> Potential: ...


FAMILIES: dict[str, _Family] = {
    EnergyNetwork.family: EnergyNetwork.from_architecture,
    PolynomialEnergy.family: PolynomialEnergy.from_architecture,
}


def save_model(surrogate: EnergySurrogate, folder: str | Path) -> None:
    """Write a model folder; an existing folder of that name is replaced as a whole.

    The new folder is written aside and takes the name once it is complete. Where the system can exchange two
    folders (Linux, on most file systems), the name stands at every moment for the old model or the new one. Elsewhere
    there is an instant between two renames without a folder of that name; a process killed right then leaves the
    old model as ``.NAME.….old`` and the new one as ``.NAME.….part``. After an error the name stands for the old model
    and nothing is left over.

    Raises:
        ModelError: where the card has a value that :func:`load_model` would refuse, or the folder is there and holds
            something other than a model; nothing is written then.
        OSError: where the folder cannot be written.
        TypeError, ValueError: where provenance or training hold what JSON cannot.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not (folder / CARD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is there and no model folder, and is left alone: choose another name")
    weights = save(surrogate.potential.weights)
    card = _card_of(surrogate, weights)
    _check_card(folder, card)
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        aside.mkdir(parents=True)
        write_atomically(aside / WEIGHTS, weights)
        write_atomically(aside / CARD, json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        _replace_folder(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _card_of(surrogate: EnergySurrogate, weights: bytes) -> dict[str, Any]:
    """The card as it comes out of JSON, with hashes of the weights and of all the rest of the card."""
    content = {
        "format": FORMAT,
        "family": surrogate.potential.family,
        "architecture": surrogate.potential.architecture,
        **surrogate.card.as_json(),
        "versions": _versions("twoscale", "torch", "numpy", "scipy", "safetensors"),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    card: dict[str, Any] = json.loads(json.dumps(content))
    return card | {"card_sha256": _card_hash(card)}


def _card_hash(card: Mapping[str, Any]) -> str:
    """SHA-256 of the card without ``card_sha256``: JSON in ASCII, keys sorted, no blanks."""
    content = {key: value for key, value in card.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_model(folder: str | Path, device: str = "cpu", precision: Precision = "float64") -> EnergySurrogate:
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
    folder = Path(folder)
    while True:
        seen = _identity(folder)
        try:
            return _load(folder, device, precision)
        except ModelError:
            if _identity(folder) == seen:
                raise


def _load(folder: Path, device: str, precision: Precision) -> EnergySurrogate:
    card = _read_card(folder / CARD)
    known = _check_card(folder, card)
    if precision != "float64" and not known.allows_float32:
        measured = "nobody has measured what float32 adds to its errors" if known.float32 is None else known.float32
        raise ModelError(
            f"{folder} has to be evaluated in float64: {measured}, and a tenth of the hold-out errors is allowed"
        )
    weights = _read_weights(folder / WEIGHTS, card["weights_sha256"])
    try:
        potential = FAMILIES[card["family"]](card["architecture"], weights, device, precision)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder}: the architecture in {CARD} is damaged ({type(error).__name__}: {error})"
        ) from error
    _check_size(folder, potential, known)
    return EnergySurrogate(potential, known)


def _check_card(folder: Path, card: dict[str, Any]) -> ModelCard:
    missing = sorted({"format", "family", "architecture", "weights_sha256", "card_sha256"} - card.keys())
    if missing:
        raise ModelError(f"{folder / CARD} lacks {', '.join(missing)}: it is not complete, save the model again")
    if type(card["format"]) is not int or card["format"] < 1:
        raise ModelError(
            f"{folder / CARD} has the format {card['format']!r}, expected a whole number from 1 to {FORMAT}: "
            "it was edited or damaged, copy the model again"
        )
    if card["format"] > FORMAT:
        raise ModelError(
            f"{folder} has format {card['format']}, newer than {FORMAT}: update twoscale or save it with this version"
        )
    if not isinstance(card["family"], str) or card["family"] not in FAMILIES:
        raise ModelError(
            f"{folder} is of the unknown family {card['family']!r}: known are {', '.join(sorted(FAMILIES))}"
        )
    try:
        known = ModelCard.from_json(card)
    except ModelError as error:
        raise ModelError(f"{folder / CARD}: {error}") from error
    if card["card_sha256"] != _card_hash(card):
        raise ModelError(
            f"{folder / CARD} has content of SHA-256 {_card_hash(card)}, its card_sha256 says {card['card_sha256']}: "
            "it was edited or damaged, copy the model again"
        )
    return known


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
    except (OSError, ValueError, RecursionError) as error:
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
    """Give ``aside`` the name of ``folder``; an old folder takes the name of ``aside``, or is gone."""
    if not folder.exists():
        os.rename(aside, folder)
    elif not _exchange(aside, folder):
        old = aside.with_suffix(".old")
        os.rename(folder, old)
        try:
            os.rename(aside, folder)
        except BaseException:
            os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step (Linux, renameat2(2) with RENAME_EXCHANGE = 2); False where that cannot be."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(2)) == 0)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What changes when another folder takes the name."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that are installed; a package used from its source tree has none."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
