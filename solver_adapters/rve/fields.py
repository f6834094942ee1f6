"""Fields inside an RVE, for figures and Paraview."""

from __future__ import annotations

from typing import Any

import ufl
from dolfinx import fem

from coupling.contract import Array
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve.histories import HistoryMaterial
from solver_adapters.rve.kinematics import SmallStrain


def fluctuation(rve: PeriodicRVE, row: Array) -> Any:
    """Fluctuation field w of one row of a state that the RVE returned, in an ordinary Lagrange space."""
    known = rve.equilibrium(row)
    return rve.problem.full_function(known.fluctuation)


def local_flux(rve: PeriodicRVE, row: Array) -> Any:
    """Cell averages of the local flux ± ∂W/∂(local gradient), such as the Piola–Kirchhoff stress, as a DG0 function.

    Args:
        rve: the RVE.
        row: (s,) one row of a state that it returned.
    """
    mesh, tags = rve.cell.mesh, rve.cell.tags
    gradient = fem.Constant(mesh, rve.equilibrium(row).gradient)
    *parameters, local = rve.kinematics.local(gradient, fluctuation(rve, row))
    local = ufl.variable(local)
    symmetric = isinstance(rve.kinematics, SmallStrain)  # laws may read the upper triangle of a strain alone
    local_arguments = *parameters, ufl.sym(local) if symmetric else local
    dx = ufl.Measure("dx", mesh, subdomain_data=tags, metadata={"quadrature_degree": rve.problem.quadrature_degree})
    average = fem.Function(fem.functionspace(mesh, ("DG", 0, local.ufl_shape)), name="local flux")
    v, one = ufl.TestFunction(average.function_space), ufl.TestFunction(fem.functionspace(mesh, ("DG", 0)))
    history = rve.problem.history
    history.start_from(rve.equilibrium(row).history)
    potentials = {
        tag: history.at_once(tag, local_arguments) if isinstance(law, HistoryMaterial) else law(*local_arguments)
        for tag, law in rve.materials.items()
        if (tags.values == tag).any()
    }
    sign = rve.kinematics.sign
    integral = sum(sign * ufl.inner(ufl.diff(W, local), v) * dx(tag) for tag, W in potentials.items())
    fem.assemble_vector(average.x.array, fem.form(integral))
    volume = fem.assemble_vector(fem.form(one * dx)).array
    average.x.array[:] = (average.x.array.reshape(len(volume), -1) / volume[:, None]).reshape(-1)
    return average
