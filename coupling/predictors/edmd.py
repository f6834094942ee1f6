"""Extended dynamic mode decomposition."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from coupling.contract import Array, Status
from coupling.guess import Guess
from coupling.predictors.dmd import equal_steps, import_pydmd, numerical_rank, steps_ahead
from coupling.predictors.snapshots import Snapshots


class EDMDPredictor:
    """ψ(z_{k+1}) = K ψ(z_k): the coordinates z of the last states evolve linearly in monomials ψ of them.

    The monomials up to a degree enter through the polynomial kernel (1 + z·z')^degree; the fit is
    :class:`pydmd.EDMD`'s, in the coordinates of the dominant modes, scaled to the unit ball. M. O. Williams, C. W.
    Rowley, I. G. Kevrekidis, J. Comput. Dyn. 2 (2015) 247–265. It needs more states than :class:`DMDPredictor`: about
    as many as there are monomials.

    The steps x_{k+1} − x_k must be equal; only the last states with equal steps are used. Over s steps an eigenvalue λ
    becomes λ^s.

    Args:
        degree: of the monomials.
        rank: number of modes.
        window: number of last states to learn from.
        comm: communicator over which the unknowns are spread, None for one process.

    Raises:
        MissingPackageError: PyDMD is not installed.
    """

    def __init__(self, *, degree: int = 2, rank: int | None = 4, window: int = 24, comm: Any = None) -> None:
        self._pydmd = import_pydmd()
        self.degree, self.rank = degree, rank
        self._snapshots = Snapshots(window, comm)

    def predict(self, known: Array) -> Guess:
        """The state at x = ``known`` (1, 1); none before four states with equal steps are known (collective)."""
        x = self._snapshots.parameters
        usable = equal_steps(x)
        if usable < 4:
            return Guess.none(1, 0)
        coordinates = self._snapshots.coordinates(self.rank, usable)
        scale = float(np.linalg.norm(coordinates.z, axis=1).max())
        if scale == 0.0:
            return Guess.none(1, 0)
        z = coordinates.z.T / scale
        resolved = numerical_rank((1.0 + z[:, :-1].T @ z[:, :-1]) ** self.degree)
        kernel = {"degree": self.degree, "coef0": 1.0, "gamma": 1.0}
        fit = self._pydmd.EDMD(svd_rank=resolved, kernel_metric="poly", kernel_params=kernel)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that states are nearly dependent: hence the rank
            fit.fit(z[:, :-1], z[:, 1:])
        observables = fit.eigenfunctions(z[:, -1]).ravel()
        ahead = (fit.modes @ (fit.eigs.astype(complex) ** steps_ahead(x, known) * observables)).real
        return Guess(self._snapshots.state(coordinates, scale * ahead)[None], np.array([Status.OK], dtype=np.int8))

    def observe(self, known: Array, found: Array) -> None:
        """Learn that the state at x = ``known`` (1, 1) is ``found`` (1, N)."""
        self._snapshots.add(known[0], found[0])
