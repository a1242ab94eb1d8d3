"""Export a model as graphs into its folder. Each graph is checked against the model, and removed if it differs.

    onnx/             ONNX files, see `onnx_graphs`
    torch_export/     `clip.pt2` and `step.pt2`, files of `torch.export` with weights, which need torch only
    checks.json       inputs and outputs of each graph, and the difference of its logits from the model's

The checks use clips of several sizes, all different from the sizes at which graphs are traced. See `docs/export.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.features.backbone import Backbone
from videomem.inference.exported_folder import write_json
from videomem.inference.graphs import Case, ClipGraph, Graph, Programs, Run, StepGraph, export_errors, trace
from videomem.inference.model import Classifier
from videomem.inference.onnx_graphs import onnx_libraries, onnx_versions, run_onnx, write_onnx
from videomem.utils.atomic import atomic_folder, write_atomic

CHECKS = "checks.json"
GRAPH_FILES = ("onnx", "torch_export", CHECKS)  # files and folders of graphs in an exported folder
# Lengths of the clips of each case. T, the longest, differs from the T that graphs are traced at.
CASES = ((1,), (6,), (5, 1), (2, 8, 7))
# Height and width of the frames of each case, for graphs with preprocessing.
SIZES = ((240, 320), (61, 90), (288, 224), (256, 256))
# Tolerance relative to the largest logit: runtimes sum in another order, and a feature may round to the next float16.
# The largest difference observed is 1.4e-4.
RELATIVE_TOLERANCE = 1e-3


class Format(NamedTuple):
    """A file format: its folder, a function that writes graphs, and a function that loads a file."""

    folder: str
    write: Callable[[Programs, Path], list[Path]]
    load: Callable[[Path], Run]


def refuse_impossible(onnx: bool, torch_export: bool, preprocess: bool, backbone: Backbone | None) -> None:
    """Check the options of an export before anything is written.

    Raises:
        VideomemError: If the options contradict each other, or a library is missing.
    """
    if preprocess and not (onnx or torch_export):
        raise VideomemError("--preprocess needs a graph to put preprocessing into; add --onnx, --torch-export, or both")
    if preprocess and backbone is None:
        raise VideomemError(
            "--preprocess needs the backbone in the graph, but it was left out or the features are imported, so "
            "the graph takes features; omit --preprocess"
        )
    if (onnx or torch_export) and backbone is not None and backbone.settings.precision != "float32":
        raise VideomemError(
            f"backbone.precision is {backbone.settings.precision}, but graphs compute in float32; export without "
            "--onnx and --torch-export, or leave the backbone out with --without-backbone"
        )
    if (onnx or torch_export) and backbone is not None:
        backbone.settings.refuse_segments("a graph, which has frames as input,")
    if onnx:
        onnx_libraries()


def export_graphs(
    model: Classifier, folder: Path, onnx: bool = True, torch_export: bool = True, preprocess: bool = False
) -> dict[str, Any]:
    """Write and check the graphs of a model, and write the report.

    Args:
        model: The model, on the CPU.
        preprocess: Include preprocessing: the graph takes uint8 frames of any size instead of resized, cropped ones.
    Returns:
        The report, the content of `checks.json`; empty if no format is selected.
    Raises:
        VideomemError: If a graph cannot be created, or its logits differ from the model's. Its files are removed.
    """
    refuse_impossible(onnx, torch_export, preprocess, model.backbone)
    if (device := model.head.norm.mean.device).type != "cpu":
        raise VideomemError(f"the model is on {device}, but graphs are exported on the CPU; call model.cpu() first")
    formats = [Format("onnx", partial(write_onnx, class_names=model.class_names), run_onnx)] if onnx else []
    formats += [Format("torch_export", write_pt2, run_pt2)] if torch_export else []
    if not formats:
        return {}
    for one in formats:
        if (folder / one.folder).exists():
            raise VideomemError(f"{folder / one.folder}: exists already; export into a new folder")
    graphs: tuple[Graph, ...] = (ClipGraph(model, preprocess), StepGraph(model, preprocess))
    programs = {graph: trace(graph) for graph in graphs}
    cases = make_cases(model, preprocess)
    versions = {"torch": torch.__version__, **(onnx_versions() if onnx else {})}
    report: dict[str, Any] = {"versions": versions, "preprocessing_inside": preprocess, "graphs": []}
    for one in formats:
        report["graphs"] += _write_checked(one, programs, cases, folder)
        write_json(folder / CHECKS, report)
    return report


def summary(report: dict[str, Any]) -> list[str]:
    """A summary of a report, one line for each graph."""
    return [
        f"{graph['file']}: logits differ from the model's by at most {graph['largest_difference']:.1e} "
        f"(largest logit: {graph['largest_logit']:.1e})"
        for graph in report["graphs"]
    ]


def _write_checked(form: Format, programs: Programs, cases: list[Case], folder: Path) -> list[dict[str, Any]]:
    """Write the graphs of a format to a temporary folder, and rename it when all have passed their checks."""
    with atomic_folder(folder / form.folder) as unchecked:
        files = zip(programs, form.write(programs, unchecked), strict=True)
        return [check(graph, form.load(path), cases, f"{form.folder}/{path.name}") for graph, path in files]


@torch.no_grad()
def make_cases(model: Classifier, preprocess: bool) -> list[Case]:
    """Random clips of different lengths and content, the same at every call, with the logits of the model."""
    generator = np.random.default_rng(0)
    batch_times = [(len(lengths), max(lengths)) for lengths in CASES]
    if model.backbone is None:
        given = [_features(model, batch_time, generator) for batch_time in batch_times]
        features = [x_BTD.to(getattr(torch, model.settings.dtype)) for x_BTD in given]
    else:
        raw = [_frames(batch_time, size, generator) for batch_time, size in zip(batch_times, SIZES, strict=True)]
        shape_frames = model.backbone.preprocessing.shape_frames
        shaped = [torch.stack([shape_frames(clip) for clip in clips]) for clips in raw]
        given = [torch.from_numpy(clips) for clips in raw] if preprocess else shaped
        # All frames at once, since the batches of the backbone have a fixed size.
        x_ND = model.features(torch.cat([clips.flatten(0, 1) for clips in shaped]))
        parts = x_ND.split([batch * time for batch, time in batch_times])
        features = [part.unflatten(0, batch_time) for part, batch_time in zip(parts, batch_times, strict=True)]
    return [make_case(model, *spec) for spec in zip(given, features, map(torch.tensor, CASES), strict=True)]


@torch.no_grad()
def make_case(model: Classifier, given: Tensor, x_BTD: Tensor, lengths_B: Tensor) -> Case:
    """A case from the input of a graph, the features of all its frames, and the lengths of the clips."""
    full_B = torch.full_like(lengths_B, x_BTD.shape[1])
    after_each_BTC = model.head.readout.after_each(model.head.frame_outputs(x_BTD, full_B))
    return Case(given, lengths_B, model.classify(x_BTD, lengths_B), after_each_BTC)


def _frames(batch_time: tuple[int, int], size: tuple[int, int], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Random frames (B, T, height, width, 3) uint8 with different colors, contrast and noise."""
    each = (*batch_time, 1, 1)
    color = generator.uniform(0, 255, (*each, 3))
    grain = generator.normal(0, generator.uniform(5, 80, (*each, 1)), (*batch_time, *size, 3))
    ramp = generator.uniform(-90, 90, (*each, 3)) * np.linspace(-1, 1, size[1])[:, None]
    return (color + grain + ramp).clip(0, 255).round().astype(np.uint8)


def _features(model: Classifier, batch_time: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Features with about the mean and standard deviation of those in training."""
    norm = model.head.norm
    noise = torch.from_numpy(generator.normal(size=(*batch_time, model.head.feature_dim))).float()
    return norm.mean + noise / torch.where(norm.scale == 0, 1, norm.scale)


def check(graph: Graph, run: Run, cases: Sequence[Case], file: str) -> dict[str, Any]:
    """Check the logits of an exported graph, and return a report.

    Args:
        run: Runs the graph from its file.
        cases: Clips with the logits of the model.
    Raises:
        VideomemError: If the logits differ by more than the tolerance.
    """
    differences = [graph.difference(run, case) for case in cases]
    largest_logit = max(float(case.logits_BTC.abs().max()) for case in cases)
    tolerance = RELATIVE_TOLERANCE * largest_logit
    for difference, case in zip(differences, cases, strict=True):
        if not difference <= tolerance:  # Also true for NaN.
            raise VideomemError(
                f"{file}: its logits differ from the model's by {difference:.2g}, above the limit of {tolerance:.2g}, "
                f"on an input of shape {tuple(case.x.shape)}; the graph was removed, the other files are complete"
            )
    return {
        "file": file,
        "inputs": [port.plain for port in graph.inputs],
        "outputs": [port.plain for port in graph.outputs],
        "cases": [
            {"shape": list(case.x.shape), "lengths": case.lengths_B.tolist(), "largest_difference": difference}
            for case, difference in zip(cases, differences, strict=True)
        ],
        "largest_difference": max(differences),
        "tolerance": tolerance,
        "largest_logit": largest_logit,
    }


def write_pt2(programs: Programs, folder: Path) -> list[Path]:
    """Write graphs as `<name>.pt2`; returns their paths.

    Raises:
        VideomemError: If torch cannot save a graph.
    """
    paths = []
    for graph, program in programs.items():
        paths.append(folder / f"{graph.name}.pt2")
        with export_errors(graph, "torch.export"):
            torch.export.save(program, buffer := BytesIO())
        write_atomic(paths[-1], buffer.getbuffer())
    return paths


def run_pt2(path: Path) -> Run:
    """Load a `.pt2` file; returns a function that runs it."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        answer = module(*tensors)
        return [answer] if isinstance(answer, Tensor) else list(answer)

    return run
