"""The script that recomputes results without the package."""

from __future__ import annotations

import sys
from pathlib import Path

from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import recompute


def check_recomputed(*arguments: Path | str) -> None:
    """Checks that the script finds no difference in a folder; the arguments are those of the script."""
    assert recompute.main([str(argument) for argument in arguments]) == 0
