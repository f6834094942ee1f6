"""What a run keeps after every step: fields for Paraview, and a row of numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from mpi4py import MPI

import numpy as np
from dolfinx import fem, io, la

from coupling.agreement import together
from coupling.contract import Status
from coupling.errors import ContractError
from solver_adapters.case.building import Problem
from solver_adapters.macro.load_stepping import StepRecord

Write: TypeAlias = Callable[[list[fem.Function], float], None]


class Fields:
    """The unknown and the cell averages of the flux after every step.

    Where a surrogate stands before the fine scale, also the share of points of a cell that the latter served.

    Args:
        problem: whose fields.
        folder: for the files.
        format: "vtu" (fields.pvd), "vtx" (one .bp for each field), "xdmf" (fields.xdmf, the unknown at the nodes of the
            mesh) or "none".

    Raises:
        ContractError: a format that this DOLFINx does not have.
    """

    def __init__(self, problem: Problem, folder: Path, format: str) -> None:
        self._problem, self._open = problem, ExitStack()
        comm = problem.parts.u.function_space.mesh.comm
        formats = {"vtu": self._vtu, "vtx": self._vtx, "xdmf": self._xdmf}
        self._write = None if format == "none" else formats[format](comm, folder)

    def write(self, load: float) -> None:
        """Write the present fields under a load factor (collective)."""
        if self._write is None:
            return
        problem = self._problem
        flux = problem.flux.cell_average(problem.parts.formulation.tensor(problem.flux), problem.flux.name)
        fields = [problem.parts.u, flux]
        if problem.parts.file.case.closure.mode == "replace":
            fields.append(self._fallback())
        self._write(fields, load)

    def close(self) -> None:
        """Close the files (collective)."""
        self._open.close()

    def _fallback(self) -> fem.Function:
        flux = self._problem.flux
        share = fem.Function(fem.functionspace(flux.points.mesh, ("DG", 0)), name="fallback")
        served = (flux.response.status == Status.FALLBACK).reshape(len(flux.points.cells), -1)
        share.x.array[share.function_space.dofmap.list[flux.points.cells, 0]] = served.mean(axis=1)
        share.x.scatter_forward()
        return share

    def _vtu(self, comm: MPI.Comm, folder: Path) -> Write:
        file = self._open.enter_context(io.VTKFile(comm, folder / "fields.pvd", "w"))
        return lambda fields, load: file.write_function(fields, load)

    def _xdmf(self, comm: MPI.Comm, folder: Path) -> Write:
        mesh = self._problem.parts.u.function_space.mesh
        file = self._open.enter_context(io.XDMFFile(comm, folder / "fields.xdmf", "w"))
        file.write_mesh(mesh)
        shape = self._problem.parts.u.function_space.value_shape
        degree = mesh.ufl_domain().ufl_coordinate_element().degree
        nodal = fem.Function(fem.functionspace(mesh, ("Lagrange", degree, shape)))
        nodal.name = self._problem.parts.u.name

        def write(fields: list[fem.Function], load: float) -> None:
            nodal.interpolate(fields[0])
            for field in (nodal, *fields[1:]):
                file.write_function(field, load)

        return write

    def _vtx(self, comm: MPI.Comm, folder: Path) -> Write:
        if not hasattr(io, "VTXWriter"):
            raise ContractError('fields = "vtx" needs a DOLFINx with ADIOS2: use "vtu" or "xdmf"')
        kept: dict[str, fem.Function] = {}
        files: dict[str, Any] = {}

        def write(fields: list[fem.Function], load: float) -> None:
            for field in fields:
                if field.name not in files:
                    kept[field.name] = field
                    path = folder / f"{field.name}.bp"
                    files[field.name] = self._open.enter_context(io.VTXWriter(comm, path, [field]))
                kept[field.name].x.array[:] = field.x.array
                files[field.name].write(load)

        return write


class History:
    """history.csv: load factor, time, iterations, values of the probes and resultants of the named boundaries.

    Args:
        problem: whose history.
        path: of the file, which rank 0 writes a line of after every step.
    """

    def __init__(self, problem: Problem, path: Path) -> None:
        parts = problem.parts
        self._parts, self._comm = parts, parts.u.function_space.mesh.comm
        self._duration = parts.file.case.steps.duration
        self._named = [part for part in parts.boundary if part.name is not None]
        self._residual = fem.form(problem.residual) if self._named else None
        self._path = path
        self.rows: list[dict[str, float]] = []

    def add(self, record: StepRecord | None) -> None:
        """Add the row of a step, or of the initial state (collective)."""
        row = {
            "load": 0.0 if record is None else record.load,
            "time": 0.0 if record is None else record.load * self._duration,
            "iterations": 0 if record is None else record.iterations,
            "cutbacks": 0 if record is None else record.cutbacks,
        }
        for probe in self._parts.probes:
            row |= self._columns(probe.name, dict(enumerate(probe.value())))
        for part, sums in self._resultants():
            row |= self._columns(f"{part}_{'inflow' if self._parts.formulation.scalar else 'force'}", sums)
        self.rows.append(row)
        together(self._comm, lambda: self._append(row) if self._comm.rank == 0 else None)

    def _resultants(self) -> list[tuple[str, dict[int, float]]]:
        """Resultant of each named boundary (collective)."""
        if self._residual is None:
            return []
        r = fem.assemble_vector(self._residual)
        r.scatter_reverse(la.InsertMode.add)
        sums = []
        for part in self._named:
            mine = part.resultant(np.asarray(r.array))
            sums.append((str(part.name), {axis: self._comm.allreduce(value) for axis, value in mine.items()}))
        return sums

    def _columns(self, name: str, values: dict[int, float]) -> dict[str, float]:
        if self._parts.formulation.scalar:
            return {name: float(values[0])}
        return {f"{name}_{'xyz'[axis]}": float(value) for axis, value in values.items()}

    def _append(self, row: dict[str, float]) -> None:
        first = len(self.rows) == 1
        with open(self._path, "w" if first else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if first:
                writer.writeheader()
            writer.writerow(row)
