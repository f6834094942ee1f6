"""Unit cells from images: every pixel or voxel becomes a square or cube, or is cut into simplices.

An image is an array of whole numbers, the material tags, in which the first axis is x₁, the second x₂, the third x₃.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coupling.contract import Array
from coupling.errors import MeshError, MissingPackageError
from solver_adapters.rve.unit_cells import UnitCell, read_mesh, unit_cell

Image = NDArray[np.int64]

_PICTURES = (".tif", ".tiff", ".png", ".bmp")
_CORNERS = {  # meshio's order of the vertices of a square and a cube
    2: np.array([[0, 0], [1, 0], [1, 1], [0, 1]]),
    3: np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]),
}


def voxel_cell(
    image: ArrayLike, *, spacing: Sequence[float] | None = None, simplices: bool = False, void: int | None = None
) -> UnitCell:
    """Periodic unit cell of an image.

    Args:
        image: (n₁, n₂) or (n₁, n₂, n₃), material tags; numbers of any type that are whole and not negative.
        spacing: edge lengths of a voxel; by default all equal and the longest edge of the cell 1.
        simplices: whether to cut squares into two triangles and cubes into six tetrahedra (along their diagonals from
            the lowest to the highest corner) in place of quadrilaterals and hexahedra.
        void: tag of the voxels to leave out.

    Raises:
        MeshError: an array that is no such image, or whose solid voxels do not hang together.
    """
    labels = _labels(image)
    shape, dim = np.array(labels.shape), labels.ndim
    steps = np.full(dim, 1.0 / shape.max()) if spacing is None else np.asarray(spacing, dtype=float)
    if steps.shape != (dim,) or not (steps > 0).all():
        raise MeshError(f"spacing must be {dim} positive lengths for an image of shape {labels.shape}, got {spacing}")
    lowest = np.indices(labels.shape).reshape(dim, -1).T
    tags = labels.reshape(-1)
    if void is not None:
        lowest, tags = lowest[tags != void], tags[tags != void]
    pieces = _simplices(dim) if simplices else _CORNERS[dim][None]
    corners = lowest[:, None, None] + pieces
    cells = np.ravel_multi_index(tuple(np.moveaxis(corners, -1, 0)), tuple(shape + 1))
    points = np.indices(tuple(n + 1 for n in labels.shape)).reshape(dim, -1).T * steps
    kind = {2: ("quad", "triangle"), 3: ("hexahedron", "tetra")}[dim][simplices]
    return unit_cell(
        points,
        cells.reshape(-1, pieces.shape[1]),
        kind,
        np.repeat(tags, len(pieces)),
        lattice=np.diag(shape * steps),
        open_faces=void is not None,
        description={"kind": "image", "shape": list(labels.shape), "cells": kind},
        source="image",
    )


def read_image(path: str | Path) -> Image:
    """Image of a file.

    Args:
        path: a NumPy array (.npy); a picture or a stack of pictures (.tif, .tiff, .png, .bmp), whose columns are x₁,
            rows x₂ from the bottom up, pages x₃; or a mesh of squares or cubes on a grid in any format meshio reads,
            with one integer cell data set.

    Raises:
        MeshError: a file that is no such image.
        MissingPackageError: pictures need Pillow.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return _labels(_load(path))
    return _labels(_picture(path)) if suffix in _PICTURES else _grid(path)


def _labels(image: ArrayLike) -> Image:
    values = np.asarray(image)
    if values.ndim not in (2, 3) or not values.size:
        raise MeshError(f"an image must be an array of two or three axes, got shape {values.shape}")
    if values.dtype.kind not in "buif":
        raise MeshError(f"an image must hold whole numbers, got {values.dtype}")
    whole = np.isfinite(values) & (values == np.round(values)) & (values >= 0)
    if not whole.all():
        first = tuple(int(i) for i in np.argwhere(~whole)[0])
        raise MeshError(
            f"an image must hold whole numbers that are not negative, got {values[first]} at {first}: "
            "make tags of grey values first, as with (image > threshold).astype(int)"
        )
    return values.astype(np.int64)


def _simplices(dim: int) -> NDArray[np.int64]:
    """Corners (dim!, dim + 1, dim) of the simplices along the paths from the lowest to the highest corner of a cube."""
    paths = []
    for order in permutations(range(dim)):
        path = np.zeros((dim + 1, dim), dtype=np.int64)
        for step, axis in enumerate(order, start=1):
            path[step:, axis] = 1
        paths.append(path)
    return np.array(paths)


def _load(path: str | Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise MeshError(f"{path} cannot be read as a NumPy array: {error}") from error


def _picture(path: str | Path) -> NDArray[Any]:
    try:
        from PIL import Image as pictures
        from PIL import ImageSequence
    except ImportError as error:
        raise MissingPackageError("reading pictures needs Pillow: pip install pillow") from error
    try:
        with pictures.open(path) as file:
            pages = np.stack([np.asarray(page) for page in ImageSequence.Iterator(file)], axis=-1)
    except (OSError, ValueError, SyntaxError) as error:
        raise MeshError(f"{path} cannot be read as a picture: {error}") from error
    if pages.ndim != 3:
        raise MeshError(f"{path} has {pages.shape[2]} colour channels: an image needs one, the material tag")
    upright = pages[::-1].swapaxes(0, 1)
    return upright[:, :, 0] if upright.shape[2] == 1 else upright


def _grid(path: str | Path) -> Image:
    source = read_mesh(path)
    kinds = [kind for kind in ("hexahedron", "quad") if kind in source.cells_dict]
    if not kinds:
        raise MeshError(
            f"{path} has no squares or cubes, only {sorted(source.cells_dict)}: read it with read_unit_cell"
        )
    data = {name: values[kinds[0]] for name, values in source.cell_data_dict.items() if kinds[0] in values}
    if len(data) != 1:
        raise MeshError(f"{path} must have one cell data set, the material tags, but has {', '.join(data) or 'none'}")
    dim = 3 if kinds[0] == "hexahedron" else 2
    centres = source.points[source.cells_dict[kinds[0]]].mean(axis=1)[:, :dim]
    index = [_positions(centres[:, axis]) for axis in range(dim)]
    shape = tuple(int(i.max()) + 1 for i in index)
    if np.prod(shape) != len(centres) or len(set(zip(*index, strict=True))) != len(centres):
        raise MeshError(f"{path}: {len(centres)} cells do not fill a grid of {' × '.join(map(str, shape))} places")
    image = np.empty(shape, dtype=next(iter(data.values())).dtype)
    image[tuple(index)] = next(iter(data.values())).reshape(-1)
    return _labels(image)


def _positions(coordinate: Array) -> NDArray[np.intp]:
    """Number of the layer of a grid in which each coordinate lies."""
    order = np.argsort(coordinate)
    jumps = np.diff(coordinate[order]) > 1e-6 * np.ptp(coordinate)
    layer = np.empty(len(coordinate), dtype=np.intp)
    layer[order] = np.concatenate([[0], np.cumsum(jumps)])
    return layer
