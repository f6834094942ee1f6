"""Cold starts of RVEs: Newton's method from rest to stretches far away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coupling.contract import Array, Status
from solver_adapters.fenicsx_rve import PeriodicRVE


def drawn(lower: Sequence[float], upper: Sequence[float], n: int, *, seed: int, inner: float = 0.8) -> Array:
    """N gradients from the inner part of a box."""
    low, width = np.array(lower), np.subtract(upper, lower)
    where = (1.0 - inner) / 2 + inner * np.random.default_rng(seed).random((n, len(low)))
    return np.asarray(low + where * width)


def cold_starts(fine: PeriodicRVE, gradients: Array) -> tuple[NDArray[np.int_], NDArray[np.bool_], Array]:
    """Newton iterations of each gradient (n,), where its path had to be cut (n,), and fluxes (n, m).

    All start from no fluctuation, without what the state of rest knows of the sensitivity: where ``fine`` has no
    predictor, from zero. A path is cut where Newton's method failed from all starts that there were.
    """
    rest = fine.initial_state(1)
    rest[:, fine.spec.k + fine.problem.n :] = 0.0
    iterations, cut, fluxes = [], [], []
    for g in gradients:
        before = fine.ledger.counts.get("rve/substeps", 0)
        answer = fine.evaluate(g[None], rest, 0.0)
        assert answer.status[0] == Status.OK
        iterations.append(int(fine.point_work[0]))
        cut.append(fine.ledger.counts.get("rve/substeps", 0) > before)
        fluxes.append(answer.flux[0])
    return np.array(iterations), np.array(cut), np.array(fluxes)
