"""Does a trained energy respect physics over its whole range?

Besides the closure contract (:mod:`coupling.conformance`: derivatives, symmetry, objectivity), an energy
Ŵ(U) with P = ∂W/∂F should

* have no stress, and a positive-definite tangent on stretches, at rest: T(I) = 0, ∂T/∂U(I) > 0;
* be strongly elliptic, a·Q(N)a > 0 for the acoustic tensor Q_ik = A_iJkL N_J N_L of A = ∂P/∂F in all directions N,
  so that the macroscopic problem has no waves of imaginary speed (Ogden 1984, Non-Linear Elastic Deformations, §6.2.7);
* rise without bound as det U → 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coupling.conformance import Result, check
from coupling.contract import Array
from coupling.polar import mandel_basis, positive_definite
from coupling.stretch import StretchFrame, transform
from surrogates.dataset import Dataset
from surrogates.energy_surrogate import EnergySurrogate
from surrogates.model_card import HoldOutErrors
from surrogates.potential import evaluate_chunks
from surrogates.stretch_space import stretch_reference

_COLLAPSE: Array = np.geomspace(1.0, 1e-3, 61, dtype=np.float64)


@dataclass(frozen=True)
class Ellipticity:
    """Smallest eigenvalue over all directions of a tensor that has to be positive definite, at gradients.

    Args:
        gradients: (n, k), stretches for an energy.
        smallest: (n,), relative to its value at ``rest``.
        tensor: which one.
        rest: the state of comparison.
    """

    gradients: Array
    smallest: Array
    tensor: str = "acoustic tensor"
    rest: str = "rest"


def all_checks(model: EnergySurrogate, fresh: Dataset | None) -> tuple[list[Result], Ellipticity]:
    """All of this module, and the ellipticity; ``fresh`` tells whether the fine scale loses it as well."""
    found = ellipticity(model)
    fine = None if fresh is None else acoustic_minimum(fresh.gradient, fresh.flux, fresh.tangent)
    checks = [*conformance_checks(model), *rest_checks(model), ellipticity_check(found, fine), growth_check(model)]
    return checks, found


def conformance_checks(model: EnergySurrogate, *, seed: int = 0) -> list[Result]:
    """The checks of the closure contract on the model in the stretch frame, F → P, inside its range.

    At F = U: rotated gradients, which the check of objectivity makes itself, would lie so far from rest that the steps
    of its differences, in proportion to that, would not resolve the energy.
    """
    rng = np.random.default_rng(seed)
    reference, lower, upper = stretch_reference(model.spec.k), np.array(model.card.box.lower), model.card.box.upper
    U = reference + 0.8 * (rng.uniform(lower, upper, (64, len(reference))) - reference)
    U = U[positive_definite(U)][:12]
    dim = 2 if model.spec.k == 3 else 3
    F = np.asarray(np.tensordot(U, mandel_basis(dim), 1), dtype=np.float64)
    return check(StretchFrame(model), gradients=F.reshape(len(U), -1), seed=seed)


def rest_checks(model: EnergySurrogate) -> list[Result]:
    """No stress and a positive-definite tangent at the identity."""
    _, flux, tangent = evaluate_chunks(model.potential, stretch_reference(model.spec.k)[None], 1)
    eigenvalues = np.linalg.eigvalsh(tangent[0])
    stress = float(np.linalg.norm(flux) / np.linalg.norm(tangent))
    stable = bool(eigenvalues[0] > 0.0)
    words = f"eigenvalues from {eigenvalues[0]:.3g} to {eigenvalues[-1]:.3g}"
    return [
        Result("zero stress at rest", stress <= 1e-10, stress, "relative to the tangent, within 1e-10"),
        Result("stable at rest", stable, None, words + ("" if stable else ": sample around rest, train again")),
    ]


def ellipticity(model: EnergySurrogate) -> Ellipticity:
    """Ellipticity on a grid over the range of the model."""
    box = model.card.stretches
    stretches = box.grid(15 if box.k == 3 else 4)
    stretches = stretches[positive_definite(stretches)]
    smallest = acoustic_minimum(stretches, *evaluate_chunks(model.potential, stretches, model.chunk)[1:])
    rest = stretch_reference(box.k)[None]
    scale = abs(float(acoustic_minimum(rest, *evaluate_chunks(model.potential, rest, 1)[1:])[0]))
    return Ellipticity(stretches, np.asarray(smallest / (scale or 1.0), dtype=np.float64))


def ellipticity_check(found: Ellipticity, fine: Array | None) -> Result:
    """Strong ellipticity everywhere on the grid; from eigenvalues (n,) of the fine scale, whether it has it."""
    worst = int(found.smallest.argmin())
    smallest = float(found.smallest[worst])
    where = ", ".join(f"{value:.3g}" for value in found.gradients[worst])
    words = f"smallest eigenvalue of the {found.tensor} {smallest:.2g} of that at {found.rest}, at ({where})"
    if smallest > 0.0:
        return Result("strong ellipticity", True, None, words)
    share = float((found.smallest <= 0.0).mean())
    words = f"lost at {share:.1%} of {len(found.smallest)} gradients, {words}"
    if fine is not None:
        lost = int((fine <= 0.0).sum())
        words += f"; the fine scale loses it at {lost} of {len(fine)} samples of the data"
    return Result("strong ellipticity", False, None, words + ": shrink the range")


def acoustic_minimum(stretches: Array, flux: Array, tangent: Array, *, directions: int = 48) -> Array:
    """Smallest eigenvalue (n,) of Q(N) over directions N, from T (n, k) and ∂T/∂U (n, k, k) at U (n, k)."""
    dim = 2 if stretches.shape[1] == 3 else 3
    identity = np.broadcast_to(np.eye(dim), (len(stretches), dim, dim))
    _, A = transform(np.ascontiguousarray(identity), stretches, flux, tangent)
    smallest = np.full(len(stretches), np.inf)
    A = A.reshape(-1, dim, dim, dim, dim)
    for N in _directions(dim, directions):
        Q = np.einsum("niJkL,J,L->nik", A, N, N, optimize=True)
        smallest = np.minimum(smallest, np.linalg.eigvalsh(Q)[:, 0])
    return smallest


def collapse(model: EnergySurrogate) -> tuple[Array, Array]:
    """Energy (p, m) on p paths diag(…, s, …) from rest to s = 0.001, one or all stretches shrinking; and s (m,)."""
    dim = 2 if model.spec.k == 3 else 3
    paths = [*np.eye(dim), np.ones(dim)]
    energies = []
    for path in paths:
        U = np.tile(stretch_reference(model.spec.k), (len(_COLLAPSE), 1))
        U[:, :dim] += path * (_COLLAPSE[:, None] - 1.0)
        energies.append(evaluate_chunks(model.potential, U, model.chunk)[0])
    return np.array(energies), _COLLAPSE


def growth_check(model: EnergySurrogate) -> Result:
    """As a stretch shrinks by ten, the energy rises by ten times or more near s = 0.001: a growth of 1/s at least."""
    energies, s = collapse(model)
    decade = int(np.abs(s - 0.01).argmin())
    before, after = energies[:, decade], energies[:, -1]
    passed = bool(((before > 0.0) & (after >= 10.0 * before)).all())
    words = "the energy rises at least as 1/s where stretches s → 0"
    if not passed:
        words = "the energy stays bounded as det U → 0: keep a RangeGate around the model, or train a network"
    return Result("growth", passed, None, words)


def error_check(name: str, errors: HoldOutErrors, limit: float) -> Result:
    """The RMS error of the flux is below a limit."""
    passed = errors.flux_rms <= limit
    words = f"relative RMS error of the flux at {errors.samples} samples, limit {limit:g}"
    return Result(name, passed, errors.flux_rms, words + ("" if passed else ": sample more, or a smaller range"))


def _directions(dim: int, n: int) -> Array:
    """Unit vectors (n, dim) spread evenly over half a circle, or by a Fibonacci spiral over half a sphere."""
    i = np.arange(n)
    if dim == 2:
        return np.stack((np.cos(np.pi * i / n), np.sin(np.pi * i / n)), axis=1)
    height, angle = (i + 0.5) / n, np.pi * (3.0 - np.sqrt(5.0)) * i
    radius = np.sqrt(1.0 - height**2)
    return np.stack((radius * np.cos(angle), radius * np.sin(angle), height), axis=1)
