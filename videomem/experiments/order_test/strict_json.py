"""Dataclasses as strict JSON and back, every value checked against the types that the dataclasses declare."""

from __future__ import annotations

import math
import sys
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from videomem.errors import VideomemError, one_line

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def to_plain(value: object) -> object:
    """Dataclasses as dictionaries, tuples as lists, numbers that JSON lacks by name."""
    if is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: to_plain(part) for name, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def refuse_constant(name: str) -> None:
    """For `parse_constant` of `json.loads`: NaN and its like are no JSON."""
    raise ValueError(f"{name} is no JSON")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def read(kind: Any, value: Any, place: str) -> object:
    """Plain data as a value of a declared type.

    Args:
        kind: The type, such as a dataclass or `float | None`.
        place: Where the value stands, for the error.
    Raises:
        VideomemError: If any part is of another type, missing, or unknown.
    """
    if kind is object:
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _read_fields(kind, _must(isinstance(value, dict), value, place, "an object"), place)
    if origin in (Union, UnionType):
        return None if value is None else read(next(part for part in inner if part is not type(None)), value, place)
    if origin is Literal:
        return _must(value in inner, value, place, "one of " + ", ".join(inner))
    if origin is dict:
        _must(isinstance(value, dict), value, place, "an object")
        return {name: read(inner[1], part, f"{place}.{name}") for name, part in value.items()}
    if origin is tuple:
        _must(isinstance(value, list), value, place, "a list")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        _must(len(kinds) == len(value), value, place, f"a list of {len(kinds)}")
        return tuple(read(k, part, f"{place}[{n}]") for n, (k, part) in enumerate(zip(kinds, value, strict=True)))
    if kind is float and isinstance(value, str) and value in NON_FINITE:
        return NON_FINITE[value]
    return kind(_must(_is_a(kind, value), value, place, _WORDS.get(kind, "another kind")))


def _is_a(kind: Any, value: object) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        # 1e999 is read as infinite, and longer whole numbers overflow.
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def _read_fields(kind: Any, value: dict[str, Any], place: str) -> object:
    known = {item.name for item in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    if wrong := sorted(value.keys() - known) + sorted(needed - value.keys()):
        what = "is missing" if wrong[0] in known else "is unknown here"
        raise VideomemError(f"{one_line(place)}: the field {one_line(wrong[0])} {what}; make the card again")
    return kind(**{name: read(_hints(kind)[name], part, f"{place}.{name}") for name, part in value.items()})


def _must(right: bool, value: Any, place: str, needed: str) -> Any:
    if not right:
        raise VideomemError(
            f"{one_line(place)}: {one_line(repr(value))[:60]}, but {needed} is needed; make the card again"
        )
    return value
