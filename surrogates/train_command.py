"""``twoscale train``: a surrogate from a data set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coupling.errors import ContractError
from coupling.terminal import answer, errors_told

if TYPE_CHECKING:
    from surrogates.dataset import Dataset
    from surrogates.model_card import HoldOutErrors
    from surrogates.model_folder import TrainedSurrogate


class Family(StrEnum):
    """Kinds of surrogates."""

    network = "network"
    polynomial = "polynomial"


def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="a data set that twoscale sample wrote")],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="the model folder; an older model there is replaced")],
    family: Annotated[
        Family | None,
        typer.Option(
            help="network or polynomial; default: network of stretches, polynomial of all else", show_default=False
        ),
    ] = None,
    hidden: Annotated[str, typer.Option(help="widths of the network's hidden layers")] = "32,32",
    degree: Annotated[
        int | None,
        typer.Option(min=1, help="of the polynomial; default: 8 for an energy, 4 for a flux", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the weights and the choice of the hold-out samples")] = 0,
    iterations: Annotated[int, typer.Option(min=1, help="of the network's training, at most")] = 150,
    as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False,
) -> None:
    """Train a surrogate on a data set and save it with its errors on samples that the training did not see.

    Stretches and their energies give an energy, a network or a polynomial; all else (small strain, conduction, several
    operands) a polynomial flux, with a potential where the tangent is symmetric.

    [b]Exit code[/b]: 1 where the data set cannot be used, 130 after Ctrl-C (nothing is saved then).

    [b]Examples[/b]:

    twoscale train void.safetensors --out void-model

    twoscale train void.safetensors --out void-polynomial --family polynomial --degree 6

    twoscale train wall.safetensors --out wall-model --degree 3
    """
    with errors_told():
        from surrogates.dataset import Dataset
        from surrogates.model_folder import save_model

        if out.exists() and not (out / "card.json").exists():
            raise ContractError(f"{out} is there and no model folder: choose another --out")
        model = _trained(Dataset.load(data), family, _widths(hidden), degree, seed, iterations, shown=not as_json)
        save_model(model, out)
        card = model.card
        values = {
            "model": str(out),
            "family": model.family,
            "architecture": model.architecture,
            "training": card.training,
            "hold_out_errors": card.errors.known,
        }
        title = f"{escape(str(out))}: errors on {card.errors.samples} samples held out"
        answer(values, [error_table(title, card.errors)], as_json=as_json)


def error_table(title: str, *columns: HoldOutErrors, names: tuple[str, ...] = ("",)) -> Table:
    """Relative errors of energy, flux and tangent, RMS and largest, one pair of columns for each set of errors."""
    table = Table("relative error", title=title)
    for name in names:
        table.add_column(f"{name} RMS".strip(), justify="right")
        table.add_column(f"{name} largest".strip(), justify="right")
    for quantity in ("energy", "flux", "tangent"):
        figures = [getattr(errors, f"{quantity}_{kind}") for errors in columns for kind in ("rms", "max")]
        if None not in figures:
            table.add_row(quantity, *(f"{figure:.2e}" for figure in figures))
    return table


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        wish = f"expected whole numbers separated by commas, such as 32,32, got {text!r}"
        raise typer.BadParameter(wish, param_hint="--hidden") from error
    if min(widths) < 1:
        raise typer.BadParameter(f"a layer has 1 unit or more, got {text!r}", param_hint="--hidden")
    return widths


def _trained(
    dataset: Dataset,
    family: Family | None,
    hidden: tuple[int, ...],
    degree: int | None,
    seed: int,
    iterations: int,
    *,
    shown: bool,
) -> TrainedSurrogate:
    from surrogates.polynomial_flux import fit_polynomial_flux
    from surrogates.stretch_space import StretchBox
    from surrogates.training import fit_polynomial, train_energy_network

    of_energy = isinstance(dataset.box, StretchBox)
    if family is Family.network or (family is None and of_energy):
        options: dict[str, Any] = {"max_iterations": iterations, "progress": shown}
        return train_energy_network(dataset, hidden=hidden, seed=seed, **options)
    if of_energy:
        return fit_polynomial(dataset, degree=degree or 8, seed=seed)
    return fit_polynomial_flux(dataset, degree=degree or 4, seed=seed)
