"""Fluxes and tangents that a torch function does not give itself, by ``torch.func``.

The functions take many points at once and treat each on its own, so that sums over the points have the derivatives of
the single points: one pull-back of a unit flux gives one row of all tangents. (No ``vmap``: with it the second
derivatives of some operations, ``torch.linalg.det`` for one, are wrong in torch 2.6.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from coupling.errors import ModelError

func: Any = torch.func  # its stubs export nothing
Values: TypeAlias = dict[str, Tensor]


def completed(function: Callable[[Tensor], Any], results: Sequence[str]) -> Callable[[Tensor], Values]:
    """Flux (n, m) and tangent (n, m, k) of gradients (n, k), with whatever else the function gives, by name.

    Args:
        function: of gradients (n, k), each point on its own.
        results: names of what it gives, in order; "flux" or "energy" is among them.
    """

    def given(gradient: Tensor) -> Values:
        values = function(gradient)
        values = (values,) if isinstance(values, Tensor) else values
        if len(values) != len(results):
            raise ModelError(f"the function gives {len(values)} results, its card names {', '.join(results)}")
        return dict(zip(results, values, strict=True))

    if "flux" in results:
        return given if "tangent" in results else _with_tangent(given)
    return _with_tangent(_with_flux(given))


def _with_flux(values: Callable[[Tensor], Values]) -> Callable[[Tensor], Values]:
    """Flux = ∂energy/∂gradient."""

    def energy(gradient: Tensor) -> tuple[Tensor, Values]:
        given = values(gradient)
        return given["energy"].sum(), given

    def with_flux(gradient: Tensor) -> Values:
        flux, given = func.grad(energy, has_aux=True)(gradient)
        return {**given, "flux": flux}

    return with_flux


def _with_tangent(values: Callable[[Tensor], Values]) -> Callable[[Tensor], Values]:
    """Tangent = ∂flux/∂gradient."""

    def flux(gradient: Tensor) -> tuple[Tensor, Values]:
        given = values(gradient)
        return given["flux"], given

    def with_tangent(gradient: Tensor) -> Values:
        q, pull, given = func.vjp(flux, gradient, has_aux=True)
        units = torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
        rows = [pull(unit.expand_as(q))[0] for unit in units]
        return {**given, "tangent": torch.stack(rows, dim=1)}

    return with_tangent
