"""`videomem tour`: explain memories in small steps, from the memoryless classifier to gates, with one figure each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from videomem.cli.options import add_out, add_shared, parser, refuse_unused
from videomem.cli.terminal import console, narrow_table, say
from videomem.experiments.drawing import png
from videomem.experiments.memory_horizon.horizon_tables import recall_terminal_tables
from videomem.experiments.memory_horizon.recall_measurement import measure_recall
from videomem.experiments.memory_horizon.tour import (
    SECTIONS,
    memoryless,
    memoryless_figure,
    pulse_figure,
    pulses,
    recall_plan,
)
from videomem.experiments.tables import TerminalTable
from videomem.features.backbone import BackboneSettings
from videomem.utils.atomic import locked_folder, write_atomic
from videomem.utils.progress import training_progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def main(command: str, arguments: Sequence[str]) -> int:
    """Run the measurements of sections and write one PNG for each."""
    options = parser(command, __doc__)
    options.add_argument("sections", nargs="*", metavar="SECTION",
                         help=f"any of {', '.join(SECTIONS)} (default: all)")  # fmt: skip
    options.add_argument(
        "--weights", default="random", help="weights of AlexNet: imagenet, random, or the file of a state_dict"
    )
    add_shared(options, "--processes")
    add_out(options, command, "figures and training results")
    given = options.parse_args(arguments)
    if unknown := [name for name in given.sections if name not in SECTIONS]:
        options.error(f"SECTION is {unknown[0]!r}, but must be one of {', '.join(SECTIONS)}")
    sections = given.sections or list(SECTIONS)
    if not any(SECTIONS[name].memories for name in sections):
        refuse_unused(options, given, ["processes"], f"on {' and '.join(sections)}; leave it out")
    if set(sections) == {"leaky"}:
        refuse_unused(options, given, ["weights"], "on leaky, which uses no backbone; leave it out")
    with locked_folder(given.out):
        for name in sections:
            tables, figure = _measure(name, given)
            write_atomic(given.out / f"{name}.png", png(figure))
            for one in tables:
                console().print(narrow_table(*one))
            say(f"{SECTIONS[name].title}: {given.out / f'{name}.png'}", "")
    return 0


def _measure(name: str, given: Any) -> tuple[list[TerminalTable], Figure]:
    """Runs the measurement of a section, and returns its results as tables and as a figure."""
    backbone, section = BackboneSettings(weights=given.weights), SECTIONS[name]
    if name == "memoryless":
        found = memoryless(backbone)
        rows = [(head, f"{100 * one.accuracy:.1f}", f"{one.logit_change:.3g}") for head, one in found.items()]
        columns = ["head", "accuracy in %", "largest change of a logit by shuffling"]
        return [TerminalTable("test videos and their reversals", columns, rows)], memoryless_figure(found)
    if name == "leaky":
        left = pulses()
        columns = ["alpha", "tau in frames", "-1 / log alpha", "tau in s at 25 fps"]
        times = [(f"{one.alpha:g}", f"{one.tau:.4g}", f"{one.expected:.4g}", f"{one.tau / 25:.3g}") for one in left]
        return [TerminalTable("response to one pulse", columns, times)], pulse_figure(left)
    with training_progress(console(to_stderr=True, soft_wrap=True)) as tell:
        result, _ = measure_recall(
            recall_plan(section.memories),
            backbone,
            given.out / "trainings",
            num_processes=given.processes or os.cpu_count() or 1,
            tell=tell,
        )
    return recall_terminal_tables(result), section.draw(result)
