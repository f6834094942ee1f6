"""From a folder to a surrogate, whatever family it is of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coupling.errors import ModelError
from surrogates.backend import Precision
from surrogates.folders import PROGRAM_FAMILY, load_whole, read_card
from surrogates.model_folder import TrainedSurrogate, load_model

if TYPE_CHECKING:
    from surrogates.torch_surrogate import TorchSurrogate


def load_folder(
    folder: str | Path, device: str = "cpu", precision: Precision = "float64"
) -> TrainedSurrogate | TorchSurrogate:
    """The surrogate of a model folder or a program folder; torch is imported for the latter alone.

    Raises:
        ModelError: as :func:`load_model` and :func:`surrogates.program_folder.load_program`.
    """

    def load(path: Path) -> TrainedSurrogate | TorchSurrogate:
        if read_card(path).get("family") != PROGRAM_FAMILY:
            return load_model(path, device, precision)
        if precision != "float64":
            raise ModelError(f"{path} is a program, and programs compute in float64")
        from surrogates.program_folder import load_program

        return load_program(path, device)

    return load_whole(Path(folder), load)
