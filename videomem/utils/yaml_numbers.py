"""YAML in which numbers are written in decimal digits, as everywhere else on the command line."""

from __future__ import annotations

import re
from typing import Any

import yaml

_PREFIX = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    pass


def load_yaml(text: str) -> Any:
    """Plain data from YAML; see `decimal_digits_only`."""
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


def decimal_digits_only(loader: type[Any]) -> None:
    """Let a loader of YAML 1.1 take `1_0`, `010`, `0x10` and `1:30` for text, instead of 10, 8, 16 and 90."""
    loader.yaml_implicit_resolvers = {
        first: [(tag, _in_digits(tag, pattern)) for tag, pattern in resolvers]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }


def _in_digits(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    if tag == f"{_PREFIX}int":
        return re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
    if tag == f"{_PREFIX}float":
        return re.compile(rf"(?!.*[_:]){pattern.pattern}", pattern.flags)
    return pattern


decimal_digits_only(_Loader)
