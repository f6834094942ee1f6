"""What is wrong in a case file, in words: from pydantic's errors to sentences that name the key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from solver_adapters.case.positions import Path

_SENTENCES = {
    "missing": "is missing",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be a text in quotes",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list [ … ]",
    "path_type": "must be a path in quotes",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "int_parsing": "must be a whole number",
    "too_short": "needs at least {min_length} entries",
    "too_long": "needs at most {max_length} entries",
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "string_pattern_mismatch": "must be a name of letters, digits and _",
}
"""Sentences for pydantic's types of errors; others keep pydantic's."""


@dataclass(frozen=True)
class Complaint:
    """One mistake: the path of the key, what is wrong with it, and the path that was probably meant."""

    path: Path
    words: str
    meant: Path | None = None


def complaints(errors: Iterable[ErrorDetails], root: type[BaseModel]) -> list[Complaint]:
    """The complaints of pydantic's errors in a model; a key that is misspelt is not said to be missing as well."""
    found = [_complaint(error, root) for error in errors]
    misspelt = {meant for each in found if (meant := each.meant)}
    return [each for each in found if not (each.path in misspelt and each.words.startswith("is missing"))]


def _complaint(error: ErrorDetails, root: type[BaseModel]) -> Complaint:
    context, got = error.get("ctx", {}), error["input"]
    if error["type"] in ("missing", "extra_forbidden"):
        path, kinds = _walk(root, error["loc"][:-1])
        key = str(error["loc"][-1])
        fields = {known: field for kind in kinds for known, field in _fields(kind).items()}
        if error["type"] == "missing":
            return Complaint((*path, key), f"is missing: {_meaning(fields[key])}")
        return Complaint((*path, key), f"is no key here{_meant(key, fields)}", _path_meant(path, key, fields))
    path, kinds = _walk(root, error["loc"])
    match error["type"]:
        case "union_tag_not_found":
            key = context["discriminator"].strip("'")
            return Complaint((*path, key), f"is missing: one of {', '.join(_tags(kinds, key))}")
        case "union_tag_invalid":
            key = context["discriminator"].strip("'")
            return Complaint((*path, key), f"cannot be {context['tag']!r}{_meant(context['tag'], _tags(kinds, key))}")
        case "literal_error":
            expected = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return Complaint(path, f"cannot be {_shown(got)}{_meant(str(got), expected)}")
        case "value_error":
            return Complaint(path, str(context["error"]))
        case name:
            words = _SENTENCES[name].format(**context) if name in _SENTENCES else _lowered(error["msg"])
            return Complaint(path, f"{words}, got {_shown(got)}")


def _walk(root: type[BaseModel], location: Path) -> tuple[Path, list[Any]]:
    """The path of the keys of pydantic's location, which names members of unions too, and the types that may be there.

    A step is a key of a table or an index; anything else chooses a member of a union.
    """
    path: Path = ()
    kinds: list[Any] = [root]
    for step in location:
        inside = [inner for kind in kinds for inner in _step(kind, step)]
        if inside:
            path, kinds = (*path, step), inside
        else:
            kinds = [kind for kind in kinds if step in _names(kind)] or kinds
    return path, kinds


def _step(kind: Any, step: str | int) -> list[Any]:
    """The types of an element or a value of a type, none where it has no such thing."""
    if isinstance(step, str) and step in _fields(kind):
        return list(_members(_fields(kind)[step].annotation))
    container, parts = get_origin(kind), get_args(kind)
    if (container is tuple and isinstance(step, int)) or (container is dict and isinstance(step, str)):
        return list(_members(parts[1] if container is dict else parts[0]))
    return []


def _members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation permits, one by one; a member of a union that has a tag keeps it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated and not any(isinstance(part, Tag) for part in parts):
        yield from _members(parts[0])
    elif origin in (Union, UnionType):
        for part in parts:
            yield from _members(part)
    else:
        yield annotation


def _fields(kind: Any) -> dict[str, FieldInfo]:
    """The fields of a model by the key that a file has for them; none for other types."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def _names(kind: Any) -> tuple[str, ...]:
    """What pydantic calls a type in a location where it is a member of a union."""
    if get_origin(kind) is Annotated:
        return tuple(part.tag for part in get_args(kind) if isinstance(part, Tag))
    return tuple(value for field in _fields(kind).values() for value in _values(field))


def _values(field: FieldInfo) -> tuple[str, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def _tags(kinds: Iterable[Any], key: str) -> list[str]:
    return [value for kind in kinds if key in _fields(kind) for value in _values(_fields(kind)[key])]


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or f"one of {', '.join(_values(field))}").split())


def _path_meant(path: Path, word: str, known: Iterable[str]) -> Path | None:
    close = difflib.get_close_matches(word, list(known), n=1)
    return (*path, close[0]) if close else None


def _meant(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return (f": did you mean {close[0]!r}? There" if close else ": there") + f" are {', '.join(known)}"


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) < 60 else text[:57] + "…"


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
