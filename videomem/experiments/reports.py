"""Standard JSON with null for numbers that are not finite."""

from __future__ import annotations

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """Returns plain data with lists instead of tuples, and None for NaN and infinity, which JSON cannot represent."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_bytes(value: Any) -> bytes:
    """Returns plain data as indented JSON, with null for numbers that are not finite."""
    return f"{json.dumps(finite(value), indent=1, allow_nan=False)}\n".encode("utf-8", "replace")
