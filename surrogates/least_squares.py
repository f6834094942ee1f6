"""Linear least squares for the coefficients of polynomials."""

from __future__ import annotations

import numpy as np

from coupling.contract import Array
from coupling.errors import ContractError


def check_determined(equations: int, coefficients: int, *, degree: int, samples: int) -> None:
    """Check that samples determine the coefficients of a polynomial, before matrices of their size are made.

    Raises:
        ContractError: where there are fewer equations than coefficients.
    """
    if equations < coefficients:
        raise ContractError(
            f"{samples} samples give {equations} equations for the {coefficients} coefficients of degree {degree}: "
            "sample more or lower the degree"
        )


def solve(matrix: Array, targets: Array) -> Array:
    """Coefficients c (N,) or (N, q) that minimise |matrix c − targets|, with matrix (n, N), targets (n,) or (n, q).

    Columns are scaled to unit norm, singular values below 1e-13 of the largest are cut off.
    """
    norms = np.linalg.norm(matrix, axis=0)
    norms[norms == 0.0] = 1.0
    return np.asarray((np.linalg.lstsq(matrix / norms, targets, rcond=1e-13)[0].T / norms).T)
