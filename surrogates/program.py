"""``torch.export`` programs: gradients (n, k), float64 ↦ results, for any number n of points."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from coupling.contract import ClosureSpec
from coupling.errors import ModelError
from surrogates.energy_program import torch_module
from surrogates.model_folder import TrainedSurrogate
from surrogates.polynomial_flux import PolynomialFlux
from surrogates.program_card import RESULTS, ProgramCard
from surrogates.torch_surrogate import TorchSurrogate


def exported(module: nn.Module, spec: ClosureSpec) -> ExportedProgram:
    """The program of a module on the CPU that takes the gradients of a specification.

    Raises:
        ModelError: where torch cannot export it; quotes why.
    """
    points = Dim("points", min=0, max=2**31 - 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (_example(spec),), dynamic_shapes=({0: points},), strict=False)
    except Exception as error:  # torch raises many kinds
        raise ModelError(f"torch cannot export {type(module).__name__}: {type(error).__name__}: {error}") from error


def runnable(program: ExportedProgram) -> nn.Module:
    """The program as a module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.module()


def traced(function: Callable[[Tensor], Any], spec: ClosureSpec) -> GraphModule:
    """The operations of a function of gradients, those of ``torch.func`` derivatives in it spelled out.

    Raises:
        ModelError: where torch cannot trace it; quotes why.
    """
    try:
        trace = make_fx(lambda gradient: function(gradient), tracing_mode="symbolic", _allow_non_fake_inputs=True)
        return trace(_example(spec))
    except Exception as error:  # torch raises many kinds
        raise ModelError(f"torch cannot trace the function: {type(error).__name__}: {error}") from error


def program_of(surrogate: TrainedSurrogate | TorchSurrogate) -> tuple[ExportedProgram, ProgramCard]:
    """A surrogate on the CPU as a program that gives flux and tangent, and the energy where there is one; and its card.

    The tangents of energy surrogates come packed.

    Raises:
        ModelError: where torch has no operations for it, or cannot trace or export them.
    """
    if not isinstance(surrogate, TorchSurrogate):
        card = program_card(surrogate)
        return exported(torch_module(surrogate), card.spec), card
    card = surrogate.card
    names = tuple(name for name in RESULTS if name != "energy" or name in card.results)
    graph = traced(lambda gradient: tuple(surrogate.function(gradient)[name] for name in names), card.spec)
    return exported(graph, card.spec), replace(card, results=names)


def program_card(surrogate: TrainedSurrogate) -> ProgramCard:
    """What the card of a trained surrogate says of it as the function of :func:`torch_module`."""
    known = surrogate.card
    return ProgramCard(
        surrogate.spec,
        ("flux", "tangent") if isinstance(surrogate, PolynomialFlux) else ("flux", "tangent", "energy"),
        known.box.lower,
        known.box.upper,
        known.errors.flux_max_absolute,
        {"family": surrogate.family, **known.as_json()},
    )


def _example(spec: ClosureSpec) -> Tensor:
    offsets = np.random.default_rng(0).uniform(-0.01, 0.01, (7, spec.k))
    return torch.from_numpy(np.array(spec.reference) + offsets)
