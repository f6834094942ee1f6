"""Whether a surrogate is worth its time: it has to save sweeps over the fine scale that take longer."""

from __future__ import annotations

from coupling.tangent_choice import sweeps_left

_NEGLIGIBLE = 0.01  # seconds for an increment


class SurrogateChoice:
    """Chooses by measured times, from the first sweep of one increment to that of the next.

    Models whose predictions err by the fractions d (learned) and D (plain) of a change need ln ε/ln d and ln ε/ln D
    sweeps. The surrogate is asked as long as its answers for an increment take less than the sweeps that it saves,

        T_surrogate < T_sweep (ln ε/ln D − ln ε/ln d)

    or less than 0.01 s; they are counted at the time of the quickest one. Otherwise it is left out of 1, 3, 7, …
    increments before it is tried again.
    """

    def __init__(self) -> None:
        self._answers: list[float] = []
        self._refusals = self._pause = 0

    @property
    def asks(self) -> bool:
        """Whether the surrogate is to be asked."""
        return not self._pause

    def answered(self, seconds: float) -> None:
        """Enter the time of an answer."""
        self._answers.append(seconds)

    def judge(self, plain: float, learned: float, seconds: float) -> None:
        """Enter the largest D and d of the first sweep of an increment, and the time of a sweep."""
        if self._pause:
            self._pause -= 1
            return
        spent = len(self._answers) * min(self._answers, default=0.0)
        self._answers.clear()
        saved = seconds * float(sweeps_left(plain) - sweeps_left(learned))
        self._refusals = 0 if spent < max(saved, _NEGLIGIBLE) else self._refusals + 1
        self._pause = 2**self._refusals - 1
