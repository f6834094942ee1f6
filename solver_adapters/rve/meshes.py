"""Generated unit cells: fibres, voids, spheres, laminates, random inclusions.

Cell tags select the material: by convention 1 is the matrix (the first layer), 2 the inclusion (the second layer).
Meshes of your own come through :func:`solver_adapters.rve.unit_cells.read_unit_cell`, images through
:mod:`solver_adapters.rve.voxels`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from coupling.contract import Array
from coupling.errors import MeshError
from solver_adapters.rve.gmsh_cells import generate
from solver_adapters.rve.unit_cells import UnitCell, read_unit_cell

__all__ = [
    "INCLUSION",
    "MATRIX",
    "UnitCell",
    "centred_fibre",
    "centred_void",
    "laminate",
    "random_inclusions",
    "read_unit_cell",
    "sphere",
]

MATRIX, INCLUSION = 1, 2
_ATTEMPTS = 20_000


def centred_fibre(*, fraction: float = 0.2, size: float = 0.1, order: int = 1) -> UnitCell:
    """Unit square with a centred circular fibre (tag 2).

    Args:
        fraction: area fraction of the fibre.
        size: largest edge length.
        order: 1 for straight cells, 2 for curved ones.
    """
    radius = _radius(fraction)

    def geometry(occ: Any) -> dict[int, list[int]]:
        square, disk = occ.addRectangle(0, 0, 0, 1, 1), occ.addDisk(0.5, 0.5, 0, radius, radius)
        return _matrix_and_inclusions(occ, 2, square, [disk])

    return generate(geometry, size, {"kind": "centred fibre", "fraction": fraction, "size": size}, order=order)


def centred_void(*, fraction: float = 0.2, size: float = 0.1, order: int = 1) -> UnitCell:
    """Unit square with a centred circular void of the given area fraction; all cells have tag 1.

    Arguments as for :func:`centred_fibre`.
    """
    radius = _radius(fraction)

    def geometry(occ: Any) -> dict[int, list[int]]:
        square, disk = occ.addRectangle(0, 0, 0, 1, 1), occ.addDisk(0.5, 0.5, 0, radius, radius)
        parts, _ = occ.cut([(2, square)], [(2, disk)])
        return {MATRIX: [tag for _, tag in parts]}

    return generate(geometry, size, {"kind": "centred void", "fraction": fraction, "size": size}, order=order)


def sphere(*, fraction: float = 0.2, size: float = 0.2, order: int = 1) -> UnitCell:
    """Unit cube with a centred sphere (tag 2) of the given volume fraction; arguments as for :func:`centred_fibre`."""
    _check_fraction(fraction, np.pi / 6)
    radius = float(np.cbrt(3 * fraction / (4 * np.pi)))

    def geometry(occ: Any) -> dict[int, list[int]]:
        cube, ball = occ.addBox(0, 0, 0, 1, 1, 1), occ.addSphere(0.5, 0.5, 0.5, radius)
        return _matrix_and_inclusions(occ, 3, cube, [ball])

    return generate(geometry, size, {"kind": "sphere", "fraction": fraction, "size": size}, dim=3, order=order)


def laminate(*, fraction: float = 0.5, size: float = 0.1, dim: int = 2) -> UnitCell:
    """Unit square or cube of two layers with normal e₁: tag 1 for x₁ < 1 − fraction, tag 2 for the rest."""
    _check_fraction(fraction, 1.0)

    def geometry(occ: Any) -> dict[int, list[int]]:
        if dim == 2:
            first = occ.addRectangle(0, 0, 0, 1 - fraction, 1)
            second = occ.addRectangle(1 - fraction, 0, 0, fraction, 1)
        else:
            first = occ.addBox(0, 0, 0, 1 - fraction, 1, 1)
            second = occ.addBox(1 - fraction, 0, 0, fraction, 1, 1)
        occ.fragment([(dim, first)], [(dim, second)])
        return {MATRIX: [first], INCLUSION: [second]}

    return generate(geometry, size, {"kind": "laminate", "fraction": fraction, "size": size}, dim=dim)


def random_inclusions(
    *,
    count: int = 8,
    fraction: float = 0.3,
    seed: int = 0,
    size: float | None = None,
    gap: float = 0.1,
    dim: int = 2,
    order: int = 1,
) -> UnitCell:
    """Unit square with equal disks, or unit cube with equal spheres (tag 2), at random places, periodic across faces.

    Centres are drawn one after the other and kept where they overlap none before (random sequential adsorption, which
    reaches fractions of about 0.5 with many disks and 0.35 with many spheres, less with a gap).

    Args:
        count: number of inclusions.
        fraction: their area or volume fraction.
        seed: of the places; the same seed gives the same cell.
        size: largest edge length; None takes 0.05 in 2D, 0.15 in 3D.
        gap: least distance between inclusions, and to or beyond faces, edges and corners, relative to their radius.
        dim: 2 or 3.
        order: 1 for straight cells, 2 for curved ones.

    Raises:
        MeshError: an impossible argument, or no place found for an inclusion.
    """
    if count < 1:
        raise MeshError(f"count must be at least 1, got {count}")
    if dim not in (2, 3):
        raise MeshError(f"dim must be 2 (disks) or 3 (spheres), got {dim}")
    size = size or {2: 0.05, 3: 0.15}[dim]
    _check_fraction(fraction, {2: np.pi / 4, 3: np.pi / 6}[dim])
    radius = float((fraction / count / {2: np.pi, 3: 4 * np.pi / 3}[dim]) ** (1 / dim))
    centres = _adsorb(count, dim, radius, gap * radius, np.random.default_rng(seed))

    def geometry(occ: Any) -> dict[int, list[int]]:
        box = occ.addRectangle(0, 0, 0, 1, 1) if dim == 2 else occ.addBox(0, 0, 0, 1, 1, 1)
        images = _images(centres, radius)
        whole = [occ.addDisk(*c, 0, radius, radius) if dim == 2 else occ.addSphere(*c, radius) for c in images]
        inside, _ = occ.intersect([(dim, tag) for tag in whole], [(dim, box)], removeTool=False)
        return _matrix_and_inclusions(occ, dim, box, [tag for _, tag in inside])

    description = {"kind": "random inclusions", "count": count, "fraction": fraction, "seed": seed, "size": size}
    return generate(geometry, size, description | ({"dim": 3} if dim == 3 else {}), dim=dim, order=order)


def _matrix_and_inclusions(occ: Any, dim: int, box: int, inclusions: list[int]) -> dict[int, list[int]]:
    parts, owners = occ.fragment([(dim, box)], [(dim, tag) for tag in inclusions])
    filled = [tag for owner in owners[1:] for _, tag in owner]
    return {MATRIX: [tag for _, tag in parts if tag not in filled], INCLUSION: filled}


def _adsorb(count: int, dim: int, radius: float, gap: float, rng: np.random.Generator) -> Array:
    """Centres (count, d) of disks or spheres in the periodic unit square or cube that keep their distance."""
    centres: Array = np.empty((0, dim))
    for _ in range(_ATTEMPTS):
        trial = rng.uniform(size=dim)
        apart = trial - centres
        apart -= np.round(apart)
        if (np.linalg.norm(apart, axis=1) < 2 * radius + gap).any() or _grazes(trial, radius, gap):
            continue
        centres = np.vstack([centres, trial])
        if len(centres) == count:
            return centres
    raise MeshError(
        f"no place for inclusion {len(centres) + 1} of {count} of radius {radius:.3g} after {_ATTEMPTS} attempts: "
        "lower the fraction or the gap, or try another seed"
    )


def _grazes(centre: Array, radius: float, gap: float) -> bool:
    """Whether an inclusion nearly touches a face, an edge or a corner of the cell, where thin elements would arise."""
    to_faces = np.stack([centre, 1 - centre])
    away = np.zeros(1)
    for squares in (to_faces**2).T:
        away = np.add.outer(np.append(squares, 0.0), away).ravel()
    return bool((np.abs(np.sqrt(away[away > 0]) - radius) < gap).any())


def _images(centres: Array, radius: float) -> Array:
    """Centres of all inclusions that meet the unit square or cube, periodic images included."""
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=centres.shape[1])))
    images = (centres[:, None] + shifts).reshape(-1, centres.shape[1])
    outside = np.linalg.norm(images - np.clip(images, 0, 1), axis=1)
    return np.asarray(images[outside < radius])


def _radius(fraction: float) -> float:
    _check_fraction(fraction, np.pi / 4)
    return float(np.sqrt(fraction / np.pi))


def _check_fraction(fraction: float, largest: float) -> None:
    if not 0 < fraction < largest:
        raise MeshError(f"fraction must lie between 0 and {largest:.4g} for this cell, got {fraction}")
