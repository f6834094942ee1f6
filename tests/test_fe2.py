"""Concurrent two-scale runs with real RVEs, on any number of ranks."""

import json
from dataclasses import replace
from pathlib import Path

from mpi4py import MPI

import numpy as np
import pytest
import pyvista
import ufl
from dolfinx import fem, mesh

from coupling import AcceleratedClosure, RangeGate, Status, StretchFrame
from coupling.closed_forms import FailingClosure, LinearElastic
from demos.cook import CLAMPED, LENGTH, LOADED, membrane, point_value
from demos.cook_figures import write_fields, write_figures
from demos.cook_runs import CASES, create_rve, run
from demos.demo_cooks_membrane import demonstrate, table
from demos.pictures import picture
from solver_adapters.fenicsx import ClosureFlux, MultiscaleProblem, load_steps, mandel
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.macro.meshes import cooks_membrane
from solver_adapters.rve.energies import NeoHookean
from solver_adapters.rve.meshes import centred_fibre, laminate
from surrogates import fit_polynomial, sample, stretch_design

pytestmark = pytest.mark.mpi

WORLD = MPI.COMM_WORLD
PHASES = {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)}
COARSE = replace(CASES["fibre"], size=0.25)


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


def fibre(**options):
    return StretchFrame(PeriodicRVE(centred_fibre(size=0.25), PHASES, **options))


def test_patch_of_laminates_deforms_evenly():
    """Affine displacements on the whole boundary are affine inside, and the stress is that of one RVE."""
    closure = StretchFrame(PeriodicRVE(laminate(size=0.5), PHASES, tolerance=1e-14))
    domain = mesh.create_unit_square(WORLD, 3, 3)
    x = domain.geometry.x
    x[:, 0] += 0.1 * x[:, 0] * (1 - x[:, 0]) * x[:, 1]
    V = fem.functionspace(domain, ("Lagrange", 2, (2,)))
    u, v, end = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    H = np.array([[0.1, 0.15], [-0.05, -0.08]])
    facets = mesh.locate_entities_boundary(domain, 1, lambda x: np.full(x.shape[1], True))
    bc = fem.dirichletbc(end, fem.locate_dofs_topological(V, 1, facets))
    P = ClosureFlux(ufl.Identity(2) + ufl.grad(u), closure, ufl.dx(domain, degree=2))
    residual = ufl.inner(P.value, ufl.grad(v)) * P.dx
    problem = MultiscaleProblem(
        residual, u, fluxes=[P], bcs=[bc], petsc_options_prefix="patch_", petsc_options={"snes_rtol": 1e-12}
    )
    load_steps(problem, lambda t: end.interpolate(lambda x: t * H @ x[:2]), steps=2)
    np.testing.assert_allclose(u.x.array, end.x.array, atol=1e-11)
    alone = closure.evaluate((np.eye(2) + H).reshape(1, 4), closure.initial_state(1), 0.0).flux
    np.testing.assert_allclose(P.response.flux, np.repeat(alone, P.points.n, axis=0), atol=1e-10)


def test_cooks_membrane_against_the_linear_literature():
    """Plane stress, E = 1, ν = 1/3, unit shear force: tip displacement 23.95 (Cook's problem, converged value)."""
    mu, lmbda = 3 / 8, 3 / 4
    plane_stress = LinearElastic(mu, 2 * lmbda * mu / (lmbda + 2 * mu))
    panel = cooks_membrane(WORLD, (24, 24))
    V = fem.functionspace(panel, ("Lagrange", 2, (2,)))
    u, v = fem.Function(V), ufl.TestFunction(V)
    clamped = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 0.0))
    right = np.sort(mesh.locate_entities_boundary(panel, 1, lambda x: np.isclose(x[0], LENGTH)))
    ds = ufl.ds(panel, subdomain_data=mesh.meshtags(panel, 1, right, np.ones(len(right), dtype=np.int32)))
    sigma = ClosureFlux(mandel(ufl.sym(ufl.grad(u))), plane_stress, ufl.dx(panel, degree=2))
    residual = ufl.inner(sigma.vector, mandel(ufl.sym(ufl.grad(v)))) * sigma.dx - v[1] / LOADED * ds(1)
    bcs = [fem.dirichletbc(np.zeros(2), clamped, V)]
    MultiscaleProblem(residual, u, fluxes=[sigma], bcs=bcs, petsc_options_prefix="linear_").solve()
    assert point_value(u, np.array([LENGTH, CLAMPED + LOADED / 2]))[1] == pytest.approx(23.95, abs=0.02)


def test_macro_newton_converges_quadratically_with_the_rve_tangent():
    macro = membrane(WORLD, fibre(tolerance=1e-14), load=0.05)
    norms = []
    macro.problem.snes.setMonitor(lambda snes, iteration, norm: norms.append(norm))
    macro.apply_load(1.0)
    macro.problem.solve()
    norms = [n for n in norms if n > 1e-12]
    order = np.log(norms[-1] / norms[-2]) / np.log(norms[-2] / norms[-3])
    assert order > 1.8, norms


def test_result_does_not_depend_on_the_number_of_ranks():
    together = run(WORLD, fibre(tolerance=1e-14), COARSE, steps=3)
    alone = run(MPI.COMM_SELF, fibre(tolerance=1e-14), COARSE, steps=3)
    assert together.tip == pytest.approx(alone.tip, abs=1e-10)
    assert [r.iterations for r in together.records] == [r.iterations for r in alone.records]
    assert together.ledger.counts["rve/points"] == alone.ledger.counts["rve/points"]


def test_one_failing_rve_on_one_rank_cuts_the_step_back_everywhere():
    """A closure that fails where a deformation changes too much in one step: at first at few points of one rank."""
    undisturbed = run(WORLD, fibre(), COARSE, steps=2)
    committed = np.tile([1.0, 0.0, 0.0, 1.0], (undisturbed.membrane.flux.points.n, 1))
    last = committed.copy()
    failing = []

    def changes_too_much(F):
        last[:] = F
        failed = np.abs(F - committed).max(axis=1) > 0.3
        failing.append(int(failed.sum()))
        return failed

    macro = membrane(WORLD, FailingClosure(fibre(), changes_too_much), load=COARSE.load)
    cutbacks = []

    def on_step(record):
        committed[:] = last
        cutbacks.append(record.cutbacks)

    records = load_steps(macro.problem, macro.apply_load, steps=2, on_step=on_step)
    failed = WORLD.allgather(sum(failing))
    assert sum(failed) > 0
    assert WORLD.size == 1 or min(failed) < max(failed)
    assert sum(cutbacks) > 0 and records[-1].load == 1.0
    assert macro.problem.ledger.gathered(WORLD).counts["macro/cutbacks"] == sum(cutbacks)
    assert len(set(WORLD.allgather(tuple(cutbacks)))) == 1
    assert macro.tip() == pytest.approx(undisturbed.tip, rel=1e-8)


def test_outside_its_range_the_surrogate_hands_over_to_the_rve():
    """A box too small for the run: the RVE serves some points, a polynomial the others, and the answer is right."""
    rve = PeriodicRVE(centred_fibre(size=0.25), PHASES, energy=True)
    data = sample(rve, stretch_design((0.9, 0.95, -0.05), (1.05, 1.05, 0.08), 120, seed=1), comm=WORLD, progress=False)
    closure = AcceleratedClosure(fibre(), StretchFrame(fit_polynomial(data, degree=5)), gate=RangeGate())
    mixed, exact = (run(WORLD, c, COARSE, steps=4) for c in (closure, fibre()))
    served = WORLD.allreduce(int((mixed.membrane.flux.response.status == Status.FALLBACK).sum()))
    total = WORLD.allreduce(mixed.membrane.flux.points.n)
    assert 0 < served < total
    assert mixed.ledger.counts["fallback/points"] == mixed.ledger.counts["rve/points"]
    assert mixed.tip == pytest.approx(exact.tip, rel=1e-5)


def test_picture_shows_each_value_on_its_cell():
    panel = cooks_membrane(WORLD, (6, 3))
    u = fem.Function(fem.functionspace(panel, ("Lagrange", 2, (2,))))
    u.interpolate(lambda x: np.stack([0.1 * x[1], -0.2 * x[0]]))
    centre = fem.Function(fem.functionspace(panel, ("DG", 0)))
    centre.interpolate(lambda x: x[0] + 100 * x[1])
    drawn = picture(u, centre, WORLD)
    if WORLD.rank == 0:
        corners = drawn.corners[drawn.triangles].mean(axis=1)
        assert len(corners) == 36
        np.testing.assert_allclose(drawn.values, corners @ [1.0, 100.0])
        np.testing.assert_allclose(drawn.displacement, drawn.corners[:, ::-1] * [0.1, -0.2], atol=1e-12)


def test_demo(folder):
    case = replace(COARSE, samples=100)
    summary, classical, accelerated = demonstrate(WORLD, case, folder, samples=100, steps=4)
    assert summary["tip error"] < 1e-4 and summary["largest tip error"] < 1e-4
    assert 0 < summary["hold-out errors"]["flux_rms"] < 1e-3
    assert summary["largest stress error"] < 1e-3
    assert accelerated.ledger.counts.get("rve/points", 0) == accelerated.ledger.counts.get("fallback/points", 0)
    assert summary["runs"]["classical"]["counts"]["rve/points"] >= 4 * 108
    assert json.loads(json.dumps(summary))["ranks"] == WORLD.size
    assert table(summary).row_count == 17

    files = write_figures(WORLD, classical, accelerated, create_rve(case), summary["worst point"], folder)
    write_fields(WORLD, classical, accelerated, folder)
    WORLD.barrier()
    assert all(file.read_bytes().startswith(b"\x89PNG") for file, _ in files)
    (written,) = folder.glob("accelerated*.pvtu")
    grid = pyvista.read(written)
    owned = np.asarray(grid.cell_data["vtkGhostType"]) == 0
    assert owned.sum() == 36
    assert grid.point_data["displacement"][:, 1].max() >= accelerated.tip[1]
    assert np.linalg.norm(grid.cell_data["P"][owned], axis=1).min() > 0.0


def test_one_micro_iteration_per_macro_iterate_gives_the_same_answer():
    """The monolithic scheme of a loose RVE tolerance against converged RVEs: less work, same displacement."""
    loose, tight = (run(MPI.COMM_SELF, fibre(tolerance=t), COARSE, steps=4) for t in (1e-6, 1e-12))
    assert loose.tip == pytest.approx(tight.tip, abs=1e-11)
    work, more = (r.ledger.counts["rve/newton iterations"] for r in (loose, tight))
    assert work < 1.05 * loose.ledger.counts["rve/points"] < more
