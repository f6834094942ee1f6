"""An RVE from words: a generated or read unit cell, and a material for each of its tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coupling.errors import ClosureError, ContractError, MeshError, MissingPackageError

if TYPE_CHECKING:
    from solver_adapters.fenicsx_rve import PeriodicRVE
    from solver_adapters.rve.unit_cells import UnitCell

GENERATED = {
    "fibre": "centred_fibre",
    "void": "centred_void",
    "sphere": "sphere",
    "laminate": "laminate",
    "random": "random_inclusions",
}
SHAPING = {"laminate": ("dim",), "random": ("count", "cell_seed", "dim")}
"""What shapes a generated cell besides fraction and size."""
IMAGES = (".npy", ".tif", ".tiff", ".png", ".bmp")
_SOFT_AND_STIFF = {
    "finite-strain": ("neo-hookean:1,1.5", "neo-hookean:10,15"),
    "small-strain": ("isotropic:1,1.5", "isotropic:10,15"),
    "conduction": ("conduction:1", "conduction:10"),
    "field-conduction": ("field-conduction:1,1", "field-conduction:10,10"),
}


def chosen_rve(
    cell: str,
    materials: Sequence[str] = (),
    *,
    kinematics: str | None = None,
    boundary: str = "periodic",
    fraction: float | None = None,
    size: float | None = None,
    count: int | None = None,
    cell_seed: int | None = None,
    dim: int | None = None,
    tag_name: str | None = None,
    leave_out: int | None = None,
    degree: int = 2,
    flux_unit: str = "1",
    field: float = 0.0,
) -> PeriodicRVE:
    """The RVE of a cell and materials, with energy where the flux is its derivative and no material has history.

    Args:
        cell: a key of :data:`GENERATED`, or the path of an image (one of :data:`IMAGES`) or a mesh file.
        materials: ``TAG=LAW:NUMBERS``, LAW a key of :data:`solver_adapters.rve.laws.LAWS`; without any, generated cells
            have a soft matrix (tag 1) and a stiff inclusion (tag 2).
        kinematics: a key of :data:`solver_adapters.rve.laws.KINEMATICS`; by default that of the materials, or finite
            strain without any.
        boundary: "periodic", "linear" or "uniform".
        fraction: fraction of the second phase of a generated cell.
        size: largest edge length of its mesh.
        count: number of inclusions of a random cell.
        cell_seed: of their places.
        dim: 2 or 3, of a random cell or a laminate.
        tag_name: cell data of a mesh file that tells the materials.
        leave_out: tag of the pixels or voxels of an image that are void.
        degree: of the fluctuation.
        flux_unit: unit of the moduli.
        field: value of the field in the reference state, where the conductivity depends on it.

    Raises:
        MeshError: the mesh cannot be read or is no unit cell for the boundary condition.
        ContractError: a material is none, or the options do not fit the cell or each other.
        MissingPackageError: DOLFINx, meshio or gmsh is not installed.
    """
    generator = {"fraction": fraction, "size": size, "count": count, "cell_seed": cell_seed, "dim": dim}
    _check_options(cell, generator, {"tag_name": tag_name}, {"leave_out": leave_out})
    words = [_split(text) for text in materials or _default(cell, kinematics or "finite-strain")]
    try:
        from solver_adapters.fenicsx_rve import PeriodicRVE
        from solver_adapters.rve.laws import KINEMATICS, LAWS
    except ImportError as error:
        raise MissingPackageError(f"an RVE needs DOLFINx and meshio ({error}): twoscale info tells how") from error
    for text, _, law, _ in words:
        if law not in LAWS:
            raise ContractError(f"there is no material {law!r} in {text!r}: known are {', '.join(LAWS)}")
        kinematics = kinematics or LAWS[law].kinematics
        if LAWS[law].kinematics != kinematics:
            raise ContractError(f"{text!r} is a law of {LAWS[law].kinematics}, but the problem is {kinematics}")
    assert kinematics is not None
    unit_cell = _unit_cell(cell, generator, tag_name=tag_name, leave_out=leave_out)
    built = {}
    for text, tag, law, numbers in words:
        try:
            built[tag] = LAWS[law](numbers, unit_cell.mesh.geometry.dim)
        except ContractError as error:
            raise ContractError(f"{text!r}: {error}") from error
    options: dict[str, Any] = {"boundary": boundary, "degree": degree, "flux_unit": flux_unit}
    has_energy = kinematics in ("finite-strain", "small-strain") and not any(
        LAWS[law].history for _, _, law, _ in words
    )
    try:
        return PeriodicRVE(unit_cell, built, KINEMATICS[kinematics](field), energy=has_energy, **options)
    except ClosureError as error:
        raise MeshError(f"{cell}: {error}") from error


def _unit_cell(cell: str, generator: dict[str, Any], *, tag_name: str | None, leave_out: int | None) -> UnitCell:
    from solver_adapters.rve import meshes, voxels

    if cell in GENERATED:
        given = {key.removeprefix("cell_"): value for key, value in generator.items() if value is not None}
        generated: UnitCell = getattr(meshes, GENERATED[cell])(**given)
        return generated
    if Path(cell).suffix.lower() in IMAGES:
        return voxels.voxel_cell(voxels.read_image(cell), void=leave_out)
    return meshes.read_unit_cell(cell, tag_name=tag_name)


def _default(cell: str, kinematics: str) -> Sequence[str]:
    if cell not in GENERATED:
        raise ContractError(f"{cell} has no materials: give one --material TAG=LAW:NUMBERS for each cell tag")
    if kinematics not in _SOFT_AND_STIFF:
        raise ContractError(f"kinematics must be one of {', '.join(_SOFT_AND_STIFF)}, got {kinematics!r}")
    phases = [f"{tag}={law}" for tag, law in enumerate(_SOFT_AND_STIFF[kinematics], start=1)]
    return phases[:1] if cell == "void" else phases


def _check_options(cell: str, generator: dict[str, Any], mesh: dict[str, Any], image: dict[str, Any]) -> None:
    """Refuse options of another kind of cell."""
    if cell in GENERATED:
        kind, own = "is generated", ("fraction", "size", *SHAPING.get(cell, ()))
        foreign = {name: value for name, value in generator.items() if name not in own} | mesh | image
    elif not Path(cell).is_file():
        raise MeshError(f"{cell} is neither a file nor one of {', '.join(GENERATED)}")
    elif Path(cell).suffix.lower() in IMAGES:
        kind, foreign = "is an image", generator | mesh
    else:
        kind, foreign = "is a mesh file", generator | image
    if given := ["--" + name.replace("_", "-") for name, value in foreign.items() if value is not None]:
        raise ContractError(f"{' and '.join(given)} shape other cells, but {cell} {kind}: leave it out")


def _split(text: str) -> tuple[str, int, str, tuple[float, ...]]:
    """The text itself, tag, law and numbers of TAG=LAW:NUMBERS."""
    try:
        tag, law_and_numbers = text.split("=")
        law, numbers = law_and_numbers.split(":")
        return text, int(tag), law, tuple(map(float, numbers.split(",")))
    except ValueError as error:
        raise ContractError(f"a material is TAG=LAW:NUMBERS, such as 1=neo-hookean:1,1.5, got {text!r}") from error
