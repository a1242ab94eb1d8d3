"""Export a model as graphs into its folder. Each graph is checked against the model, and removed if it differs.

    onnx/             ONNX files, see `onnx_graphs`
    torch_export/     `clip.pt2` and `step.pt2`, files of `torch.export` with weights, which need torch only
    checks.json       inputs and outputs of each graph, and the difference of its logits from the model's

The user documentation is `docs/export.md`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram

from videomem.errors import VideomemError
from videomem.inference.exported_folder import write_json
from videomem.inference.graph_checks import check, make_cases
from videomem.inference.graphs import ClipGraph, Graph, Run, StepGraph, export_errors, trace
from videomem.inference.model import Classifier
from videomem.inference.onnx_graphs import onnx_libraries, onnx_versions, run_onnx, write_onnx

CHECKS = "checks.json"
Programs = Mapping[Graph, ExportedProgram]


class Kind(NamedTuple):
    """A file format: its folder, a function that writes graphs, and a function that runs a file."""

    folder: str
    write: Callable[[Programs, Path], list[Path]]
    run: Callable[[Path], Run]


def refuse_impossible(onnx: bool, torch_export: bool, preprocess: bool, has_backbone: bool) -> None:
    """Check the options of an export before anything is written.

    Raises:
        VideomemError: If the options contradict each other, or a library is missing.
    """
    if preprocess and not (onnx or torch_export):
        raise VideomemError("--preprocess needs a graph to put preprocessing into; add --onnx, --torch-export, or both")
    if preprocess and not has_backbone:
        raise VideomemError(
            "--preprocess needs the backbone in the graph, but it was left out or the features are imported, so "
            "the graph takes features; omit --preprocess"
        )
    if onnx:
        onnx_libraries()


def export_graphs(
    model: Classifier, folder: Path, onnx: bool = True, torch_export: bool = True, preprocess: bool = False
) -> dict[str, Any]:
    """Write and check the graphs of a model, and write the report.

    Args:
        model: The model, on the CPU.
        folder: The folder written by `save_pretrained`.
        onnx: Export to ONNX, for onnxruntime.
        torch_export: Export to `.pt2` files, for torch without videomem.
        preprocess: Include preprocessing: the graph takes uint8 frames of any size instead of resized, cropped ones.
    Returns:
        The report, the content of `checks.json`; empty if no format is selected.
    Raises:
        VideomemError: If a graph cannot be created, or its logits differ from the model's. Its files are removed.
    """
    refuse_impossible(onnx, torch_export, preprocess, model.backbone is not None)
    if (device := model.head.norm.mean.device).type != "cpu":
        raise VideomemError(f"the model is on {device}, but graphs are exported on the CPU; call model.cpu() first")
    kinds = [Kind("onnx", partial(write_onnx, class_names=model.class_names), run_onnx)] if onnx else []
    kinds += [Kind("torch_export", write_pt2, run_pt2)] if torch_export else []
    if not kinds:
        return {}
    if there := [kind.folder for kind in kinds if (folder / kind.folder).exists()]:
        raise VideomemError(f"{folder / there[0]}: exists already; export into a new folder")
    graphs: list[Graph] = [ClipGraph(model, preprocess), StepGraph(model, preprocess)]
    programs = {graph: trace(graph) for graph in graphs}
    cases = make_cases(model, preprocess)
    report: dict[str, Any] = {
        "versions": {"torch": torch.__version__, **(onnx_versions() if onnx else {})},
        "preprocessing_inside": preprocess,
        "graphs": [],
    }
    for kind in kinds:
        report["graphs"] += _write_checked(kind, programs, cases, folder)
        write_json(folder / CHECKS, report)
    return report


def summary(report: dict[str, Any]) -> list[str]:
    """A summary of a report, one line for each graph."""
    return [
        f"{graph['file']}: logits differ from the model's by at most {graph['largest_difference']:.1e} "
        f"(largest logit: {graph['largest_logit']:.1e})"
        for graph in report["graphs"]
    ]


def _write_checked(kind: Kind, programs: Programs, cases: list[Any], folder: Path) -> list[dict[str, Any]]:
    """Write the graphs of a format to a temporary folder, and rename it when all have passed their checks."""
    unchecked = folder / f".{kind.folder}.unchecked"
    shutil.rmtree(unchecked, ignore_errors=True)
    unchecked.mkdir(parents=True)
    try:
        paths = kind.write(programs, unchecked)
        checked = [
            check(graph, kind.run(path), cases, f"{kind.folder}/{path.name}")
            for graph, path in zip(programs, paths, strict=True)
        ]
        unchecked.rename(folder / kind.folder)
    finally:
        shutil.rmtree(unchecked, ignore_errors=True)
    return checked


def write_pt2(programs: Mapping[Graph, ExportedProgram], folder: Path) -> list[Path]:
    """Write graphs as `<name>.pt2`; returns their paths.

    Raises:
        VideomemError: If torch cannot save a graph.
    """
    paths = []
    for graph, program in programs.items():
        paths.append(folder / f"{graph.name}.pt2")
        with export_errors(graph, "torch.export"):
            torch.export.save(program, paths[-1])
    return paths


def run_pt2(path: Path) -> Run:
    """Load a `.pt2` file; returns a function that runs it."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        answer = module(*tensors)
        return [answer] if isinstance(answer, torch.Tensor) else list(answer)

    return run
