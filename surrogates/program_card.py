"""What is known about a model that is only a function: specification, results, range, error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, ClosureSpec
from coupling.errors import ContractError, ModelError
from surrogates.dataset import spec_from_json

RESULTS = ("flux", "tangent", "energy")


@dataclass(frozen=True)
class ProgramCard:
    """What has to be known to use a function of gradients as a surrogate.

    Args:
        spec: inputs and outputs, their order and units; without state.
        results: names of what the function gives, in order: "energy" (n,), "flux" (n, m) or both, with or without
            "tangent" (n, m, k), or (n, k(k+1)/2), the upper triangle row by row, where the specification is symmetric.
        lower: k lower bounds of the range it was made for, None where it may be used everywhere.
        upper: k upper bounds.
        flux_error: what it states as its uncertainty within the range, in the flux's unit, None for nothing.
        provenance: where it comes from, for JSON.

    Raises:
        ContractError: naming what does not fit.
    """

    spec: ClosureSpec
    results: tuple[str, ...] = ("flux", "tangent")
    lower: tuple[float, ...] | None = None
    upper: tuple[float, ...] | None = None
    flux_error: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.spec.state_size:
            raise ContractError(f"a function has no state, the specification has {self.spec.state_size} numbers of it")
        if len(set(self.results)) < len(self.results) or not set(self.results) <= set(RESULTS):
            raise ContractError(f"results are names out of {RESULTS}, each once, got {self.results}")
        if "flux" not in self.results and self.results != ("energy",):
            raise ContractError(f"results must have the flux, or the energy alone, got {self.results}")
        if "energy" in self.results and not self.spec.symmetric:
            raise ContractError("a function with an energy needs a specification with symmetric=True")
        if self.flux_error is not None and not 0.0 <= self.flux_error < np.inf:
            raise ContractError(f"flux_error must be finite and not negative, got {self.flux_error}")
        self._check_range()

    def _check_range(self) -> None:
        if (self.lower is None) != (self.upper is None):
            raise ContractError("a range has lower and upper bounds: give both or none")
        if self.lower is None or self.upper is None:
            return
        if not len(self.lower) == len(self.upper) == self.spec.k:
            raise ContractError(
                f"the range needs {self.spec.k} lower and upper bounds, one for each of "
                f"{', '.join(self.spec.gradient)}, got {len(self.lower)} and {len(self.upper)}"
            )
        if not all(
            low <= at <= high for low, at, high in zip(self.lower, self.spec.reference, self.upper, strict=True)
        ):
            raise ContractError(
                f"the range {self.lower} to {self.upper} must contain the reference {self.spec.reference}"
            )

    def inside(self, gradient: Array) -> NDArray[np.bool_]:
        """Mask (n,) of the gradients (n, k) that are finite and in the range, bounds included."""
        if self.lower is None or self.upper is None:
            return np.asarray(np.isfinite(gradient).all(axis=1))
        return np.asarray(((gradient >= self.lower) & (gradient <= self.upper)).all(axis=1))

    def as_json(self) -> dict[str, Any]:
        """The card as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ProgramCard:
        """The card of :meth:`as_json` that went through JSON.

        Raises:
            ModelError: where it is no such card.
        """
        try:
            known: dict[str, Any] = {name: values[name] for name in cls.__dataclass_fields__}
            tuples = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
            return cls(**known | tuples | {"spec": spec_from_json(known["spec"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the card does not describe a program ({type(error).__name__}: {error}): it was edited or damaged, "
                "copy the model again"
            ) from error
