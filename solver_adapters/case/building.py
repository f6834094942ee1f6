"""From a case file to a macroscopic problem that can be stepped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

import ufl
from dolfinx import fem

from coupling.contract import Closure, ClosureSpec
from coupling.errors import ContractError
from coupling.serving.loading import named
from solver_adapters.case.consistency import contradictions
from solver_adapters.case.fine_scale import FineScale, coupled, fitted, framed, own_closure
from solver_adapters.case.formulations import FORMULATIONS, Formulation
from solver_adapters.case.mesh_sections import Box, Cook, MeshFile, Rectangle
from solver_adapters.case.places import Places
from solver_adapters.case.prescribed import Loads, Prescribed, loads, prescribed
from solver_adapters.case.probes import PointProbe, point_probes
from solver_adapters.case.reading import CaseFile
from solver_adapters.case.schema import Case
from solver_adapters.fenicsx import MultiscaleProblem
from solver_adapters.macro.closure_flux import ClosureFlux
from solver_adapters.macro.meshes import MacroMesh, box, cooks_membrane, read_macro_mesh, rectangle
from solver_adapters.rve.laws import KINEMATICS


@dataclass(frozen=True)
class Parts:
    """Everything of a case but its closure.

    Args:
        file: the case file.
        formulation: kind of problem.
        u: the unknown.
        boundary: prescribed values.
        loads: surface and body loads.
        probes: points whose values are kept.
        fine: makes RVEs, None where there is no [rve].
        fine_closure: the fine scale, None where there is none.
        surrogate: the surrogate of a model, None where there is none, or one is still to be fitted.
        data: what to fit one to, None where it is still to be sampled.
    """

    file: CaseFile
    formulation: Formulation
    u: fem.Function
    boundary: list[Prescribed]
    loads: Loads
    probes: list[PointProbe]
    fine: FineScale | None
    fine_closure: Closure | None
    surrogate: Closure | None
    data: Any

    def apply_load(self, factor: float) -> None:
        """Set loads and prescribed values of a load factor."""
        self.loads.apply(factor)
        for part in self.boundary:
            part.apply(factor)


@dataclass(frozen=True)
class Problem:
    """A case ready to be stepped.

    Args:
        parts: what it is made of.
        closure: what answers at the quadrature points.
        flux: where it enters.
        residual: form of the residual.
        solver: of the macroscopic problem.
    """

    parts: Parts
    closure: Closure
    flux: ClosureFlux
    residual: ufl.Form
    solver: MultiscaleProblem


def prepare(file: CaseFile, comm: MPI.Comm) -> Parts:
    """Everything that can be made, and so checked, before anything is sampled or solved (collective).

    Raises:
        CaseError: on all ranks, with all mistakes that were found.
    """
    file.complaints.extend(contradictions(file.case))
    file.check(comm)
    case = file.case
    with file.at("mesh", *(["path"] if isinstance(case.mesh, MeshFile) else [])):
        macro = macro_mesh(file, comm)
    file.check(comm)
    places = Places(macro)
    formulation = FORMULATIONS[case.macro.kinematics]
    shape = () if formulation.scalar else (places.dim,)
    u = fem.Function(fem.functionspace(macro.mesh, ("Lagrange", case.macro.degree, shape)), name=formulation.unknown)
    u.x.array[:] = case.macro.initial
    V = u.function_space
    boundary, external = prescribed(file, places, V), loads(file, places, ufl.TestFunction(V))
    probes = point_probes(file, u)
    fine, closure, surrogate, data = _fine_scale(file, places.dim)
    parts = Parts(file, formulation, u, boundary, external, probes, fine, closure, surrogate, data)
    _check_fit(parts)
    file.check(comm)
    return parts


def macro_mesh(file: CaseFile, comm: MPI.Comm) -> MacroMesh:
    """The mesh of [mesh] (collective).

    Raises:
        MeshError: it cannot be read or used.
        ContractError: corners of a rectangle or box in the wrong order.
    """
    section = file.case.mesh
    if isinstance(section, MeshFile):
        return read_macro_mesh(comm, file.beside(section.path), tag_name=section.tag_name)
    if isinstance(section, Cook):
        return MacroMesh(cooks_membrane(comm, section.cells))
    if any(low >= high for low, high in zip(section.lower, section.upper, strict=True)):
        raise ContractError(f"lower must be below upper in every coordinate, got {section.lower} and {section.upper}")
    make: Callable[..., Any] = {Rectangle: rectangle, Box: box}[type(section)]
    return MacroMesh(make(comm, section.cells, lower=section.lower, upper=section.upper, shape=section.shape))


def complete(parts: Parts, comm: MPI.Comm, folder: Path, wrap: Callable[[Closure], Closure]) -> Problem:
    """The problem of the parts; fits the surrogate where one is to be fitted (collective).

    Args:
        parts: of the case.
        comm: its communicator.
        folder: for samples.
        wrap: put around the closure.

    Raises:
        CaseError: on all ranks.
    """
    file, case = parts.file, parts.file.case
    surrogate = parts.surrogate
    if case.closure.mode != "off" and case.closure.fit is not None:
        with file.at("closure", "fit"):
            surrogate = framed(fitted(comm, parts.fine, case.closure.fit, parts.data, folder))
        file.check(comm)
    closure = wrap(coupled(file, parts.fine_closure, surrogate))
    u, v = parts.u, ufl.TestFunction(parts.u.function_space)
    dx = ufl.Measure("dx", u.function_space.mesh, metadata={"quadrature_degree": case.macro.quadrature_degree})
    flux = ClosureFlux(parts.formulation.operand(u), closure, dx, name=parts.formulation.flux)
    residual = parts.formulation.internal(flux, v) * flux.dx
    if parts.loads.work is not None:
        residual -= parts.loads.work
    bcs = [bc for part in parts.boundary for bc in part.bcs.values()]
    with file.at("petsc"):
        try:
            solver = MultiscaleProblem(
                residual, u, fluxes=[flux], bcs=bcs, petsc_options_prefix="macro_", petsc_options=case.petsc
            )
        except PETSc.Error as error:
            raise ContractError(f"PETSc refuses these options: {error}") from error
    file.check(comm)
    return Problem(parts, closure, flux, residual, solver)


def _fine_scale(file: CaseFile, dim: int) -> tuple[FineScale | None, Closure | None, Closure | None, Any]:
    """Makes RVEs, fine closure, surrogate and data set, as far as the case has them."""
    case, closure, surrogate, data = file.case, None, None, None
    fine = None if case.rve is None else FineScale(file, case.rve, dim)
    if case.closure.fine is not None:
        with file.at("closure", "fine"):
            closure = framed(own_closure(file, case.closure.fine))
    if case.closure.mode != "off" and case.closure.model is not None:
        with file.at("closure", "model"):
            surrogate = framed(own_closure(file, case.closure.model))
    if case.closure.mode != "off" and (fit := case.closure.fit) is not None:
        names = _fine_spec(case, dim).gradient
        for bound in ("lower", "upper"):
            with file.at("closure", "fit", bound):
                if (given := getattr(fit, bound)) is not None and len(given) != len(names):
                    raise ContractError(f"needs {len(names)} components, {', '.join(names)}, got {len(given)}")
        if fit.data is not None:
            with file.at("closure", "fit", "data"):
                data = named("surrogates.dataset:Dataset").load(file.beside(fit.data))
                if data.spec.gradient != names:
                    raise ContractError(f"has {', '.join(data.spec.gradient)}, but the problem {', '.join(names)}")
    if fine is not None and fine.sound and case.closure.mode != "alone":
        with file.at("rve"):
            closure = framed(fine.rve(like=surrogate or data))
    return fine, closure, surrogate, data


def _fine_spec(case: Case, dim: int) -> ClosureSpec:
    return KINEMATICS[case.macro.kinematics](case.macro.initial).spec(dim, flux_unit="1")


def _check_fit(parts: Parts) -> None:
    """Complain of closures that take or give something other than the macroscopic problem has."""
    file, dim = parts.file, parts.u.function_space.mesh.geometry.dim
    spec = _fine_spec(file.case, dim)
    counts = (dim * dim, dim * dim) if file.case.macro.kinematics == "finite-strain" else (spec.k, spec.m)
    for key, closure in (("fine", parts.fine_closure), ("model", parts.surrogate)):
        if closure is not None and (closure.spec.k, closure.spec.m) != counts and not (key == "fine" and parts.fine):
            with file.at("closure", key):
                raise ContractError(
                    f"is a closure from {', '.join(closure.spec.gradient)} to {', '.join(closure.spec.flux)}, but "
                    f"{file.case.macro.kinematics} in {dim}D needs {counts[0]} and {counts[1]} components"
                )
    if parts.surrogate is not None and parts.fine_closure is not None and not file.complaints:
        with file.at("closure", "model"):
            coupled(file, parts.fine_closure, parts.surrogate)
