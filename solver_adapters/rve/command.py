"""``twoscale rve``: homogenise a unit cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from coupling.contract import Array, Response, Status, usable
from coupling.errors import ClosureError, ContractError
from coupling.polar import admissible, polar
from coupling.stretch import StretchFrame
from coupling.terminal import answer, errors_told, numbers
from solver_adapters.rve.choice import chosen_rve

if TYPE_CHECKING:
    from solver_adapters.fenicsx_rve import PeriodicRVE


def rve(
    cell: Annotated[
        str, typer.Argument(metavar="CELL", help="fibre, void, laminate, or a mesh file that meshio reads")
    ],
    gradient: Annotated[
        str | None, typer.Option(metavar="F11,F12,F21,F22", help="deformation gradient, row by row; default: identity")
    ] = None,
    material: Annotated[
        list[str] | None, typer.Option(metavar="TAG=LAW:MU,LAMBDA", help="neo-hookean or saint-venant-kirchhoff")
    ] = None,
    fraction: Annotated[float | None, typer.Option(help="area fraction of the inclusion of a generated cell")] = None,
    size: Annotated[float | None, typer.Option(help="largest edge of its mesh; default 0.1")] = None,
    tag_name: Annotated[str | None, typer.Option(help="cell data of a mesh file that tells the materials")] = None,
    degree: Annotated[int, typer.Option(min=1, max=4, help="of the fluctuation field")] = 2,
    unit: Annotated[str, typer.Option(help="of the moduli, and so of the stress")] = "1",
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="draw the deformed cell (2D)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False,
) -> None:
    """Homogenise a periodic unit cell: effective stress and tangent at a deformation gradient, and tangent at rest.

    The stress is the first Piola–Kirchhoff stress P, components row by row; the tangent is ∂P/∂F. Cells without
    --material are neo-hookean, with μ = 1, λ = 1.5 in the matrix and ten times that in the inclusion; mesh files need
    a --material for each cell tag.

    [b]Exit code[/b]: 1 where the cell cannot be used or has no equilibrium at the gradient.

    [b]Examples[/b]:

    twoscale rve void --fraction 0.3 --gradient 1.1,0.2,0,0.95 --picture void.png

    twoscale rve cell.msh --material 1=neo-hookean:1,1.5 --material 2=neo-hookean:20,30 --json
    """
    components = None if gradient is None else numbers(gradient, "--gradient")
    with errors_told():
        fine = chosen_rve(
            cell, material or (), fraction=fraction, size=size, tag_name=tag_name, degree=degree, flux_unit=unit
        )
        frame = StretchFrame(fine)
        F = _gradient(frame, components)
        rest = _solved(frame, np.array([frame.spec.reference]))
        here = _solved(frame, F)
        if picture is not None:
            _draw(fine, F, here, picture)
        names = {"gradient": frame.spec.gradient, "flux": frame.spec.flux, "unit": unit}
        answer(_values(fine, names, F, here, rest), _tables(cell, names, F, here, rest), as_json=as_json)


def _gradient(frame: StretchFrame, components: tuple[float, ...] | None) -> Array:
    spec = frame.spec
    F = np.array([spec.reference if components is None else components])
    if F.shape[1] != spec.k:
        raise ContractError(
            f"this cell needs a gradient of {spec.k} components {','.join(spec.gradient)}, got {F.shape[1]}"
        )
    if not admissible(F).all():
        raise ContractError(f"a deformation gradient has det F > 0, got {','.join(f'{f:g}' for f in F[0])}")
    return F


def _solved(frame: StretchFrame, F: Array) -> Response:
    response = frame.evaluate(F, frame.initial_state(1), 0.0)
    if not usable(response.status).all():
        raise ClosureError(
            f"the cell has no equilibrium that the solver finds at F = ({', '.join(f'{f:g}' for f in F[0])}): "
            f"{Status(int(response.status[0])).message}; go there in smaller steps to see where it becomes unstable"
        )
    return response


def _draw(fine: PeriodicRVE, F: Array, here: Response, picture: Path) -> None:
    from solver_adapters.rve.picture import draw_rve

    assert here.state is not None
    draw_rve(fine, here.state[0], picture, rotation=polar(F)[0][0])


def _values(fine: PeriodicRVE, names: dict[str, Any], F: Array, here: Response, rest: Response) -> dict[str, Any]:
    assert here.energy is not None
    return {
        "cell": fine.description,
        "components": names,
        "gradient": F[0].tolist(),
        "energy": float(here.energy[0]),
        "flux": here.flux[0].tolist(),
        "tangent": here.tangent[0].tolist(),
        "reference_tangent": rest.tangent[0].tolist(),
    }


def _tables(cell: str, names: dict[str, Any], F: Array, here: Response, rest: Response) -> list[Table]:
    scale = float(np.abs(rest.tangent).max())
    unit = "" if names["unit"] == "1" else f" [{escape(names['unit'])}]"
    stress = Table("", *names["gradient"], title=f"{escape(cell)}: deformation gradient F and stress P{unit}")
    stress.add_row("F", *(f"{value:.6g}" for value in F[0]))
    stress.add_row("P", *(_number(value, scale) for value in here.flux[0]))
    tables = [stress]
    at_rest = np.array_equal(F, [np.eye(int(len(F[0]) ** 0.5)).ravel()])
    for where, tangent in (("at rest", rest.tangent[0]), ("at F", here.tangent[0]))[: 1 if at_rest else 2]:
        table = Table("", *names["gradient"], title=f"∂P/∂F {where}{unit}")
        for name, row in zip(names["flux"], tangent, strict=True):
            table.add_row(name, *(_number(value, scale) for value in row))
        tables.append(table)
    return tables


def _number(value: float, scale: float) -> str:
    """Six digits, and zero for what is below the solver's tolerance."""
    return f"{value if abs(value) > 1e-10 * scale else 0.0:.6g}"
