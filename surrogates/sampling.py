"""Sampling a closure: a low-discrepancy design in a box of gradients, evaluated on all ranks of a communicator.

At finite strain rotations are removed beforehand: the design lives in stretch space, so that no sample is spent on a
mere change of frame.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from scipy.stats import qmc

from coupling.agreement import together
from coupling.contract import Array, Closure, ClosureSpec, Response, Status, usable
from coupling.errors import ClosureError, ContractError
from coupling.interrupts import Interrupts
from coupling.polar import positive_definite
from surrogates.box import Box
from surrogates.dataset import Dataset
from surrogates.partial_samples import PartialSamples
from surrogates.stretch_space import StretchBox, box_of, check_stretch_spec, stretch_reference


class SamplingInterrupted(KeyboardInterrupt):
    """Ctrl-C reached a rank; raised on every rank, when the batches that were finished are kept."""


@dataclass(frozen=True)
class Design:
    """Gradients to sample: ``points`` (n, k), all in ``box``, drawn with ``seed``."""

    points: Array
    box: Box
    seed: int


def stretch_design(
    lower: Sequence[float], upper: Sequence[float], n: int, *, seed: int, include_reference: bool = True
) -> Design:
    """N positive-definite stretches from a scrambled Sobol sequence in the box lower ≤ U ≤ upper.

    Sobol points under a random linear matrix scramble and a digital shift (Matoušek 1998, On the L2-discrepancy for
    anchored boxes, J. Complexity 14, 527); points of the box that are not positive definite are skipped. The same
    arguments give the same design, and a larger n continues a smaller one.

    Args:
        lower: k lower bounds of the Mandel components, k = 3 (2D) or 6 (3D).
        upper: k upper bounds.
        n: number of points.
        seed: of the scrambling.
        include_reference: whether the first point is the identity.

    Raises:
        ContractError: where the box is not one, or nearly all of it is not positive definite.
    """
    box = StretchBox.of(lower, upper)
    width = np.subtract(box.upper, box.lower)
    sobol = qmc.Sobol(box.k, scramble=True, seed=np.random.default_rng(seed))
    points = stretch_reference(box.k)[None] if include_reference else np.empty((0, box.k))
    drawn = 0
    while len(points) < n:
        if drawn > 1000 * n + 10_000:
            raise ContractError(
                f"fewer than one in 1000 stretches of the box {lower} to {upper} is positive definite: shrink it"
            )
        block = box.lower + sobol.random(256) * width
        points = np.vstack((points, block[positive_definite(block)]))
        drawn += len(block)
    return Design(np.ascontiguousarray(points[:n]), box, seed)


def box_design(lower: Sequence[float], upper: Sequence[float], n: int, *, seed: int) -> Design:
    """N gradients of any kind from a scrambled Sobol sequence in the box lower ≤ g ≤ upper; a larger n goes on.

    Args:
        lower: k lower bounds.
        upper: k upper bounds.
        n: number of points.
        seed: of the scrambling.

    Raises:
        ContractError: where the box is not one.
    """
    box = Box.of(lower, upper)
    sobol = qmc.Sobol(box.k, scramble=True, seed=np.random.default_rng(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that n is no power of two
        points = np.array(box.lower) + sobol.random(n) * (2 * box.half_width)
    return Design(np.ascontiguousarray(points), box, seed)


def design_for(spec: ClosureSpec, lower: Sequence[float], upper: Sequence[float], n: int, *, seed: int) -> Design:
    """The design of a closure: :func:`stretch_design` where it takes stretches, else :func:`box_design`.

    Raises:
        ContractError: bounds that are no box of the closure's gradients.
    """
    if len(lower) != spec.k:
        raise ContractError(f"the box needs {spec.k} components, {', '.join(spec.gradient)}, got {len(lower)}")
    make = stretch_design if isinstance(box_of(spec, lower, upper), StretchBox) else box_design
    return make(lower, upper, n, seed=seed)


def sample(
    closure: Closure,
    design: Design,
    *,
    comm: Any,
    dt: float = 0.0,
    batch: int = 32,
    provenance: dict[str, Any] | None = None,
    progress: bool = True,
    keep: str | Path | None = None,
    fields: Callable[[Array], Array] | None = None,
) -> Dataset:
    """Evaluate a closure over a design (collective) and return the same data set on every rank.

    The design is cut into batches, the same ones for every number of ranks, and the ranks take those that are due in
    turn. Every point starts from ``closure.initial_state``. Points that are not usable are dropped, counted in
    ``provenance["dropped"]`` and warned about.

    Args:
        closure: with a design of stretches, one from stretches to fluxes with energy; every rank passes its own, equal
            one.
        design: where to evaluate it.
        comm: the ranks that share the work.
        dt: length of the increment.
        batch: points per call, which is also how often the progress bar moves.
        provenance: description of the RVE and of the closure, kept with the data.
        progress: whether rank 0 shows a progress bar.
        keep: folder, seen by all ranks, for finished batches: a later call of the same closure, provenance and dt goes
            on from there, on any number of ranks. None keeps nothing. The caller deletes it.
        fields: takes the solutions (n, N) that the data set shall keep out of the closure's states (n, s), such as
            ``PeriodicRVE.fluctuations``; None keeps none.

    Raises:
        ContractError: where design and closure do not fit, or a closure of stretches gives no energy.
        ClosureError: where no point is usable.
        ModelError: where ``keep`` holds samples of something else.
        SamplingInterrupted: on every rank, where Ctrl-C reached one of them.
    """
    stretches = isinstance(design.box, StretchBox)
    if stretches:
        check_stretch_spec(closure.spec)
    if closure.spec.k != design.box.k:
        raise ContractError(
            f"the design has {design.box.k} components and the closure {closure.spec.k}: make one for the other"
        )
    batches = {start: design.points[start : start + batch] for start in range(0, len(design.points), batch)}
    origin = {"spec": asdict(closure.spec), "dt": dt, "provenance": provenance or {}}
    if fields is not None:
        origin["fields"] = True
    kept = None if keep is None else PartialSamples(keep, origin)
    answers = {} if kept is None else kept.found(comm, batches)
    due = [start for start in batches if start not in answers][comm.rank :: comm.size]
    total = len(range(comm.rank, len(batches), comm.size))

    def evaluate_share(interrupts: Interrupts) -> tuple[dict[int, Response], bool]:
        share: dict[int, Response] = {}
        with Progress(console=Console(stderr=True), disable=not (progress and comm.rank == 0)) as bar:
            description = f"sampling the fine scale at {len(design.points)} {'stretches' if stretches else 'gradients'}"
            task = bar.add_task(description, total=total, completed=total - len(due))
            for start in due:
                if kept is not None and kept.stopped():
                    return share, True
                try:
                    with interrupts.raised():
                        share[start] = _evaluate(closure, batches[start], dt, fields, with_energy=stretches)
                except KeyboardInterrupt:
                    if kept is not None:
                        kept.stop()
                    return share, True
                if kept is not None:
                    kept.add(start, batches[start], share[start])
                bar.advance(task)
        return share, False

    with Interrupts() as interrupts:
        shares = comm.allgather(together(comm, lambda: evaluate_share(interrupts)))
    for share, _ in shares:
        answers |= share
    if any(interrupted for _, interrupted in shares):
        done = sum(len(batches[start]) for start in answers)
        raise SamplingInterrupted(f"interrupted with {done} of {len(design.points)} samples done")
    return _assemble(closure, design, [answers[start] for start in sorted(answers)], provenance or {}, comm.rank == 0)


def _evaluate(
    closure: Closure, points: Array, dt: float, fields: Callable[[Array], Array] | None, *, with_energy: bool
) -> Response:
    points = np.ascontiguousarray(points)
    response = closure.evaluate(points, closure.initial_state(len(points)), dt)
    if with_energy and response.energy is None:
        raise ContractError(
            f"{type(closure).__name__} answers no energy, which energy surrogates are trained on: fill Response.energy"
        )
    response = replace(response, energy=response.energy if with_energy else None)
    if fields is None:
        return replace(response, state=None)
    if response.state is None:
        raise ContractError(f"{type(closure).__name__} keeps no state to take fields from: leave fields out")
    return replace(response, state=fields(response.state))


def _assemble(
    closure: Closure, design: Design, answers: list[Response], provenance: dict[str, Any], speaker: bool
) -> Dataset:
    status = np.concatenate([a.status for a in answers])
    keep = usable(status)
    dropped = {Status(s).message: count for s, count in sorted(Counter(status[~keep].tolist()).items())}
    if not keep.any():
        raise ClosureError(f"none of the {len(keep)} samples is usable ({dropped}): shrink the box {design.box}")
    if dropped and speaker:
        warnings.warn(f"{(~keep).sum()} of {len(keep)} samples dropped: {dropped}", stacklevel=3)
    kept = [a.state for a in answers if a.state is not None]
    energies = [a.energy for a in answers if a.energy is not None]
    return Dataset(
        replace(closure.spec, state_size=0),
        design.box,
        np.ascontiguousarray(design.points[keep]),
        np.concatenate(energies)[keep] if energies else None,
        np.concatenate([a.flux for a in answers])[keep],
        np.concatenate([a.tangent for a in answers])[keep],
        provenance | {"seed": design.seed, "closure": type(closure).__name__, "asked": len(keep), "dropped": dropped},
        fields=np.ascontiguousarray(np.concatenate(kept)[keep]) if kept else None,
    )
