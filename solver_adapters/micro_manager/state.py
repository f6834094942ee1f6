"""States of micro simulations as rows of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np

from coupling.contract import Array
from coupling.errors import ContractError


class StateLayout:
    """How the numbers in a state follow each other; the state is None, a number, an array, or lists, tuples and dicts.

    Args:
        example: a state; all others must have its structure.

    Attributes:
        size: how many numbers a state has.

    Raises:
        ContractError: something in the example is no number.
    """

    def __init__(self, example: Any) -> None:
        self._example = deepcopy(example)
        self.size = sum(part.size for part in _numbers(self._example, self._example))

    def pack(self, state: Any) -> Array:
        """The numbers (size,) of a state.

        Raises:
            ContractError: the state has another structure than the example.
        """
        return np.concatenate([np.empty(0), *_numbers(state, self._example)])

    def unpack(self, row: Array) -> Any:
        """A new state, of the example's structure and types, with the numbers (size,)."""
        return _rebuilt(self._example, iter(np.array(row)))


def _numbers(state: Any, example: Any) -> Iterator[Array]:
    if isinstance(example, dict):
        if not isinstance(state, dict) or list(state) != list(example):
            raise _other_structure(state, example)
        for key, part in example.items():
            yield from _numbers(state[key], part)
    elif isinstance(example, (list, tuple)):
        if not isinstance(state, (list, tuple, np.ndarray)) or len(state) != len(example):
            raise _other_structure(state, example)
        for one, part in zip(state, example, strict=True):
            yield from _numbers(one, part)
    elif example is not None:
        yield _leaf(state, example)
    elif state is not None:
        raise _other_structure(state, example)


def _leaf(state: Any, example: Any) -> Array:
    if (
        not isinstance(example, (bool, int, float, np.number, np.bool_, np.ndarray))
        or np.asarray(example).dtype.kind not in "biuf"
    ):
        raise ContractError(
            f"the state of the micro simulation has a {type(example).__name__} in it: let get_state return None, real "
            "numbers, arrays, and lists, tuples or dicts of these"
        )
    if np.shape(state) != np.shape(example):
        raise _other_structure(state, example)
    return np.asarray(state, dtype=np.float64).ravel()


def _rebuilt(example: Any, numbers: Iterator[np.float64]) -> Any:
    if isinstance(example, dict):
        return {key: _rebuilt(part, numbers) for key, part in example.items()}
    if isinstance(example, (list, tuple)):
        return type(example)([_rebuilt(part, numbers) for part in example])
    if example is None:
        return None
    if isinstance(example, np.ndarray):
        values = [next(numbers) for _ in range(example.size)]
        return np.array(values).astype(example.dtype).reshape(example.shape)
    return type(example)(next(numbers))


def _other_structure(state: Any, example: Any) -> ContractError:
    return ContractError(
        f"the state of the micro simulation changed its structure from {_structure(example)} to {_structure(state)}: "
        "let get_state return the same one from the start"
    )


def _structure(state: Any) -> str:
    shape = np.shape(state) if isinstance(state, np.ndarray) else (len(state),) if hasattr(state, "__len__") else ()
    return type(state).__name__ + (f" of shape {shape}" if shape else "")
