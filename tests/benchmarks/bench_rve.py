"""Cost of one RVE evaluation in its parts, against the fastest bare factorisation that PETSc offers here.

./run bench rve [--json PATH]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from petsc4py import PETSc

import numpy as np
from dolfinx import cpp

from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.energies import NeoHookean
from solver_adapters.rve.meshes import UnitCell, centred_fibre, centred_void
from tests.benchmarks.timing import interleaved, show, show_goals, with_goals, write_json

CELLS: dict[str, Callable[[], UnitCell]] = {
    "fibre": lambda: centred_fibre(size=0.106),
    "void": lambda: centred_void(size=0.092),
    "fibre, fine": lambda: centred_fibre(size=0.0335),
    "void, fine": lambda: centred_void(size=0.0305),
}
SOLVERS = (("cholesky", "cholmod"), ("cholesky", "mumps"), ("lu", "mumps"), ("lu", "umfpack"), ("cholesky", "petsc"))
ITERATION, TANGENT = "Newton iteration / (factorisation + assembly)", "tangent / factorisation"
AT_MOST = {"assembly of r and K [ms]": 0.7, ITERATION: 1.3, TANGENT: 0.6}
"""Goals of the cells of about 1,000 degrees of freedom."""

GRADIENT = np.array([[1.05, 0.97, 0.05]])


def bare_factorisations(matrix: PETSc.Mat) -> dict[str, Callable[[], None]]:
    """For each of PETSc's direct solvers that is installed, a task that factorises the matrix anew."""
    tasks: dict[str, Callable[[], None]] = {}
    for kind, solver in SOLVERS:
        pc = PETSc.PC().create(PETSc.COMM_SELF)
        pc.setOperators(matrix)
        pc.setType(kind)
        pc.setFactorSolverType(solver)
        try:
            pc.setUp()
        except PETSc.Error:
            continue

        def task(pc: Any = pc) -> None:
            matrix.stateIncrease()
            pc.setUp()

        tasks[f"{solver} {kind}"] = task
    return tasks


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Times in ms and the ratios of one unit cell."""
    rve = PeriodicRVE(CELLS[name](), {1: NeoHookean(1.0, 2.0), 2: NeoHookean(20.0, 40.0)})
    problem, factor = rve.problem, rve._factor
    state = rve.evaluate(GRADIENT, rve.initial_state(1), 0.0).state
    assert state is not None
    w = rve.equilibrium(state[0]).fluctuation
    system = problem.linearise(GRADIENT[0], w)
    factor.factorise()

    def residual_and_stiffness() -> None:
        coefficients = problem._pack(GRADIENT[0], w)
        problem.assemble_stiffness(coefficients)
        r = np.zeros(problem.n)
        cpp.fem.assemble_vector(r, plain._cpp_object, problem._constants[problem._residual], coefficients)

    def newton_iteration() -> None:
        B = problem.linearise(GRADIENT[0], w).right
        rve._condense(B, reuse=False)

    def tangent() -> None:
        coefficients = problem._pack(GRADIENT[0], w)
        right = np.zeros_like(system.right)
        constants = problem._constants
        residual, fluxes = problem._residual, problem._flux
        cpp.fem.assemble_vector(right.reshape(-1), residual._cpp_object, constants[residual], coefficients)
        flux = np.zeros((1 + rve.spec.k, rve.spec.k))
        cpp.fem.assemble_vector(flux.reshape(-1), fluxes._cpp_object, constants[fluxes], coefficients)
        flux[1:] -= right[:, 1:].T @ factor.solve(right)[:, 1:]

    plain = problem.residual_form()
    jump = np.random.default_rng(0).uniform(-0.003, 0.003, (64, 3))
    visits = iter(np.tile(jump, (1000, 1)))
    walker = {"state": state}

    def evaluation() -> None:
        step = next(visits)
        walker["state"] = rve.evaluate(GRADIENT + step, walker["state"], 0.0).state

    tasks: dict[str, Callable[[], None]] = {
        "assembly of r and K": residual_and_stiffness,
        "Newton iteration": newton_iteration,
        "tangent": tangent,
        "evaluation": evaluation,
    }
    ms = {k: 1e3 * v for k, v in interleaved(tasks | bare_factorisations(factor.K), repeats=repeats).items()}
    solvers = {k: v for k, v in ms.items() if k not in tasks}
    fastest = min(solvers, key=lambda k: solvers[k])
    bare = solvers[fastest]
    ratios = {
        ITERATION: ms["Newton iteration"] / (bare + ms["assembly of r and K"]),
        TANGENT: ms["tangent"] / bare,
    }
    reached = {"assembly of r and K [ms]": ms["assembly of r and K"], **ratios}
    goals = {} if "fine" in name else with_goals(reached, at_most=AT_MOST)
    return {
        "cell": name,
        "dofs": problem.n,
        "fastest": fastest,
        "milliseconds": ms,
        "ratios": ratios,
        "goals": goals,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("results/bench_rve.json"), help="where the result is written")
    parser.add_argument("--repeats", type=int, default=101, help="interleaved repetitions (default 101)")
    args = parser.parse_args()
    results = [measure(name, args.repeats if "fine" not in name else args.repeats // 4 + 1) for name in CELLS]
    rows = [
        [
            r["cell"],
            str(r["dofs"]),
            f"{r['milliseconds']['assembly of r and K']:.2f}",
            f"{r['milliseconds'][r['fastest']]:.2f} ({r['fastest']})",
            f"{r['milliseconds']['evaluation']:.2f}",
            *(f"{v:.2f}" for v in r["ratios"].values()),
        ]
        for r in results
    ]
    show(
        f"One RVE on one core: medians of {args.repeats} interleaved repetitions",
        ["RVE", "dofs", "assembly r, K [ms]", "bare factor [ms]", "whole evaluation [ms]", *results[0]["ratios"]],
        rows,
    )
    for r in results:
        if r["goals"]:
            show_goals(r["cell"], r["goals"])
    write_json(args.json, {"benchmark": "rve", "results": results})


if __name__ == "__main__":
    main()
