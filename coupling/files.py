"""Files that are there completely or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file so that, whatever happens, its readers see the old content or the new one and nothing between.

    The content goes to a temporary file in the same folder, to the disk, and then takes the name. Text is UTF-8.

    Raises:
        OSError: where the folder does not exist, is not writable, or the disk is full; the old file is then untouched.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
