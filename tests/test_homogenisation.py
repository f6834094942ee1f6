"""Effective properties against published values, exact solutions and bounds, and their convergence with mesh size."""

from dataclasses import replace
from functools import cache
from typing import Any

import dolfinx
import numpy as np
import pytest
import ufl

from coupling import StretchFrame
from coupling.closed_forms import NeoHookean as ClosedNeoHookean
from coupling.closed_forms import StretchNeoHookean, isotropic_stiffness
from coupling.conformance import assert_conforms
from coupling.polar import mandel_basis
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
from solver_adapters.rve.kinematics import ScalarField, ScalarGradient, SmallStrain, Stretch
from solver_adapters.rve.meshes import centred_fibre, laminate, random_inclusions, sphere
from solver_adapters.rve.unit_cells import UnitCell, unit_cell
from solver_adapters.rve.voxels import voxel_cell
from tests.periodic_arrays import array_of_balls, conducting_disks, conducting_spheres

CONDUCTORS = {1: Conduction(1.0), 2: Conduction(10.0)}
PLIES: dict[str, Any] = {
    "axial_modulus": 20.0,
    "transverse_modulus": 10.0,
    "axial_poisson": 0.2,
    "transverse_poisson": 0.3,
    "axial_shear": 6.0,
}


def conductivity(cell, materials=CONDUCTORS, **options):
    return -PeriodicRVE(cell, materials, ScalarGradient(), **options).reference.tangent


def stiffness(cell, materials, **options):
    return PeriodicRVE(cell, materials, SmallStrain(), **options).reference.tangent


# Published values


def square_array(f, contrast):
    """Conductivity of a square array of cylinders: Perrins, McKenzie & McPhedran 1979, Proc. R. Soc. A 369, 207–225."""
    T = (1 + contrast) / (1 - contrast)
    return 1 - 2 * f / (T + f - 0.305827 * f**4 * T / (T**2 - 1.402958 * f**8) - 0.013362 * f**8 / T)


def equal_shear_bulk(f, mu, first, second, dim):
    """Bulk modulus of any composite of phases with one shear modulus (Hill 1963, J. Mech. Phys. Solids 11, 357–372).

    1/(K* + 2(d−1)μ/d) = Σ cᵢ/(Kᵢ + 2(d−1)μ/d), with K = λ + 2μ/d.
    """
    shift = 2 * mu / dim + 2 * (dim - 1) * mu / dim
    return 1 / ((1 - f) / (first + shift) + f / (second + shift)) - 2 * (dim - 1) * mu / dim


def test_published_formula_is_that_of_all_multipoles():
    for fraction, accuracy in ((0.1, 1e-10), (0.3, 1e-8), (0.4, 1e-6), (0.5, 1e-5)):
        assert square_array(fraction, 10.0) == pytest.approx(conducting_disks(fraction, 10.0), rel=accuracy)
        assert conducting_disks(fraction, 0.1) == pytest.approx(1 / conducting_disks(fraction, 10.0), rel=1e-12)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.4])
def test_square_array_of_cylinders_to_five_digits(fraction):
    kappa = conductivity(centred_fibre(fraction=fraction, size=0.04, order=2))
    np.testing.assert_allclose(np.diag(kappa), square_array(fraction, 10.0), rtol=8e-6)
    assert abs(kappa[0, 1]) < 1e-6


def test_cylinders_that_conduct_less():
    """By Keller's theorem κ*(κ₁, κ₂) κ*(κ₂, κ₁) = κ₁κ₂ (Keller 1964, J. Math. Phys. 5, 548)."""
    cell = centred_fibre(fraction=0.3, size=0.04, order=2)
    swapped = conductivity(cell, {1: Conduction(10.0), 2: Conduction(1.0)})
    np.testing.assert_allclose(np.diag(swapped), 10 / square_array(0.3, 10.0), rtol=8e-6)
    np.testing.assert_allclose(square_array(0.3, 0.1), 1 / square_array(0.3, 10.0), rtol=1e-5)


def test_cubic_array_of_spheres_to_four_digits():
    kappa = conductivity(sphere(fraction=0.2, size=0.08, order=2))
    np.testing.assert_allclose(np.diag(kappa), conducting_spheres(0.2, 10.0), rtol=1.5e-4)
    assert np.abs(kappa - np.diag(np.diag(kappa))).max() < 1e-4


def rate(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize(("degree", "expected"), [(1, 2.0), (2, 4.0)])
def test_conductivity_converges_at_the_rate_of_the_element(degree, expected):
    """The energy is wrong by the square of the gradient's error, h²ᵖ, with cells that follow the circle to order p."""
    sizes = (0.1, 0.05, 0.025)
    errors = [
        abs(
            conductivity(centred_fibre(fraction=0.3, size=h, order=degree), degree=degree)[0, 0] - square_array(0.3, 10)
        )
        for h in sizes
    ]
    assert rate(sizes, errors) == pytest.approx(expected, abs=0.4)


@pytest.mark.parametrize(("degree", "expected"), [(1, 2.0), (2, 4.0)])
def test_stiffness_converges_at_the_rate_of_the_element(degree, expected):
    sizes, laws = (0.1, 0.05, 0.025), {1: isotropic(1.0, 1.0), 2: isotropic(1.0, 20.0)}
    errors = []
    for h in sizes:
        C = stiffness(centred_fibre(fraction=0.3, size=h, order=degree), laws, degree=degree)
        errors.append(abs((C[0, 0] + C[0, 1]) / 2 - equal_shear_bulk(0.3, 1.0, 1.0, 20.0, 2)))
        np.testing.assert_allclose([C[0, 0] - C[0, 1], C[2, 2]], 2.0, atol=1e-12)
    assert rate(sizes, errors) == pytest.approx(expected, abs=0.4)


PHASES = {2: (isotropic(1.0, 1.0), isotropic(20.0, 10.0)), 3: (isotropic(1.0, 1.0, 3), isotropic(20.0, 10.0, 3))}


@cache
def elastic_array(fraction, dim):
    accuracy: dict[str, Any] = {2: {"degree": 6, "waves": 80}, 3: {"degree": 4, "waves": 12}}[dim]
    matrix, inclusion = PHASES[dim]
    return array_of_balls(fraction, matrix.stiffness, inclusion.stiffness, dim, **accuracy)


def test_solution_without_mesh_against_multipoles_and_hill():
    for dim, multipoles, waves in ((2, conducting_disks, 40), (3, conducting_spheres, 10)):
        kappa = array_of_balls(0.2, np.eye(dim), 10 * np.eye(dim), dim, waves=waves)
        np.testing.assert_allclose(kappa, multipoles(0.2, 10.0) * np.eye(dim), atol=2e-5)
        laws = isotropic_stiffness(1.0, 1.0, dim), isotropic_stiffness(1.0001, 20.0, dim)
        bulk = array_of_balls(0.2, *laws, dim, waves=waves)[:dim, :dim].sum() / dim**2
        assert bulk == pytest.approx(equal_shear_bulk(0.2, 1.0, 1.0, 20.0, dim), rel=1e-5)


def test_square_array_of_elastic_cylinders_to_five_digits():
    C = stiffness(centred_fibre(fraction=0.3, size=0.04, order=2), dict(enumerate(PHASES[2], start=1)))
    np.testing.assert_allclose(C, elastic_array(0.3, 2), atol=5e-5)


@pytest.mark.parametrize(("degree", "expected"), [(1, 2.0), (2, 4.0)])
def test_all_constants_of_a_square_array_converge_at_the_rate_of_the_element(degree, expected):
    sizes, exact = (0.08, 0.05, 0.03), elastic_array(0.3, 2)
    errors = []
    for size in sizes:
        cell = centred_fibre(fraction=0.3, size=size, order=degree)
        C = stiffness(cell, dict(enumerate(PHASES[2], start=1)), degree=degree)
        errors.append([abs(C - exact)[0, 0], abs(C - exact)[0, 1], abs(C - exact)[2, 2]])
    for constant in np.transpose(errors):
        assert rate(sizes, constant) == pytest.approx(expected, abs=0.5)


def test_cubic_array_of_elastic_spheres():
    """C₁₁, C₁₂ and C₄₄ from above, to three digits; finer cells come closer at more than second order."""
    exact, errors = elastic_array(0.2, 3), []
    for size in (0.2, 0.11):
        C = stiffness(sphere(fraction=0.2, size=size, order=2), dict(enumerate(PHASES[3], start=1)))
        assert np.linalg.eigvalsh(C - exact).min() > 0
        errors.append(np.linalg.norm(C - exact) / np.linalg.norm(exact))
    assert errors[1] < 2e-3
    assert rate((0.2, 0.11), errors) > 2


def test_spheres_with_the_shear_modulus_of_the_matrix():
    """Hill's exact result in 3D, at the fraction of the mesh; the composite is isotropic with that shear modulus."""
    cell = sphere(fraction=0.2, size=0.2)
    C = stiffness(cell, {1: isotropic(1.0, 1.0, 3), 2: isotropic(1.0, 20.0, 3)})
    bulk = equal_shear_bulk(cell.fraction(2), 1.0, 1.0, 20.0, 3)
    np.testing.assert_allclose(C, isotropic_stiffness(1.0, bulk - 2 / 3, 3), atol=8e-3)


# Laminates


def layered(C1, C2, N, c2):
    """Exact linear law of two layers: the jump of the gradient between them is N a, and Nᵀ(q₁ − q₂) = 0."""
    c1, D = 1 - c2, C1 - C2
    return c1 * C1 + c2 * C2 - c1 * c2 * D @ N @ np.linalg.solve(N.T @ (c2 * C1 + c1 * C2) @ N, N.T @ D)


def strain_jumps(n):
    """Columns: Mandel forms of sym(eᵢ ⊗ n)."""
    D = mandel_basis(len(n))
    return np.einsum("pij,j->pi", D, n)


def rotation(seed=3):
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3))).Q
    return Q * np.sign(np.linalg.det(Q))


@cache
def layers(rotated):
    cell = laminate(fraction=0.3, size=0.5, dim=3)
    if not rotated:
        return cell, np.eye(3)[0]
    Q = rotation()
    points, cells = cell.mesh.geometry.x @ Q.T, geometry_dofmap(cell.mesh)
    return unit_cell(points, cells, "tetra", cell.tags.values, lattice=Q.T), Q[:, 0]


@cache
def diagonal_layers():
    """Unit cube of layers with normal (1, −1, 0)/√2: tag 2 where x₁ − x₂ modulo 1 is below 1/4."""
    cell = voxel_cell(np.zeros((4, 4, 2), dtype=int), spacing=(0.25, 0.25, 0.5), simplices=True)
    mesh = cell.mesh
    centre = mesh.geometry.x[geometry_dofmap(mesh)].mean(axis=1)
    tags = np.where((centre[:, 0] - centre[:, 1]) % 1.0 < 0.25, 2, 1).astype(np.int32)
    tagged = dolfinx.mesh.meshtags(mesh, 3, np.arange(len(tags), dtype=np.int32), tags)
    return UnitCell(mesh, tagged, lattice=cell.lattice), np.array([1.0, -1.0, 0.0]) / np.sqrt(2)


LAMINATES: dict[str, Any] = {
    "straight": (lambda: layers(False), 0.3),
    "rotated": (lambda: layers(True), 0.3),
    "diagonal": (diagonal_layers, 0.25),
}


@pytest.mark.parametrize("kind", LAMINATES)
def test_elastic_laminates_are_exact(kind):
    (cell, n), fraction = LAMINATES[kind][0](), LAMINATES[kind][1]
    soft, stiff = isotropic(1.0, 2.0, 3), transversely_isotropic(**PLIES, axis=(1, 2, 2))
    exact = layered(soft.stiffness, stiff.stiffness, strain_jumps(n), fraction)
    np.testing.assert_allclose(stiffness(cell, {1: soft, 2: stiff}, degree=1), exact, atol=1e-11)


@pytest.mark.parametrize("kind", LAMINATES)
def test_conducting_laminates_are_exact(kind):
    (cell, n), fraction = LAMINATES[kind][0](), LAMINATES[kind][1]
    second = np.array([[5.0, 1.0, 0.0], [1.0, 8.0, 2.0], [0.0, 2.0, 3.0]])
    exact = layered(np.eye(3), second, n[:, None], fraction)
    np.testing.assert_allclose(
        conductivity(cell, {1: Conduction(np.eye(3)), 2: Conduction(second)}, degree=1), exact, atol=1e-12
    )


@pytest.mark.parametrize("kind", LAMINATES)
def test_laminates_at_finite_strain_are_exact(kind):
    """F₁ = F + c₂ a⊗n, F₂ = F − c₁ a⊗n with (P₁ − P₂) n = 0 solved for a."""
    (cell, n), c2 = LAMINATES[kind][0](), LAMINATES[kind][1]
    rve = PeriodicRVE(cell, {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)}, degree=1, tolerance=1e-14)
    closure = StretchFrame(rve)
    F = (np.eye(3) + 0.15 * np.random.default_rng(1).uniform(-1, 1, (2, 3, 3))).reshape(2, 9)
    response = closure.evaluate(F, closure.initial_state(2), 0.0)
    laws = ClosedNeoHookean(1.0, 2.0, 3), ClosedNeoHookean(20.0, 40.0, 3)
    for f, P in zip(F, response.flux, strict=True):
        np.testing.assert_allclose(P, laminate_stress(f, n, (1 - c2, c2), laws), atol=1e-10)


def laminate_stress(F, n, c, laws):
    N = np.kron(np.eye(3), n[:, None])  # (9, 3): a ↦ a⊗n row by row
    a = np.zeros(3)
    for _ in range(30):
        one, two = (law.evaluate((F + s * N @ a)[None], None, 0.0) for law, s in zip(laws, (c[1], -c[0]), strict=True))
        jump = N.T @ (one.flux - two.flux)[0]
        a -= np.linalg.solve(N.T @ (c[1] * one.tangent + c[0] * two.tangent)[0] @ N, jump)
    assert np.abs(jump).max() < 1e-12
    return c[0] * one.flux[0] + c[1] * two.flux[0]


# Bounds


@cache
def bounded(name):
    rng = np.random.default_rng(0)
    return {
        "fibre": lambda: centred_fibre(fraction=0.3, size=0.15),
        "random": lambda: random_inclusions(count=5, fraction=0.3, size=0.12, seed=2),
        "sphere": lambda: sphere(fraction=0.3, size=0.25),
        "voxels": lambda: voxel_cell(rng.integers(1, 3, (4, 4, 4)), simplices=True),
    }[name]()


CELLS = ("fibre", "random", "sphere", "voxels")


def between(lower, middle, upper):
    scale = np.abs(upper).max()
    return min(np.linalg.eigvalsh(middle - lower).min(), np.linalg.eigvalsh(upper - middle).min()) > -1e-10 * scale


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", ["conduction", "small strain", "stretch"])
def test_between_voigt_and_reuss(name, kind):
    """Σ cᵢ Cᵢ and (Σ cᵢ Cᵢ⁻¹)⁻¹ bound the tangent of the reference state."""
    cell, c2 = bounded(name), bounded(name).fraction(2)
    dim = cell.mesh.geometry.dim
    reference = np.eye(dim * (dim + 1) // 2)[:dim].sum(axis=0)[None]
    table: dict[str, tuple[Any, dict[int, Any], Any]] = {
        "conduction": (ScalarGradient(), CONDUCTORS, (np.eye(dim), 10 * np.eye(dim))),
        "small strain": (
            SmallStrain(),
            {1: LinearElastic(isotropic_stiffness(1.0, 2.0, dim)), 2: isotropic(20.0, 10.0, dim)},
            (isotropic_stiffness(1.0, 2.0, dim), isotropic_stiffness(20.0, 10.0, dim)),
        ),
        "stretch": (
            Stretch(),
            {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)},
            tuple(StretchNeoHookean(*m, dim).evaluate(reference, None, 0.0).tangent[0] for m in ((1, 2), (20, 40))),
        ),
    }
    kinematics, laws, tangents = table[kind]
    effective = kinematics.sign * PeriodicRVE(cell, laws, kinematics, degree=1).reference.tangent
    voigt = (1 - c2) * tangents[0] + c2 * tangents[1]
    reuss = np.linalg.inv((1 - c2) * np.linalg.inv(tangents[0]) + c2 * np.linalg.inv(tangents[1]))
    assert between(reuss, effective, voigt)


@pytest.mark.parametrize("name", CELLS)
def test_conductivity_within_the_trace_bounds(name):
    """Bounds that hold for every two-phase geometry, isotropic or not, and contain those of Hashin and Shtrikman.

    Σᵢ 1/(λᵢ − κ₁) ≤ 1/(h − κ₁) + (d − 1)/(a − κ₁) and Σᵢ 1/(κ₂ − λᵢ) ≤ 1/(κ₂ − h) + (d − 1)/(κ₂ − a), with the
    eigenvalues λᵢ of κ* and the harmonic and arithmetic means h and a (Lurie & Cherkaev 1984; Tartar 1985).
    """
    cell, c2 = bounded(name), bounded(name).fraction(2)
    eigenvalues = np.linalg.eigvalsh(conductivity(cell))
    harmonic, arithmetic, others = 1 / ((1 - c2) + c2 / 10), (1 - c2) + 10 * c2, len(eigenvalues) - 1
    assert (1 / (eigenvalues - 1)).sum() <= 1 / (harmonic - 1) + others / (arithmetic - 1)
    assert (1 / (10 - eigenvalues)).sum() <= 1 / (10 - harmonic) + others / (10 - arithmetic)


@pytest.mark.parametrize("name", ["fibre", "sphere"])
def test_bulk_modulus_within_hashin_and_shtrikman(name):
    """Square and cubic arrays: K* = K₁ + c₂/(1/(K₂ − K₁) + c₁/(K₁ + 2(d−1)μ₁/d)) and with the phases exchanged.

    Hashin & Shtrikman 1963, J. Mech. Phys. Solids 11, 127–140; in 2D Hashin & Rosen 1964.
    """
    cell, c2 = bounded(name), bounded(name).fraction(2)
    dim = cell.mesh.geometry.dim
    C = stiffness(cell, {1: isotropic(1.0, 2.0, dim), 2: isotropic(20.0, 10.0, dim)}, degree=1)
    bulk = C[:dim, :dim].sum() / dim**2

    def bound(c, one, two):
        mu, (K1, K2) = one[0], (m[1] + 2 * m[0] / dim for m in (one, two))
        return K1 + c / (1 / (K2 - K1) + (1 - c) / (K1 + 2 * (dim - 1) * mu / dim))

    assert bound(c2, (1.0, 2.0), (20.0, 10.0)) < bulk < bound(1 - c2, (20.0, 10.0), (1.0, 2.0))


@pytest.mark.parametrize("name", CELLS)
def test_energy_at_finite_strain_between_the_matrix_and_the_mean(name):
    """W₁(U) ≤ W̄(U) ≤ Σ cᵢ Wᵢ(U): the matrix is the softer phase and quasiconvex, no fluctuation gives the mean."""
    cell, c2 = bounded(name), bounded(name).fraction(2)
    dim = cell.mesh.geometry.dim
    laws = StretchNeoHookean(1.0, 2.0, dim), StretchNeoHookean(20.0, 40.0, dim)
    rve = PeriodicRVE(cell, {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)}, degree=1, energy=True)
    U = np.array(rve.spec.reference) + np.random.default_rng(0).uniform(-0.15, 0.15, (4, rve.spec.k))
    response = rve.evaluate(U, rve.initial_state(4), 0.0)
    soft, stiff = (law.evaluate(U, None, 0.0).energy for law in laws)
    assert (response.status == 0).all()
    assert ((soft < response.energy) & (response.energy < (1 - c2) * soft + c2 * stiff)).all()


@pytest.mark.parametrize("name", CELLS)
def test_conductivity_of_a_field_within_the_bounds_at_each_temperature(name):
    cell, c2 = bounded(name), bounded(name).fraction(2)
    laws = FieldConduction(lambda T: 1 + T), FieldConduction(lambda T: 20 / (1 + T))
    rve = PeriodicRVE(cell, dict(enumerate(laws, start=1)), ScalarField(), degree=1)
    for theta in (0.0, 1.0, 5.0):
        one, two, d = 1 + theta, 20 / (1 + theta), cell.mesh.geometry.dim
        g = np.array([[theta, *np.zeros(d)]])
        kappa = -rve.evaluate(g, rve.initial_state(1), 0.0).tangent[0, :, 1:]
        mean, harmonic = (1 - c2) * one + c2 * two, 1 / ((1 - c2) / one + c2 / two)
        assert between(harmonic * np.eye(d), kappa, mean * np.eye(d))


class Heated(SmallStrain):
    """Small strain (θ, ε) ↦ σ of a body at a uniform temperature: a kind of problem made by a user."""

    def spec(self, dim, *, flux_unit):
        own = super().spec(dim, flux_unit=flux_unit)
        return replace(own, gradient=("θ", *own.gradient), reference=(0.0, *own.reference), symmetric=False)

    def local(self, gradient, fluctuation):
        strain = ufl.as_vector([gradient[i] for i in range(1, len(gradient))])
        return gradient[0], *super().local(strain, fluctuation)


@pytest.mark.parametrize("name", ["fibre", "sphere"])
def test_thermal_stress_is_that_of_levin(name):
    """∂σ/∂θ of two isotropic phases follows from the stiffness: Levin 1967, Mech. Solids 2, 58–61.

    With Γ = αC·1 of each phase, Γ* = Γ₁ + (C* − C₁)(C₂ − C₁)⁻¹(Γ₂ − Γ₁).
    """
    cell = bounded(name)
    dim = cell.mesh.geometry.dim
    identity = np.eye(dim * (dim + 1) // 2)[:dim].sum(axis=0)
    C = [isotropic_stiffness(1.0, 2.0, dim), isotropic_stiffness(20.0, 10.0, dim)]
    expansion = (0.01, 0.002)

    def law(stiffness, alpha):
        elastic = LinearElastic(stiffness)
        return lambda theta, strain: elastic(strain - alpha * theta * ufl.Identity(dim))

    rve = PeriodicRVE(cell, {i + 1: law(C[i], expansion[i]) for i in (0, 1)}, Heated(), degree=1)
    G = [alpha * stiffness @ identity for alpha, stiffness in zip(expansion, C, strict=True)]
    tangent = rve.reference.tangent
    exact = G[0] + (tangent[:, 1:] - C[0]) @ np.linalg.solve(C[1] - C[0], G[1] - G[0])
    np.testing.assert_allclose(-tangent[:, 0], exact, atol=1e-12)
    assert_conforms(rve, samples=3)
