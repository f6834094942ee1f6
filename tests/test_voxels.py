"""Unit cells from images: geometry, files, laminates, and images that cannot serve."""

import meshio
import numpy as np
import pytest
import ufl
from dolfinx import fem
from PIL import Image

from coupling import MeshError
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import Conduction
from solver_adapters.rve.kinematics import ScalarGradient
from solver_adapters.rve.voxels import read_image, voxel_cell

CONDUCTORS = {0: Conduction(1.0), 1: Conduction(10.0)}
PICTURE = np.array([[0, 1, 1], [0, 0, 1]])  # [x₁, x₂]
STACK = np.random.default_rng(1).integers(0, 2, (3, 4, 2))


def conductivity(cell, degree=1):
    return -PeriodicRVE(cell, CONDUCTORS, ScalarGradient(), degree=degree).reference.tangent


def share(cell, tag):
    dx = ufl.Measure("dx", cell.mesh, subdomain_data=cell.tags)
    return fem.assemble_scalar(fem.form(1.0 * dx(tag))) / cell.period.volume


@pytest.mark.parametrize("simplices", [False, True])
@pytest.mark.parametrize("image", [PICTURE, STACK])
def test_shares_and_edges(image, simplices):
    cell = voxel_cell(image, spacing=(0.5, 0.25, 2.0)[: image.ndim], simplices=simplices)
    assert share(cell, 1) == pytest.approx(image.mean())
    np.testing.assert_allclose(np.diag(cell.period.lattice), np.array([0.5, 0.25, 2.0])[: image.ndim] * image.shape)


def test_longest_edge_is_one():
    np.testing.assert_allclose(np.diag(voxel_cell(STACK).period.lattice), [0.75, 1.0, 0.5])


@pytest.mark.parametrize("simplices", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_layers_are_an_exact_laminate(dim, simplices):
    """Layers across x₂: 3 parts of κ = 1, 1 part of κ = 10; in series across, in parallel along."""
    image = np.zeros((2, 4, 2)[:dim], dtype=int)
    image[:, 1] = 1
    exact = np.full(dim, 3.25)
    exact[1] = 1 / (0.75 + 0.25 / 10)
    np.testing.assert_allclose(conductivity(voxel_cell(image, simplices=simplices)), np.diag(exact), atol=1e-12)


def test_a_pixel_lies_where_its_index_says():
    cell = voxel_cell(PICTURE)
    x = fem.functionspace(cell.mesh, ("DG", 0)).tabulate_dof_coordinates()[:, :2]
    index = np.floor(x * 3).astype(int)
    np.testing.assert_array_equal(cell.tags.values, PICTURE[index[:, 0], index[:, 1]])


def test_checkerboard_is_the_geometric_mean():
    """κ* = √(κ₁κ₂) (Keller 1964, J. Math. Phys. 5, 548); bilinear elements come from above, slowly at the corners."""
    errors = []
    for n in (4, 8, 16):
        board = (np.indices((2 * n, 2 * n)) // n).sum(axis=0) % 2
        errors.append(conductivity(voxel_cell(board))[0, 0] - np.sqrt(10.0))
    assert 0 < errors[2] < 0.75 * errors[1] < 0.75**2 * errors[0]


def test_void_voxels_are_left_out():
    image = np.ones((6, 6), dtype=int)
    image[2:4, 2:4] = 0
    cell = voxel_cell(image, void=0)
    assert share(cell, 1) == pytest.approx(32 / 36)
    kappa = conductivity(cell, degree=2) / 10
    assert 0 < kappa[0, 0] < 2 / (1 + 36 / 32)  # Hashin–Shtrikman upper bound with voids: c/(1 + (1 − c)) in 2D


def test_voids_may_reach_the_boundary():
    image = np.ones((4, 4), dtype=int)
    image[0, 0] = 0
    shifted = np.roll(image, (2, 2), axis=(0, 1))
    a, b = (conductivity(voxel_cell(i, void=0)) for i in (image, shifted))
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_translation_of_an_image_changes_nothing():
    image = np.random.default_rng(0).integers(0, 2, (5, 5))
    a, b = (conductivity(voxel_cell(i)) for i in (image, np.roll(image, (1, 3), axis=(0, 1))))
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_array_file(tmp_path):
    np.save(tmp_path / "image.npy", STACK)
    np.testing.assert_array_equal(read_image(tmp_path / "image.npy"), STACK)


@pytest.mark.parametrize("name", ["image.tif", "image.png"])
def test_picture_is_upright(tmp_path, name):
    """Columns are x₁, and the lowest row of the picture is x₂ = 0."""
    Image.fromarray(PICTURE.T[::-1].astype(np.uint8)).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name), PICTURE)


def test_stack_of_pages(tmp_path):
    pages = [Image.fromarray(page.T[::-1].astype(np.uint8)) for page in np.moveaxis(STACK, 2, 0)]
    pages[0].save(tmp_path / "stack.tiff", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "stack.tiff"), STACK)


def grid_mesh(image, order):
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    corners = (
        corners
        if image.ndim == 2
        else np.concatenate([np.pad(corners, ((0, 0), (0, 1)), constant_values=z) for z in (0, 1)])
    )
    lowest = np.indices(image.shape).reshape(image.ndim, -1).T[order]
    cells = np.ravel_multi_index(tuple(np.moveaxis(lowest[:, None] + corners, -1, 0)), tuple(np.array(image.shape) + 1))
    points = np.indices(tuple(n + 1 for n in image.shape)).reshape(image.ndim, -1).T * 0.1
    kind = "quad" if image.ndim == 2 else "hexahedron"
    points = np.pad(points, ((0, 0), (0, 3 - image.ndim)))
    return meshio.Mesh(points, [(kind, cells)], cell_data={"phase": [image.ravel()[order]]})


@pytest.mark.parametrize("image", [PICTURE, STACK])
@pytest.mark.parametrize("name", ["grid.vtu", "grid.xdmf"])
def test_mesh_of_voxels(tmp_path, image, name):
    grid_mesh(image, np.random.default_rng(0).permutation(image.size)).write(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name), image)


def hollow(path):
    grid_mesh(STACK, np.arange(STACK.size - 1)).write(path)
    return path


def triangles(path):
    meshio.Mesh(np.eye(3), [("triangle", [[0, 1, 2]])], cell_data={"phase": [[1]]}).write(path)
    return path


def untagged(path):
    mesh = grid_mesh(PICTURE, np.arange(PICTURE.size))
    mesh.cell_data = {}
    mesh.write(path)
    return path


def text(path):
    path.write_text("no image")
    return path


def colours(path):
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing.npy", "cannot be read as a NumPy array"),
        (lambda p: text(p / "text.npy"), "cannot be read as a NumPy array"),
        (lambda p: p / "missing.tif", "cannot be read as a picture"),
        (lambda p: text(p / "text.tif"), "cannot be read as a picture"),
        (lambda p: colours(p / "colours.png"), "has 3 colour channels"),
        (lambda p: p / "missing.vtu", "cannot be read as a mesh"),
        (lambda p: hollow(p / "hollow.vtu"), "23 cells do not fill a grid of 3 × 4 × 2 places"),
        (lambda p: triangles(p / "triangles.vtu"), "has no squares or cubes, only"),
        (lambda p: untagged(p / "untagged.vtu"), "must have one cell data set, the material tags, but has none"),
    ],
)
def test_files_that_are_no_image(tmp_path, make, message):
    with pytest.raises(MeshError, match=message):
        read_image(make(tmp_path))


ISLAND = np.pad(np.pad([[1]], 1), 1, constant_values=1)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros(4), {}, r"array of two or three axes, got shape \(4,\)"),
        (np.zeros((0, 4)), {}, "array of two or three axes"),
        (np.array([["a", "b"]]), {}, "must hold whole numbers, got <U1"),
        (np.array([[0.0, 0.5], [1.0, 1.0]]), {}, r"got 0.5 at \(0, 1\): make tags of grey values first"),
        (np.array([[0, 1], [-1, 1]]), {}, r"got -1 at \(1, 0\)"),
        (np.array([[0, np.nan], [1, 1]]), {}, r"got nan at \(0, 1\)"),
        (PICTURE, {"spacing": (1.0,)}, "spacing must be 2 positive lengths"),
        (PICTURE, {"spacing": (1.0, 0.0)}, "spacing must be 2 positive lengths"),
        (ISLAND, {"void": 0}, r"form 2 parts that share no face, the smallest of 1 cells around \(0.5, 0.5\)"),
        (np.zeros((2, 2)), {"void": 0}, "has no cells"),
    ],
)
def test_arrays_that_are_no_image(image, options, message):
    with pytest.raises(MeshError, match=message):
        voxel_cell(image, **options)
