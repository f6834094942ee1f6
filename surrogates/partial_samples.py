"""What is done of a sampling that takes long: a folder with a file for each finished batch.

A file appears whole or not at all, so that nothing that ends a run (Ctrl-C, a time limit, a crash) spoils it. Every
file carries its stretches: a batch serves a later call where these are the ones that it asks for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from coupling.agreement import together
from coupling.contract import Array, Response
from coupling.errors import ModelError
from coupling.files import write_atomically
from surrogates.array_file import packed

_ORIGIN, _STOP = "origin.json", "stop"


class PartialSamples:
    """The finished batches of one sampling.

    Args:
        folder: where they are, seen by all ranks.
        origin: what is sampled, as JSON: another origin is another sampling.
    """

    def __init__(self, folder: str | Path, origin: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._origin = json.dumps(origin, sort_keys=True, ensure_ascii=False, indent=1)

    def found(self, comm: Any, batches: Mapping[int, Array]) -> dict[int, Response]:
        """Answers to those batches (first index → stretches) that are done (collective: rank 0 reads).

        Raises:
            ModelError: where the folder holds another sampling.
            OSError: where the folder cannot be made.
        """
        found = together(comm, lambda: self._read(batches) if comm.rank == 0 else {})
        return dict(comm.bcast(found, root=0))

    def add(self, start: int, points: Array, response: Response) -> None:
        """Keep the answer to a batch."""
        arrays: dict[str, Any] = {
            "gradient": points,
            "flux": response.flux,
            "tangent": response.tangent,
            "status": response.status,
        }
        if response.energy is not None:
            arrays["energy"] = response.energy
        if response.state is not None:
            arrays["state"] = response.state
        write_atomically(self._file(start), packed(arrays))

    def stop(self) -> None:
        """Have all ranks stop before their next batch."""
        (self.folder / _STOP).touch()

    def stopped(self) -> bool:
        """Whether a rank was told to stop."""
        return (self.folder / _STOP).exists()

    def delete(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, batches: Mapping[int, Array]) -> dict[int, Response]:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _STOP).unlink(missing_ok=True)
        origin = self.folder / _ORIGIN
        if not origin.exists():
            write_atomically(origin, self._origin)
        if origin.read_text(encoding="utf-8") != self._origin:
            raise ModelError(
                f"{self.folder} holds an unfinished sampling of something else (see {_ORIGIN} in it): repeat that "
                "command to finish it, delete the folder, or choose another name"
            )
        answers = {start: _answer(self._file(start), points) for start, points in batches.items()}
        return {start: response for start, response in answers.items() if response is not None}

    def _file(self, start: int) -> Path:
        return self.folder / f"batch-{start:08d}.safetensors"


def _answer(file: Path, points: Array) -> Response | None:
    """The answer to these stretches in a file, None where it has none."""
    try:
        arrays = load(file.read_bytes())
        if not np.array_equal(arrays.pop("gradient"), points):
            return None
        return Response(**arrays)
    except (OSError, SafetensorError, KeyError, TypeError):
        return None
