"""The content of files of arrays, by safetensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from coupling.contract import Array


def packed(arrays: Mapping[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    """The arrays by name, whatever their strides: safetensors itself writes their memory as it lies."""
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
