"""``twoscale rve``: homogenise a unit cell."""

from __future__ import annotations

import glob
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from coupling.contract import Array, Closure, Response, Status, usable
from coupling.errors import ClosureError, ContractError
from coupling.polar import admissible, polar
from coupling.stretch import StretchFrame
from coupling.terminal import answer, errors_told, numbers, world_rank
from solver_adapters.rve.choice import GENERATED, chosen_rve

if TYPE_CHECKING:
    from solver_adapters.fenicsx_rve import PeriodicRVE


class Kinematics(StrEnum):
    """Kinds of problems."""

    finite_strain = "finite-strain"
    small_strain = "small-strain"
    conduction = "conduction"
    field_conduction = "field-conduction"


class Boundary(StrEnum):
    """Conditions on the faces of a cell."""

    periodic = "periodic"
    linear = "linear"
    uniform = "uniform"


def rve(
    cell: Annotated[
        str,
        typer.Argument(
            metavar="CELL",
            help="fibre, void, sphere, laminate, random, a mesh file that meshio reads, or an image (.npy, .tif, .png)",
            autocompletion=cells_and_files,
        ),
    ],
    gradient: Annotated[
        str | None,
        typer.Option(metavar="F11,F12,…", help="macroscopic gradient; default: the state of rest", show_default=False),
    ] = None,
    material: Annotated[
        list[str] | None, typer.Option(metavar="TAG=LAW:NUMBERS", help="one for each cell tag, see below")
    ] = None,
    kinematics: Annotated[
        Kinematics | None, typer.Option(help="default: that of the materials", show_default=False)
    ] = None,
    boundary: Annotated[Boundary, typer.Option(help="condition on the faces of the cell")] = Boundary.periodic,
    fraction: Annotated[float | None, typer.Option(help="of the inclusions of a generated cell")] = None,
    size: Annotated[float | None, typer.Option(help="largest edge of its mesh; default 0.05 to 0.2")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="of the inclusions of a random cell; default 8")] = None,
    cell_seed: Annotated[int | None, typer.Option(min=0, help="of their places; default 0")] = None,
    dim: Annotated[int | None, typer.Option(min=2, max=3, help="of a random cell or laminate; default 2")] = None,
    tag_name: Annotated[str | None, typer.Option(help="cell data of a mesh file that tells the materials")] = None,
    leave_out: Annotated[int | None, typer.Option(metavar="TAG", help="void pixels or voxels of an image")] = None,
    degree: Annotated[int, typer.Option(min=1, max=4, help="of the fluctuation field")] = 2,
    unit: Annotated[str, typer.Option(help="of the moduli, and so of the stress")] = "1",
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="draw the deformed cell (2D)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False,
) -> None:
    """Homogenise a unit cell: effective flux and tangent at a macroscopic gradient, and tangent at rest.

    The materials tell what is solved, and how many numbers --gradient has:

    [b]finite-strain[/b] F ↦ P row by row: neo-hookean:MU,LAMBDA, saint-venant-kirchhoff:MU,LAMBDA

    [b]small-strain[/b] ε ↦ σ, Mandel form 11, 22, √2·12: isotropic:MU,LAMBDA,
    transversely-isotropic:EA,ET,NUA,NUT,GA,N1,N2,N3 (axis N), von-mises:MU,LAMBDA,YIELD,HARDENING (plasticity),
    generalised-maxwell:MU,LAMBDA,MU1,LAMBDA1,TAU1,… (viscoelasticity, here its response at once)

    [b]conduction[/b] g ↦ q = −κ g: conduction:K

    [b]field-conduction[/b] θ, g ↦ q = −κ(θ) g: field-conduction:C0,C1,… for κ = C0 + C1 θ + …

    Generated cells without --material have a matrix of 1 (λ = 1.5) and an inclusion ten times as stiff; files need a
    --material for each cell tag. Started on several ranks, the first one tells.

    [b]Exit code[/b]: 1 where the cell cannot be used or has no equilibrium at the gradient.

    [b]Examples[/b]:

    twoscale rve void --fraction 0.3 --gradient 1.1,0.2,0,0.95 --picture void.png

    twoscale rve random --dim 3 --count 6 --fraction 0.2 --kinematics conduction

    twoscale rve scan.tif --material 0=conduction:0.2 --material 1=conduction:50 --boundary linear

    twoscale rve fibre --material 1=von-mises:27,40,0.2,1 --material 2=isotropic:167,111 --gradient 0.01,-0.005,0

    twoscale rve cell.msh --material 1=neo-hookean:1,1.5 --material 2=neo-hookean:20,30 --json
    """
    components = None if gradient is None else numbers(gradient, "--gradient")
    rank = world_rank()
    with errors_told(rank=rank):
        fine = chosen_rve(
            cell,
            material or (),
            kinematics=kinematics,
            boundary=str(boundary),
            fraction=fraction,
            size=size,
            count=count,
            cell_seed=cell_seed,
            dim=dim,
            tag_name=tag_name,
            leave_out=leave_out,
            degree=degree,
            flux_unit=unit,
        )
        frame = StretchFrame(fine) if fine.spec.gradient[0] == "U11" else fine
        F = _gradient(frame, components)
        rest = _solved(frame, np.array([frame.spec.reference]))
        here = _solved(frame, F)
        if rank > 0:
            return
        if picture is not None:
            _draw(fine, F, here, picture)
        names = {"gradient": frame.spec.gradient, "flux": frame.spec.flux, "unit": unit}
        answer(_values(fine, names, F, here, rest), _tables(cell, names, F, here, rest), as_json=as_json)


def cells_and_files(incomplete: str) -> list[str]:
    """Completions of a CELL: the generated ones, and files."""
    files = [str(path) + "/" * path.is_dir() for path in sorted(Path().glob(f"{glob.escape(incomplete)}*"))]
    return [name for name in GENERATED if name.startswith(incomplete)] + files


def _gradient(frame: Closure, components: tuple[float, ...] | None) -> Array:
    spec = frame.spec
    F = np.array([spec.reference if components is None else components])
    if F.shape[1] != spec.k:
        raise ContractError(
            f"this cell needs a gradient of {spec.k} components {','.join(spec.gradient)}, got {F.shape[1]}"
        )
    if spec.gradient[0] == "F11" and not admissible(F).all():
        raise ContractError(f"a deformation gradient has det F > 0, got {','.join(f'{f:g}' for f in F[0])}")
    return F


def _solved(frame: Closure, F: Array) -> Response:
    response = frame.evaluate(F, frame.initial_state(1), 0.0)
    if not usable(response.status).all():
        raise ClosureError(
            f"the cell has no equilibrium that the solver finds at ({', '.join(f'{f:g}' for f in F[0])}): "
            f"{Status(int(response.status[0])).message}; go there in smaller steps to see where it becomes unstable"
        )
    return response


def _draw(fine: PeriodicRVE, F: Array, here: Response, picture: Path) -> None:
    from solver_adapters.rve.picture import draw_rve

    assert here.state is not None
    rotation = polar(F)[0][0] if fine.spec.gradient[0] == "U11" else None
    draw_rve(fine, here.state[0], picture, rotation=rotation)


def _values(fine: PeriodicRVE, names: dict[str, Any], F: Array, here: Response, rest: Response) -> dict[str, Any]:
    energy = {} if here.energy is None else {"energy": float(here.energy[0])}
    return {
        "cell": fine.description,
        "components": names,
        "gradient": F[0].tolist(),
        **energy,
        "flux": here.flux[0].tolist(),
        "tangent": here.tangent[0].tolist(),
        "reference_tangent": rest.tangent[0].tolist(),
    }


def _tables(cell: str, names: dict[str, Any], F: Array, here: Response, rest: Response) -> list[Table]:
    scale = float(np.abs(rest.tangent).max())
    unit = "" if names["unit"] == "1" else f" [{escape(names['unit'])}]"
    tables = []
    for what, labels, values in (("gradient", names["gradient"], F[0]), ("flux", names["flux"], here.flux[0])):
        title = f"{escape(cell)}: {what}{unit if what == 'flux' else ''}"
        table = Table(*labels, title=title, min_width=len(title))
        table.add_row(*(_number(value, scale if what == "flux" else 1.0) for value in values))
        tables.append(table)
    at_rest = np.allclose(here.tangent, rest.tangent, rtol=0.0, atol=1e-9 * scale)
    for where, tangent in (("at rest", rest.tangent[0]), ("here", here.tangent[0]))[: 1 if at_rest else 2]:
        title = f"∂flux/∂gradient {where}{unit}"
        table = Table("", *names["gradient"], title=title, min_width=len(title))
        for name, row in zip(names["flux"], tangent, strict=True):
            table.add_row(name, *(_number(value, scale) for value in row))
        tables.append(table)
    return tables


def _number(value: float, scale: float) -> str:
    """Six digits, and zero for what is below the solver's tolerance."""
    return f"{value if abs(value) > 1e-10 * scale else 0.0:.6g}"
