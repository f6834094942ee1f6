"""Unit cells: generated ones against their geometry, files through meshio, and files that cannot serve."""

import meshio
import numpy as np
import pytest
import ufl
from dolfinx import fem

from coupling import MeshError
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import NeoHookean
from solver_adapters.rve.meshes import centred_fibre, centred_void, laminate, read_unit_cell
from solver_adapters.rve.periodic import constant_space, periodic_space

SQUARE = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [0, 2], [1, 2], [2, 2]], dtype=float) / 2
TRIANGLES = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4], [3, 4, 7], [3, 7, 6], [4, 5, 8], [4, 8, 7]])
TAGS = np.array([1, 1, 2, 2, 1, 1, 2, 2])


def area(cell, tag):
    return fem.assemble_scalar(fem.form(1.0 * ufl.Measure("dx", cell.mesh, subdomain_data=cell.tags)(tag)))


def write(path, points=SQUARE, cells=TRIANGLES, kind="triangle", **data):
    data = data or {"material": TAGS}
    points = np.pad(points, ((0, 0), (0, 3 - points.shape[1])))
    meshio.Mesh(points, [(kind, cells)], cell_data={name: [values] for name, values in data.items()}).write(path)
    return path


@pytest.mark.parametrize(
    ("cell", "areas"), [(centred_fibre, (0.8, 0.2)), (centred_void, (0.8, 0.0)), (laminate, (0.8, 0.2))]
)
def test_generated_areas(cell, areas):
    built = cell(fraction=0.2, size=0.05)
    chord = 0.0 if cell is laminate else 0.01 * 0.2
    assert area(built, 1) == pytest.approx(areas[0], abs=chord + 1e-12)
    assert area(built, 2) == pytest.approx(areas[1], abs=chord + 1e-12)


def test_size_bounds_the_edges():
    cells = [centred_fibre(size=size).mesh.topology.index_map(2).size_local for size in (0.4, 0.2, 0.1)]
    assert 2 * cells[0] < cells[1] and 3 * cells[1] < cells[2]


@pytest.mark.parametrize(
    "call", [lambda: centred_fibre(fraction=0.9), lambda: laminate(fraction=1.0), lambda: centred_void(size=0)]
)
def test_impossible_geometry(call):
    with pytest.raises(MeshError, match="must lie"):
        call()


def test_generation_leaves_an_open_gmsh_session_alone():
    import gmsh

    gmsh.initialize(interruptible=False)
    try:
        gmsh.model.add("mine")
        centred_fibre(size=0.4)
        assert gmsh.model.getCurrent() == "mine"
    finally:
        gmsh.finalize()


@pytest.mark.parametrize("name", ["cell.vtu", "cell.xdmf", "cell.msh"])
def test_formats_that_meshio_reads(tmp_path, name):
    if name.endswith("msh"):
        groups = {"gmsh:physical": [TAGS], "gmsh:geometrical": [TAGS]}
        mesh = meshio.Mesh(np.pad(SQUARE, ((0, 0), (0, 1))), [("triangle", TRIANGLES)], cell_data=groups)
        meshio.write(tmp_path / name, mesh, file_format="gmsh22", binary=False)
    else:
        write(tmp_path / name)
    built = read_unit_cell(tmp_path / name)
    assert area(built, 1) == pytest.approx(0.5) and area(built, 2) == pytest.approx(0.5)
    centres = fem.functionspace(built.mesh, ("DG", 0)).tabulate_dof_coordinates()[:, 0]
    np.testing.assert_array_equal(built.tags.values, np.where(centres < 0.5, 1, 2))


def test_quadrilaterals_from_a_file_give_the_laminate(tmp_path):
    quads = np.array([[0, 1, 4, 3], [1, 2, 5, 4], [3, 4, 7, 6], [4, 5, 8, 7]])
    path = write(tmp_path / "quads.vtu", cells=quads, kind="quad", material=np.array([1, 2, 1, 2]))
    phases = {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)}
    g = np.array([[1.1, 0.95, 0.05]])
    fluxes = []
    for cell in (read_unit_cell(path), laminate(fraction=0.5, size=0.5)):
        rve = PeriodicRVE(cell, phases, degree=1, quadrature_degree=2, tolerance=1e-14)
        fluxes.append(rve.evaluate(g, rve.initial_state(1), 0.0).flux)
    np.testing.assert_allclose(fluxes[0], fluxes[1], atol=1e-11)


def test_periodic_space_counts_and_repeats(tmp_path):
    mesh = read_unit_cell(write(tmp_path / "cell.vtu")).mesh
    space, full, blocks = periodic_space(mesh, 2, (2,))
    assert space.dofmap.index_map.size_local == 16
    x = full.tabulate_dof_coordinates()[:, :2]
    u = fem.Function(space)
    u.x.array[:] = np.random.default_rng(0).normal(size=u.x.array.size)
    values = u.x.array.reshape(-1, 2)[blocks]
    left, right = (np.flatnonzero(np.isclose(x[:, 0], at)) for at in (0.0, 1.0))
    left, right = (side[np.argsort(x[side, 1])] for side in (left, right))
    np.testing.assert_array_equal(values[left], values[right])


def test_constant_space_is_one_value():
    mesh = centred_fibre(size=0.4).mesh
    g = fem.Function(constant_space(mesh, 3))
    assert g.x.array.size == 3
    g.x.array[:] = [1.0, 2.0, 3.0]
    assert fem.assemble_scalar(fem.form(g[2] * ufl.dx)) == pytest.approx(3.0)


def shifted(points):
    moved = points.copy()
    moved[5, 1] += 0.1
    return moved


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing.vtu", "cannot be read as a mesh"),
        (lambda p: (p / "empty.vtu").write_text("") or p / "empty.vtu", "cannot be read as a mesh"),
        (lambda p: (p / "cell.nonsense").write_text("x") or p / "cell.nonsense", "cannot be read as a mesh"),
        (lambda p: write(p / "a.vtu", cells=TRIANGLES[:, :2], kind="line"), "has no triangle/quad"),
        (lambda p: write(p / "b.vtu", phase=TAGS * 0.3), "0 integer cell data sets"),
        (lambda p: write(p / "c.vtu", one=TAGS, two=TAGS), r"2 integer cell data sets \(one, two\)"),
        (lambda p: write(p / "d.vtu", points=np.column_stack([SQUARE, SQUARE[:, 0]])), "x-y plane"),
    ],
)
def test_files_that_cannot_serve(tmp_path, make, message):
    with pytest.raises(MeshError, match=message):
        read_unit_cell(make(tmp_path))


def test_unknown_tag_name(tmp_path):
    with pytest.raises(MeshError, match="no integer cell data 'phase', only material"):
        read_unit_cell(write(tmp_path / "cell.vtu"), tag_name="phase")


def test_cell_that_is_not_periodic_says_where(tmp_path):
    cell = read_unit_cell(write(tmp_path / "cell.vtu", points=shifted(SQUARE)))
    with pytest.raises(MeshError, match=r"no partner on the opposite face, the first at \(1, "):
        PeriodicRVE(cell, {1: NeoHookean(1.0, 2.0), 2: NeoHookean(1.0, 2.0)})
