"""Reading case files: a :class:`Case` and where its keys stand, or every mistake at once with its line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coupling.errors import CaseError, TwoscaleError
from solver_adapters.case.complaints import Complaint, complaints
from solver_adapters.case.positions import Path as KeyPath
from solver_adapters.case.positions import key_lines, line_of
from solver_adapters.case.schema import Case


class CaseFile:
    """A case file that has been read.

    Attributes:
        path: of the file.
        case: what it says.
        complaints: mistakes that :meth:`at` has kept.

    Raises:
        CaseError: the file cannot be read, is no TOML, or does not keep the schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        text = _text(self.path)
        values = _values(self.path, text)
        self._lines = key_lines(text)
        self.complaints: list[Complaint] = []
        try:
            self.case = Case.model_validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            raise self.error(complaints(error.errors(), Case)) from None

    def beside(self, path: Path | str) -> Path:
        """A path of the case file, which is relative to its folder."""
        return self.path.parent / path

    def error(self, found: Sequence[Complaint]) -> CaseError:
        """The error with a line ``FILE:LINE: KEY: what is wrong`` for each complaint, in the order of the file."""
        placed = sorted((line_of(self._lines, each.path), _dotted(each.path), each.words) for each in found)
        return CaseError("\n".join(f"{self.path}:{line}: {key}: {words}" for line, key, words in placed))

    @contextmanager
    def at(self, *path: str | int) -> Iterator[None]:
        """Keep what goes wrong in this block as a complaint about a key, for :meth:`check`, and go on after it."""
        try:
            yield
        except (TwoscaleError, OSError) as error:
            self.complaints.append(Complaint(path, str(error)))

    def check(self, comm: Any) -> None:
        """Raise CaseError with all complaints that were kept on this rank, if there are any on one (collective)."""
        everyone: list[list[Complaint]] = comm.allgather(self.complaints)
        if kept := self.complaints or next((found for found in everyone if found), []):
            raise self.error(kept)


def _dotted(path: KeyPath) -> str:
    """``boundary[0].where``; elements count from 1 for people."""
    return "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CaseError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CaseError(f"{path} is no text in UTF-8: {error}") from error


def _values(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        line = int(place[1]) if place else text.count("\n") + 1
        words = str(error)[: place.start()] if place else str(error)
        raise CaseError(f"{path}:{line}: is no TOML: {words}") from error
