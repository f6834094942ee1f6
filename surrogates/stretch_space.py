"""The space that energy surrogates live in: right stretches U in Mandel form, inside a box.

Components (U11, U22, √2·U12) in 2D and (U11, U22, U33, √2·U23, √2·U13, √2·U12) in 3D; the reference is the identity.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coupling.contract import Array, ClosureSpec, mandel_components
from coupling.errors import ContractError
from coupling.polar import positive_definite
from surrogates.box import Box


def stretch_reference(k: int) -> Array:
    """The identity in Mandel form: (1, 1, 0) for k = 3, (1, 1, 1, 0, 0, 0) for k = 6.

    Raises:
        ContractError: for any other k.
    """
    if k not in (3, 6):
        raise ContractError(f"a stretch has 3 (2D) or 6 (3D) Mandel components, got {k}")
    dim = 2 if k == 3 else 3
    return np.array([1.0] * dim + [0.0] * (k - dim))


def check_stretch_spec(spec: ClosureSpec) -> None:
    """Check that a closure maps stretches U to Biot stresses T = ∂Ŵ/∂U, both in Mandel form.

    Raises:
        ContractError: naming what does not fit.
    """
    reference = stretch_reference(spec.k)
    stretch, stress = (mandel_components(symbol, 2 if spec.k == 3 else 3) for symbol in "UT")
    if spec.gradient != stretch or spec.reference != tuple(reference) or not spec.symmetric:
        raise ContractError(
            f"an energy surrogate needs a closure of the stretch {stretch} with reference {reference} and a symmetric "
            f"tangent, got {spec.gradient} with reference {spec.reference}, symmetric={spec.symmetric}: "
            "sample the inner closure of the stretch frame, not the frame"
        )
    if spec.flux != stress:
        raise ContractError(
            f"an energy surrogate needs a closure that answers the Biot stress {stress}, got {spec.flux}: "
            "sample one whose flux is ∂Ŵ/∂U"
        )


def box_of(spec: ClosureSpec, lower: Sequence[float], upper: Sequence[float]) -> Box:
    """The range of samples of a closure: a :class:`StretchBox` where it takes stretches, else any box."""
    dims = {3: 2, 6: 3}
    if spec.k in dims and spec.gradient == mandel_components("U", dims[spec.k]):
        return StretchBox.of(lower, upper)
    return Box.of(lower, upper)


@dataclass(frozen=True)
class StretchBox(Box):
    """The box lower ≤ U ≤ upper of Mandel components.

    Args:
        lower: k lower bounds.
        upper: k upper bounds.

    Raises:
        ContractError: where the bounds do not enclose the reference stretch with some room.
    """

    def __post_init__(self) -> None:
        reference = stretch_reference(len(self.lower))
        super().__post_init__()
        if not self.contains(reference[None])[0]:
            raise ContractError(
                f"the box {self.lower} to {self.upper} must contain the reference stretch {reference}, "
                "where energy and stress vanish"
            )

    @property
    def scale(self) -> Array:
        """Largest distance of each component from the reference (k,), so that |U − I|/scale ≤ 1 in the box."""
        reference = stretch_reference(self.k)
        return np.asarray(np.maximum(reference - self.lower, self.upper - reference))

    @property
    def positive_definite(self) -> bool:
        """Whether all of the box is positive definite: where its corners are, since such tensors form a convex cone."""
        corners = np.array(list(itertools.product(*zip(self.lower, self.upper, strict=True))))
        return bool(positive_definite(corners).all())
