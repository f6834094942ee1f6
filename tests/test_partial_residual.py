"""Residuals of RVEs that tell folded cells, and their lower bounds."""

import numpy as np

from demos.cook_runs import MATERIALS
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import SaintVenantKirchhoff
from solver_adapters.rve.meshes import centred_fibre
from solver_adapters.rve.partial_residual import PartialResidual


def test_a_few_cells_bound_the_residual_from_below():
    """Fields of all sizes, up to those that fold the cell, where residuals are no numbers."""
    problem, random = PeriodicRVE(centred_fibre(size=0.2), MATERIALS).problem, np.random.default_rng(5)
    bound, r, plain = PartialResidual(problem), np.empty(problem.n), np.empty(problem.n)
    shares, folded = [], []
    for size in np.geomspace(1e-6, 1.0, 40):
        g, w = np.array([1.03, 0.98, 0.04]), size * random.normal(size=problem.n)
        problem.residual(g, w, r, form=problem.guarded_residual)
        problem.residual(g, w, plain)
        folded.append(not np.isfinite(r).all())
        if not folded[-1]:
            np.testing.assert_allclose(r, plain, rtol=1e-13)
            shares.append(bound.norm(g, w) / np.linalg.norm(r))
    assert any(folded) and not all(folded)
    assert min(shares) > 0.0 and max(shares) <= 1.0 + 1e-12


def test_residuals_tell_folded_cells_whatever_the_law():
    """Saint Venant–Kirchhoff solids have finite stresses where det F < 0."""
    stiff = SaintVenantKirchhoff(1.0, 2.0)
    problem = PeriodicRVE(centred_fibre(size=0.3), {1: stiff, 2: stiff}).problem
    for g, admissible in (([1.0, 1.0, 0.0], True), ([-0.5, 1.0, 0.0], False), ([0.0, 1.0, 0.0], False)):
        r, w = np.empty(problem.n), np.zeros(problem.n)
        problem.residual(np.array(g), w, r)
        assert np.isfinite(r).all()
        problem.residual(np.array(g), w, r, form=problem.guarded_residual)
        assert np.isfinite(r).all() == admissible
