"""From the sections of a case file to its fine scale, its surrogate, and the closure of both."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mpi4py import MPI

import numpy as np

from coupling.accelerated import AcceleratedClosure
from coupling.agreement import together
from coupling.contract import Closure
from coupling.errors import ClosureError, ContractError, MeshError
from coupling.gate import RangeGate, ToleranceGate
from coupling.serving.loading import load, named
from coupling.stretch import StretchFrame
from solver_adapters.case.reading import CaseFile
from solver_adapters.case.rve_sections import (
    CellFile,
    Conduction,
    GeneralisedMaxwell,
    Hyperelastic,
    Image,
    Isotropic,
    Laminate,
    Material,
    RandomInclusions,
    Rve,
    Simple,
    TransverselyIsotropic,
    VonMises,
)
from solver_adapters.case.schema import Fit
from solver_adapters.fenicsx_rve import PeriodicRVE
from solver_adapters.rve import energies, histories, meshes
from solver_adapters.rve.laws import KINEMATICS, polynomial_conduction
from solver_adapters.rve.unit_cells import UnitCell, read_unit_cell
from solver_adapters.rve.voxels import read_image, voxel_cell

_SIMPLE = {"fibre": meshes.centred_fibre, "void": meshes.centred_void, "sphere": meshes.sphere}


def unit_cell(file: CaseFile, section: Any) -> UnitCell:
    """The unit cell of [rve.cell].

    Raises:
        MeshError: it cannot be made, read, or used.
    """
    match section:
        case Simple() as s:
            return _SIMPLE[s.kind](fraction=s.fraction, size=s.size, order=s.order)
        case Laminate() as s:
            return meshes.laminate(fraction=s.fraction, size=s.size, dim=s.dim)
        case RandomInclusions() as s:
            return meshes.random_inclusions(**s.model_dump(exclude={"kind"}))
        case CellFile() as s:
            return read_unit_cell(_file(file, s.path), tag_name=s.tag_name, open_faces=s.open_faces)
        case Image() as s:
            image = read_image(_file(file, s.path))
            return voxel_cell(image, spacing=s.spacing, simplices=s.simplices, void=s.void)
    raise AssertionError(section)


def energy(material: Material, dim: int) -> histories.Material:
    """The energy density of a material, or the material with history.

    Raises:
        ContractError: moduli without a positive definite stiffness.
    """
    match material:
        case Hyperelastic(law="neo-hookean") as m:
            return energies.NeoHookean(*m.moduli)
        case Hyperelastic() as m:
            return energies.SaintVenantKirchhoff(*m.moduli)
        case Isotropic() as m:
            return energies.isotropic(*m.moduli, dim)
        case TransverselyIsotropic() as m:
            return energies.transversely_isotropic(**m.model_dump(exclude={"law"}), dim=dim)
        case VonMises() as m:
            return histories.VonMisesPlasticity(*m.moduli, m.yield_stress, m.hardening)
        case GeneralisedMaxwell() as m:
            return histories.GeneralisedMaxwell(*m.moduli, tuple((*b.moduli, b.relaxation_time) for b in m.branches))
        case Conduction() as m:
            return energies.Conduction(m.conductivity)
        case m:
            return polynomial_conduction(m.conductivity)


class FineScale:
    """The fine scale of a case: makes RVEs of one unit cell. Mistakes become complaints of the file.

    Args:
        file: the case file.
        section: [rve].
        dim: of the macroscopic mesh.
    """

    def __init__(self, file: CaseFile, section: Rve, dim: int) -> None:
        self._file, self._section = file, section
        self._cell: UnitCell | None = None
        self._materials: dict[int, histories.Material] = {}
        with file.at("rve", "cell", *(["path"] if isinstance(section.cell, CellFile | Image) else [])):
            cell = unit_cell(file, section.cell)
            if cell.mesh.geometry.dim != dim:
                raise MeshError(f"is {cell.mesh.geometry.dim}D, but the macroscopic mesh is {dim}D")
            self._cell = cell
            self._check_tags(set(np.unique(cell.tags.values).tolist()))
        for tag, material in section.materials.items():
            with file.at("rve", "materials", str(tag)):
                self._materials[tag] = energy(material, dim)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with cell and materials."""
        return self._cell is not None and set(self._materials) == set(np.unique(self._cell.tags.values).tolist())

    def rve(self, *, for_training: bool = False, like: Any = None) -> PeriodicRVE:
        """An RVE; for training converged and with its energy.

        Args:
            for_training: whether it is to be sampled.
            like: surrogate or data set that gives the reference value of a field that the conductivity depends on,
                which both sides have to share; by default it is the initial value.

        Raises:
            MeshError: the cell does not fit the boundary condition, or has no equilibrium.
        """
        assert self._cell is not None
        macro = self._file.case.macro
        training = {"tolerance": 1e-12, "energy": macro.kinematics == "finite-strain"}
        options = self._section.options() | (training if for_training else {})
        depends = like is not None and macro.kinematics == "field-conduction"
        reference = float(like.spec.reference[0]) if depends else macro.initial
        kinematics = KINEMATICS[macro.kinematics](reference)
        try:
            return PeriodicRVE(self._cell, self._materials, kinematics, **options)
        except ClosureError as error:
            raise MeshError(str(error)) from error

    def _check_tags(self, present: set[int]) -> None:
        given = set(self._section.materials)
        with self._file.at("rve", "materials"):
            if missing := sorted(present - given):
                raise ContractError(f"cells of the RVE have the tag {missing[0]}: add [rve.materials.{missing[0]}]")
        for tag in sorted(given - present):
            with self._file.at("rve", "materials", str(tag)):
                occurring = ", ".join(map(str, sorted(present)))
                raise ContractError(f"no cell of the RVE has the tag {tag}, only {occurring}: leave the material out")


def own_closure(file: CaseFile, source: str) -> Closure:
    """The closure of ``module:object``, where modules beside the case file are found too, or of a model folder.

    Raises:
        ModelError: it cannot be loaded.
    """
    folder = file.beside(source)
    if folder.is_dir() or ":" not in source:
        return load(str(folder.resolve()), "cpu")
    if (beside := str(file.path.parent.resolve())) not in sys.path:
        sys.path.insert(0, beside)
    return load(source, "cpu")


def framed(closure: Closure) -> Closure:
    """The closure F → P of one of stretches; any other as it is."""
    return StretchFrame(closure) if closure.spec.gradient[0] == "U11" else closure


def fitted(comm: MPI.Comm, fine: FineScale | None, fit: Fit, data: Any, folder: Path) -> Closure:
    """The polynomial of [closure.fit], from the data set or from samples of the RVE (collective).

    An energy at finite strain, a flux for other kinematics.

    Finished samples are kept in the folder while sampling goes on, and the data set when it is done.

    Raises:
        ContractError: an impossible box, or a degree that the data do not determine.
        ClosureError: no sample is usable.
    """
    if data is None:
        assert fine is not None and fit.lower is not None and fit.upper is not None
        rve = fine.rve(for_training=True)
        design = named("surrogates.sampling:design_for")(rve.spec, fit.lower, fit.upper, fit.samples, seed=fit.seed)
        keep = folder / "samples.partial"
        data = named("surrogates.sampling:sample")(rve, design, comm=comm, provenance=rve.description, keep=keep)
        together(comm, lambda: _keep(data, folder, keep) if comm.rank == 0 else None)
    of_energy = data.energy is not None
    kind = "surrogates.training:fit_polynomial" if of_energy else "surrogates.polynomial_flux:fit_polynomial_flux"
    surrogate: Closure = named(kind)(data, degree=fit.degree)
    return surrogate


def _keep(data: Any, folder: Path, partial: Path) -> None:
    data.save(folder / "samples.safetensors")
    named("surrogates.partial_samples:PartialSamples")(partial, {}).delete()


def coupled(file: CaseFile, fine: Closure | None, surrogate: Closure | None) -> Closure:
    """The closure of a case.

    Raises:
        ContractError: fine scale and surrogate do not fit.
    """
    section = file.case.closure
    if section.mode == "alone":
        assert surrogate is not None
        return surrogate
    assert fine is not None
    if section.mode == "off":
        return fine
    assert surrogate is not None
    gate = RangeGate() if section.tolerance is None else ToleranceGate(section.tolerance)
    if isinstance(fine, StretchFrame) and isinstance(surrogate, StretchFrame):
        return StretchFrame(AcceleratedClosure(fine.inner, surrogate.inner, gate=gate, mode=section.mode))
    return AcceleratedClosure(fine, surrogate, gate=gate, mode=section.mode)


def _file(file: CaseFile, path: Path) -> Path:
    found = file.beside(path)
    if not found.is_file():
        raise MeshError(f"there is no file {found}")
    return found
