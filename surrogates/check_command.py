"""``twoscale check``: does a model keep the closure contract, and physics?"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coupling.errors import ContractError, ModelError
from coupling.terminal import answer, errors_told

if TYPE_CHECKING:
    from coupling.conformance import Result
    from surrogates.dataset import Dataset
    from surrogates.model_card import HoldOutErrors
    from surrogates.model_folder import TrainedSurrogate
    from surrogates.physics_checks import Ellipticity


def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a model folder that twoscale train wrote")],
    data: Annotated[Path | None, typer.Option(metavar="FRESH", help="data set that training did not see")] = None,
    limit: Annotated[float, typer.Option(min=0, help="largest relative RMS error of the flux")] = 0.05,
    waive: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="a check that may fail, such as growth; repeatable")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="draw ellipticity, growth or flux, and errors")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False,
) -> None:
    """Check a model: contract, objectivity, symmetry, rest, ellipticity, growth, and errors held out or on fresh data.

    What a model has not, such as objectivity and growth in conduction and small strain, is told as –.

    [b]Exit code[/b]: 0 all checks passed or were waived, 1 one failed or the model cannot be loaded.

    [b]Examples[/b]:

    twoscale check void-model --figure void-model.png

    twoscale check void-polynomial --data fresh.safetensors --limit 0.01 --waive growth
    """
    with errors_told():
        from surrogates.model_folder import load_model
        from surrogates.physics_checks import error_check

        surrogate = load_model(model)
        fresh = None if data is None else _fresh(data, surrogate)
        errors = {"hold-out errors": surrogate.card.errors}
        if fresh is not None:
            errors["errors on fresh data"] = _errors(surrogate, fresh)
        results, elliptic = _physics(surrogate, fresh)
        results += [error_check(name, found, limit) for name, found in errors.items()]
        waived = _waived(waive or [], results)
        if figure is not None:
            from surrogates.check_figure import draw

            draw(surrogate, elliptic, errors, figure)
        passed = all(result.passed or result.name in waived for result in results)
        values = {
            "model": str(model),
            "passed": passed,
            "checks": [_as_json(result) | {"waived": result.name in waived} for result in results],
            "errors": {name: found.known for name, found in errors.items()},
        }
        answer(values, _tables(model, results, waived, errors), as_json=as_json)
    raise typer.Exit(int(not passed))


def _as_json(result: Result) -> dict[str, Any]:
    """JSON has no ∞ and no NaN, which a check that failed may have found."""
    figure = result.figure
    return asdict(result) | {"figure": figure if figure is not None and math.isfinite(figure) else None}


def _physics(surrogate: TrainedSurrogate, fresh: Dataset | None) -> tuple[list[Result], Ellipticity | None]:
    """The results, and the ellipticity that is drawn."""
    from surrogates import flux_checks, physics_checks
    from surrogates.polynomial_flux import PolynomialFlux

    if isinstance(surrogate, PolynomialFlux):
        return flux_checks.all_checks(surrogate, fresh)
    return physics_checks.all_checks(surrogate, fresh)


def _fresh(path: Path, surrogate: TrainedSurrogate) -> Dataset:
    """The samples of a data set inside the range of the model."""
    from surrogates.dataset import Dataset

    data = Dataset.load(path)
    if data.fingerprint == surrogate.card.dataset:
        raise ModelError(f"{path} is the data set that the model was trained on: sample another with another --seed")
    if data.spec.gradient != surrogate.spec.gradient:
        raise ContractError(
            f"{path} has the components {', '.join(data.spec.gradient)}, the model {', '.join(surrogate.spec.gradient)}"
        )
    inside = surrogate.card.box.contains(data.gradient)
    if not inside.any():
        raise ContractError(f"no sample of {path} lies in the range {surrogate.card.box}: sample inside of it")
    return data.subset(inside)


def _errors(surrogate: TrainedSurrogate, data: Dataset) -> HoldOutErrors:
    from surrogates.model_card import HoldOutErrors

    found = surrogate.evaluate(data.gradient, None, 0.0)
    return HoldOutErrors.of(data, found.energy, found.flux, found.tangent)


def _waived(names: list[str], results: list[Result]) -> set[str]:
    unknown = [name for name in names if name not in {result.name for result in results}]
    if unknown:
        known = ", ".join(result.name for result in results)
        raise typer.BadParameter(f"there is no check {unknown[0]!r}: there are {known}", param_hint="--waive")
    return set(names)


def _tables(model: Path, results: list[Result], waived: set[str], errors: dict[str, HoldOutErrors]) -> list[Table]:
    from surrogates.train_command import error_table

    table = Table("check", "", "error", "", title=escape(str(model)))
    for result in results:
        failed = "[yellow]waived" if result.name in waived else "[bold red]✗"
        error = "" if result.figure is None else f"{result.figure:.1e}"
        passed = "[green]✓" if result.applies else "–"
        table.add_row(result.name, passed if result.passed else failed, error, escape(result.explanation))
    names = tuple("held out" if name.startswith("hold") else "fresh" for name in errors)
    return [table, error_table("errors", *errors.values(), names=names)]
