"""The fine scale of a case file: a unit cell and its materials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from solver_adapters.case.section import Count, Positive, Section

Kinematics = Literal["finite-strain", "small-strain", "conduction", "field-conduction"]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Generated(Section):
    """What all generated cells have."""

    fraction: Fraction = 0.2
    """area or volume fraction of the second phase (tag 2; a void has none)"""
    size: Annotated[float, Field(gt=0, le=1)] = 0.1
    """largest edge of the mesh; the cell's own edge is 1"""


class Simple(Generated):
    """Unit square with a fibre or a void, unit cube with a sphere."""

    kind: Literal["fibre", "void", "sphere"]
    order: Literal[1, 2] = 1
    """1 for straight, 2 for curved cells"""


class Laminate(Generated):
    """Two layers with normal x."""

    kind: Literal["laminate"]
    fraction: Fraction = 0.5
    """of the second layer (tag 2)"""
    dim: Literal[2, 3] = 2
    """of the cell"""


class RandomInclusions(Section):
    """Equal disks or spheres at random places, periodic across the faces."""

    kind: Literal["random"]
    fraction: Fraction = 0.3
    """area or volume fraction of the inclusions (tag 2)"""
    size: Annotated[float, Field(gt=0, le=1)] | None = None
    """largest edge of the mesh, the cell's own edge being 1; default: 0.05 in 2D, 0.15 in 3D"""
    count: Count = 8
    """number of inclusions"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of their places"""
    gap: Annotated[float, Field(ge=0)] = 0.1
    """least distance of inclusions, relative to their radius"""
    dim: Literal[2, 3] = 2
    """2 for disks, 3 for spheres"""
    order: Literal[1, 2] = 1
    """1 for straight, 2 for curved cells"""


class CellFile(Section):
    """A meshed unit cell."""

    kind: Literal["file"]
    path: Path
    """any format meshio reads, relative to the case file"""
    tag_name: str | None = None
    """cell data that tells the materials; default: gmsh:physical, else the only integer cell data"""
    open_faces: bool = False
    """whether voids cut the faces"""


class Image(Section):
    """A unit cell of pixels or voxels."""

    kind: Literal["image"]
    path: Path
    """NumPy array (.npy), picture or stack (.tif, .png, .bmp) or grid of cells, relative to the case file; its values
    are the material tags"""
    spacing: tuple[Positive, ...] | None = None
    """edges of a voxel; default: equal, and 1 for the longest edge of the cell"""
    simplices: bool = False
    """whether to cut squares into triangles and cubes into tetrahedra"""
    void: Annotated[int, Field(ge=0)] | None = None
    """tag of the voxels to leave out"""


Cell = Annotated[Simple | Laminate | RandomInclusions | CellFile | Image, Field(discriminator="kind")]


class Lame(Section):
    """Isotropic elastic moduli: mu and lambda, or young and poisson."""

    mu: Positive | None = None
    """shear modulus, in units of stress"""
    lambda_: Annotated[float | None, Field(alias="lambda")] = None
    """first Lamé constant, in units of stress"""
    young: Positive | None = None
    """Young's modulus, in units of stress"""
    poisson: Annotated[float, Field(gt=-1, lt=0.5)] | None = None
    """Poisson's ratio"""

    @model_validator(mode="after")
    def _one_pair(self) -> Lame:
        given = [n for n in ("mu", "lambda_", "young", "poisson") if getattr(self, n) is not None]
        if given not in (["mu", "lambda_"], ["young", "poisson"]):
            raise ValueError("needs either 'mu' and 'lambda' or 'young' and 'poisson'")
        if self.mu is not None and self.lambda_ is not None and 3 * self.lambda_ + 2 * self.mu <= 0:
            raise ValueError(f"bulk modulus lambda + 2/3 mu must be above 0, got {self.lambda_ + 2 / 3 * self.mu:g}")
        return self

    @property
    def moduli(self) -> tuple[float, float]:
        """μ and λ."""
        if self.mu is not None and self.lambda_ is not None:
            return self.mu, self.lambda_
        assert self.young is not None and self.poisson is not None
        mu = self.young / (2 * (1 + self.poisson))
        return mu, 2 * mu * self.poisson / (1 - 2 * self.poisson)


class Hyperelastic(Lame):
    """Finite strain."""

    law: Literal["neo-hookean", "saint-venant-kirchhoff"]
    """kind of solid"""


class Isotropic(Lame):
    """Small strain, isotropic."""

    law: Literal["isotropic"]


class VonMises(Lame):
    """Small strain, plasticity with linear isotropic hardening."""

    law: Literal["von-mises"]
    yield_stress: Positive
    """in uniaxial tension, in units of stress"""
    hardening: Annotated[float, Field(ge=0)] = 0.0
    """its growth with the equivalent plastic strain, in units of stress"""


class Branch(Lame):
    """A spring and a dashpot in a row."""

    relaxation_time: Positive
    """in the unit of steps.duration"""


class GeneralisedMaxwell(Lame):
    """Small strain, viscoelasticity: a spring beside branches that relax."""

    law: Literal["generalised-maxwell"]
    branches: Annotated[tuple[Branch, ...], Field(min_length=1)]
    """[[rve.materials.1.branches]] for each of them"""


class TransverselyIsotropic(Section):
    """Small strain, transversely isotropic: a fibre or a ply."""

    law: Literal["transversely-isotropic"]
    axial_modulus: Positive
    """Young's modulus along the axis"""
    transverse_modulus: Positive
    """Young's modulus across it"""
    axial_poisson: float
    """contraction across the axis under tension along it"""
    transverse_poisson: float
    """contraction across the axis under tension across it"""
    axial_shear: Positive
    """shear modulus in planes that contain the axis"""
    axis: tuple[float, float, float]
    """its direction"""


class Conduction(Section):
    """Fourier's or Fick's law."""

    law: Literal["conduction"]
    conductivity: Positive
    """flux per gradient"""


class FieldConduction(Section):
    """Conduction with a conductivity that depends on the field."""

    law: Literal["field-conduction"]
    conductivity: Annotated[tuple[float, ...], Field(min_length=1)]
    """coefficients c0, c1, … of the polynomial c0 + c1 θ + c2 θ² + …, in units of flux per gradient"""


Material = Annotated[
    Hyperelastic | Isotropic | TransverselyIsotropic | VonMises | GeneralisedMaxwell | Conduction | FieldConduction,
    Field(discriminator="law"),
]


class Rve(Section):
    """The representative volume element that is solved at every quadrature point."""

    cell: Cell
    """its mesh"""
    materials: dict[int, Material]
    """one for each cell tag: [rve.materials.1]"""
    degree: Annotated[int, Field(ge=1, le=4)] = 2
    """polynomial degree of the fluctuation"""
    boundary: Literal["periodic", "linear", "uniform"] = "periodic"
    """condition on its faces: periodic, linear displacement (temperature), uniform traction (flux)"""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """permitted error of the flux relative to the stiffness; falls with the macro residual"""
    unit: str = "1"
    """of the moduli, and so of the flux"""

    def options(self) -> dict[str, Any]:
        """What an RVE takes besides cell, materials and kinematics."""
        return {
            "degree": self.degree,
            "boundary": self.boundary,
            "tolerance": self.tolerance,
            "flux_unit": self.unit,
        }
