"""Gates: at which points may a surrogate's response be used?"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, Response, usable
from coupling.errors import ContractError


@runtime_checkable
class Gate(Protocol):
    """Decides point by point; points that it does not accept go to the fine scale."""

    def accepts(self, gradient: Array, response: Response) -> NDArray[np.bool_]:
        """Mask (n,) of the points whose ``response``, the surrogate's at ``gradient`` (n, k), is good enough."""
        ...


class RangeGate:
    """Accepts what the surrogate itself calls usable: every point within the range it was trained for."""

    def accepts(self, gradient: Array, response: Response) -> NDArray[np.bool_]:
        """Where the status is usable."""
        return usable(response.status)


class ToleranceGate:
    """Accepts usable points whose stated uncertainty is at most a tolerance.

    Args:
        flux_tolerance: largest accepted error of the flux, in its unit and Euclidean norm, > 0.
    """

    def __init__(self, flux_tolerance: float) -> None:
        if not flux_tolerance > 0.0:
            raise ContractError(f"flux_tolerance must be positive, got {flux_tolerance}")
        self.flux_tolerance = flux_tolerance

    def accepts(self, gradient: Array, response: Response) -> NDArray[np.bool_]:
        """Where the status is usable and the uncertainty within the tolerance.

        Raises:
            ContractError: where the surrogate states no uncertainty.
        """
        if response.uncertainty is None:
            raise ContractError(
                "ToleranceGate needs a surrogate that states its uncertainty, got a response without: "
                "use RangeGate, or a surrogate that estimates its error"
            )
        return usable(response.status) & (response.uncertainty <= self.flux_tolerance)
