"""Prescribed values and loads of a case file in the macroscopic problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ufl
from dolfinx import fem, mesh

from coupling.contract import Array
from coupling.errors import ContractError
from solver_adapters.case.places import Indices, Places
from solver_adapters.case.reading import CaseFile
from solver_adapters.case.schema import Boundary
from solver_adapters.case.section import Components, Value


@dataclass(frozen=True)
class Prescribed:
    """Values on a part of the boundary, from ``initial`` at load factor 0 to ``target`` at 1; one for each component.

    Args:
        name: of the part, None where its resultant is not kept.
        bcs: Dirichlet conditions, by axis.
        constants: their values.
        initial: value at load factor 0.
        target: values at load factor 1.
    """

    name: str | None
    bcs: dict[int, fem.DirichletBC]
    constants: dict[int, fem.Constant]
    initial: float
    target: dict[int, float]

    def apply(self, factor: float) -> None:
        """Set the values of a load factor."""
        for axis, constant in self.constants.items():
            constant.value = self.initial + factor * (self.target[axis] - self.initial)

    def resultant(self, residual: Array) -> dict[int, float]:
        """Sums of a residual over the rank's own constrained dofs, by axis: forces on the body, or flow into it."""
        sums = {}
        for axis, bc in self.bcs.items():
            dofs, owned = bc.dof_indices()
            sums[axis] = float(residual[dofs[:owned]].sum())
        return sums


def prescribed(file: CaseFile, places: Places, V: fem.FunctionSpace) -> list[Prescribed]:
    """The prescribed values of [[boundary]]; mistakes become complaints (collective)."""
    return [_prescribed(file, places, V, number) for number in range(len(file.case.boundary))]


def _prescribed(file: CaseFile, places: Places, V: fem.FunctionSpace, number: int) -> Prescribed:
    part: Boundary = file.case.boundary[number]
    target: dict[int, float] = {}
    with file.at("boundary", number, "value"):
        target = _by_axis(part.value, places.dim)
    bcs, constants = {}, {}
    with file.at("boundary", number, "where" if part.tag is None else "tag"):
        for axis in target:
            component = axis if isinstance(part.value, Components) else None
            constants[axis] = fem.Constant(V.mesh, np.float64(0.0))
            dofs = places.dofs(V, component, part)
            bcs[axis] = fem.dirichletbc(constants[axis], dofs, V if component is None else V.sub(axis))
    return Prescribed(part.name, bcs, constants, file.case.macro.initial, target)


@dataclass(frozen=True)
class Loads:
    """External virtual work ∫ t · v ds + ∫ b · v dx of loads that grow with the load factor.

    Args:
        work: UFL form, None without loads.
        constants: loads, and their values at load factor 1.
    """

    work: Any
    constants: list[tuple[fem.Constant, Array]]

    def apply(self, factor: float) -> None:
        """Set the loads of a load factor."""
        for constant, full in self.constants:
            constant.value[...] = factor * full


def loads(file: CaseFile, places: Places, v: Any) -> Loads:
    """The loads of [[load]] and macro.body for a test function; mistakes become complaints (collective)."""
    domain, case = places.mesh, file.case
    constants: list[tuple[fem.Constant, Array]] = []
    terms = []
    facets: list[Indices] = []
    for number, load in enumerate(case.load):
        facets.append(np.empty(0, dtype=np.int32))
        with file.at("load", number, "value"):
            full = _dense(load.value, places.dim)
            constants.append((fem.Constant(domain, np.zeros_like(full)), full))
        with file.at("load", number, "where" if load.tag is None else "tag"):
            facets[-1] = places.facets(load)
    ds, labels = _measure(places, facets)
    if len(constants) == len(labels):
        terms += [ufl.inner(t, v) * ds(of_load) for (t, _), of_load in zip(constants, labels, strict=True) if of_load]
    if case.macro.body is not None:
        with file.at("macro", "body"):
            full = _dense(case.macro.body, places.dim)
            constants.append((fem.Constant(domain, np.zeros_like(full)), full))
            terms.append(ufl.inner(constants[-1][0], v) * ufl.Measure("dx", domain))
    return Loads(sum(terms[1:], terms[0]) if terms else None, constants)


def _measure(places: Places, facets: Sequence[Indices]) -> tuple[ufl.Measure, list[tuple[int, ...]]]:
    """A facet measure, and for each set of facets its ids there; sets may overlap.

    A form can have one set of tags only: the tag of a facet has bit i set where the facet is in set i.
    """
    index_map = places.mesh.topology.index_map(places.dim - 1)
    bits = np.zeros(index_map.size_local + index_map.num_ghosts, dtype=np.int32)
    for number, indices in enumerate(facets):
        bits[indices] |= 1 << number
    tagged = np.flatnonzero(bits).astype(np.int32)
    tags = mesh.meshtags(places.mesh, places.dim - 1, tagged, bits[tagged])
    used = sorted({int(b) for values in places.comm.allgather(np.unique(bits)) for b in values if b})
    ids = [tuple(b for b in used if b >> number & 1) for number in range(len(facets))]
    return ufl.Measure("ds", places.mesh, subdomain_data=tags), ids


def _by_axis(value: Value, dim: int) -> dict[int, float]:
    given = value.given() if isinstance(value, Components) else {0: value}
    if max(given, default=0) >= dim:
        raise ContractError(f"has a component z, but the mesh is {dim}D")
    return given


def _dense(value: Value, dim: int) -> Array:
    given = _by_axis(value, dim)
    if not isinstance(value, Components):
        return np.array(value)
    return np.array([given.get(axis, 0.0) for axis in range(dim)])
