"""`videomem tour`: explain memories in small steps, from the memoryless classifier to gates, with one figure each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from videomem.cli.options import add_out, add_shared, parser, training_progress
from videomem.experiments.drawing import png
from videomem.experiments.memory_horizon.horizon_figures import gates_figure, gradient_figure, recall_figure
from videomem.experiments.memory_horizon.horizon_tables import terminal_table
from videomem.experiments.memory_horizon.recall_measurement import measure_recall
from videomem.experiments.memory_horizon.tour import (
    SECTIONS,
    Memoryless,
    Pulse,
    Section,
    memoryless,
    memoryless_figure,
    pulse_figure,
    pulses,
    recall_plan,
)
from videomem.features.backbone import BackboneSettings
from videomem.utils.atomic import write_atomic

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
    backbone = BackboneSettings(weights=given.weights)
    for name in given.sections or SECTIONS:
        figure = _figure(name, SECTIONS[name], backbone, given.out, given.processes or os.cpu_count() or 1)
        given.out.mkdir(parents=True, exist_ok=True)
        write_atomic(given.out / f"{name}.png", png(figure))
        print(f"{SECTIONS[name].title}: {given.out / f'{name}.png'}\n")
    return 0


def _figure(name: str, section: Section, backbone: BackboneSettings, out: Path, num_processes: int) -> Figure:
    if name == "memoryless":
        found = memoryless(backbone)
        print(_memoryless_words(found))
        return memoryless_figure(found)
    if name == "leaky":
        left = pulses()
        print(_pulse_words(left))
        return pulse_figure(left)
    console = Console(stderr=True, soft_wrap=True)
    with training_progress(console) as tell:
        result, _ = measure_recall(
            recall_plan(section.memories), backbone, out / "trainings", num_processes=num_processes, tell=tell
        )
    Console().print(terminal_table(result))
    if section.figure == "gradient":
        return gradient_figure(result.memories)
    if section.figure == "gates":
        return gates_figure(result.memories, result.memories[0].measured_on)
    return recall_figure(result)


def _memoryless_words(found: Memoryless) -> str:
    return "\n".join(
        f"{name}: {100 * found.accuracy[name]:.1f} % of test videos and their reversals told apart; "
        f"largest change of a logit by shuffling {found.logit_change[name]:.3g}"
        for name in found.accuracy
    )


def _pulse_words(found: Sequence[Pulse]) -> str:
    return "\n".join(
        f"alpha {pulse.alpha:g}: tau measured {pulse.tau:.4g} frames, -1 / log alpha {pulse.expected:.4g}; "
        f"at 25 frames per second {pulse.tau / 25:.3g} s"
        for pulse in found
    )
