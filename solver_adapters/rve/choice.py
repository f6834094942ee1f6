"""An RVE from words: a generated or read unit cell, and a material for each of its tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coupling.errors import ClosureError, ContractError, MeshError, MissingPackageError

if TYPE_CHECKING:
    from solver_adapters.fenicsx_rve import PeriodicRVE

GENERATED = {"fibre": "centred_fibre", "void": "centred_void", "laminate": "laminate"}
MATERIALS = {"neo-hookean": "NeoHookean", "saint-venant-kirchhoff": "SaintVenantKirchhoff"}
DEFAULT_MATERIALS = {"fibre": ("1=neo-hookean:1,1.5", "2=neo-hookean:10,15"), "void": ("1=neo-hookean:1,1.5",)}
DEFAULT_MATERIALS["laminate"] = DEFAULT_MATERIALS["fibre"]


def chosen_rve(
    cell: str,
    materials: Sequence[str] = (),
    *,
    fraction: float | None = None,
    size: float | None = None,
    tag_name: str | None = None,
    degree: int = 2,
    flux_unit: str = "1",
) -> PeriodicRVE:
    """The RVE with energy of a cell and materials.

    Args:
        cell: a key of :data:`GENERATED`, or the path of a mesh file.
        materials: ``TAG=LAW:MU,LAMBDA``, LAW a key of :data:`MATERIALS`; without any, generated cells have their
            :data:`DEFAULT_MATERIALS`.
        fraction: area fraction of the second phase of a generated cell.
        size: largest edge length of its mesh.
        tag_name: cell data of a mesh file that tells the materials.
        degree: of the fluctuation.
        flux_unit: unit of the moduli.

    Raises:
        MeshError: the mesh cannot be read or is no periodic unit cell.
        ContractError: a material is none, or the options do not fit the cell.
        MissingPackageError: DOLFINx, meshio or gmsh is not installed.
    """
    _check_options(cell, {"--fraction": fraction, "--size": size}, tag_name)
    laws = {tag: (law, moduli) for tag, law, moduli in map(_material, materials or _default(cell))}
    try:
        from solver_adapters.fenicsx_rve import PeriodicRVE
        from solver_adapters.rve import energies, meshes
    except ImportError as error:
        raise MissingPackageError(f"an RVE needs DOLFINx and meshio ({error}): twoscale info tells how") from error
    if cell in GENERATED:
        given = {key: value for key, value in (("fraction", fraction), ("size", size)) if value is not None}
        unit_cell = getattr(meshes, GENERATED[cell])(**given)
    else:
        unit_cell = meshes.read_unit_cell(cell, tag_name=tag_name)
    built = {tag: getattr(energies, MATERIALS[law])(*moduli) for tag, (law, moduli) in laws.items()}
    try:
        return PeriodicRVE(unit_cell, built, degree=degree, energy=True, flux_unit=flux_unit)
    except ClosureError as error:
        raise MeshError(f"{cell}: {error}") from error


def _default(cell: str) -> Sequence[str]:
    if cell not in DEFAULT_MATERIALS:
        raise ContractError(f"{cell} has no materials: give one --material TAG=LAW:MU,LAMBDA for each cell tag")
    return DEFAULT_MATERIALS[cell]


def _check_options(cell: str, generator: dict[str, Any], tag_name: str | None) -> None:
    if cell in GENERATED:
        if tag_name is not None:
            raise ContractError(
                f"--tag-name is for mesh files, but {cell} is generated with tags 1 and 2: leave it out"
            )
        return
    given = [name for name, value in generator.items() if value is not None]
    if given:
        raise ContractError(f"{' and '.join(given)} shape generated cells, but {cell} is a mesh file: leave them out")
    if not Path(cell).is_file():
        raise MeshError(f"{cell} is neither a file nor one of {', '.join(GENERATED)}")


def _material(text: str) -> tuple[int, str, tuple[float, float]]:
    try:
        tag, law_and_moduli = text.split("=")
        law, moduli = law_and_moduli.split(":")
        mu, lmbda = map(float, moduli.split(","))
        number = int(tag)
    except ValueError as error:
        raise ContractError(f"a material is TAG=LAW:MU,LAMBDA, such as 1=neo-hookean:1,1.5, got {text!r}") from error
    if law not in MATERIALS:
        raise ContractError(f"there is no material {law!r} in {text!r}: known are {', '.join(MATERIALS)}")
    if not (0.0 < mu < float("inf") and 3.0 * lmbda + 2.0 * mu > 0.0 and lmbda < float("inf")):
        raise ContractError(f"MU and the bulk modulus LAMBDA + 2/3 MU must be above 0 and finite, got {text!r}")
    return number, law, (mu, lmbda)
