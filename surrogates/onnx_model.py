"""ONNX models of surrogates: what a foreign inference server evaluates."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from coupling.contract import Status
from coupling.errors import MissingPackageError, ModelError
from surrogates.derivatives import Values, completed
from surrogates.energy_program import torch_module
from surrogates.model_folder import TrainedSurrogate
from surrogates.program import exported, program_card, traced
from surrogates.program_card import ProgramCard
from surrogates.torch_surrogate import TorchSurrogate

ROUND_OFF = 1e-10  # relative; both sides compute in float64, in another order
_aten: Any = torch.ops.aten
_TENSOR_FORM: dict[Any, Any] = {
    getattr(_aten, name): getattr(_aten, name).Tensor for name in ("add", "sub", "mul", "div", "rsub")
}
_TENSOR_FORM[_aten.pow] = _aten.pow.Tensor_Tensor


class Served(nn.Module):
    """All results of a surrogate for gradients (n, k), as a server's clients take them.

    ``flux`` (n, m), ``tangent`` (n, m, k), or (n, k(k+1)/2), its upper triangle, where the specification is symmetric,
    ``status`` (n, 1) int8 and, where there are, ``uncertainty`` and ``energy`` (n, 1).

    Args:
        function: gives flux and tangent, see :func:`surrogates.derivatives.completed`.
        card: what is known about it.
    """

    def __init__(self, function: Callable[[Tensor], Values], card: ProgramCard) -> None:
        super().__init__()
        self.card, self.function = card, function
        k, everywhere = card.spec.k, np.full(card.spec.k, np.inf)
        self.lower, self.upper, self.error = (
            torch.tensor(values, dtype=torch.float64)
            for values in (
                -everywhere if card.lower is None else card.lower,
                everywhere if card.upper is None else card.upper,
                np.nan if card.flux_error is None else card.flux_error,
            )
        )
        i, j = np.triu_indices(k)
        self.triangle = torch.from_numpy(i * k + j)

    @property
    def names(self) -> list[str]:
        """Of the results, in order."""
        card = self.card
        there = {"uncertainty": card.flux_error is not None, "energy": "energy" in card.results}
        return ["flux", "tangent", "status", *(name for name, given in there.items() if given)]

    def forward(self, gradient: Tensor) -> tuple[Tensor, ...]:
        """The results that :attr:`names` names."""
        values, spec = self.function(gradient), self.card.spec
        inside = ((gradient >= self.lower) & (gradient <= self.upper)).to(torch.int8).sum(1, keepdim=True) == spec.k
        if spec.symmetric and values["tangent"].ndim == 3:
            values["tangent"] = values["tangent"].flatten(1)[:, self.triangle]
        if "energy" in values:
            values["energy"] = values["energy"][:, None]
        values["status"] = torch.where(inside, int(Status.OK), int(Status.OUTSIDE_RANGE)).to(torch.int8)
        values["uncertainty"] = torch.where(inside, self.error, torch.full_like(self.error, torch.inf))
        return tuple(values[name] for name in self.names)


def served(surrogate: TrainedSurrogate | TorchSurrogate) -> Served:
    """The module that a server evaluates for a surrogate on the CPU.

    Raises:
        ModelError: for a family of energies without torch operations.
    """
    if not isinstance(surrogate, TorchSurrogate):
        card = program_card(surrogate)
        return Served(completed(torch_module(surrogate), card.results), card)
    return Served(surrogate.function, surrogate.card)


def onnx_model(module: Served) -> bytes:
    """The ONNX model of a module, for any number of points; input ``gradient``, outputs by their names.

    The model is run on seven points and on one and compared with the module before it is returned.

    Raises:
        MissingPackageError: where onnx or onnxscript are missing.
        ModelError: where the module has operators without an ONNX form, or the model computes something else.
    """
    try:
        import onnxscript  # noqa: F401
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise MissingPackageError("ONNX models need onnx and onnxscript: pip install 'twoscale[triton]'") from error
    spec = module.card.spec
    program = exported(_with_double_constants(traced(module, spec)), spec)
    model = _converted(program, module.names)
    try:
        evaluator = ReferenceEvaluator(model)
        for n in (7, 1):
            gradient = program.example_inputs[0][0][:n]
            found = evaluator.run(None, {"gradient": gradient.numpy()})
            _check_same(module.names, list(found), module(gradient))
    except ModelError:
        raise
    except Exception as error:  # a model that torch has specialised to one number of points fails somewhere
        raise ModelError(f"the ONNX model does not run: {type(error).__name__}: {error}") from error
    return bytes(model.SerializeToString())


def _converted(program: ExportedProgram, names: list[str]) -> Any:
    """The ONNX model of a program; torch's warnings on the way concern neither the caller nor the result."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decomposed = program.run_decompositions()  # without this, torch 2.6 fixes the number of points
            model = torch.onnx.export(
                decomposed,
                program.example_inputs[0],
                input_names=["gradient"],
                output_names=names,
                dynamo=True,
                verbose=False,
            )
            assert model is not None
            model.optimize()
            return model.model_proto
    except Exception as error:  # torch raises many kinds
        raise ModelError(f"torch cannot write it as ONNX: {type(error).__name__}: {error}") from error
    finally:
        log.setLevel(level)


def _check_same(names: list[str], found: list[Any], expected: tuple[Tensor, ...]) -> None:
    for name, values, wanted in zip(names, found, expected, strict=True):
        right = wanted.numpy(force=True)
        if not np.allclose(values, right, rtol=ROUND_OFF, atol=ROUND_OFF * np.abs(right).max()):
            raise ModelError(
                f"the {name} of the ONNX model differs from the surrogate's by {np.abs(values - right).max():.1e}: an "
                "operator of the model has no form of double precision in ONNX"
            )


def _with_double_constants(graph: GraphModule) -> GraphModule:
    """The graph with the Python floats of its arithmetic as tensors: torch writes them to ONNX in single precision."""
    for node in list(graph.graph.nodes):
        form = _TENSOR_FORM.get(getattr(node.target, "overloadpacket", None))
        if form is None or not any(isinstance(value, float) for value in node.args):
            continue
        with graph.graph.inserting_before(node):
            node.args = tuple(_constant(graph, node, v) if isinstance(v, float) else v for v in node.args)
        node.target = form
    graph.recompile()
    return graph


def _constant(graph: GraphModule, node: Node, value: float) -> Node:
    name = f"{node.name}_constant"
    graph.register_buffer(name, torch.tensor(value, dtype=torch.float64))
    return graph.graph.get_attr(name)
