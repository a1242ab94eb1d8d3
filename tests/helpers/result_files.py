"""Checks of result files that every experiment passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videomem.errors import VideomemError
from videomem.utils.result_models import dump, parse


def check_file(path: Path, model: type[Any], version: int) -> Any:
    """Checks that a file is the strict JSON of a result, without loss, and that unknown fields are refused."""
    text = path.read_text()
    result = parse(model, text, version, path.name)
    assert dump(result) == text
    changed = {**json.loads(text, parse_constant=pytest.fail), "surprise": 1}
    with pytest.raises(VideomemError, match=r"the field surprise is unknown"):
        parse(model, json.dumps(changed), version, path.name)
    return result
