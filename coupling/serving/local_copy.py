"""What answers where no server does."""

from __future__ import annotations

from collections.abc import Callable

from coupling.contract import Array, Closure, ClosureSpec, Response
from coupling.errors import ContractError
from coupling.ledger import Ledger


class LocalCopy:
    """A copy of a served model in this process, made when it is needed first.

    Ledger: count ``server/local points``.

    Args:
        local: a closure with the same answers, or a function that makes one.
        spec: the model's.
        ledger: where the work is entered.
    """

    def __init__(self, local: Closure | Callable[[], Closure], spec: ClosureSpec, ledger: Ledger) -> None:
        self._local, self._spec, self._ledger = local, spec, ledger
        self._closure: Closure | None = None

    def evaluate(self, gradient: Array, state: Array | None, dt: float, hint: Array | None = None) -> Response:
        """The copy's answer.

        Raises:
            ContractError: where the copy has another specification.
        """
        self._ledger.count("server/local points", len(gradient))
        if self._closure is None:
            made = self._local if isinstance(self._local, Closure) else self._local()
            if made.spec != self._spec:
                raise ContractError(f"the local copy must have the model's specification {self._spec}, got {made.spec}")
            self._closure = made
        return self._closure.evaluate(gradient, state, dt, hint)

    def forget(self) -> None:
        """Make another when it is needed again, where there is a function that does."""
        self._closure = None
