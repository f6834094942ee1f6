"""The conformance suite: does a closure keep the contract?

Every closure of this project runs through it, and anybody's can::

    from coupling.conformance import assert_conforms

    def test_my_closure():
        assert_conforms(MyClosure())

or, for a closure or a function without arguments that makes one, from the command line::

    python -m coupling.conformance my_package.my_module:MyClosure
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from coupling.conformance import array_checks, law_checks
from coupling.conformance.subject import Outcome, Result, Subject
from coupling.contract import Array, Closure

__all__ = ["Result", "assert_conforms", "check"]


def check(
    closure: Closure,
    *,
    gradients: Array | None = None,
    samples: int = 12,
    amplitude: float = 0.05,
    seed: int = 0,
    dt: float = 1.0,
    tolerance: float = 1e-8,
    tangent_tolerance: float = 1e-6,
) -> list[Result]:
    """Run every check; an exception in one is its failure.

    Args:
        closure: what is checked.
        gradients: (n, k) to check at, n ≥ 2, or None to draw ``samples`` of them within ± amplitude of the reference.
            For a law with kinks, give gradients away from them.
        samples: how many gradients are drawn.
        amplitude: in the unit of the gradient.
        seed: of all random numbers.
        dt: length of the increments.
        tolerance: relative error up to which two answers count as the same, for closures that iterate.
        tangent_tolerance: relative error allowed between tangent and central differences.

    Returns:
        One result for each check, in a fixed order.

    Raises:
        ContractError: where gradients do not fit the closure's specification.
    """
    subject = Subject(
        closure,
        gradients=gradients,
        samples=samples,
        amplitude=amplitude,
        seed=seed,
        dt=dt,
        tolerance=tolerance,
        tangent_tolerance=tangent_tolerance,
    )
    return _told_once([_result(name, run, subject) for name, run in (array_checks.CHECKS | law_checks.CHECKS).items()])


def assert_conforms(
    closure: Closure,
    *,
    gradients: Array | None = None,
    samples: int = 12,
    amplitude: float = 0.05,
    seed: int = 0,
    dt: float = 1.0,
    tolerance: float = 1e-8,
    tangent_tolerance: float = 1e-6,
) -> None:
    """Raise AssertionError with all failed checks, if any; arguments as in :func:`check`."""
    results = check(
        closure,
        gradients=gradients,
        samples=samples,
        amplitude=amplitude,
        seed=seed,
        dt=dt,
        tolerance=tolerance,
        tangent_tolerance=tangent_tolerance,
    )
    failed = [
        f"{r.name}: {r.explanation}" + (f" ({r.figure:.1e})" if r.figure is not None else "")
        for r in results
        if not r.passed
    ]
    if failed:
        raise AssertionError(f"{type(closure).__name__} breaks the closure contract:\n" + "\n".join(failed))


def _told_once(results: list[Result]) -> list[Result]:
    """The same results, where failures of one cause are explained at the first of them only."""
    first: dict[str, str] = {}
    told = []
    for result in results:
        name = first.setdefault(result.explanation, result.name)
        repeated = not result.passed and name != result.name
        told.append(replace(result, explanation=f"as in {name!r}") if repeated else result)
    return told


def _result(name: str, run: Callable[[Subject], Outcome], subject: Subject) -> Result:
    try:
        passed, figure, explanation = run(subject)
    except Exception as error:  # a closure under test may raise anything
        return Result(name, False, None, f"{type(error).__name__}: {error}")
    return Result(name, bool(passed), figure, explanation)
