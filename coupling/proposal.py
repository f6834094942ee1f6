"""What a surrogate proposes: asked so that nothing it does can end a run, and accepted point by point."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from coupling.agreement import collective_over, together
from coupling.contract import Array, Closure, Response, check_response, finite_rows, usable
from coupling.errors import ContractError
from coupling.gate import Gate
from coupling.ledger import Ledger
from coupling.two_level import LearningSurrogate


def proposed(
    surrogate: Closure,
    gradient: Array,
    state: Array | None,
    dt: float,
    hint: Array | None,
    *,
    ledger: Ledger,
    instead: str,
) -> Response | None:
    """The surrogate's response to n points, None where it cannot be used at all.

    A surrogate that raises or answers in the wrong shape is a fault: entered in the ledger as ``surrogate/faults``, and
    warned of. Its calls are the phase ``surrogate``.

    Args:
        surrogate: it gets state and hint only if it keeps a state.
        gradient: (n, k).
        state: (n, s) or None.
        dt: length of the increment.
        hint: (n, s) or None.
        ledger: where the outcome is entered.
        instead: what happens in place of it, for the warning.
    """
    keeps_state = surrogate.spec.state_size > 0
    try:
        with ledger.phase("surrogate"):
            answer = surrogate.evaluate(gradient, state if keeps_state else None, dt, hint if keeps_state else None)
        check_response(surrogate.spec, answer, len(gradient))
    except Exception as error:  # whatever goes wrong in a surrogate, there is something in place of it
        ledger.count("surrogate/faults")
        warnings.warn(f"surrogate failed, {instead}: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=4)
        return None
    return answer


def taught(surrogate: LearningSurrogate, gradient: Array, flux: Array, *, ledger: Ledger) -> bool | None:
    """What :meth:`coupling.two_level.LearningSurrogate.learn` says, None where it fails, if only on another rank.

    That is a fault: entered in the ledger as ``surrogate/faults``, and warned of. The calls are the phase ``learning``.
    """
    try:
        with ledger.phase("learning"):
            return together(collective_over(surrogate), lambda: surrogate.learn(gradient, flux))
    except Exception as error:  # as in proposed
        ledger.count("surrogate/faults")
        text = f"surrogate cannot learn and is taught no more: {type(error).__name__}: {error}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
        return None


def accepted(gate: Gate, gradient: Array, answer: Response, *, ledger: Ledger) -> NDArray[np.bool_]:
    """Mask (n,) of the points that the gate accepts and whose numbers are finite and status usable, whatever it says.

    Ledger: counts ``surrogate/non-finite points``, those of them that the surrogate calls usable.

    Raises:
        ContractError: the gate answers with anything but (n,) booleans.
    """
    chosen = np.asarray(gate.accepts(gradient, answer))
    if chosen.shape != (len(gradient),) or chosen.dtype != np.bool_:
        raise ContractError(
            f"{type(gate).__name__}.accepts must return ({len(gradient)},) booleans, got {chosen.dtype} of "
            f"shape {chosen.shape}"
        )
    finite, good = finite_rows(answer), usable(answer.status)
    if not finite.all():
        ledger.count("surrogate/non-finite points", int((~finite & good).sum()))
    return chosen & finite & good
