"""What a run keeps after every step: fields for Paraview, and a row of numbers.

A disk that is full or gone on one rank ends the run on all of them, with :class:`OutputError`. The libraries that write
fields do not help in that: those of one file for all ranks wait for each other in the middle, so that there has to be
room on every rank before they begin, and the one of VTK does not tell. (With "vtx" the process is aborted at its end,
after all has been told: the files of ADIOS2 cannot be destroyed unless they can be closed.)
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any, TypeAlias

from mpi4py import MPI

import numpy as np
from dolfinx import fem, io, la

from coupling.agreement import together
from coupling.contract import Status
from coupling.errors import ContractError, TwoscaleError
from solver_adapters.case.building import Problem
from solver_adapters.macro.load_stepping import StepRecord

Write: TypeAlias = Callable[[list[fem.Function], float], None]

_BYTES_PER_NUMBER = 32  # as text


class OutputError(TwoscaleError, OSError):
    """Results cannot be written."""


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Within this context, what the operating system or a library of files raises is an :class:`OutputError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise OutputError(f"results cannot be written to {folder}: {error}") from error


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
        self._problem, self._folder, self._open = problem, folder, ExitStack()
        mesh = problem.parts.u.function_space.mesh
        self._comm, self._nodes = mesh.comm, mesh.geometry.x.size
        formats = {"vtu": self._vtu, "vtx": self._vtx, "xdmf": self._xdmf}
        self._write = None if format == "none" else formats[format](self._comm, folder)

    def write(self, load: float) -> None:
        """Write the present fields under a load factor (collective).

        Raises:
            OutputError: on the rank that cannot write; RemoteRankError on the others.
        """
        if self._write is None:
            return
        problem = self._problem
        flux = problem.flux.cell_average(problem.parts.formulation.tensor(problem.flux), problem.flux.name)
        fields = [problem.parts.u, flux]
        if problem.parts.file.case.closure.mode == "replace":
            fields.append(self._fallback())
        self._check_room(_BYTES_PER_NUMBER * (self._nodes + sum(field.x.array.size for field in fields)))
        self._together(partial(self._write, fields, load))

    def close(self) -> None:
        """Close the files (collective); raises as :meth:`write`."""
        self._together(self._open.close)

    def _together(self, local: Callable[[], object]) -> None:
        def told() -> None:
            with written_to(self._folder):
                local()

        together(self._comm, told)

    def _check_room(self, size: int) -> None:
        """Reserve so many bytes on all ranks at a time, which may share a disk, and give them back."""
        with ExitStack() as reserved:
            self._together(lambda: _reserve(reserved.enter_context(tempfile.TemporaryFile(dir=self._folder)), size))

    def _fallback(self) -> fem.Function:
        flux = self._problem.flux
        share = fem.Function(fem.functionspace(flux.points.mesh, ("DG", 0)), name="fallback")
        served = (flux.response.status == Status.FALLBACK).reshape(len(flux.points.cells), -1)
        share.x.array[share.function_space.dofmap.list[flux.points.cells, 0]] = served.mean(axis=1)
        share.x.scatter_forward()
        return share

    def _vtu(self, comm: MPI.Comm, folder: Path) -> Write:
        self._open.callback(lambda: _check_complete(folder / "fields.pvd") if comm.rank == 0 else None)
        file = self._open.enter_context(io.VTKFile(comm, folder / "fields.pvd", "w"))
        steps = count()

        def write(fields: list[fem.Function], load: float) -> None:
            file.write_function(fields, load)
            step = next(steps)
            _check_complete(folder / f"fields_p{comm.rank}_{step:06}.vtu")
            if comm.rank == 0:
                _check_complete(folder / f"fields{step:06}.pvtu")

        return write

    def _xdmf(self, comm: MPI.Comm, folder: Path) -> Write:
        mesh, path = self._problem.parts.u.function_space.mesh, folder / "fields.xdmf"
        with io.XDMFFile(comm, path, "w") as file:
            file.write_mesh(mesh)
        shape = self._problem.parts.u.function_space.value_shape
        degree = mesh.ufl_domain().ufl_coordinate_element().degree
        nodal = fem.Function(fem.functionspace(mesh, ("Lagrange", degree, shape)))
        nodal.name = self._problem.parts.u.name

        def write(fields: list[fem.Function], load: float) -> None:
            nodal.interpolate(fields[0])
            with io.XDMFFile(comm, path, "a") as file:  # so that there is nothing left to write when the disk is full
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
        with (
            written_to(self._path.parent),
            open(self._path, "w" if first else "a", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, list(row))
            if first:
                writer.writeheader()
            writer.writerow(row)


def _reserve(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, max(size, 1))  # a rank may have no cells, and 0 is an error
    else:
        file.write(bytes(size))
        file.flush()


def _check_complete(path: Path) -> None:
    """Check that a file of VTK ends as such files do."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 32))
        if not file.read().rstrip().endswith(b"</VTKFile>"):
            raise OSError(f"{path.name} is cut off")
