"""Nonlinear problems in plain petsc4py, with no finite elements involved."""

from petsc4py import PETSc

import numpy as np


class Bratu:
    """−Δu = λ exp((u + v)/2), −Δv = λ/2 exp(u) on the unit square, u = v = 0 on its boundary, by DMDA and SNES.

    λ is ``self.load``. The Jacobian is DMDA's coloured finite difference one unless options say otherwise.
    """

    def __init__(self, comm, prefix, options=None, n=9):
        self.load, self.h = 0.0, 1.0 / (n + 1)
        self.da = PETSc.DMDA().create([n, n], dof=2, stencil_width=1, comm=comm)
        self.da.setFieldName(0, "u")
        self.da.setFieldName(1, "v")
        self.local = self.da.createLocalVec()
        self.snes = PETSc.SNES().create(comm)
        self.snes.setOptionsPrefix(prefix)
        self.snes.setDM(self.da)
        self.snes.setFunction(self.residual, self.da.createGlobalVec())
        self.options = {"snes_fd_color": None, "snes_rtol": 1e-8, "ksp_rtol": 1e-10} | (options or {})
        self.set_options(self.options)
        self.x = self.da.createGlobalVec()
        self.iterations = self.linear_iterations = self.evaluations = 0

    def set_options(self, options):
        database, prefix = PETSc.Options(), self.snes.getOptionsPrefix()
        for name, value in options.items():
            database.setValue(prefix + name, value)
        self.snes.setFromOptions()
        for name in options:
            database.delValue(prefix + name)

    def residual(self, snes, x, f):
        self.evaluations += 1
        self.da.globalToLocal(x, self.local)
        (i0, i1), (j0, j1) = self.da.getRanges()
        (gi0, gi1), (gj0, gj1) = self.da.getGhostRanges()
        local = self.local.array_r.reshape(gj1 - gj0, gi1 - gi0, 2)
        w = np.zeros((j1 - j0 + 2, i1 - i0 + 2, 2))
        w[gj0 - j0 + 1 : gj1 - j0 + 1, gi0 - i0 + 1 : gi1 - i0 + 1] = local
        centre = w[1:-1, 1:-1]
        F = 4 * centre - w[:-2, 1:-1] - w[2:, 1:-1] - w[1:-1, :-2] - w[1:-1, 2:]
        F[..., 0] -= self.h**2 * self.load * np.exp((centre[..., 0] + centre[..., 1]) / 2)
        F[..., 1] -= self.h**2 * self.load / 2 * np.exp(centre[..., 0])
        f.array_w[:] = F.ravel()

    def sweep(self, loads, solve=None):
        """Solutions at the loads one after the other: for each its natural ordering on all ranks."""
        found = []
        for self.load in loads:
            (solve or self.snes.solve)(None, self.x)
            assert self.snes.getConvergedReason() > 0, self.snes.getConvergedReason()
            self.iterations += self.snes.getIterationNumber()
            self.linear_iterations += self.snes.getLinearSolveIterations()
            found.append(self.everywhere())
        return np.array(found)

    def everywhere(self):
        natural = self.da.createNaturalVec()
        self.da.globalToNatural(self.x, natural)
        scatter, whole = PETSc.Scatter.toAll(natural)
        scatter.scatter(natural, whole)
        return whole.array.copy()


class Diffusion:
    """u̇ = ((1 + 4 u²) u')' + 5 on the unit interval, u = 0 at its ends, with TS; u = sin(πx) at the start."""

    def __init__(self, comm, kind, prefix="ts_", options=None, steps=20, n=40):
        self.h = 1.0 / (n + 1)
        self.da = PETSc.DMDA().create([n], dof=1, stencil_width=1, comm=comm)
        self.local = self.da.createLocalVec()
        self.ts = PETSc.TS().create(comm)
        self.ts.setOptionsPrefix(prefix)
        self.ts.setDM(self.da)
        self.ts.setType(kind)
        self.ts.setIFunction(self.residual, self.da.createGlobalVec())
        self.ts.setTimeStep(0.4 / steps)
        self.ts.setMaxTime(0.4)
        self.ts.setExactFinalTime(PETSc.TS.ExactFinalTime.MATCHSTEP)
        database = PETSc.Options()
        given = {"snes_fd_color": None, "ts_adapt_type": "none", "snes_rtol": 1e-10, "ksp_rtol": 1e-10} | (
            options or {}
        )
        for name, value in given.items():
            database.setValue(prefix + name, value)
        self.ts.setFromOptions()
        for name in given:
            database.delValue(prefix + name)
        self.x = self.da.createGlobalVec()
        (start, end) = self.da.getRanges()[0]
        self.x.array_w[:] = np.sin(np.pi * self.h * np.arange(start + 1, end + 1))

    def residual(self, ts, t, x, xdot, f):
        self.da.globalToLocal(x, self.local)
        (start, end), (ghost, ghost_end) = self.da.getRanges()[0], self.da.getGhostRanges()[0]
        u = np.zeros(end - start + 2)
        u[ghost - start + 1 : ghost_end - start + 1] = self.local.array_r
        flux = (1.0 + (u[1:] + u[:-1]) ** 2) * np.diff(u) / self.h
        f.array_w[:] = xdot.array_r - np.diff(flux) / self.h - 5.0

    def run(self):
        """The final state on all ranks, and the Newton iterations it took."""
        self.ts.solve(self.x)
        assert self.ts.getConvergedReason() > 0
        scatter, whole = PETSc.Scatter.toAll(self.x)
        scatter.scatter(self.x, whole)
        return whole.array.copy(), self.ts.getSNESIterations()
