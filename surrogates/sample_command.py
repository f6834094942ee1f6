"""``twoscale sample``: sample a fine scale into a data set."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from coupling.agreement import together
from coupling.contract import Closure
from coupling.errors import ContractError, MissingPackageError, ModelError
from coupling.serving.loading import load, named
from coupling.terminal import INTERRUPTED, answer, errors_told, numbers, say

if TYPE_CHECKING:
    from surrogates.dataset import Dataset

RVE = "solver_adapters.rve.choice:chosen_rve"
"""Makes the fine scale of a cell's name; named, since surrogates do without solvers."""


def sample(
    cell: Annotated[
        str,
        typer.Argument(
            metavar="CELL",
            help="fibre, void, sphere, laminate, random, a mesh file, an image, or module:object of a closure",
        ),
    ],
    lower: Annotated[str, typer.Option(metavar="G1,G2,…", help="lower bounds of the gradient")],
    upper: Annotated[str, typer.Option(metavar="G1,G2,…", help="upper bounds")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the data set, a .safetensors file")],
    samples: Annotated[int, typer.Option(min=1, help="number of stretches")] = 500,
    seed: Annotated[int, typer.Option(help="of the scrambled Sobol sequence")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="stretches that are kept together")] = 8,
    material: Annotated[list[str] | None, typer.Option(metavar="TAG=LAW:NUMBERS", help="as for twoscale rve")] = None,
    boundary: Annotated[str, typer.Option(help="periodic, linear or uniform, on the faces of the cell")] = "periodic",
    fraction: Annotated[float | None, typer.Option(help="of the inclusions of a generated cell")] = None,
    size: Annotated[float | None, typer.Option(help="largest edge of its mesh; default 0.05 to 0.2")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="of the inclusions of a random cell; default 8")] = None,
    cell_seed: Annotated[int | None, typer.Option(min=0, help="of their places; default 0")] = None,
    dim: Annotated[int | None, typer.Option(min=2, max=3, help="of a random cell or laminate; default 2")] = None,
    tag_name: Annotated[str | None, typer.Option(help="cell data of a mesh file that tells the materials")] = None,
    leave_out: Annotated[int | None, typer.Option(metavar="TAG", help="void pixels or voxels of an image")] = None,
    degree: Annotated[int, typer.Option(min=1, max=4, help="of the fluctuation field")] = 2,
    unit: Annotated[str, typer.Option(help="of the moduli, and so of the stress")] = "1",
    as_json: Annotated[bool, typer.Option("--json", help="write JSON")] = False,
) -> None:
    """Sample a unit cell, or a closure of your own, over a box of gradients: a data set for twoscale train and run.

    The gradient is the one of twoscale rve, but at finite strain the stretch U in Mandel form: U11, U22, √2·U12, in 3D
    U11, U22, U33, √2·U23, √2·U13, √2·U12; its box must hold the identity. Where a conductivity depends on θ, the
    reference state has the θ in the middle of the box. Finished batches are kept in FILE.partial:
    after Ctrl-C, a time limit or a crash the same command goes on, on any number of ranks.

    [b]Exit code[/b]: 1 where nothing could be sampled or FILE is there already, 130 after Ctrl-C.

    [b]Examples[/b]:

    twoscale sample void --lower 0.9,0.9,-0.1 --upper 1.1,1.1,0.1 --samples 500 --out void.safetensors

    mpirun -n 8 twoscale sample cell.msh --material 1=neo-hookean:1,1.5 --lower … --upper … --out cell.safetensors
    """
    bounds = numbers(lower, "--lower"), numbers(upper, "--upper")
    try:
        from mpi4py import MPI
    except ImportError as error:
        with errors_told():
            raise MissingPackageError(f"sampling needs mpi4py ({error}): twoscale info tells how") from error
    from surrogates.sampling import SamplingInterrupted

    comm = MPI.COMM_WORLD
    shape = {
        "fraction": fraction,
        "size": size,
        "count": count,
        "cell_seed": cell_seed,
        "dim": dim,
        "tag_name": tag_name,
        "leave_out": leave_out,
    }
    options = {"shape": shape, "boundary": boundary, "degree": degree, "flux_unit": unit}
    middle = 0.5 * (bounds[0][0] + bounds[1][0])  # a field's value of reference has to lie in the range of a model
    fine_scale = {"cell": cell, "materials": material or [], "field": middle, **options}
    with errors_told(rank=comm.rank):
        try:
            data = _sampled(comm, fine_scale, bounds, out, samples, seed, batch)
        except SamplingInterrupted as interrupted:
            if comm.rank == 0:
                words = f"{interrupted}, kept in {_partial(out)}: the same command goes on"
                say(f"[yellow]{escape(words)}")
            raise typer.Exit(INTERRUPTED) from interrupted
        except KeyboardInterrupt:
            if comm.size > 1:
                comm.Abort(INTERRUPTED)
            raise
        if comm.rank == 0:
            values = _values(data, out)
            answer(values, [_table(values)], as_json=as_json)


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _sampled(
    comm: Any,
    fine_scale: dict[str, Any],
    bounds: tuple[tuple[float, ...], tuple[float, ...]],
    out: Path,
    samples: int,
    seed: int,
    batch: int,
) -> Dataset:
    """The data set, which rank 0 has written (collective)."""
    from surrogates.sampling import design_for
    from surrogates.sampling import sample as sample_closure

    together(comm, lambda: _check_free(out) if comm.rank == 0 else None)
    closure, provenance = together(comm, lambda: _fine_scale(**fine_scale))
    if closure.spec.history:
        raise ContractError(
            "a fine scale with history cannot be sampled: its flux depends on the path, and is no function of the "
            "gradient that a surrogate could learn from single samples"
        )
    design = design_for(closure.spec, *bounds, samples, seed=seed)
    data = sample_closure(closure, design, comm=comm, batch=batch, provenance=provenance, keep=_partial(out))
    together(comm, lambda: _finish(data, out) if comm.rank == 0 else None)
    return data


def _check_free(out: Path) -> None:
    if out.exists():
        raise ModelError(f"{out} is there already: delete it or choose another --out")
    if not out.parent.is_dir():
        raise ModelError(f"there is no folder {out.parent} to write {out.name} to: make it first")


def _fine_scale(
    cell: str, materials: list[str], shape: dict[str, Any], **options: Any
) -> tuple[Closure, dict[str, Any]]:
    """The closure of a cell or ``module:object``, and what it is."""
    file = Path(cell)
    if ":" in cell and not file.exists():
        shaping = [name for name, value in shape.items() if value is not None]
        if shaping or materials:
            words = ", ".join(
                "--" + name.replace("_", "-") for name in [*shaping, *(["material"] if materials else [])]
            )
            raise ContractError(f"{words} shape a unit cell, but {cell} is a closure of your own: leave them out")
        sys.path.insert(0, "")
        return load(cell, "cpu"), {"closure": cell}
    rve = named(RVE)(cell, materials, **shape, **options)
    hashed = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file.is_file() else {}
    return rve, rve.description | hashed


def _finish(data: Dataset, out: Path) -> None:
    from surrogates.partial_samples import PartialSamples

    data.save(out)
    PartialSamples(_partial(out), {}).delete()


def _values(data: Dataset, out: Path) -> dict[str, Any]:
    return {
        "file": str(out),
        "samples": len(data),
        "dropped": data.provenance["dropped"],
        "lower": data.box.lower,
        "upper": data.box.upper,
        "sha256": data.fingerprint,
        "provenance": data.provenance,
    }


def _table(values: dict[str, Any]) -> Table:
    table = Table(show_header=False, title="data set")
    table.add_row("file", escape(values["file"]))
    table.add_row("samples", str(values["samples"]))
    for why, count in values["dropped"].items():
        table.add_row("dropped", f"{count}: {escape(why)}")
    for bound in ("lower", "upper"):
        table.add_row(bound, ", ".join(f"{value:g}" for value in values[bound]))
    table.add_row("SHA-256", values["sha256"][:16] + "…")
    return table
