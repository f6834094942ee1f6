"""Checks of the law itself: derivatives, symmetry, state, objectivity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from coupling.conformance.subject import DOES_NOT_APPLY, Outcome, Subject, within
from coupling.contract import Array, Response, Status, tensor_components, usable


def reference_state(s: Subject) -> Outcome:
    """The reference gradient is usable from the initial state, which is the same at all points."""
    state = s.closure.initial_state(2)
    if state is not None and not np.array_equal(state[0], state[1]):
        return False, None, "initial_state differs between points: it describes the reference configuration"
    response = s.evaluate(np.tile(s.reference, (2, 1)), state)
    if not usable(response.status).all():
        return False, None, f"the reference gradient is not usable: {Status(int(response.status[0])).message}"
    residual = float(np.abs(response.flux).max())
    return bool(np.isfinite(residual)), None, f"flux {residual:.1e} in the reference state"


def tangent(s: Subject) -> Outcome:
    """The tangent is the derivative of the flux, at fixed state and dt.

    Central differences at steps h and h/2, extrapolated: D = (4 D(h/2) − D(h))/3, error O(h⁴), h = 2 % of the range of
    the gradients; relative to the largest entry of the tangents.
    """
    numeric, good = _derivative(s, lambda response: response.flux)
    if not good.any():
        return False, None, "no point was usable together with its neighbours: pass gradients that are"
    error = float(np.abs(numeric[good] - s.answer.tangent[good]).max()) / s.tangent_scale(s.answer)
    return within(
        s.tangent_tolerance,
        error,
        "the tangent is not ∂flux/∂gradient (order of components? Mandel factors √2? an iteration not finished?)",
    )


def energy(s: Subject) -> Outcome:
    """The flux is the derivative of the energy, where a closure without history gives one."""
    if s.answer.energy is None or s.spec.history:
        return True, None, DOES_NOT_APPLY + "no energy, or a history that dissipates"
    numeric, good = _derivative(s, lambda response: _column(response.energy))
    scale = s.tangent_scale(s.answer) * s.size
    error = float(np.abs(numeric[good, 0] - s.answer.flux[good]).max(initial=0.0)) / scale
    return within(s.tangent_tolerance, error, "the flux is not ∂energy/∂gradient")


def _column(energy: Array | None) -> Array:
    assert energy is not None
    return energy[:, None]


def _derivative(s: Subject, quantity: Callable[[Response], Array]) -> tuple[Array, NDArray[np.bool_]]:
    """∂quantity/∂gradient (n, ·, k) by extrapolated central differences, and where all the points for it are usable."""
    k, h = s.spec.k, 0.02 * s.size
    shifts = np.concatenate([step * np.eye(k) for step in (h, -h, h / 2, -h / 2)])
    gradient = (s.gradients[:, None] + shifts).reshape(-1, k)
    state = None if s.states is None else np.repeat(s.states, 4 * k, axis=0)
    response = s.evaluate(gradient, state)
    good = usable(s.answer.status) & usable(response.status).reshape(s.n, -1).all(axis=1)
    plus, minus, half_plus, half_minus = quantity(response).reshape(s.n, 4, k, -1).transpose(1, 0, 3, 2)
    coarse, fine = (plus - minus) / (2 * h), (half_plus - half_minus) / h
    return (4.0 * fine - coarse) / 3.0, good


def symmetry(s: Subject) -> Outcome:
    """The tangent is symmetric where the specification says so."""
    if not s.spec.symmetric:
        return True, None, DOES_NOT_APPLY + "not declared"
    A = s.answer.tangent[usable(s.answer.status)]
    error = float(np.abs(A - A.transpose(0, 2, 1)).max(initial=0.0)) / s.tangent_scale(s.answer)
    return within(s.tolerance, error, "spec.symmetric is True, but the tangent is not symmetric")


def state_without_history(s: Subject) -> Outcome:
    """Without history, the flux does not depend on the state."""
    if s.spec.history or s.states is None:
        return True, None, DOES_NOT_APPLY + ("the closure has history" if s.spec.history else "no state")
    error = s.difference(s.answer, s.evaluate(s.gradients, s.closure.initial_state(s.n)))
    return within(s.tolerance, error, "the flux depends on the state: declare spec.history=True")


def dt_without_history(s: Subject) -> Outcome:
    """Without history, the flux does not depend on dt."""
    if s.spec.history:
        return True, None, DOES_NOT_APPLY + "the closure has history"
    error = s.difference(s.answer, s.evaluate(s.gradients, s.states, dt=10.0 * s.dt))
    return within(s.tolerance, error, "the flux depends on dt: a rate needs a state and spec.history=True")


def hint(s: Subject) -> Outcome:
    """A hint, good or poor, does not change the answer."""
    if s.states is None:
        return True, None, DOES_NOT_APPLY + "no state"
    near = s.evaluate(s.reference + 0.9 * (s.gradients - s.reference), s.states).state
    errors = [
        s.difference(s.answer, s.evaluate(s.gradients, s.states, hint=rows))
        for rows in (near, s.answer.state, s.closure.initial_state(s.n))
    ]
    return within(s.tolerance, max(errors), "the hint changes the answer: it may only shorten the way to it")


def uncertainty(s: Subject) -> Outcome:
    """A stated uncertainty is finite and not negative at usable points."""
    if s.answer.uncertainty is None:
        return True, None, DOES_NOT_APPLY + "none stated"
    stated = s.answer.uncertainty[usable(s.answer.status)]
    passed = bool((np.isfinite(stated) & (stated >= 0.0)).all())
    largest = float(stated.max(initial=0.0))
    return passed, None, f"up to {largest:.1e}" if passed else "negative or not finite at a usable point"


def objectivity(s: Subject) -> Outcome:
    """P(QF) = Q P(F) and A(QF)_{iJkL} = Q_im Q_kn A(F)_{mJnL} for rotations Q, in closures F → P."""
    dim = {4: 2, 9: 3}.get(s.spec.k)
    if dim is None or s.spec.gradient != tensor_components("F", dim) or s.spec.flux != tensor_components("P", dim):
        return True, None, DOES_NOT_APPLY + "not a closure F → P"
    Q = _rotations(s.rng, s.n, dim)
    rotated = (Q @ s.gradients.reshape(-1, dim, dim)).reshape(s.gradients.shape)
    response = s.evaluate(rotated, s.states)
    flux = (Q.transpose(0, 2, 1) @ response.flux.reshape(-1, dim, dim)).reshape(response.flux.shape)
    A = response.tangent.reshape(-1, dim, dim, dim, dim)
    back = np.einsum("eim,ekn,eiJkL->emJnL", Q, Q, A, optimize=True).reshape(response.tangent.shape)
    unrotated = Response(flux, back, response.status, response.state)
    both = usable(s.answer.status) & usable(response.status)
    if not both.any():
        return True, None, DOES_NOT_APPLY + "no rotated gradient is usable"
    return within(s.tolerance, s.difference(s.answer, unrotated, both), "a rotation changes the stress: P(QF) ≠ Q P(F)")


def _rotations(rng: np.random.Generator, n: int, dim: int) -> Array:
    Q = np.linalg.qr(rng.normal(size=(n, dim, dim))).Q
    Q[:, :, 0] *= np.sign(np.linalg.det(Q))[:, None]
    return np.asarray(Q)


CHECKS: dict[str, Callable[[Subject], Outcome]] = {
    "reference state": reference_state,
    "tangent": tangent,
    "energy": energy,
    "symmetry": symmetry,
    "state without history": state_without_history,
    "dt without history": dt_without_history,
    "hint": hint,
    "uncertainty": uncertainty,
    "objectivity": objectivity,
}
