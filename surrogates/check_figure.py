"""The figure of ``twoscale check``: ellipticity; growth of an energy, or the flux over its range; errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coupling.errors import ContractError, MissingPackageError
from surrogates.energy_surrogate import EnergySurrogate
from surrogates.model_card import HoldOutErrors
from surrogates.model_folder import TrainedSurrogate
from surrogates.physics_checks import Ellipticity, collapse
from surrogates.polynomial_flux import PolynomialFlux

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingPackageError("a figure needs matplotlib: pip install matplotlib") from error


def draw(
    model: TrainedSurrogate, elliptic: Ellipticity | None, errors: Mapping[str, HoldOutErrors], file: str | Path
) -> None:
    """Write the figure in any format that matplotlib writes.

    Raises:
        ContractError: the file's ending names no such format.
    """
    figure = Figure(figsize=(13 if elliptic else 9, 4), layout="constrained")
    *left, middle, right = figure.subplots(1, 3 if elliptic else 2)
    if elliptic:
        _ellipticity(left[0], model, elliptic)
    if isinstance(model, EnergySurrogate):
        _growth(middle, model)
    else:
        _flux(middle, model)
    _errors(right, errors)
    try:
        figure.savefig(file, dpi=130)
    except ValueError as error:
        raise ContractError(f"{file} cannot be written as a picture: {error}") from error


def _ellipticity(axes: Any, model: TrainedSurrogate, found: Ellipticity) -> None:
    """The worst over all other components, in the plane of the first two."""
    first, second = (np.unique(found.gradients[:, i]) for i in (0, 1))
    worst = np.full((len(second), len(first)), np.inf)
    index = np.searchsorted(second, found.gradients[:, 1]), np.searchsorted(first, found.gradients[:, 0])
    np.minimum.at(worst, index, found.smallest)
    colours = axes.pcolormesh(first, second, np.where(np.isfinite(worst), worst.round(6), np.nan), shading="nearest")
    axes.figure.colorbar(colours, ax=axes)
    title = f"{found.tensor}: smallest eigenvalue\n(relative to {found.rest}; elliptic > 0)"
    axes.set(xlabel=model.spec.gradient[0], ylabel=model.spec.gradient[1], title=title)
    if model.spec.gradient[0] != "θ":
        axes.set_aspect("equal")


def _growth(axes: Any, model: EnergySurrogate) -> None:
    energies, s = (values[..., 1:] for values in collapse(model))
    names = [*(f"U{i}{i} = s" for i in range(1, len(energies))), "U = s I"]
    for name, energy in zip(names, energies, strict=True):
        axes.plot(s, energy, label=name)
    axes.set(xscale="log", xlabel="s", ylabel=f"energy [{model.spec.flux_unit}]", title="energy as stretches collapse")
    axes.set_yscale("log" if (energies > 0.0).all() else "linear")
    axes.legend()


def _flux(axes: Any, model: PolynomialFlux) -> None:
    """Each flux component along the gradient component it depends on most, from end to end of the range."""
    box, s = model.card.box, np.linspace(-1.0, 1.0, 101)
    slopes = np.abs(model.evaluate(box.centre[None], None, 0.0).tangent[0]) * box.half_width
    for i, (name, j) in enumerate(zip(model.spec.flux, slopes.argmax(axis=1), strict=True)):
        gradient = np.tile(box.centre, (len(s), 1))
        gradient[:, j] += s * box.half_width[j]
        flux = model.evaluate(np.clip(gradient, box.lower, box.upper), None, 0.0).flux[:, i]
        axes.plot(s, flux, label=f"{name} along {model.spec.gradient[j]}", linestyle=("-", "--", ":")[i % 3])
    axes.set(xlabel="from the lower bound of the range (−1) to the upper", ylabel=f"flux [{model.spec.flux_unit}]")
    axes.set(title="flux through the middle of the range")
    axes.legend()


def _errors(axes: Any, errors: Mapping[str, HoldOutErrors]) -> None:
    known = next(iter(errors.values())).known
    quantities = [quantity for quantity in ("energy", "flux", "tangent") if f"{quantity}_rms" in known]
    width = 0.8 / len(errors)
    for i, (name, found) in enumerate(errors.items()):
        for kind, alpha in (("max", 0.4), ("rms", 1.0)):
            heights = [getattr(found, f"{quantity}_{kind}") for quantity in quantities]
            label = f"{name}, {'largest' if kind == 'max' else 'RMS'}"
            axes.bar(
                np.arange(len(quantities)) + i * width, heights, 0.9 * width, color=f"C{i}", alpha=alpha, label=label
            )
    axes.set_xticks(np.arange(len(quantities)) + (len(errors) - 1) * width / 2, quantities)
    axes.set(yscale="log", title="relative errors")
    axes.margins(y=0.4)
    axes.legend()
