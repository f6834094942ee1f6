"""``twoscale train``: a surrogate from a data set."""

from __future__ import annotations

from dataclasses import asdict
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
    from surrogates.energy_surrogate import EnergySurrogate
    from surrogates.model_card import HoldOutErrors


class Family(StrEnum):
    """Kinds of surrogates."""

    network = "network"
    polynomial = "polynomial"


def train(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="a data set that twoscale sample wrote")],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="the model folder; an older model there is replaced")],
    family: Annotated[Family, typer.Option(help="energy network, or polynomial energy")] = Family.network,
    hidden: Annotated[str, typer.Option(help="widths of the network's hidden layers")] = "32,32",
    degree: Annotated[int, typer.Option(min=2, help="of the polynomial")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="of the weights and the choice of the hold-out samples")] = 0,
    iterations: Annotated[int, typer.Option(min=1, help="of the network's training, at most")] = 150,
    as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False,
) -> None:
    """Train a surrogate on a data set and save it with its errors on samples that the training did not see.

    [b]Exit code[/b]: 1 where the data set cannot be used, 130 after Ctrl-C (nothing is saved then).

    [b]Examples[/b]:

    twoscale train void.safetensors --out void-model

    twoscale train void.safetensors --out void-polynomial --family polynomial --degree 6
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
            "family": model.potential.family,
            "architecture": model.potential.architecture,
            "training": card.training,
            "hold_out_errors": asdict(card.errors),
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
    dataset: Dataset, family: Family, hidden: tuple[int, ...], degree: int, seed: int, iterations: int, *, shown: bool
) -> EnergySurrogate:
    from surrogates.training import fit_polynomial, train_energy_network

    if family is Family.polynomial:
        return fit_polynomial(dataset, degree=degree, seed=seed)
    options: dict[str, Any] = {"max_iterations": iterations, "progress": shown}
    return train_energy_network(dataset, hidden=hidden, seed=seed, **options)
