"""Reading ``torch.export`` programs (.pt2) that may not be what they seem.

``torch.export.load`` trusts its file: torch unpickles weights, constants and example inputs without restriction (since
2.9 those that a table of the file calls pickled), and hands the expressions of sizes to SymPy, which evaluates them as
Python. :func:`read_program` looks first: every pickle must hold tensors and plain values only (``torch.load`` with
``weights_only=True``) and no table call for others, every expression be sums and products of sizes, and there must be
no native code. What is left is torch's own reader and operators. That keeps
out the known ways to run code from such a file; it is no proof against a flaw in torch, so take programs from people
you trust.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pickle import UnpicklingError
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from coupling.errors import ModelError

_FUNCTIONS = {
    "Symbol",
    "Integer",
    "Add",
    "Mul",
    "Pow",
    "Max",
    "Min",
    "Mod",
    "PythonMod",
    "FloorDiv",
    "CleanDiv",
    "CeilDiv",
}
_FOREIGN = ("custom_obj", "opaque_obj", "aotinductor")
_SIZE = re.compile(r"[a-z]+\d+")
_SYNTAX = (ast.Expression, ast.Call, ast.keyword, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Load)


def read_program(data: bytes, device: str = "cpu") -> ExportedProgram:
    """The program of a .pt2 file, on a device.

    Raises:
        ModelError: where the file holds more than a program, or torch cannot read it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                _check_member(name, archive.read(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(data))
            return program if device == "cpu" else move_to_device_pass(program, device)
    except ModelError:
        raise
    except Exception as error:  # torch raises many kinds
        raise ModelError(f"it is no torch.export program ({type(error).__name__}: {error}): save it again") from error


def _check_member(name: str, content: bytes) -> None:
    if name.endswith((".so", ".o", ".cubin", ".py")) or any(part in name for part in _FOREIGN):
        raise ModelError(f"it contains {name}, which could run code, and was not loaded")
    if name.endswith(".json"):
        table = json.loads(content)
        if any(_entries(table, "use_pickle")):
            raise ModelError(f"{name} in it calls for pickled tensors, which could run code, and was not loaded")
        for expression in map(str, _entries(table, "expr_str")):
            if not _is_arithmetic(expression):
                raise ModelError(f"{name} has the size {expression!r}, which is no arithmetic, and was not loaded")
    elif name.endswith(".pt") and content:
        try:
            torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        except UnpicklingError as error:
            raise ModelError(f"{name} in it pickles more than tensors, and was not loaded ({error})") from error


def _is_arithmetic(expression: str) -> bool:
    """Whether an expression is made of numbers, names of sizes, operators and the functions SymPy writes for them."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return all(_is_harmless(node, id(node) in functions) for node in nodes)


def _is_harmless(node: ast.AST, called: bool) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS if called else _SIZE.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int) or (isinstance(node.value, str) and _SIZE.fullmatch(node.value) is not None)
    return isinstance(node, _SYNTAX)


def _entries(value: Any, name: str) -> Iterator[Any]:
    """All values under a key of that name, at any depth."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == name:
                yield entry
            yield from _entries(entry, name)
    elif isinstance(value, list):
        for entry in value:
            yield from _entries(entry, name)
