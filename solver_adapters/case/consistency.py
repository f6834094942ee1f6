"""Mistakes in a case file that show without a mesh: sections that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from solver_adapters.case.complaints import Complaint
from solver_adapters.case.formulations import FORMULATIONS
from solver_adapters.case.schema import Case
from solver_adapters.case.section import Components
from solver_adapters.rve.laws import LAWS


def contradictions(case: Case) -> Iterator[Complaint]:
    """A complaint for each of them."""
    if not case.boundary:
        yield Complaint(("boundary",), "holds nothing: prescribe values on a part of the boundary with [[boundary]]")
    yield from _closure(case)
    yield from _history(case)
    yield from _laws(case)
    yield from _values(case)
    yield from _names(case)
    if case.steps.min_step is not None and case.steps.min_step > 1 / case.steps.count:
        yield Complaint(("steps", "min_step"), f"must be at most a full step, 1/{case.steps.count}")


def _closure(case: Case) -> Iterator[Complaint]:
    closure = case.closure
    if case.rve is not None and closure.fine is not None:
        yield Complaint(("closure", "fine"), "stands in place of [rve]: leave one of them out")
    sampled = closure.mode != "off" and closure.fit is not None and closure.fit.data is None
    if sampled and case.rve is None:
        yield Complaint(("closure", "fit"), "samples the RVE, but there is no [rve]: describe it, or give 'data'")
    if closure.mode != "alone" and case.rve is None and closure.fine is None:
        yield Complaint(("rve",), 'is missing: describe the fine scale in [rve], or use closure.mode = "alone"')


def _history(case: Case) -> Iterator[Complaint]:
    closure = case.closure
    if case.rve is None or not any(LAWS[material.law].history for material in case.rve.materials.values()):
        return
    if closure.mode == "replace":
        words = 'is "replace", but no surrogate carries the history of [rve] on: use "exact"'
        yield Complaint(("closure", "mode"), words)
    elif closure.mode != "off" and closure.fit is not None and closure.fit.data is None:
        words = "samples the RVE, but its materials have history: give 'data' or a 'model'"
        yield Complaint(("closure", "fit"), words)


def _laws(case: Case) -> Iterator[Complaint]:
    if case.rve is None:
        return
    if not case.rve.materials:
        yield Complaint(("rve", "materials"), "holds no material: give one for each cell tag, [rve.materials.1]")
    known = [name for name, law in LAWS.items() if law.kinematics == case.macro.kinematics]
    for tag, material in case.rve.materials.items():
        if material.law not in known:
            yield Complaint(
                ("rve", "materials", str(tag), "law"),
                f"{material.law!r} is no law of {case.macro.kinematics}, which takes {' or '.join(known)}",
            )


def _values(case: Case) -> Iterator[Complaint]:
    scalar = FORMULATIONS[case.macro.kinematics].scalar
    wish = "a number" if scalar else "components, such as { x = 0.0 },"
    values = {("boundary", i, "value"): part.value for i, part in enumerate(case.boundary)}
    values |= {("load", i, "value"): part.value for i, part in enumerate(case.load)}
    if case.macro.body is not None:
        values["macro", "body"] = case.macro.body  # type: ignore[index]
    for path, value in values.items():
        if isinstance(value, Components) == scalar:
            yield Complaint(path, f"must be {wish} for {case.macro.kinematics}")
        elif isinstance(value, Components) and not value.given():
            yield Complaint(path, "has no components: give some, such as { x = 0.0 }")
    if case.macro.initial and not scalar:
        yield Complaint(("macro", "initial"), f"is of a scalar unknown, but {case.macro.kinematics} has displacements")


def _names(case: Case) -> Iterator[Complaint]:
    seen: set[str] = set()
    for path, name in [
        *((("boundary", i, "name"), part.name) for i, part in enumerate(case.boundary)),
        *((("output", "probes", i, "name"), probe.name) for i, probe in enumerate(case.output.probes)),
    ]:
        if name is not None and name in seen:
            yield Complaint(path, f"{name!r} occurs twice: columns of history.csv need different names")
        seen.add(name or "")
