"""A direct factorisation that is done again and again for one sparsity pattern, with many right-hand sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from petsc4py import PETSc

import numpy as np
from numpy.typing import NDArray

from solver_adapters.petsc_options import options_database

Columns = NDArray[np.float64]

_PREFIX = "twoscale_rve_"
_OPTIONS = {"mat_cholmod_print": 0}  # an indefinite matrix is an ordinary event, not worth a line on stderr


class SymmetricFactor:
    """Factor of a symmetric matrix on one rank, whose values are overwritten in place between factorisations.

    CHOLMOD is the fastest of PETSc's solvers for RVE matrices of a thousand to some ten thousand unknowns: 2 to 4 times
    as fast as MUMPS in 2D, and about twice in 3D. It refuses a matrix that is not positive definite (an RVE past an
    instability), for which an LU factorisation stands in.

    Args:
        matrix: DOLFINx ``MatrixCSR`` with block size one; its arrays are shared, not copied.
        columns: number of right-hand sides of every solve.
    """

    def __init__(self, matrix: Any, columns: int) -> None:
        n = len(matrix.indptr) - 1
        index = PETSc.IntType
        structure = matrix.indptr.astype(index), matrix.indices.astype(index)
        self.K = PETSc.Mat().createAIJWithArrays((n, n), (*structure, matrix.data), comm=PETSc.COMM_SELF)
        self.K.assemble()
        self.K.setOption(PETSc.Mat.Option.SPD, True)
        self._right, self._solution, self._product = (_dense(n, columns) for _ in range(3))
        self._b, self._x = self.K.createVecs()
        self._cholesky = self._preconditioner("cholesky", "cholmod")
        self._lu: Any = None
        self._factor: Any = None
        self._pause = self._without_cholesky = 0

    def factorise(self) -> bool:
        """Factorise the current values; returns whether by Cholesky's method.

        PETSc loses the memory of its copy of the matrix whenever CHOLMOD refuses it. After a refusal, LU therefore
        serves for a while, twice as long after each one that follows without a success between.

        Raises:
            ArithmeticError: the matrix is singular or not finite.
        """
        self.K.stateIncrease()
        if self._without_cholesky:
            self._without_cholesky -= 1
        else:
            try:
                self._factor = self._set_up(self._cholesky)
                self._pause //= 2
                return True
            except PETSc.Error:
                self._without_cholesky = self._pause = max(2, min(2 * self._pause, 4096))
        self._lu = self._lu or self._preconditioner("lu", "mumps")
        try:
            self._factor = self._set_up(self._lu)
        except PETSc.Error as error:
            raise ArithmeticError("the RVE's stiffness matrix cannot be factorised") from error
        return False

    @property
    def ready(self) -> bool:
        """Whether there is a factor."""
        return self._factor is not None

    @property
    def memory(self) -> int:
        """Bytes that the last factor takes, about."""
        return max(1, int(16 * self._factor.getInfo()["nz_used"]))

    def solve(self, right: Columns) -> Columns:
        """Solution X (n, columns) of M X = B with the last factor M."""
        _values(self._right)[:] = right
        self._factor.matSolve(self._right, self._solution)
        return _values(self._solution).copy()

    def solve_rows(self, right: Columns) -> Columns:
        """Solutions (c, n) of M x = b for any number of right-hand sides, one in each row of ``right`` (c, n)."""
        if len(right) == 1:
            self._b.array_w[:] = right[0]
            self._factor.solve(self._b, self._x)
            return np.array(self._x.array_r)[None]
        solution = np.empty(right.shape)
        B, X = (_wrapped(rows) for rows in (np.ascontiguousarray(right), solution))
        self._factor.matSolve(B, X)
        for matrix in (B, X):
            matrix.destroy()
        return solution

    def product(self, columns: Columns) -> Columns:
        """K X (n, columns) with the current values of the matrix."""
        _values(self._solution)[:] = columns
        self.K.matMult(self._solution, self._product)
        return _values(self._product)

    def _preconditioner(self, kind: str, solver: str) -> Any:
        pc = PETSc.PC().create(PETSc.COMM_SELF)
        pc.setOperators(self.K)
        pc.setType(kind)
        pc.setFactorSolverType(solver)
        pc.setOptionsPrefix(_PREFIX)
        return pc

    @staticmethod
    def _set_up(pc: Any) -> Any:
        with options_database(_PREFIX, _OPTIONS):  # read at the symbolic factorisation, that is in the first set-up
            pc.setUp()
        if pc.getFailedReason() != 0:
            raise PETSc.Error(76)
        return pc.getFactorMatrix()


def refined(
    B: Columns,
    solve: Callable[[Columns], Columns],
    product: Callable[[Columns], Columns],
    *,
    largest: float = 3e-3,
) -> tuple[Columns, Columns] | None:
    """X = K⁻¹B and BᵀK⁻¹B of the columns B = [r, L] by a factor M ≈ K, or None where X₀ = M⁻¹B leaves much of L.

    After one step of iterative refinement, X = X₀ + M⁻¹(B − KX₀), the remainder is R = B − KX, and
    BᵀK⁻¹B = XᵀB + RᵀX + RᵀK⁻¹R; the last term is of fourth order and left out.

    Args:
        B: (n, 1 + k).
        solve: X ↦ M⁻¹X.
        product: X ↦ KX.
        largest: relative size of L − KX₀ up to which the factor serves.
    """
    X = solve(B)
    R = B - product(X)
    if np.linalg.norm(R[:, 1:]) > largest * np.linalg.norm(B[:, 1:]):
        return None
    X += solve(R)
    R = B - product(X)
    return X, X.T @ B + R.T @ X


def _dense(n: int, columns: int) -> Any:
    matrix = PETSc.Mat().createDense((n, columns), comm=PETSc.COMM_SELF)
    matrix.setUp()
    matrix.assemble()
    return matrix


def _wrapped(rows: Columns) -> Any:
    """The rows (c, n) as columns of a PETSc matrix that shares their memory."""
    matrix = PETSc.Mat().createDense(rows.shape[::-1], array=rows.T, comm=PETSc.COMM_SELF)
    matrix.assemble()
    return matrix


def _values(matrix: Any) -> Columns:
    return matrix.getDenseArray()  # type: ignore[no-any-return]
