"""Result classes that pydantic validates, and their strict JSON.

Fields have the declared type exactly, unknown fields are refused, and a number that JSON cannot represent is one of the
strings `NaN`, `Infinity` and `-Infinity`.
"""

from __future__ import annotations

import inspect
import json
import math
import pydoc
import re
import sys
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

from pydantic import (
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticSerializationError

from videomem.errors import VideomemError, one_line
from videomem.utils.sharing import shared_path, shared_text

T = TypeVar("T")
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _number(value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> float:
    if info.mode == "json":
        if isinstance(value, str) and value in NON_FINITE:
            return NON_FINITE[value]
        # JSON's 1e999 is parsed as infinity, and long integers overflow a float.
        if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
            raise PydanticCustomError("too_large", "a number is needed that fits a 64-bit float")
    return float(handler(value)) if isinstance(value, int) else handler(value)


def _encodable(value: object) -> object:
    """Text in which bytes of file names that are not UTF-8 are escaped, so that JSON can hold it."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


Number = Annotated[
    float,
    WrapValidator(_number),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": list(NON_FINITE)}]}),
]
Text = Annotated[str, BeforeValidator(_encodable)]
# Text that may have absolute paths, and a path: their folders are not part of a result, which people share.
SharedText = Annotated[Text, BeforeValidator(lambda value: shared_text(value) if isinstance(value, str) else value)]
SharedPath = Annotated[Text, BeforeValidator(lambda value: shared_path(value) if isinstance(value, str) else value)]


@dataclass_transform(frozen_default=True)
def result_model(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass whose fields pydantic validates, on construction as on reading."""
    config = ConfigDict(strict=True, extra="forbid", ser_json_inf_nan="strings", json_schema_extra=_describe)
    return cast(type[T], dataclass(frozen=True, config=config)(cls))


def dump(result: object) -> str:
    """A result as JSON text. Numbers keep all their bits, and equal results give equal text.

    Raises:
        VideomemError: If a field of type `Any` has a value that JSON cannot represent.
    """
    try:
        return TypeAdapter(type(result)).dump_json(result, indent=1).decode()
    except (PydanticSerializationError, ValueError) as error:
        raise VideomemError(f"{type(result).__name__} cannot be written as JSON: {one_line(error)}") from error


def parse(cls: type[T], text: str, version: int, name: str) -> T:
    """The result in a JSON text.

    Args:
        cls: Class of the result, with a field `schema_version`.
        text: The text.
        version: The supported schema version.
        name: Name of the result in error messages.
    Raises:
        VideomemError: If the text is not JSON, has another schema version, or does not match the class.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise VideomemError(f"{name}: not JSON: {one_line(error)}; run the command again") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise VideomemError(f"{name}: no schema_version; the file is damaged, or was not written by videomem")
    if content["schema_version"] != version:
        raise VideomemError(
            f"{name}: schema version {one_line(repr(content['schema_version']))}, but this videomem reads {version}; "
            "install the videomem that wrote the file, or run the command again"
        )
    try:
        return TypeAdapter(cls).validate_json(text)
    except ValidationError as error:
        raise VideomemError(f"{name}{_problem(error.errors(include_url=False)[0])}; run the command again") from error


def validated(cls: type[T], plain: object, name: str, remedy: str) -> T:
    """The result in plain data, as `dataclasses.asdict` has given it.

    Raises:
        VideomemError: If the data do not match the class.
    """
    try:
        return TypeAdapter(cls).validate_python(plain)
    except ValidationError as error:
        raise VideomemError(f"{name}{_problem(error.errors(include_url=False)[0])}; {remedy}") from error


def _problem(error: ErrorDetails) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{one_line(part)}" for part in error["loc"]]
    if error["type"] in ("missing", "unexpected_keyword_argument"):
        problem = "is missing" if error["type"] == "missing" else "is unknown"
        return f"{''.join(parts[:-1])}: the field {parts[-1].lstrip('.')} {problem}"
    message = one_line(error["msg"]).replace("Input should be", "must be")
    return f"{''.join(parts)}: {one_line(repr(error['input']))[:60]}, but {message}"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def summary(model: type) -> str:
    """The description of a result class, without that of its fields."""
    return (inspect.getdoc(model) or "").partition("\n\nAttributes:")[0]


def meanings(model: type) -> dict[str, str]:
    """The description of each field in the docstrings of a result class and its base classes, on one line each."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", attributes, flags=re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _describe(schema: dict[str, Any], model: type) -> None:
    schema["description"] = summary(model)
    for name, meaning in meanings(model).items():
        schema["properties"][name]["description"] = meaning


def schema_json(cls: type) -> str:
    """The JSON schema of a result class as text, with the docstrings as descriptions of classes and fields.

    `python -m videomem.utils.result_models <module>.<class>` prints it.
    """
    return json.dumps(TypeAdapter(cls).json_schema()) + "\n"


if __name__ == "__main__":
    print(schema_json(cast(type, pydoc.locate(sys.argv[1]))), end="")
