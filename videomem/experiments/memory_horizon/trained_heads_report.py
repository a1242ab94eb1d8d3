"""The report of the memory horizon of trained heads on their own data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from videomem.experiments.drawing import png
from videomem.experiments.html import Picture, environment
from videomem.experiments.inspect.inspection_report import InspectionView
from videomem.experiments.memory_horizon.head_measures import MAX_CLIPS
from videomem.experiments.memory_horizon.horizon_figures import gradient_figure, lag_figure, time_constant_figure
from videomem.experiments.memory_horizon.horizon_tables import lyapunov_text, time_text
from videomem.experiments.memory_horizon.trained_heads import HeadsReach, HeadsResult
from videomem.experiments.reports import json_bytes
from videomem.experiments.tables import NOTHING, Cell, Column, Table, csv_text
from videomem.statistics.horizons import Curve
from videomem.utils.atomic import write_atomic

CURVES = ("gradient", "direct", "gradient_untrained", "swap", "probe")


def reach_table(result: HeadsResult) -> Table:
    """Returns one row per memory; values at a lag are those at half the length of the clips."""
    middle = _middle(result)
    columns = (
        Column("memory"), Column("heads", "count"), Column(f"gradient at {middle}"), Column(f"untrained at {middle}"),
        Column(f"swap at {middle}"), Column(f"partial R² at {middle}"), Column("tau, median"), Column("tau, top tenth"),
        Column("-1 / Lyapunov"),
    )  # fmt: skip
    return Table("memory", columns, tuple(_row(one, result, middle) for one in result.memories))


def _middle(result: HeadsResult) -> int:
    """Returns the measured lag nearest to half the length of the clips."""
    return min(result.memories[0].gradient.places, key=lambda lag: abs(lag - result.num_frames / 2))


def _row(one: HeadsReach, result: HeadsResult, middle: int) -> tuple[str | int, ...]:
    found = [_at(curve, middle) for curve in (one.gradient, one.gradient_untrained, one.swap, one.probe)]
    taus = [float(np.quantile(one.tau, share)) for share in (0.5, 0.9)]
    return (one.label, one.num_heads, *found, *(_time(frames, result) for frames in taus),
            lyapunov_text(one.lyapunov, result.num_frames))  # fmt: skip


def _at(curve: Curve, lag: int) -> str:
    value = curve.value[curve.places.index(lag)]
    return NOTHING if not np.isfinite(value) else f"{value:.2g}"


def _time(frames: float, result: HeadsResult) -> str:
    """Formats a time constant in frames, and in seconds if the frame rate is known."""
    text = time_text(frames, result.num_frames)
    if frames <= 0 or result.seconds_per_frame is None:
        return text
    return f"{text} ({min(frames, result.num_frames) * result.seconds_per_frame:.2g} s)"


def layers_table(result: HeadsResult) -> Table:
    """Returns the time constants of each layer of each memory, with quartiles over neurons."""
    columns = (Column("memory"), Column("layer", "count"), Column("neurons", "count"), Column("tau, lower quarter"),
               Column("median"), Column("upper quarter"), Column("longest"), Column("-1 / Lyapunov"))  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for one in result.memories:
        for number, (taus, exponent) in enumerate(zip(one.taus, one.lyapunovs, strict=True), start=1):
            times = [_time(float(np.quantile(taus, share)), result) for share in (0.25, 0.5, 0.75, 1)]
            rows.append((one.label, number, len(taus), *times, lyapunov_text(exponent, result.num_frames)))
    return Table("layers", columns, tuple(rows))


def heads_tables(result: HeadsResult) -> list[Table]:
    return [reach_table(result), layers_table(result), curves_table(result)]


def heads_summary(result: HeadsResult) -> dict[str, float | str]:
    """Returns finite numbers by memory, for W&B."""
    found = {f"{one.label}/lyapunov": one.lyapunov for one in result.memories}
    found |= {f"{one.label}/tau_median": float(np.median(one.tau)) for one in result.memories}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def curves_table(result: HeadsResult) -> Table:
    columns = (Column("memory"), Column("curve"), Column("lag", "count"), Column("value", "number"),
               Column("low", "number"), Column("high", "number"))  # fmt: skip
    rows = [
        (one.label, name, *point)
        for one in result.memories
        for name in CURVES
        for curve in [getattr(one, name)]
        for point in zip(curve.places, curve.value, curve.low, curve.high, strict=True)
    ]
    return Table("curves", columns, tuple(rows))


def pictures(result: HeadsResult) -> list[Picture]:
    found = [
        Picture(
            "probe", lag_figure(result.memories, "probe"), "Partial R squared over lag; numbers in tables/curves.csv"
        ),
        Picture("swap", lag_figure(result.memories, "swap"), "Effect of replaced frames over lag"),
        Picture("gradient", gradient_figure(result.memories), "Gradients over lag"),
    ]
    if any(max(one.tau, default=0) > 0 for one in result.memories):
        figure = time_constant_figure(result.memories, result.num_frames)
        found.append(Picture("time_constants", figure, "Time constants of neurons"))
    return found


def write_heads_report(result: HeadsResult, folder: Path, videos: Sequence[InspectionView] = ()) -> Mapping[str, Path]:
    """Writes `memory.json`, `report.html`, `tables/*.csv` and `figures/*.png` into a folder.

    Args:
        result: The measurements.
        folder: Output folder.
        videos: Inspections of single clips, as by `videomem inspect`.
    Returns:
        Path of the PNG of each figure, by its name.
    """
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    shown = pictures(result)
    template = environment().get_template("memory_horizon/trained_heads.html.jinja")
    page = template.render(
        result=result,
        reach=reach_table(result),
        videos=videos,
        layers=layers_table(result),
        pictures={one.name: one for one in shown},
        max_clips=MAX_CLIPS,
    )
    write_atomic(folder / "report.html", page.encode("utf-8", "replace"))
    write_atomic(folder / "memory.json", json_bytes(result.as_plain()))
    for table in heads_tables(result):
        write_atomic(folder / f"tables/{table.name}.csv", csv_text(table).encode())
    shown += [video.picture for video in videos]
    written = {picture.name: folder / f"figures/{picture.name}.png" for picture in shown}
    for picture in shown:
        write_atomic(written[picture.name], png(picture.figure))
    return written


def terminal_table(result: HeadsResult) -> RichTable:
    """Returns the table of the page with short column names; times are in frames."""
    middle, rate = _middle(result), result.seconds_per_frame
    on = f"{result.num_clips} clips of {result.num_groups} groups"
    apart = "" if rate is None else f", a frame is {rate:.3g} s"
    shown = RichTable(
        box=SIMPLE_HEAD, pad_edge=False, title=f"memory horizon on {on}; lag {middle} of {result.num_frames}{apart}"
    )
    for name in ("memory", "gradient", "untrained", "swap", "R²", "tau", "top tenth", "-1/Lyap."):
        shown.add_column(name, justify="left" if name == "memory" else "right", no_wrap=True)
    for one, row in zip(result.memories, reach_table(result).rows, strict=True):
        taus = (time_text(float(np.quantile(one.tau, share)), result.num_frames) for share in (0.5, 0.9))
        shown.add_row(*map(str, row[:1] + row[2:6]), *taus, str(row[-1]))
    return shown
