"""The kinds of RVE problems and boundary conditions: contract, closed forms, order of stiffness."""

from typing import Any

import numpy as np
import pytest
import ufl
from dolfinx import fem

from coupling import ContractError, MeshError, StretchFrame
from coupling.closed_forms import Conduction as ClosedConduction
from coupling.closed_forms import LinearElastic as ClosedElastic
from coupling.closed_forms import StretchNeoHookean, isotropic_stiffness
from coupling.conformance import assert_conforms
from solver_adapters.dolfinx_versions import geometry_dofmap
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import (
    Conduction,
    FieldConduction,
    LinearElastic,
    NeoHookean,
    isotropic,
    transversely_isotropic,
)
from solver_adapters.rve.fields import local_flux
from solver_adapters.rve.kinematics import ScalarField, ScalarGradient, SmallStrain, Stretch
from solver_adapters.rve.meshes import centred_fibre, sphere
from solver_adapters.rve.unit_cells import unit_cell
from solver_adapters.rve.voxels import voxel_cell

BOUNDARIES = ("uniform", "periodic", "linear")
PLY: dict[str, Any] = {
    "axial_modulus": 20.0,
    "transverse_modulus": 10.0,
    "axial_poisson": 0.2,
    "transverse_poisson": 0.3,
    "axial_shear": 6.0,
}


def phases(kind, dim) -> tuple[Any, dict[int, Any]]:
    ply = transversely_isotropic(**PLY, axis=(1, 1, 0), dim=dim)
    table: dict[str, tuple[Any, dict[int, Any]]] = {
        "conduction": (ScalarGradient(), {1: Conduction(1.0), 2: Conduction(10.0)}),
        "field": (ScalarField(), {1: FieldConduction(lambda T: 1 + T / 2), 2: FieldConduction(lambda T: 10 - T)}),
        "small strain": (SmallStrain(), {1: isotropic(1.0, 2.0, dim), 2: ply}),
        "stretch": (Stretch(), {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)}),
    }
    return table[kind]


KINDS = ("conduction", "field", "small strain", "stretch")


@pytest.fixture(scope="module")
def cells():
    return {2: centred_fibre(size=0.25), 3: sphere(size=0.4)}


@pytest.fixture(scope="module")
def rves(cells):
    """RVEs by kind, dimension and boundary, built once."""
    built = {}

    def rve(kind, dim, boundary="periodic"):
        if (kind, dim, boundary) not in built:
            kinematics, materials = phases(kind, dim)
            built[kind, dim, boundary] = PeriodicRVE(
                cells[dim],
                materials,
                kinematics,
                boundary=boundary,
                degree=4 - dim,
                tolerance=1e-16,
                energy=kind in ("small strain", "stretch"),
            )
        return built[kind, dim, boundary]

    return rve


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_conforms(rves, kind, dim, boundary):
    assert_conforms(rves(kind, dim, boundary), samples=3)


def test_conforms_in_the_stretch_frame_in_3d(rves):
    assert_conforms(StretchFrame(rves("stretch", 3)), samples=3)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", ["conduction", "small strain", "stretch"])
def test_uniform_is_softer_than_periodic_is_softer_than_linear(rves, kind, dim):
    """Differences of the tangents in the reference state are positive definite; heat flux and gradient are opposite."""
    tangents = [rves(kind, dim, b).kinematics.sign * rves(kind, dim, b).reference.tangent for b in BOUNDARIES]
    for softer, stiffer in zip(tangents[:-1], tangents[1:], strict=True):
        gap = np.linalg.eigvalsh(stiffer - softer)
        assert gap.min() > 1e-4 and gap.max() < 0.2 * np.linalg.eigvalsh(stiffer).max()


def test_order_of_energies_at_finite_strain(rves):
    g = np.array([[1.15, 0.9, 0.15]])
    energies = [
        rve.evaluate(g, rve.initial_state(1), 0.0).energy[0] for rve in (rves("stretch", 2, b) for b in BOUNDARIES)
    ]
    assert energies[0] < energies[1] < energies[2]


def test_uniform_flux_acts_on_the_faces(rves):
    """The local flux through a face is that of the macroscopic flux, pointwise in the limit; here per face average."""
    rve = rves("conduction", 2, "uniform")
    response = rve.evaluate(np.array([[1.0, 0.5]]), rve.initial_state(1), 0.0)
    q = local_flux(rve, response.state[0])
    mesh = rve.cell.mesh
    x, n = ufl.SpatialCoordinate(mesh), ufl.FacetNormal(mesh)
    for axis in range(2):
        right = ufl.conditional(ufl.gt(x[axis], 1 - 1e-6), 1.0, 0.0)
        through = fem.assemble_scalar(fem.form(right * ufl.dot(q, n) * ufl.ds))
        assert through == pytest.approx(response.flux[0, axis], rel=0.05)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dim", [2, 3])
def test_homogeneous_cell_is_its_material(cells, dim, boundary):
    k = dim * (dim + 1) // 2
    cases: list[tuple[Any, Any, Any, Any]] = [
        (SmallStrain(), isotropic(1.0, 2.0, dim), ClosedElastic(1.0, 2.0, dim), np.zeros(k)),
        (ScalarGradient(), Conduction(1.0), ClosedConduction(1.0, dim), np.zeros(dim)),
        (Stretch(), NeoHookean(1.0, 2.0), StretchNeoHookean(1.0, 2.0, dim), np.eye(k)[:dim].sum(axis=0)),
    ]
    for kinematics, law, closed, reference in cases:
        rve = PeriodicRVE(cells[dim], {1: law, 2: law}, kinematics, boundary=boundary, degree=1, tolerance=1e-15)
        g = reference + 0.1 * np.random.default_rng(0).uniform(-1, 1, (3, len(reference)))
        expected, response = closed.evaluate(g, None, 0.0), rve.evaluate(g, rve.initial_state(3), 0.0)
        np.testing.assert_allclose(response.flux, expected.flux, atol=1e-11)
        np.testing.assert_allclose(response.tangent, expected.tangent, atol=1e-10)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_size_of_the_cell_does_not_matter(rves, cells, boundary):
    rve, mesh = rves("small strain", 2, boundary), cells[2].mesh
    large = unit_cell(7 * mesh.geometry.x, geometry_dofmap(mesh), "triangle", cells[2].tags.values)
    options: dict[str, Any] = {"boundary": boundary, "energy": True, "tolerance": 1e-16}
    other = PeriodicRVE(large, rve.materials, SmallStrain(), **options)
    g = np.array([[0.3, -0.2, 0.5]])
    one, two = (r.evaluate(g, r.initial_state(1), 0.0) for r in (rve, other))
    np.testing.assert_allclose(two.tangent, one.tangent, atol=1e-11)
    np.testing.assert_allclose(two.energy, one.energy, atol=1e-11)


def test_field_dependent_conduction_has_both_blocks(rves):
    """At θ the fibre composite is a linear one of κ(θ); ∂q/∂θ is the derivative of its effective conductivity."""
    rve, g = rves("field", 2), np.array([0.6, -0.3])

    def conductivity(theta):
        response = rve.evaluate(np.array([[theta, *g]]), rve.initial_state(1), 0.0)
        return -response.tangent[0, :, 1:], response

    h = 1e-4
    kappa, response = conductivity(0.0)
    slope = (conductivity(h)[0] - conductivity(-h)[0]) / (2 * h)
    linear = -rves("conduction", 2).reference.tangent
    np.testing.assert_allclose(kappa, linear, atol=1e-12)
    np.testing.assert_allclose(response.flux[0], -kappa @ g, atol=1e-12)
    np.testing.assert_allclose(response.tangent[0, :, 0], -slope @ g, atol=1e-7)
    assert np.abs(slope).max() > 0.1
    assert rve.spec.gradient == ("θ", "g1", "g2") and rve.spec.flux == ("q1", "q2") and not rve.spec.symmetric


def test_reference_temperature_of_the_field(cells):
    rve = PeriodicRVE(cells[2], phases("field", 2)[1], ScalarField(reference=2.0), degree=1)
    response = rve.evaluate(np.array([[2.0, 0.0, 0.0]]), rve.initial_state(1), 0.0)
    assert rve.spec.reference == (2.0, 0.0, 0.0)
    np.testing.assert_allclose(response.flux, 0.0, atol=1e-14)


def test_linear_problems_factorise_once(rves, cells):
    kinematics, materials = phases("small strain", 2)
    rve = PeriodicRVE(cells[2], materials, kinematics)
    g = np.random.default_rng(0).normal(size=(5, 3))
    first = rve.evaluate(g, rve.initial_state(5), 0.0)
    assert "rve/factorisations" not in rve.ledger.counts
    np.testing.assert_allclose(first.flux, g @ rve.reference.tangent, atol=1e-12)


def test_transverse_isotropy_with_equal_moduli_is_isotropy():
    young, poisson = 3.0, 0.25
    mu, lmbda = young / (2 * (1 + poisson)), young * poisson / ((1 + poisson) * (1 - 2 * poisson))
    for dim in (2, 3):
        law = transversely_isotropic(
            axial_modulus=young,
            transverse_modulus=young,
            axial_poisson=poisson,
            transverse_poisson=poisson,
            axial_shear=mu,
            axis=(0.3, -2.0, 0.7),
            dim=dim,
        )
        np.testing.assert_allclose(law.stiffness, isotropic_stiffness(mu, lmbda, dim), atol=1e-13)


def test_transverse_isotropy_under_tension_along_and_across_its_axis():
    compliance = np.linalg.inv(transversely_isotropic(**PLY, axis=(0, 2, 0)).stiffness)
    np.testing.assert_allclose(np.diag(compliance)[:3], [1 / 10, 1 / 20, 1 / 10])
    np.testing.assert_allclose(compliance[0, 1], -0.2 / 20)
    np.testing.assert_allclose(compliance[0, 2], -0.3 / 10)
    np.testing.assert_allclose(np.diag(compliance)[3:], [1 / 12, 1.3 / 10, 1 / 12])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearElastic(np.ones((4, 4))), "stiffness must be a symmetric 3×3 or 6×6 array"),
        (lambda: LinearElastic([[1, 2, 0], [0, 1, 0], [0, 0, 1]]), "stiffness must be a symmetric"),
        (lambda: Conduction([[1.0, 0.5], [0.0, 1.0]]), "conductivity must be a symmetric 2×2 or 3×3"),
        (lambda: Conduction([1.0, 2.0]), "conductivity must be a symmetric"),
        (lambda: transversely_isotropic(**PLY, axis=(1, 0)), "axis must have three components"),
        (lambda: transversely_isotropic(**PLY, axis=(0, 0, 0)), "axis must have three components"),
        (lambda: transversely_isotropic(**PLY | {"axial_poisson": 3.0}, axis=(1, 0, 0)), "not positive definite"),
    ],
)
def test_impossible_materials(make, message):
    with pytest.raises(ContractError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"boundary": "dirichlet"}, ContractError, "one of periodic, linear, uniform, got 'dirichlet'"),
        ({"energy": True}, ContractError, "with ScalarGradient the flux is not the derivative of an energy"),
    ],
)
def test_impossible_options(cells, options, error, message):
    kinematics, materials = phases("conduction", 2)
    with pytest.raises(error, match=message):
        PeriodicRVE(cells[2], materials, kinematics, **options)


@pytest.mark.parametrize(
    ("kinematics", "law", "message"),
    [
        (SmallStrain(), isotropic(1.0, 2.0, 3), "stiffness is 6×6, but the strain in 2D has 3"),
        (ScalarGradient(), Conduction(np.eye(3)), "conductivity is 3×3, but the gradient has 2"),
    ],
)
def test_material_of_another_dimension(cells, kinematics, law, message):
    with pytest.raises(ContractError, match=message):
        PeriodicRVE(cells[2], {1: law, 2: law}, kinematics)


def test_uniform_tractions_need_whole_faces():
    image = np.ones((4, 4), dtype=int)
    image[0, 1] = 0
    with pytest.raises(MeshError, match="uniform tractions or fluxes need whole faces"):
        PeriodicRVE(voxel_cell(image, void=0), {1: Conduction(1.0)}, ScalarGradient(), boundary="uniform", degree=1)
