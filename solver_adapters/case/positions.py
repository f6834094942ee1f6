"""Where keys stand in a TOML text: tomllib gives values, tree-sitter's grammar of TOML gives places."""

from __future__ import annotations

import tomllib
from collections import Counter
from typing import TypeAlias

from coupling.errors import MissingPackageError

try:
    import tree_sitter_toml
    from tree_sitter import Language, Node, Parser
except ImportError as error:
    raise MissingPackageError(f"case files need tree-sitter-toml ({error}): pip install twoscale[case]") from error

Path: TypeAlias = tuple[str | int, ...]

_KEYS = ("bare_key", "quoted_key", "dotted_key")


def key_lines(text: str) -> dict[Path, int]:
    r"""Line, from 1, of every table, key and array element of a valid TOML text, by its path.

    >>> key_lines("[mesh]\ncells = [6,\n  3]")[("mesh", "cells", 1)]
    3
    """
    lines: dict[Path, int] = {}
    tables: Counter[Path] = Counter()
    for node in Parser(Language(tree_sitter_toml.language())).parse(text.encode()).root_node.named_children:
        if node.type == "pair":
            _enter_pair(lines, (), node)
        elif node.type in ("table", "table_array_element"):
            path = _inside_arrays(_keys(node.named_children[0]), tables)
            if node.type == "table_array_element":
                tables[path] += 1
                path = (*path, tables[path] - 1)
            _enter(lines, path, node)
            for pair in node.named_children:
                if pair.type == "pair":
                    _enter_pair(lines, path, pair)
    return lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """Line of a path, or of the innermost thing around it that has one."""
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 1)


def _inside_arrays(keys: Path, tables: Counter[Path]) -> Path:
    """The path of a table's keys, in which an array of tables before it stands for its last element."""
    path: Path = ()
    for number, key in enumerate(keys):
        path = (*path, key)
        if tables[path] and number < len(keys) - 1:
            path = (*path, tables[path] - 1)
    return path


def _enter_pair(lines: dict[Path, int], path: Path, pair: Node) -> None:
    key, value = pair.named_children[:2]
    path = (*path, *_keys(key))
    _enter(lines, path, pair)
    _enter_value(lines, path, value)


def _enter_value(lines: dict[Path, int], path: Path, value: Node) -> None:
    elements = [node for node in value.named_children if node.type != "comment"]
    if value.type == "inline_table":
        for pair in elements:
            _enter_pair(lines, path, pair)
    elif value.type == "array":
        for index, element in enumerate(elements):
            _enter(lines, (*path, index), element)
            _enter_value(lines, (*path, index), element)


def _enter(lines: dict[Path, int], path: Path, node: Node) -> None:
    for n in range(1, len(path) + 1):
        lines.setdefault(path[:n], node.start_point[0] + 1)


def _keys(node: Node) -> Path:
    if node.type == "dotted_key":
        return tuple(key for part in node.named_children if part.type in _KEYS for key in _keys(part))
    text = (node.text or b"").decode()
    return (next(iter(tomllib.loads(f"{text} = 0"))),)
