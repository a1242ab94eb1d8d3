"""Convert configured objects to plain data and back, so that checkpoints contain only plain data.

The format is that of jsonargparse: {"class_path": "videomem.heads.GRU", "init_args": {"hidden_dim": 64}}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from videomem.errors import VideomemError, one_line_reason

# Do not instantiate a class for a parameter of type Any, even if the value has the form of a class with arguments.
set_parsing_settings(instantiate_subclass_spec_in_any=False)


def as_plain(value: Any) -> Any:
    """Convert a value to numbers, strings, lists and dicts, from which `from_plain` builds the same object."""
    if isinstance(value, dict):
        hidden = {"self", "__class__"}
        return {key: as_plain(item) for key, item in value.items() if key not in hidden}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, partial):  # jsonargparse passes the class as an argument of its own `partial`.
        bound = next(part for part in (value.func, *value.args) if isinstance(part, type))
        return {"class_path": class_path(bound), "init_args": as_plain(value.keywords)}
    if isinstance(value, type):
        return {"class_path": class_path(value)}
    if is_dataclass(value):
        arguments = {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
        is_part = type(value).__bases__ != (object,)  # It has a base class, so its own class must be named.
        return {"class_path": class_path(type(value)), "init_args": arguments} if is_part else arguments
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return {"class_path": class_path(type(value))}


def checked_arguments(cls: type, plain: Any, without: str | Sequence[str]) -> dict[str, Any]:
    """Check the types of arguments of a class, except those named in `without`. Builds no object.

    Raises:
        VideomemError: If `plain` is not a dictionary, or an argument is unknown or has a wrong type.
    """
    if not isinstance(plain, dict):
        raise VideomemError(f"the arguments of {cls.__name__} are not a dictionary")
    parser = ArgumentParser(exit_on_error=False)
    skip = {without} if isinstance(without, str) else set(without)
    parser.add_class_arguments(cls, "object", skip=skip)
    try:
        return dict(parser.parse_object({"object": plain}).as_dict().get("object", {}))
    except (ArgumentError, TypeError, ValueError) as error:
        raise VideomemError(f"invalid arguments of {cls.__name__}: {one_line_reason(error)}") from error


def class_path(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def from_plain(cls: type, plain: dict[str, Any]) -> Any:
    """Build an object of `cls` from plain arguments. Imports the classes that they name: check untrusted data first."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "object", fail_untyped=False)
    known = {key: value for key, value in plain.items() if not key.startswith("_")}
    try:
        return parser.instantiate(parser.parse_object({"object": known})).object
    except (ArgumentError, TypeError, ValueError) as error:
        raise VideomemError(f"invalid settings of {cls.__name__}: {one_line_reason(error)}") from error
