"""Objects from plain data and back, so that checkpoints hold nothing else.

A part is written as jsonargparse reads it: {"class_path": "videomem.heads.GRU", "init_args": {"hidden_dim": 64}}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from videomem.errors import VideomemError, one_line_reason

# A value of any type may look like a class with arguments; only where a class is asked for is one made of it.
set_parsing_settings(instantiate_subclass_spec_in_any=False)


def as_plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts that `from_plain` makes the same object of."""
    if isinstance(value, dict):
        hidden = {"self", "__class__"}
        return {key: as_plain(item) for key, item in value.items() if key not in hidden}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, partial):  # jsonargparse's own hold the class among the arguments.
        bound = next(part for part in (value.func, *value.args) if isinstance(part, type))
        return {"class_path": class_path(bound), "init_args": as_plain(value.keywords)}
    if isinstance(value, type):
        return {"class_path": class_path(value)}
    if is_dataclass(value):
        fields = asdict(value)  # type: ignore[arg-type]
        is_part = type(value).__bases__ != (object,)  # One of several kinds, so the kind must be named.
        return {"class_path": class_path(type(value)), "init_args": fields} if is_part else fields
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return {"class_path": class_path(type(value))}


def checked_arguments(cls: type, plain: Any, without: str | Sequence[str]) -> dict[str, Any]:
    """Arguments of a class but those named by `without`, held to their types; nothing is built.

    Raises:
        VideomemError: If they are no dictionary, or an argument is unknown or of another type.
    """
    if not isinstance(plain, dict):
        raise VideomemError(f"arguments of {cls.__name__} are no dictionary")
    parser = ArgumentParser(exit_on_error=False)
    skip = {without} if isinstance(without, str) else set(without)
    parser.add_class_arguments(cls, "object", skip=skip)
    try:
        return dict(parser.parse_object({"object": plain}).object.as_dict())
    except (ArgumentError, TypeError, ValueError) as error:
        raise VideomemError(f"not the arguments of a {cls.__name__}: {one_line_reason(error)}") from error


def class_path(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def from_plain(cls: type, plain: dict[str, Any]) -> Any:
    """Build `cls` from plain arguments, parts within parts. Imports the classes that are named: check them first."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "object", fail_untyped=False)
    known = {key: value for key, value in plain.items() if not key.startswith("_")}
    try:
        return parser.instantiate(parser.parse_object({"object": known})).object
    except (ArgumentError, TypeError, ValueError) as error:
        raise VideomemError(f"not the settings of a {cls.__name__}: {one_line_reason(error)}") from error
