"""The macroscopic mesh of a case file, and places on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from solver_adapters.case.section import Count, Section

Side = Literal["left", "right", "bottom", "top", "back", "front", "boundary"]


class Rectangle(Section):
    """A rectangle of triangles or quadrilaterals."""

    kind: Literal["rectangle"]
    cells: tuple[Count, Count]
    """divisions along x and y"""
    lower: tuple[float, float] = (0.0, 0.0)
    """corner of the smallest coordinates, in units of length"""
    upper: tuple[float, float] = (1.0, 1.0)
    """corner of the largest coordinates, in units of length"""
    shape: Literal["triangle", "quadrilateral"] = "triangle"
    """of the cells"""


class Box(Section):
    """A box of tetrahedra or hexahedra."""

    kind: Literal["box"]
    cells: tuple[Count, Count, Count]
    """divisions along x, y and z"""
    lower: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """corner of the smallest coordinates, in units of length"""
    upper: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """corner of the largest coordinates, in units of length"""
    shape: Literal["tetrahedron", "hexahedron"] = "tetrahedron"
    """of the cells"""


class Cook(Section):
    """Cook's membrane: the tapered panel (0, 0), (48, 44), (48, 60), (0, 44), of triangles."""

    kind: Literal["cook"]
    cells: tuple[Count, Count] = (6, 3)
    """divisions along and across the panel"""


class MeshFile(Section):
    """A mesh file, with tags of its facets."""

    kind: Literal["file"]
    path: Path
    """any format meshio reads (gmsh, XDMF, VTU, Abaqus, …), relative to the case file"""
    tag_name: str | None = None
    """cell data that tags the facets; default: gmsh:physical, else the only integer cell data of the facets"""


Mesh = Annotated[Rectangle | Box | Cook | MeshFile, Field(discriminator="kind")]


def _number_or_range(value: Any) -> str:
    return "range" if isinstance(value, list | tuple) else "number"


Range = Annotated[
    Annotated[float, Tag("number")] | Annotated[tuple[float, float], Tag("range")], Discriminator(_number_or_range)
]


class Place(Section):
    """Points by coordinates: { x = 48.0 } is a plane, { x = 48.0, y = [44.0, 52.0] } a part of it."""

    x: Range | None = None
    """a coordinate, or the two ends of a range"""
    y: Range | None = None
    """a coordinate, or the two ends of a range"""
    z: Range | None = None
    """a coordinate, or the two ends of a range"""

    @model_validator(mode="after")
    def _some(self) -> Place:
        if self.x is None and self.y is None and self.z is None:
            raise ValueError("needs a coordinate, such as { x = 0.0 }")
        return self


def _side_or_place(value: Any) -> str:
    return "place" if isinstance(value, dict | Place) else "side"


Where = Annotated[Annotated[Side, Tag("side")] | Annotated[Place, Tag("place")], Discriminator(_side_or_place)]


class Selection(Section):
    """A part of the boundary, by place or by tag."""

    where: Where | None = None
    """a side of the mesh's bounding box (left and right are the ends of x, bottom and top of y, back and front of z),
    "boundary" for all of it, or coordinates"""
    tag: int | str | None = None
    """facet tag of the mesh file, or the name of its physical group"""

    @model_validator(mode="after")
    def _one(self) -> Selection:
        if (self.where is None) == (self.tag is None):
            raise ValueError("needs either 'where' or 'tag'" + ("" if self.tag is None else ", not both"))
        return self
