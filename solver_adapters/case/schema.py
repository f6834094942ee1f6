"""What a case file may say: its sections, their keys, types, ranges and defaults.

Lengths and stresses have the units of the mesh and of the moduli; load factors run from 0 to 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from solver_adapters.case.mesh_sections import Mesh, Selection
from solver_adapters.case.rve_sections import Kinematics, Rve
from solver_adapters.case.section import Count, Positive, Section, Value

Name = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]


class Macro(Section):
    """The macroscopic problem."""

    kinematics: Kinematics = "finite-strain"
    """what is solved for: displacements at finite or small strain, or a temperature or concentration, whose
    conductivity may depend on itself (field-conduction)"""
    degree: Annotated[int, Field(ge=1, le=4)] = 2
    """polynomial degree of the unknown"""
    quadrature_degree: Annotated[int, Field(ge=0, le=12)] = 2
    """degree of the quadrature, whose points are where the closure is evaluated"""
    initial: float = 0.0
    """value of a scalar unknown at load factor 0, everywhere"""
    body: Value | None = None
    """load per unit volume at load factor 1; of a scalar: source"""


class Boundary(Selection):
    """Prescribed values: value of the unknown at load factor 1, from its initial value at load factor 0."""

    value: Value
    """a number, or components, of which those that are left out stay free"""
    name: Name | None = None
    """keeps the resultant force (inflow) of this part in history.csv"""


class Load(Selection):
    """Dead load per unit reference area on a part of the boundary, at load factor 1; of a scalar: inflow."""

    value: Value
    """a number, or components, of which those that are left out are zero"""


class Fit(Section):
    """A polynomial fitted before the run, to a data set or to samples drawn for it."""

    degree: Annotated[int, Field(ge=2, le=12)] = 8
    """of the energy at finite strain, of the flux for other kinematics"""
    data: Path | None = None
    """a data set of twoscale sample, relative to the case file; without one, the RVE is sampled in the box"""
    lower: tuple[float, ...] | None = None
    """lower bounds of what is sampled: stretches U11, U22, √2U12 (3D: U11, U22, U33, √2U23, √2U13, √2U12), strains in
    the same order, g1, g2, or θ, g1, g2"""
    upper: tuple[float, ...] | None = None
    """upper bounds"""
    samples: Count = 400
    """number of samples"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of the design"""

    @model_validator(mode="after")
    def _one_source(self) -> Fit:
        box = self.lower is not None and self.upper is not None
        if (self.data is None) != box or (self.lower is None) != (self.upper is None):
            raise ValueError("needs either 'data' or both 'lower' and 'upper'")
        return self


class Closure(Section):
    """What answers at the quadrature points."""

    mode: Literal["off", "replace", "exact", "alone"] = "off"
    """off: the RVE; replace: the surrogate, and the RVE where the gate rejects it; exact: the answer of the RVE, found
    with the surrogate; alone: the surrogate without any RVE behind it"""
    fine: str | None = None
    """module:object, a closure of your own in place of [rve]"""
    model: str | None = None
    """the surrogate: a model folder of twoscale train, relative to the case file, or module:object"""
    fit: Fit | None = None
    """the surrogate: a polynomial fitted before the run"""
    tolerance: Positive | None = None
    """the gate: largest accepted uncertainty of the flux, in its unit; default: wherever the surrogate was trained"""

    @model_validator(mode="after")
    def _one_surrogate(self) -> Closure:
        surrogates = [name for name in ("model", "fit") if getattr(self, name) is not None]
        if self.mode != "off" and len(surrogates) != 1:
            raise ValueError(f"mode = \"{self.mode}\" needs a surrogate: either 'model' or 'fit'")
        if self.mode == "alone" and self.tolerance is not None:
            raise ValueError("'tolerance' is for mode = \"replace\": alone, nothing else could answer")
        return self


class Steps(Section):
    """How the load goes from 0 to its full value."""

    count: Count = 8
    """number of full steps; one that does not converge is halved"""
    predictor: Literal["previous", "linear", "quadratic"] = "linear"
    """initial guess from the last steps"""
    min_step: Positive | None = None
    """smallest step of the load factor; default: 1/64 of a full step"""
    duration: Positive = 1.0
    """time that the whole load takes, for closures with history"""


class Probe(Section):
    """The unknown at a point after every step."""

    name: Name
    """of its columns in history.csv"""
    point: Annotated[tuple[float, ...], Field(min_length=2, max_length=3)]
    """coordinates"""


class Output(Section):
    """What is kept."""

    folder: Path | None = None
    """for all results, relative to the case file; default: its name with -results"""
    fields: Literal["vtu", "vtx", "xdmf", "none"] = "vtu"
    """format of the fields for Paraview after every step"""
    report: bool = True
    """whether to write report.html"""
    probes: tuple[Probe, ...] = ()
    """values kept in history.csv"""


class Case(Section):
    """A whole two-scale case."""

    mesh: Mesh
    """the macroscopic mesh"""
    macro: Macro = Macro()
    """the macroscopic problem"""
    rve: Rve | None = None
    """the fine scale"""
    closure: Closure = Closure()
    """what answers at the quadrature points"""
    boundary: tuple[Boundary, ...]
    """prescribed displacements or temperatures, one [[boundary]] for each"""
    load: Annotated[tuple[Load, ...], Field(max_length=31)] = ()
    """surface loads, one [[load]] for each"""
    steps: Steps = Steps()
    """load steps"""
    petsc: dict[str, str | int | float | bool] = {}
    """options of the macroscopic SNES, without prefix; more in the environment: PETSC_OPTIONS="-macro_snes_monitor" """
    output: Output = Output()
    """what is kept"""
