"""From the name of a model to a closure, in the server: the only place that knows where models come from.

A *source* is the path of a model folder, or ``module:object`` where the object is a closure or a function that makes
one; a function with an argument ``device`` is given it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from coupling.contract import Closure
from coupling.errors import ModelError

FOLDER_LOADER = "surrogates.loading:load_folder"
_DIGITS = 16
T = TypeVar("T")


def canonical(source: str) -> str:
    """The source as every process of the machine understands it: paths absolute."""
    return str(Path(source).resolve()) if is_folder(source) else source


def is_folder(source: str) -> bool:
    """Whether the source is the path of a folder, not ``module:object``."""
    return "/" in source or Path(source).is_dir()


def fingerprint(source: str) -> str:
    """Hash of what the source stands for: the files of a folder, the words of anything else.

    Where the folder is exchanged meanwhile, it is the hash of what was there before or of what is there after.

    Raises:
        ModelError: where the folder cannot be read.
    """
    if not is_folder(source):
        return hashlib.sha256(source.encode()).hexdigest()[:_DIGITS]
    try:
        return _undisturbed(source, lambda: _hash_of_files(source))
    except OSError as error:
        raise ModelError(f"{source} cannot be read as a model folder: {error}") from error


def load_with_fingerprint(source: str, device: str, precision: str = "float64") -> tuple[Closure, str]:
    """The closure of a source, and the fingerprint of the very files it was loaded from.

    Raises:
        ModelError: where it cannot be loaded, as in :func:`load`.
    """

    def both() -> tuple[Closure, str]:
        return load(source, device, precision), fingerprint(source)

    return _undisturbed(source, both) if is_folder(source) else both()


def load(source: str, device: str, precision: str = "float64") -> Closure:
    """The closure of a source on a device; the precision is that of model folders, others choose their own.

    Raises:
        ModelError: where it cannot be loaded or is no closure; quotes what went wrong.
    """
    try:
        if is_folder(source):
            closure = named(FOLDER_LOADER)(source, device=device, precision=precision)
        else:
            closure = _made(named(source), device)
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
    """The device that "auto:K" stands for: the GPU of that number (the first for "auto"), the CPU without such."""
    kind, _, number = device.partition(":")
    if kind != "auto":
        return device
    if not any(Path("/dev").glob("nvidia[0-9]*")) or importlib.util.find_spec("torch") is None:
        return "cpu"
    cuda = importlib.import_module("torch").cuda
    return f"cuda:{int(number or 0) % cuda.device_count()}" if cuda.is_available() else "cpu"


def _undisturbed(folder: str, read: Callable[[], T]) -> T:
    """What ``read`` gives or raises while nothing in the folder changes; it is called again where something did."""
    while True:
        before = _stamps(folder)
        try:
            result = read()
        except (OSError, ModelError):
            if _stamps(folder) == before:
                raise
        else:
            if _stamps(folder) == before:
                return result


def _hash_of_files(folder: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:_DIGITS]


def _stamps(folder: str) -> list[tuple[str, int, int, int]] | None:
    """What changes when the folder or a file in it does, None while there is no folder."""
    try:
        paths = [Path(folder), *sorted(Path(folder).iterdir())]
        return [(p.name, (s := p.stat()).st_ino, s.st_size, s.st_mtime_ns) for p in paths]
    except OSError:
        return None


def _made(found: Any, device: str) -> Any:
    if isinstance(found, Closure) and not isinstance(found, type):
        return found
    return found(device=device) if "device" in inspect.signature(found).parameters else found()
