"""The figure of ``twoscale check``: ellipticity, growth, errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coupling.errors import ContractError, MissingPackageError
from surrogates.energy_surrogate import EnergySurrogate
from surrogates.model_card import HoldOutErrors
from surrogates.physics_checks import Ellipticity, collapse

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingPackageError("a figure needs matplotlib: pip install matplotlib") from error


def draw(model: EnergySurrogate, elliptic: Ellipticity, errors: Mapping[str, HoldOutErrors], file: str | Path) -> None:
    """Write the figure in any format that matplotlib writes.

    Raises:
        ContractError: the file's ending names no such format.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _ellipticity(left, elliptic)
    _growth(middle, model)
    _errors(right, errors)
    try:
        figure.savefig(file, dpi=130)
    except ValueError as error:
        raise ContractError(f"{file} cannot be written as a picture: {error}") from error


def _ellipticity(axes: Any, found: Ellipticity) -> None:
    """The worst over all other components, in the plane of U11 and U22."""
    first, second = (np.unique(found.stretches[:, i]) for i in (0, 1))
    worst = np.full((len(second), len(first)), np.inf)
    index = np.searchsorted(second, found.stretches[:, 1]), np.searchsorted(first, found.stretches[:, 0])
    np.minimum.at(worst, index, found.smallest)
    colours = axes.pcolormesh(first, second, np.where(np.isfinite(worst), worst, np.nan), shading="nearest")
    axes.figure.colorbar(colours, ax=axes)
    axes.set(xlabel="U11", ylabel="U22", title="acoustic tensor: smallest eigenvalue\n(relative to rest; elliptic > 0)")
    axes.set_aspect("equal")


def _growth(axes: Any, model: EnergySurrogate) -> None:
    energies, s = (values[..., 1:] for values in collapse(model))
    names = [*(f"U{i}{i} = s" for i in range(1, len(energies))), "U = s I"]
    for name, energy in zip(names, energies, strict=True):
        axes.plot(s, energy, label=name)
    axes.set(xscale="log", xlabel="s", ylabel=f"energy [{model.spec.flux_unit}]", title="energy as stretches collapse")
    axes.set_yscale("log" if (energies > 0.0).all() else "linear")
    axes.legend()


def _errors(axes: Any, errors: Mapping[str, HoldOutErrors]) -> None:
    quantities, width = ("energy", "flux", "tangent"), 0.8 / len(errors)
    for i, (name, found) in enumerate(errors.items()):
        for kind, alpha in (("max", 0.4), ("rms", 1.0)):
            heights = [getattr(found, f"{quantity}_{kind}") for quantity in quantities]
            label = f"{name}, {'largest' if kind == 'max' else 'RMS'}"
            axes.bar(np.arange(3) + i * width, heights, 0.9 * width, color=f"C{i}", alpha=alpha, label=label)
    axes.set_xticks(np.arange(3) + (len(errors) - 1) * width / 2, quantities)
    axes.set(yscale="log", title="relative errors")
    axes.margins(y=0.4)
    axes.legend()
