"""Meshes that cannot serve as an RVE: each fault has a message that says what, where and what to do."""

import basix
import meshio
import numpy as np
import pytest
import ufl
from dolfinx import fem

from coupling import MeshError
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import Conduction
from solver_adapters.rve.kinematics import ScalarGradient
from solver_adapters.rve.meshes import centred_fibre, random_inclusions, sphere
from solver_adapters.rve.periodic import Period
from solver_adapters.rve.unit_cells import read_unit_cell, unit_cell

CONDUCTORS = {1: Conduction(1.0), 2: Conduction(10.0)}


def grid(n, d):
    """Points and cells of a grid of n^d squares or cubes on the unit cube."""
    points = np.indices((n + 1,) * d).reshape(d, -1).T / n
    corners = {
        2: [[0, 0], [1, 0], [1, 1], [0, 1]],
        3: [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]],
    }
    lowest = np.indices((n,) * d).reshape(d, -1).T
    index = lowest[:, None] + np.array(corners[d])
    return points, np.ravel_multi_index(tuple(np.moveaxis(index, -1, 0)), (n + 1,) * d)


def triangles(n=2):
    points, quads = grid(n, 2)
    return points, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def tetrahedra(n=2):
    """The cubes of a grid, each cut into six tetrahedra around its diagonal."""
    points, cubes = grid(n, 3)
    ring = [1, 2, 3, 7, 4, 5, 1]
    return points, np.concatenate([cubes[:, [0, a, b, 6]] for a, b in zip(ring[:-1], ring[1:], strict=True)])


def quads(n=2):
    return grid(n, 2)


def cubes(n=2):
    return grid(n, 3)


KINDS = {"triangle": triangles, "quad": quads, "tetra": tetrahedra, "hexahedron": cubes}


def volume(cell, tag):
    dx = ufl.Measure("dx", cell.mesh, subdomain_data=cell.tags)
    return fem.assemble_scalar(fem.form(1.0 * dx(tag)))


def build(mesh, kind, **options):
    points, cells = mesh
    return unit_cell(points, cells, kind, np.ones(len(cells), dtype=int), **options)


def moved(points, at, to):
    points = points.copy()
    points[np.linalg.norm(points - at, axis=1).argmin()] = to
    return points


@pytest.mark.parametrize("kind", KINDS)
def test_sound_mesh_of_each_kind_is_homogeneous(kind):
    cell = build(KINDS[kind](), kind)
    rve = PeriodicRVE(cell, CONDUCTORS, ScalarGradient(), degree=1)
    dim = cell.mesh.geometry.dim
    np.testing.assert_allclose(rve.reference.tangent, -np.eye(dim), atol=1e-13)


def pushed(kind):
    """A node pushed through the opposite side of a neighbouring cell."""
    points, cells = KINDS[kind]()
    d = points.shape[1]
    return moved(points, [0.5] * d, [1.3, *[0.6] * (d - 1)]), cells


def collapsed(kind):
    points, cells = KINDS[kind]()
    d = points.shape[1]
    return moved(points, [0.5] * d, [1.0, *[0.5] * (d - 1)]), cells


def not_finite(kind):
    points, cells = KINDS[kind]()
    points[3, 0] = np.nan
    return points, cells


def twice(kind):
    points, cells = KINDS[kind]()
    return points, np.concatenate([cells, cells[:1]])


def depth(points, cells, n=3):
    """Layers of a grid of n^d between each cell (c, 1) and the boundary."""
    index = np.floor(n * points[cells].mean(axis=1))
    return np.minimum(index, n - 1 - index).min(axis=1)[:, None]


def torn(kind):
    """An inner block whose nodes lie where those around it lie, but are others."""
    points, cells = KINDS[kind](3)
    return np.concatenate([points, points]), np.where(depth(points, cells) == 1, cells + len(points), cells)


def island(kind):
    """An inner block that floats in a void."""
    points, cells = KINDS[kind](5)
    return points, cells[depth(points, cells, 5)[:, 0] != 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pushed, r"(inverted or twisted.*first at \(|same side of the face they share, the first at \()"),
        (collapsed, r"cells are degenerate: a corner has no area or volume, the first at \("),
        (not_finite, r"1 nodes have coordinates that are not finite, the first is node 3"),
        (twice, r"(same side of the face they share|belong to more than two cells), the first at \("),
        (torn, r"form 2 parts that share no face, .* merge the \d+ pairs of nodes that coincide"),
        (island, r"form 2 parts that share no face, the smallest of \d+ cells around \(.*connect them, or remove"),
    ],
)
def test_spoiled_meshes(kind, spoil, message):
    with pytest.raises(MeshError, match=message):
        build(spoil(kind), kind)


def test_the_place_of_an_inverted_cell_is_right():
    points, cells = triangles(4)
    with pytest.raises(MeshError) as caught:
        build((moved(points, [0.5, 0.5], [0.8, 0.5]), cells), "triangle")
    x, y = (float(s) for s in str(caught.value).split("first at (")[1].split(")")[0].split(","))
    assert 0.4 < x < 0.9 and 0.2 < y < 0.8


def test_numbering_of_single_triangles_does_not_matter():
    points, cells = triangles()
    cells[::2] = cells[::2, ::-1]
    assert volume(build((points, cells), "triangle"), 1) == pytest.approx(1.0)


def test_unused_nodes_are_ignored():
    points, cells = triangles()
    cell = build((np.concatenate([[[7.0, 7.0]], points]), cells + 1), "triangle")
    np.testing.assert_allclose(cell.period.lattice, np.eye(2))


@pytest.mark.parametrize("kind", KINDS)
def test_floating_point_noise_does_no_harm(kind):
    points, cells = KINDS[kind](3)
    noisy = points + 1e-9 * np.random.default_rng(0).uniform(-1, 1, points.shape)
    rve = PeriodicRVE(build((noisy, cells), kind), CONDUCTORS, ScalarGradient(), degree=1)
    clean = PeriodicRVE(build((points, cells), kind), CONDUCTORS, ScalarGradient(), degree=1)
    assert rve.problem.n == clean.problem.n == 3 ** points.shape[1]
    np.testing.assert_allclose(rve.reference.tangent, clean.reference.tangent, atol=1e-7)


@pytest.mark.parametrize(("side", "name"), [(1.0, "upper"), (0.0, "lower")])
@pytest.mark.parametrize("axis", [0, 1])
def test_faces_that_differ_name_the_face_and_the_place(side, name, axis):
    points, cells = triangles()
    place = np.full(2, 0.5)
    place[axis] = side
    target = place.copy()
    target[1 - axis] = 0.6
    cell = build((moved(points, place, target), cells), "triangle")
    with pytest.raises(MeshError, match=rf"not periodic: 1 points on the \w+ face of direction {axis + 1} have no par"):
        PeriodicRVE(cell, CONDUCTORS, ScalarGradient(), degree=1)
    for boundary in ("linear", "uniform"):
        PeriodicRVE(cell, CONDUCTORS, ScalarGradient(), degree=1, boundary=boundary)


def test_extra_node_on_a_lower_face_is_found():
    points, cells = triangles()
    extra = len(points)
    points = np.concatenate([points, [[0.0, 0.25]]])
    split = next(c for c in cells if {0, 1} <= set(c.tolist()))
    third = next(v for v in split.tolist() if v not in (0, 1))
    rest = cells[[set(c.tolist()) != set(split.tolist()) for c in cells]]
    cell = build((points, np.concatenate([rest, [[0, extra, third], [extra, 1, third]]])), "triangle")
    with pytest.raises(MeshError, match=r"1 points on the lower face of direction 1 .* first at \(0, 0.25\) is 0.25"):
        PeriodicRVE(cell, CONDUCTORS, ScalarGradient(), degree=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(2), [[0, 1]], "line", [1]), "'line' cells cannot be used, only triangle"),
        ((np.zeros((4, 1)), [[0, 1, 2]], "triangle", [1]), r"triangle cells need points of 2 coordinates"),
        ((np.zeros((4, 2)), [[0, 1, 2, 3]], "tetra", [1]), r"tetra cells need points of 3 coordinates"),
        ((np.eye(4, 3), [[0, 1, 2]], "triangle", [1]), "must lie in the x-y plane, but z varies by 1"),
        ((np.zeros((3, 2)), [[0, 1, 3]], "triangle", [1]), "cells refer to nodes 0 to 3, but there are nodes 0 to 2"),
        ((np.zeros((3, 2)), [[-1, 1, 2]], "triangle", [1]), "cells refer to nodes -1 to 2"),
        ((np.zeros((3, 2)), np.zeros((0, 3)), "triangle", []), "has no cells"),
        ((np.eye(3, 2), [[0, 1, 2]], "triangle", [0.5]), "tags must be whole numbers, but cell 0 has 0.5"),
        ((np.eye(3, 2), [[0, 1, 2]], "triangle", [-1]), r"1 of 1 cells are untagged \(tag = -1\), the first at"),
        ((np.eye(3, 2), [[0, 1, 2]], "triangle", [1, 2]), r"1 cells need as many tags, got an array of shape \(2,\)"),
    ],
)
def test_arrays_that_are_no_mesh(arguments, message):
    with pytest.raises(MeshError, match=message):
        unit_cell(*arguments)


@pytest.mark.parametrize(
    ("lattice", "message"),
    [
        ([[1.0, 0.0], [2.0, 0.0]], "lattice must have 2 independent rows of 2"),
        (np.eye(3), "lattice must have 2 independent rows of 2"),
        ([[2.0, 0.0], [0.0, 1.0]], r"extends over \[0.5, 1.0\] lattice vectors, but must fill one cell"),
        ([[1.0, 0.0], [0.5, 1.0]], "lattice vectors, but must fill one cell"),
    ],
)
def test_lattice_that_is_not_the_mesh_s(lattice, message):
    with pytest.raises(MeshError, match=message):
        build(triangles(), "triangle", lattice=lattice)


def test_period_of_a_skewed_cell():
    lattice = np.array([[1.0, 0.0], [0.5, 0.8]])
    points, cells = triangles(3)
    cell = build((points @ lattice + 0.3, cells), "triangle", lattice=lattice)
    assert cell.period.volume == pytest.approx(0.8)
    np.testing.assert_allclose(cell.period.origin, [0.3, 0.3])
    assert len(np.unique(Period.around(points).identify(points))) == 9
    assert len(np.unique(cell.period.identify(points @ lattice + 0.3))) == 9


def write(path, kind, tags, name="material", points=None, cells=None):
    built_points, built_cells = KINDS[kind]()
    points, cells = built_points if points is None else points, built_cells if cells is None else cells
    points = np.pad(points, ((0, 0), (0, 3 - points.shape[1])))
    meshio.Mesh(points, [(kind, cells)], cell_data={name: [np.asarray(tags)]}).write(path)
    return path


def test_cells_without_physical_group(tmp_path):
    points, cells = triangles()
    tags = np.array([1, 1, 2, 0, 1, 1, 2, 0])
    groups = {"gmsh:physical": [tags], "gmsh:geometrical": [np.ones(8, dtype=int)]}
    path = tmp_path / "cell.msh"
    mesh = meshio.Mesh(np.pad(points, ((0, 0), (0, 1))), [("triangle", cells)], cell_data=groups)
    meshio.write(path, mesh, file_format="gmsh22", binary=False)
    with pytest.raises(
        MeshError, match=r"2 of 8 cells are untagged \(gmsh:physical = 0\), the first at \(0.8.*Physical"
    ):
        read_unit_cell(path)


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (-1.0, "-1.0")])
def test_cells_without_tag(tmp_path, value, shown):
    tags = np.array([1, 1, 2, 2, 1, value, 2, 2])
    with pytest.raises(MeshError, match=rf"1 of 8 cells are untagged \(material = {shown}\), the first at \(0"):
        read_unit_cell(write(tmp_path / "cell.vtu", "triangle", tags))


@pytest.mark.parametrize("name", ["cell.vtu", "cell.vtk", "cell.xdmf", "cell.inp", "cell.msh", "cell.med", "cell.bdf"])
@pytest.mark.parametrize("kind", ["triangle", "tetra"])
def test_formats(tmp_path, name, kind):
    points, cells = KINDS[kind]()
    tags = np.where(points[cells].mean(axis=1)[:, 0] < 0.5, 1, 2)
    data = {"cell.med": "cell_tags", "cell.bdf": "nastran:ref", "cell.msh": "gmsh:physical"}.get(name, "material")
    path = tmp_path / name
    mesh = meshio.Mesh(np.pad(points, ((0, 0), (0, 3 - points.shape[1]))), [(kind, cells)])
    if name == "cell.inp":
        mesh.cell_sets = {"one": [np.flatnonzero(tags == 1)], "two": [np.flatnonzero(tags == 2)]}
    else:
        mesh.cell_data = {data: [tags]} | ({"gmsh:geometrical": [tags]} if name == "cell.msh" else {})
    mesh.write(path, **({"file_format": "gmsh22", "binary": False} if name == "cell.msh" else {}))
    cell = read_unit_cell(path)
    rve = PeriodicRVE(cell, CONDUCTORS, ScalarGradient(), degree=1)
    exact = np.diag([1 / (0.5 / 1 + 0.5 / 10), *[5.5] * (points.shape[1] - 1)])
    np.testing.assert_allclose(rve.reference.tangent, -exact, atol=1e-12)


def test_sphere_is_a_sphere_and_periodic():
    for order, error in ((1, 0.1), (2, 2e-3)):
        cell = sphere(fraction=0.2, size=0.2, order=order)
        assert volume(cell, 2) == pytest.approx(0.2, rel=error)
        assert PeriodicRVE(cell, CONDUCTORS, ScalarGradient(), degree=order).problem.n > 100


@pytest.mark.parametrize("seed", range(5))
def test_random_inclusions_keep_their_fraction_across_the_faces(seed):
    cell = random_inclusions(count=6, fraction=0.35, seed=seed, size=0.1, order=2)
    assert volume(cell, 2) == pytest.approx(0.35, rel=1e-3)
    PeriodicRVE(cell, CONDUCTORS, ScalarGradient())


def test_random_inclusions_are_those_of_the_seed():
    cells = [random_inclusions(count=4, seed=seed, size=0.2) for seed in (1, 1, 2)]
    x = [cell.mesh.geometry.x for cell in cells]
    np.testing.assert_array_equal(x[0], x[1])
    assert x[0].shape != x[2].shape or not np.allclose(x[0], x[2])


def smallest_determinant(cell):
    """Of the Jacobian, over a lattice in each cell, relative to the largest in it."""
    kind = cell.mesh.basix_cell()
    points = np.asarray(basix.create_lattice(kind, 4, basix.LatticeType.equispaced, True))
    cells = np.arange(cell.mesh.topology.index_map(cell.mesh.topology.dim).size_local, dtype=np.int32)
    values = fem.Expression(ufl.JacobianDeterminant(cell.mesh), points).eval(cell.mesh, cells).reshape(len(cells), -1)
    values *= np.sign(np.median(values, axis=1))[:, None]
    return (values.min(axis=1) / values.max(axis=1)).min()


def test_coarse_curved_cells_do_not_fold():
    """Eight disks of radius 0.11 in cells of size 0.3: gmsh alone folds some of them."""
    cell = random_inclusions(size=0.3, order=2)
    assert smallest_determinant(cell) > 0.0
    assert cell.fraction(2) == pytest.approx(0.3, rel=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_random_spheres_lie_within_the_bounds_of_hashin_and_shtrikman(seed):
    """κ₁ + c₂/(1/(κ₂ − κ₁) + c₁/3κ₁) ≤ κ ≤ κ₂ + c₁/(1/(κ₁ − κ₂) + c₂/3κ₂) for the mean over the axes; HS 1962.

    On meshes alike on opposite faces, which the periodic RVE checks, and without curved cells that fold over, which
    would count twice in the volume.
    """
    cell = random_inclusions(count=5, fraction=0.25, seed=seed, size=0.15, dim=3, order=2)
    c2 = cell.fraction(2)
    assert c2 == pytest.approx(0.25, rel=1e-2)
    assert volume(cell, 1) + c2 == pytest.approx(1.0, rel=1e-10)
    kappa = -np.trace(PeriodicRVE(cell, CONDUCTORS, ScalarGradient()).reference.tangent) / 3
    assert smallest_determinant(cell) > 0.0
    lower, upper = 1 + c2 / (1 / 9 + (1 - c2) / 3), 10 + (1 - c2) / (-1 / 9 + c2 / 30)
    assert lower < kappa < upper


def test_random_spheres_are_those_of_the_seed():
    cells = [random_inclusions(count=3, fraction=0.1, seed=seed, size=0.3, dim=3) for seed in (1, 1, 2)]
    x = [cell.mesh.geometry.x for cell in cells]
    np.testing.assert_array_equal(x[0], x[1])
    assert x[0].shape != x[2].shape or not np.allclose(x[0], x[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_inclusions(count=0), "count must be at least 1, got 0"),
        (lambda: random_inclusions(count=40, fraction=0.7), "no place for inclusion"),
        (lambda: random_inclusions(fraction=0.9), "fraction must lie between 0 and 0.7854"),
        (lambda: random_inclusions(fraction=0.6, dim=3), "fraction must lie between 0 and 0.5236"),
        (lambda: random_inclusions(count=30, fraction=0.45, dim=3), "no place for inclusion .* try another seed"),
        (lambda: random_inclusions(dim=1), "dim must be 2 .* or 3 .*, got 1"),
        (lambda: sphere(fraction=0.6), "fraction must lie between 0 and 0.5236"),
        (lambda: sphere(size=2.0), "size must lie in"),
        (lambda: centred_fibre(order=3), "order must be 1 .* or 2 .*, got 3"),
    ],
)
def test_impossible_geometry(call, message):
    with pytest.raises(MeshError, match=message):
        call()
