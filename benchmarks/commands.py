"""Commands of videomem, as the other scripts run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from videomem.cli.config_options import unused_name
from videomem.cli.main import main
from videomem.cli.order import UNUSED_WITH_PLAN, UNUSED_WITHOUT_PLAN
from videomem.experiments.order_test.result import OrderTestResult, from_json
from videomem.utils.folders import config_folder


def run(*arguments: str) -> None:
    """Run a command; the script ends if it fails."""
    if main(arguments):
        raise SystemExit(1)


def configs(*names: str) -> list[str]:
    """Options that read files of configs/."""
    return [part for name in names for part in ("--config", str(config_folder() / f"{name}.yaml"))]


def squeezenet(weights: Path | None) -> dict[str, object]:
    """The backbone of the measurements on real videos; with random weights if no file is given."""
    path = "random" if weights is None else str(weights.absolute())
    return {"name": "squeezenet1_0", "layer": "features.12", "weights": path, "grid": 3}


def forecast(arguments: Sequence[str], further: Sequence[str]) -> None:
    """Print the forecast of an order test, with those of the further options that have an effect on it."""
    run("order", *arguments, *used(further, UNUSED_WITH_PLAN), "--plan")


def order_test(arguments: Sequence[str], further: Sequence[str], out: Path) -> OrderTestResult:
    """Run an order test, with those of the further options that have an effect on it."""
    run("order", *arguments, *used(further, UNUSED_WITHOUT_PLAN), "--out", str(out))
    return from_json((out / "order.json").read_text())


def used(options: Sequence[str], unused: Mapping[str, str]) -> list[str]:
    """Options with their values, without those that have no effect."""
    kept, is_used = [], True
    for part in options:
        if part.startswith("--"):
            is_used = unused_name(part[2:].partition("=")[0], unused) is None
        kept += [part] * is_used
    return kept
