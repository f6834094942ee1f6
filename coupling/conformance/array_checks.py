"""Checks of the array contract: shapes, memory, batches, arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from coupling.conformance.subject import Outcome, Subject, copied, within
from coupling.contract import Array, Response, Status, check_response, usable
from coupling.errors import ContractError


def specification(s: Subject) -> Outcome:
    """Names are distinct, sizes fit, and the initial state has them."""
    spec = s.spec
    faults = []
    for role, names in (("gradient", spec.gradient), ("flux", spec.flux)):
        if not isinstance(names, tuple) or not names or len(set(names)) != len(names):
            faults.append(f"spec.{role} must be a tuple of distinct names, got {names!r}")
    if not np.isfinite(s.reference).all():
        faults.append(f"spec.reference must be finite, got {spec.reference}")
    if spec.history and spec.state_size == 0:
        faults.append("spec.history is True, but spec.state_size is 0: a history needs a state")
    for n in (0, 1, s.n):
        faults += _state_faults(s, n)
    return (
        not faults,
        None,
        "; ".join(faults) or f"{spec.k} gradient, {spec.m} flux components, {spec.state_size} of state",
    )


def _state_faults(s: Subject, n: int) -> Iterator[str]:
    state = s.closure.initial_state(n)
    expected = None if s.spec.state_size == 0 else (n, s.spec.state_size)
    got = None if state is None else np.shape(state)
    if got != expected:
        yield f"initial_state({n}) must be of shape {expected}, got {got}"
    elif state is not None and (state.dtype != np.float64 or not np.isfinite(state).all()):
        yield f"initial_state({n}) must be finite float64, got {state.dtype}"


def usable_samples(s: Subject) -> Outcome:
    """At least half of the gradients are usable, so that the other checks mean something."""
    share = float(usable(s.answer.status).mean())
    if share >= 0.5:
        return True, None, f"{share:.0%} of {s.n} points"
    worst = Status(int(np.bincount(s.answer.status[~usable(s.answer.status)]).argmax()))
    return (
        False,
        None,
        f"only {share:.0%} of {s.n} points are usable ({worst.message}): pass gradients or a smaller amplitude",
    )


def arrays(s: Subject) -> Outcome:
    """Shapes, types and contiguity of a response, and values of the status."""
    check_response(s.spec, s.answer, s.n)
    known = set(map(int, Status))
    unknown = set(map(int, s.answer.status)) - known
    if unknown:
        return False, None, f"status must hold values of coupling.contract.Status, got {sorted(unknown)}"
    return True, None, "as the specification promises"


def finite(s: Subject) -> Outcome:
    """Numbers of usable points are finite."""
    good = usable(s.answer.status)
    bad = sum(int((~np.isfinite(rows[good])).sum()) for rows in _numbers(s.answer))
    return not bad, None, f"{bad} numbers of usable points are not finite" if bad else "at usable points"


def fresh_memory(s: Subject) -> Outcome:
    """Returned arrays are writable and shared neither with the arguments nor between two calls."""
    gradient, state = s.gradients.copy(), None if s.states is None else s.states.copy()
    first = s.closure.evaluate(gradient, state, s.dt)
    kept = [rows.copy() for rows in _arrays(first)]
    second = s.closure.evaluate(gradient[::-1].copy(), None if state is None else state[::-1].copy(), s.dt)
    for rows, before, later in zip(_arrays(first), kept, _arrays(second), strict=True):
        if not np.array_equal(rows, before, equal_nan=True) or np.may_share_memory(rows, later):
            return False, None, "a second call writes into the arrays of the first: return new arrays"
    for rows in _arrays(first):
        passed_on = rows is first.state and s.states is not None and np.array_equal(rows, s.states)
        of_state = state is not None and np.may_share_memory(rows, state) and not passed_on
        if of_state or np.may_share_memory(rows, gradient):
            return False, None, "a returned array shares memory with an argument: return a copy"
        if not rows.flags.writeable:
            return False, None, "a returned array is read-only: it must belong to the caller"
    return True, None, "new arrays in every response"


def inputs_unmodified(s: Subject) -> Outcome:
    """Gradient, state and hint are as they were."""
    gradient, state, hint = s.gradients.copy(), copied(s.states), copied(s.answer.state)
    s.closure.evaluate(gradient, state, s.dt, hint=hint)
    for name, now, before in (
        ("gradient", gradient, s.gradients),
        ("state", state, s.states),
        ("hint", hint, s.answer.state),
    ):
        if now is not None and before is not None and not np.array_equal(now, before, equal_nan=True):
            return False, None, f"evaluate changed its argument {name}: work on a copy"
    return True, None, "gradient, state and hint"


def empty_batch(s: Subject) -> Outcome:
    """A batch of no points is answered with empty arrays (a rank may own no points)."""
    check_response(s.spec, s.evaluate(np.empty((0, s.spec.k)), s.closure.initial_state(0)), 0)
    return True, None, "n = 0"


def point_by_point(s: Subject) -> Outcome:
    """Every point alone gets the same answer as in the batch."""
    error = 0.0
    for i in range(s.n):
        row = slice(i, i + 1)
        alone = s.evaluate(*s.rows(row))
        check_response(s.spec, alone, 1)
        error = max(error, _against(s, alone, row))
    return within(s.tolerance, error, "the answer at a point depends on what else is in the batch")


def order(s: Subject) -> Outcome:
    """A permuted batch gets the permuted answer."""
    index = s.rng.permutation(s.n)
    return within(
        s.tolerance,
        _against(s, s.evaluate(*s.rows(index)), index),
        "the answer at a point depends on its place in the batch",
    )


def repeatable(s: Subject) -> Outcome:
    """The same question gets the same answer, whatever was asked in between."""
    s.evaluate(s.reference + 1.5 * (s.gradients - s.reference), s.states)
    again = s.evaluate(s.gradients, s.states)
    return within(
        s.tolerance,
        s.difference(s.answer, again),
        "the answer depends on earlier calls or on chance: keep all history in the state",
    )


def arguments(s: Subject) -> Outcome:
    """Arrays of a wrong shape, type or layout are refused with ContractError."""
    accepted = []
    for what, call in _wrong_calls(s):
        try:
            call()
        except ContractError:
            continue
        except Exception as error:
            accepted.append(f"{what} ({type(error).__name__})")
        else:
            accepted.append(f"{what} (accepted)")
    if accepted:
        return False, None, f"no ContractError for {', '.join(accepted)}: call coupling.contract.check_arguments first"
    return True, None, "wrong shapes, types and layouts are refused"


def _wrong_calls(s: Subject) -> Iterator[tuple[str, Callable[[], Response]]]:
    g, h, evaluate, k = s.gradients, s.states, s.closure.evaluate, s.spec.k
    yield "a gradient of one more component", lambda: evaluate(np.hstack((g, g[:, :1])), h, s.dt)
    yield "a flat gradient", lambda: evaluate(g.ravel(), h, s.dt)
    yield "a float32 gradient", lambda: evaluate(g.astype(np.float32), h, s.dt)
    yield "a gradient that is a list", lambda: evaluate(g.tolist(), h, s.dt)  # type: ignore[arg-type]
    if k > 1:
        yield "a gradient that is not contiguous", lambda: evaluate(np.asfortranarray(g), h, s.dt)
    if h is None:
        yield "a state where none is kept", lambda: evaluate(g, np.zeros((s.n, 1)), s.dt)
    else:
        yield "no state", lambda: evaluate(g, None, s.dt)
        yield "a state of fewer points", lambda: evaluate(g, h[:-1], s.dt)
        yield "a hint of fewer points", lambda: evaluate(g, h, s.dt, hint=h[:-1])


def non_finite_gradient(s: Subject) -> Outcome:
    """A point with NaN or ∞ is not usable, and the others do not notice."""
    gradient = s.gradients.copy()
    gradient[0, 0], gradient[-1, -1] = np.nan, np.inf
    response = s.evaluate(gradient, s.states)
    check_response(s.spec, response, s.n)
    if usable(response.status[[0, -1]]).any():
        return False, None, "a point with NaN or ∞ came back as usable: mark it INADMISSIBLE"
    inner = slice(1, s.n - 1)
    others = _select(response, inner)
    return within(s.tolerance, _against(s, others, inner), "a point with NaN or ∞ changes the answer at other points")


def _against(s: Subject, response: Response, index: NDArray[np.intp] | slice) -> float:
    return s.difference(_select(s.answer, index), response) if len(response.status) else 0.0


def _select(response: Response, index: NDArray[np.intp] | slice) -> Response:
    state = None if response.state is None else response.state[index]
    return Response(response.flux[index], response.tangent[index], response.status[index], state)


def _arrays(response: Response) -> list[Array]:
    return [response.status, *_numbers(response)]  # type: ignore[list-item]


def _numbers(response: Response) -> list[Array]:
    rows = (response.flux, response.tangent, response.state, response.uncertainty, response.energy)
    return [r for r in rows if r is not None]


CHECKS: dict[str, Callable[[Subject], Outcome]] = {
    "specification": specification,
    "usable samples": usable_samples,
    "arrays": arrays,
    "finite": finite,
    "fresh memory": fresh_memory,
    "inputs unmodified": inputs_unmodified,
    "empty batch": empty_batch,
    "point by point": point_by_point,
    "order": order,
    "repeatable": repeatable,
    "arguments": arguments,
    "non-finite gradient": non_finite_gradient,
}
