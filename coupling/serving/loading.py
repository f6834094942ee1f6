"""From the name of a model to a closure, in the server: the only place that knows where models come from.

A *source* is the path of a model folder, or ``module:object`` where the object is a closure or a function that makes
one; a function with an argument ``device`` is given it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from coupling.contract import Closure
from coupling.errors import ModelError

FOLDER_LOADER = "surrogates.loading:load_folder"


def canonical(source: str) -> str:
    """The source as every process of the machine understands it: paths absolute."""
    return str(Path(source).resolve()) if is_folder(source) else source


def is_folder(source: str) -> bool:
    """Whether the source is the path of a folder, not ``module:object``."""
    return "/" in source or Path(source).is_dir()


def fingerprint(source: str) -> str:
    """Hash of what the source stands for: the files of a folder, the words of anything else.

    Raises:
        ModelError: where the folder cannot be read.
    """
    digest = hashlib.sha256(b"" if is_folder(source) else source.encode())
    if is_folder(source):
        try:
            for path in sorted(Path(source).iterdir()):
                digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise ModelError(f"{source} cannot be read as a model folder: {error}") from error
    return digest.hexdigest()[:16]


def load(source: str, device: str) -> Closure:
    """The closure of a source on a device.

    Raises:
        ModelError: where it cannot be loaded or is no closure; quotes what went wrong.
    """
    try:
        closure = named(FOLDER_LOADER)(source, device=device) if is_folder(source) else _made(named(source), device)
    except Exception as error:  # user code may raise anything
        raise ModelError(f"cannot load {source}: {type(error).__name__}: {error}") from error
    if not isinstance(closure, Closure):
        raise ModelError(f"{source} gives a {type(closure).__name__}, which lacks spec, initial_state or evaluate")
    return closure


def preload() -> None:
    """Import what model folders need, so that processes forked from this one have it."""
    importlib.import_module(FOLDER_LOADER.partition(":")[0])


def named(address: str) -> Any:
    """The object at ``module:object``.

    Raises:
        ValueError: where the address is not of that form.
    """
    module, colon, name = address.partition(":")
    if not colon or not name:
        raise ValueError(f"expected the path of a model folder or module:object, got {address!r}")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def chosen_device(device: str) -> str:
    """The device that "auto" stands for: the first GPU that torch can use, else the CPU."""
    if device != "auto":
        return device
    if not any(Path("/dev").glob("nvidia[0-9]*")) or importlib.util.find_spec("torch") is None:
        return "cpu"
    return "cuda:0" if importlib.import_module("torch").cuda.is_available() else "cpu"


def _made(found: Any, device: str) -> Any:
    if isinstance(found, Closure) and not isinstance(found, type):
        return found
    return found(device=device) if "device" in inspect.signature(found).parameters else found()
