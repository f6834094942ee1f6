"""Program folders: any stateless model on disk, as ``program.pt2`` beside ``card.json``.

The program is what ``torch.export`` makes of a module: operators and weights, but no Python, so that it is loaded where
the code it came from is not. The card is a :class:`surrogates.program_card.ProgramCard`.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from coupling.errors import ModelError
from surrogates.folders import (
    PROGRAM_FAMILY,
    check_complete,
    check_format,
    check_replaceable,
    check_seal,
    installed_versions,
    load_whole,
    read_card,
    read_file,
    sealed,
    write_folder,
)
from surrogates.program import exported, runnable
from surrogates.program_archive import read_program
from surrogates.program_card import ProgramCard
from surrogates.torch_surrogate import TorchSurrogate

FORMAT = 1
PROGRAM = "program.pt2"


def save_program(program: ExportedProgram | nn.Module, card: ProgramCard, folder: str | Path) -> None:
    """Write a program folder, as :func:`surrogates.folders.write_folder` writes folders.

    Args:
        program: a program that takes gradients (n, k), float64, for any n, or a module on the CPU to be made one.
        card: what is known about it.
        folder: its name; an older model of that name is replaced.

    Raises:
        ModelError: where the program does not do what the card says, or the folder holds something else.
        OSError: where it cannot be written.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    if isinstance(program, nn.Module):
        program = exported(program, card.spec)
    TorchSurrogate(runnable(program), card)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    content = {
        "format": FORMAT,
        "family": PROGRAM_FAMILY,
        "program": card.as_json(),
        "versions": installed_versions("twoscale", "torch"),
        "program_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    write_folder(folder, {PROGRAM: buffer.getvalue()}, sealed(content))


def load_program(folder: str | Path, device: str = "cpu") -> TorchSurrogate:
    """The surrogate of a program folder.

    What is checked before torch reads the program, and what is not, says :mod:`surrogates.program_archive`.

    Raises:
        ModelError: where anything is missing, damaged, of a newer format or another family, could run code, or does
            not do what the card says.
    """
    return load_whole(Path(folder), lambda path: _load(path, device))


def _load(folder: Path, device: str) -> TorchSurrogate:
    content = read_card(folder)
    check_complete(folder, content, "format", "family", "program", "program_sha256", "card_sha256")
    check_format(folder, content, FORMAT)
    if content["family"] != PROGRAM_FAMILY:
        raise ModelError(f"{folder} is of the family {content['family']!r}, expected {PROGRAM_FAMILY!r}")
    check_seal(folder, content)
    data = read_file(folder / PROGRAM, content["program_sha256"])
    try:
        card = ProgramCard.from_json(content["program"])
        return TorchSurrogate(runnable(read_program(data, device)), card, device=device)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except RuntimeError as error:
        raise ModelError(f"{folder}: the device {device!r} cannot be used ({error})") from error
