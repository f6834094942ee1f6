"""A synthetic micrograph: two phases that interpenetrate, as after spinodal decomposition, periodic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MATRIX, STIFF = 1, 2


def micrograph(pixels: int, fraction: float, *, waves: float = 3.0, seed: int = 0) -> NDArray[np.uint8]:
    """Tags (pixels, pixels) of a Gaussian random field, cut at a level (Cahn 1965, J. Chem. Phys. 42, 93).

    Args:
        pixels: along each edge.
        fraction: of the stiff phase.
        waves: wavelengths along an edge.
        seed: of the field.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(pixels, 1 / pixels)] * 2))
    amplitude = np.exp(-((frequency - waves) ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(pixels, pixels))) * amplitude).real
    return np.where(field > np.quantile(field, 1 - fraction), STIFF, MATRIX).astype(np.uint8)


def write_picture(tags: NDArray[np.uint8], path: Path) -> None:
    """Write tags as a grey-scale picture whose columns are x₁ and whose rows are x₂ from the bottom up."""
    Image.fromarray(np.ascontiguousarray(tags.T[::-1])).save(path)
