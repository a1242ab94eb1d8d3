"""Convert configured objects to plain data and back, so that checkpoints contain only plain data.

The format is that of jsonargparse: {"class_path": "videomem.heads.GRU", "init_args": {"hidden_dim": 64}}.

Plain data may come from an untrusted file, so no general parser reads it: `from_plain` compares types, looks up classes
in a table, and interprets no text.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from videomem.errors import VideomemError, one_line

MAX_DEPTH = 20
MAX_ITEMS = 1_000_000

# The classes that data may name, by class path. None: any class, which is then imported.
Known = Mapping[str, type] | None


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
        return {"class_path": class_path(value), "init_args": {}}
    if is_dataclass(value):
        arguments = {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
        is_part = type(value).__bases__ != (object,)  # It has a base class, so its own class must be named.
        return {"class_path": class_path(type(value)), "init_args": arguments} if is_part else arguments
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return {"class_path": class_path(type(value))}


def class_path(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def check_plain(value: Any, what: str) -> None:
    """Check that a value consists of numbers, text, lists and dictionaries with text as keys, and is of limited size.

    Raises:
        VideomemError: If it does not, is nested too deeply (cyclic data, for example), or has too many items.
    """
    waiting, num_items = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        inner: Sequence[Any] = ()
        if type(item) is dict:
            if strange := [key for key in item if type(key) is not str]:
                raise VideomemError(f"{what}: a key is of type {type(strange[0]).__name__}, but keys must be text")
            inner = list(item.values())
        elif type(item) in (list, tuple):
            inner = item
        elif type(item) is int and abs(item) >= 2**63:
            raise VideomemError(f"{what}: a number has more than 64 bits")
        elif item is not None and type(item) not in (bool, int, float, str):
            raise VideomemError(f"{what}: has a value of type {type(item).__name__}, which is not plain data")
        num_items += len(inner)
        if depth > MAX_DEPTH or num_items > MAX_ITEMS:
            raise VideomemError(f"{what}: more than {MAX_DEPTH} levels deep, or has more than {MAX_ITEMS:,} values")
        waiting += [(one, depth + 1) for one in inner]


def from_plain(cls: type, plain: Any, known: Known = None) -> Any:
    """Build an object of `cls` from plain arguments; see `checked_arguments`."""
    return cls(**checked_arguments(cls, plain, known))


def checked_arguments(cls: type, plain: Any, known: Known = None, without: Sequence[str] = ()) -> dict[str, Any]:
    """Check the arguments of a class against its type hints, and build the parts that they describe.

    Args:
        cls: The class.
        plain: Its arguments, as returned by `as_plain`.
        known: The classes that the arguments may name, by class path. None imports the classes that they name: for
            trusted data only.
        without: Arguments of the class that `plain` must not have.
    Raises:
        VideomemError: If an argument is unknown, missing or of a wrong type, or names a class that is not known.
    """
    if not isinstance(plain, dict):
        raise VideomemError(f"invalid settings of {cls.__name__}: {_shown(plain)} is not a dictionary of arguments")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = {name: one for name, one in inspect.signature(cls).parameters.items()
                  if name not in without and one.kind not in variadic}  # fmt: skip
    if unknown := [name for name in plain if name not in parameters]:
        raise VideomemError(f"invalid settings of {cls.__name__}: it has no argument {_shown(unknown[0])}")
    if missing := [name for name, one in parameters.items() if one.default is one.empty and name not in plain]:
        raise VideomemError(f"invalid settings of {cls.__name__}: {missing[0]} is missing")
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    return {name: _value(hints.get(name, Any), value, f"{cls.__name__}.{name}", known) for name, value in plain.items()}


def _value(hint: Any, value: Any, name: str, known: Known) -> Any:
    """The argument that a value describes: a dataclass, an object of a named class or its factory, or the value."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in options:
        return None
    for option in options:
        if get_origin(option) is Callable:  # Builds an object from the arguments that the data do not have.
            bound, base = get_args(option)
            return _named(value, base, len(bound), name, known)
        if inspect.isabstract(option):
            return _named(value, option, 0, name, known)()
        if is_dataclass(option) and isinstance(option, type):
            return from_plain(option, value, known)
    if not _fits(value, hint):
        expected = hint.__name__ if isinstance(hint, type) else str(hint)
        raise VideomemError(f"invalid settings: {name} is {_shown(value)}, but must be of type {expected}")
    return value


def _named(value: Any, base: type, num_bound: int, name: str, known: Known) -> Callable[..., Any]:
    """The class that {"class_path": ..., "init_args": ...} names, with its arguments bound."""
    if not isinstance(value, dict) or not {"class_path"} <= value.keys() <= {"class_path", "init_args"}:
        raise VideomemError(f"invalid settings: {name} is {_shown(value)}, but must be a class_path with init_args")
    cls = _find(value["class_path"], known)
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise VideomemError(f"invalid settings: {name} names {_shown(value['class_path'])}, not a {base.__name__}")
    bound = list(inspect.signature(cls).parameters)[:num_bound]
    return partial(cls, **checked_arguments(cls, value.get("init_args", {}), known, bound))


def _find(path: Any, known: Known) -> Any:
    if known is not None:
        if not isinstance(path, str) or path not in known:
            raise VideomemError(
                f"names the class {one_line(path)[:80]}, and building it would run that module's code; "
                "pass --trust if you know where the file comes from"
            )
        return known[path]
    try:
        return resolve_name(path)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise VideomemError(f"invalid settings: no class {path}: {one_line(error)}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has exactly the type of a hint; an integer fits a float."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in options)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in options)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, options[1]) for item in value.values())
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, options[0]) for item in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return hint is Any or type(value) is hint


def _shown(value: Any) -> str:
    return one_line(repr(value))[:80]
