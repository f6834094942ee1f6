"""What the sections of a case file have in common."""

from __future__ import annotations

from typing import Annotated, Any

from coupling.errors import MissingPackageError

try:
    from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
except ImportError as error:
    raise MissingPackageError(f"case files need pydantic ({error}): pip install twoscale[case]") from error

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of a case file: no unknown keys, no numbers that are not finite, descriptions from the docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Components(Section):
    """Components of a vector; what a missing one means is said where it is used."""

    x: float | None = None
    y: float | None = None
    z: float | None = None

    def given(self) -> dict[int, float]:
        """The components that are there, by axis."""
        return {axis: value for axis, value in enumerate((self.x, self.y, self.z)) if value is not None}


def _number_or_table(value: Any) -> str:
    return "components" if isinstance(value, dict | Components) else "number"


Value = Annotated[
    Annotated[float, Tag("number")] | Annotated[Components, Tag("components")], Discriminator(_number_or_table)
]
"""A number where the unknown is a scalar, components such as { x = 1.0, y = 0.0 } where it is a vector."""
