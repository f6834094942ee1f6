"""Statistics over random RVEs: mean, spread and confidence of effective properties, and how they change with size.

A finite RVE of a random medium has random properties. Their mean over n realisations is known to

    mean ± t s/√n,   s² = Σ (yᵢ − mean)²/(n − 1),   t of Student's distribution with n − 1 degrees of freedom

and tends to that of the infinite medium as the RVE grows; at a given cost, many small RVEs or few large ones can be
solved (Kanit et al. 2003, Int. J. Solids Struct. 40, 3647–3679). The interval holds for each component by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from coupling.agreement import together
from coupling.contract import Array
from coupling.errors import ContractError

Size = TypeVar("Size")


@dataclass(frozen=True)
class Ensemble:
    """Properties of n realisations.

    Args:
        values: (n, …), one property or array of properties for each realisation.
        confidence: probability with which the interval covers the mean of all realisations.
    """

    values: Array
    confidence: float = 0.95

    @property
    def mean(self) -> Array:
        """Mean of the realisations."""
        return np.asarray(self.values.mean(axis=0))

    @property
    def spread(self) -> Array:
        """Standard deviation s of one realisation."""
        return np.asarray(self.values.std(axis=0, ddof=1))

    @property
    def half_width(self) -> Array:
        """Half the width of the confidence interval of the mean, t s/√n."""
        return np.asarray(self._t(len(self.values)) * self.spread / np.sqrt(len(self.values)))

    @property
    def interval(self) -> tuple[Array, Array]:
        """Lower and upper end of the confidence interval of the mean."""
        return self.mean - self.half_width, self.mean + self.half_width

    def realisations_for(self, relative_error: float) -> Array:
        """Realisations that a half width of ``relative_error`` times the mean takes, at least, at this spread."""
        t = self._t(len(self.values))
        return np.asarray(np.maximum(2, np.ceil((t * self.spread / (relative_error * self.mean)) ** 2)))

    def _t(self, n: int) -> float:
        return float(stats.t.ppf((1 + self.confidence) / 2, n - 1))


def ensemble(
    properties: Callable[[int], ArrayLike], seeds: Sequence[int], *, comm: Any, confidence: float = 0.95
) -> Ensemble:
    """Evaluate the realisations of all seeds, shared out over the ranks of ``comm`` (collective).

    The result is the same on all ranks and on any number of them.

    Args:
        properties: effective properties, a number or an array, of the RVE with the given seed, such as
            ``lambda seed: PeriodicRVE(random_inclusions(seed=seed), materials).reference.tangent``.
        seeds: of the realisations, two or more.
        comm: any mpi4py communicator.
        confidence: between 0 and 1.

    Raises:
        ContractError: fewer than two seeds, or an impossible confidence.
        Exception: what ``properties`` raised, on its rank; RemoteRankError on the others.
    """
    if len(seeds) < 2 or not 0 < confidence < 1:
        raise ContractError(
            f"statistics need two seeds or more and a confidence between 0 and 1, got {len(seeds)} and {confidence}"
        )
    mine = together(comm, lambda: [np.asarray(properties(seed), dtype=float) for seed in seeds[comm.rank :: comm.size]])
    shares = comm.allgather(mine)
    return Ensemble(np.array([shares[i % comm.size][i // comm.size] for i in range(len(seeds))]), confidence)


def size_study(
    properties: Callable[[Size, int], ArrayLike],
    sizes: Sequence[Size],
    seeds: Sequence[int],
    *,
    comm: Any,
    confidence: float = 0.95,
) -> dict[Size, Ensemble]:
    """An ensemble for each size of the RVE (collective).

    Args:
        properties: effective properties of the RVE of the given size and seed; a size is whatever tells RVEs apart,
            such as the number of inclusions at a fixed fraction.
        sizes: the sizes.
        seeds: of the realisations of each size.
        comm: any mpi4py communicator.
        confidence: between 0 and 1.

    Raises:
        ContractError: as :func:`ensemble`.
    """
    return {
        size: ensemble(lambda seed, size=size: properties(size, seed), seeds, comm=comm, confidence=confidence)  # type: ignore[misc]
        for size in sizes
    }
