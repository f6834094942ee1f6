"""Folders with a card: written and replaced as a whole, and checked when they are read.

A *card* is a JSON object, ``card.json``, that says what the files beside it are, with hashes of them and of itself.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import load

from coupling.contract import Array
from coupling.errors import ModelError
from coupling.files import write_atomically

CARD = "card.json"
WEIGHTS = "weights.safetensors"
PROGRAM_FAMILY = "torch-export"
"""What the cards of :mod:`surrogates.program_folder` say, so that it need not be imported to tell them apart."""
PREDICTOR_FAMILY = "field-predictor"
"""What those of :mod:`surrogates.predictor_folder` say."""
_AT_FDCWD = -100
T = TypeVar("T")


def sealed(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card as it comes out of JSON, with the hash of its content.

    Raises:
        TypeError, ValueError: where it holds what JSON cannot.
    """
    content: dict[str, Any] = json.loads(json.dumps(card))
    return content | {"card_sha256": _card_hash(content)}


def check_seal(folder: Path, card: Mapping[str, Any]) -> None:
    """Check a card against its own hash.

    Raises:
        ModelError: where it has been changed since it was written.
    """
    if card["card_sha256"] != _card_hash(card):
        raise ModelError(
            f"{folder / CARD} has content of SHA-256 {_card_hash(card)}, its card_sha256 says {card['card_sha256']}: "
            "it was edited or damaged, copy the model again"
        )


def _card_hash(card: Mapping[str, Any]) -> str:
    """SHA-256 of the card without ``card_sha256``: JSON in ASCII, keys sorted, no blanks."""
    content = {key: value for key, value in card.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_format(folder: Path, card: Mapping[str, Any], newest: int) -> None:
    """Check that the format of a card is a whole number from 1 to ``newest``.

    Raises:
        ModelError: where it is not.
    """
    if type(card["format"]) is not int or card["format"] < 1:
        raise ModelError(
            f"{folder / CARD} has the format {card['format']!r}, expected a whole number from 1 to {newest}: "
            "it was edited or damaged, copy the model again"
        )
    if card["format"] > newest:
        raise ModelError(
            f"{folder} has format {card['format']}, newer than {newest}: update twoscale or save it with this version"
        )


def check_complete(folder: Path, card: Mapping[str, Any], *keys: str) -> None:
    """Check that a card has these keys.

    Raises:
        ModelError: naming those it lacks.
    """
    missing = sorted(set(keys) - card.keys())
    if missing:
        raise ModelError(f"{folder / CARD} lacks {', '.join(missing)}: it is not complete, save the model again")


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a folder.

    Raises:
        ModelError: where there is none, or it is no JSON object.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no {CARD}: it is not a model folder, or it was copied in part") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read as JSON ({error}): it was edited or damaged, copy the model again"
        ) from error
    if not isinstance(card, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(card).__name__}")
    return card


def read_file(path: Path, sha256: str) -> bytes:
    """The content of a file.

    Raises:
        ModelError: where it cannot be read, or its hash is another.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}): copy the model again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path} has SHA-256 {found}, its card says {sha256}: truncated or changed, copy the model again"
        )
    return data


def read_weights(folder: Path, sha256: str) -> dict[str, Array]:
    """The arrays of a folder, by name.

    Raises:
        ModelError: where they cannot be read, or their hash is another.
    """
    path = folder / WEIGHTS
    data = read_file(path, sha256)
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is not a safetensors file ({error}), though its hash is right: save the model again"
        ) from error


def load_whole(folder: Path, load: Callable[[Path], T]) -> T:
    """What ``load`` makes of the folder; where that is replaced meanwhile, of the old one or the new, never of both."""
    while True:
        seen = _identity(folder)
        try:
            return load(folder)
        except ModelError:
            if _identity(folder) == seen:
                raise


def write_folder(folder: Path, files: Mapping[str, bytes], card: Mapping[str, Any]) -> None:
    """Write a folder of these files and a card; an existing folder with a card is replaced as a whole.

    The new folder is written aside and takes the name once it is complete. Where the system can exchange two
    folders (Linux, on most file systems), the name stands at every moment for the old folder or the new one. Elsewhere
    there is an instant between two renames without a folder of that name; a process killed right then leaves the
    old one as ``.NAME.….old`` and the new one as ``.NAME.….part``. After an error the name stands for the old folder
    and nothing is left over.

    Raises:
        ModelError: where the folder is there and holds something other than a model (:func:`check_replaceable`).
        OSError: where it cannot be written.
    """
    check_replaceable(folder)
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        aside.mkdir(parents=True)
        for name, content in files.items():
            write_atomically(aside / name, content)
        write_atomically(aside / CARD, json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        _replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Check that nothing but a model would be replaced.

    Raises:
        ModelError: where the folder is there, is not empty and has no card.
    """
    if folder.exists() and not (folder / CARD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is there and no model folder, and is left alone: choose another name")


def _replace(aside: Path, folder: Path) -> None:
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


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that are installed; a package used from its source tree has none."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
