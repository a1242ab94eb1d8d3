"""Graphs of a model beside its folder: written, read again, held to the model's answers, and kept only if they agree.

    onnx/             what `onnx_export` writes
    torch_export/     what `pt2_export` writes
    checks.json       what each graph takes and gives, and how far its answers were from the model's

`docs/export.md` is the page for those who use them.
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
from videomem.inference.graphs import ClipGraph, Graph, Run, StepGraph, no_graph_of, trace
from videomem.inference.model import Classifier
from videomem.inference.onnx_graphs import onnx_libraries, onnx_versions, run_onnx, write_onnx

CHECKS = "checks.json"
Programs = Mapping[Graph, ExportedProgram]


class Kind(NamedTuple):
    """A format: its folder, what writes graphs into one, and what runs a file."""

    folder: str
    write: Callable[[Programs, Path], list[Path]]
    run: Callable[[Path], Run]


def refuse_impossible(onnx: bool, torch_export: bool, preprocess: bool, has_backbone: bool) -> None:
    """Say what cannot be exported before anything is written.

    Raises:
        VideomemError: If the options contradict each other, or a library is missing.
    """
    if preprocess and not (onnx or torch_export):
        raise VideomemError("--preprocess puts preprocessing into graphs; name them: --onnx, --torch-export, or both")
    if preprocess and not has_backbone:
        raise VideomemError(
            "--preprocess needs the backbone in the graph, but it was left out or the features are imported, so "
            "features go in and no frames; leave --preprocess out"
        )
    if onnx:
        onnx_libraries()


def export_graphs(
    model: Classifier, folder: Path, onnx: bool = True, torch_export: bool = True, preprocess: bool = False
) -> dict[str, Any]:
    """Write the graphs of a model into its folder, and the report of what was checked.

    Args:
        model: The model, on the CPU.
        folder: The folder that `save_pretrained` wrote.
        onnx: As ONNX, for onnxruntime.
        torch_export: As `.pt2`, for torch without videomem.
        preprocess: Take uint8 frames of any size; without it, frames that are resized and cropped already.
    Returns:
        The report, as `checks.json` has it; empty where nothing was asked for.
    Raises:
        VideomemError: If a graph cannot be made, or answers otherwise than the model; its files are removed then.
    """
    refuse_impossible(onnx, torch_export, preprocess, model.backbone is not None)
    if (device := model.head.norm.mean.device).type != "cpu":
        raise VideomemError(f"the model is on {device}, but graphs are made on the CPU; call model.cpu() first")
    kinds = [Kind("onnx", partial(write_onnx, class_names=model.class_names), run_onnx)] if onnx else []
    kinds += [Kind("torch_export", write_pt2, run_pt2)] if torch_export else []
    if not kinds:
        return {}
    if there := [kind.folder for kind in kinds if (folder / kind.folder).exists()]:
        raise VideomemError(f"{folder / there[0]}: is there already; export into a new folder")
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
    """A line for each graph of a report."""
    return [
        f"{graph['file']}: logits within {graph['largest_difference']:.1e} of the model's, "
        f"of which the largest is {graph['largest_logit']:.1e}"
        for graph in report["graphs"]
    ]


def _write_checked(kind: Kind, programs: Programs, cases: list[Any], folder: Path) -> list[dict[str, Any]]:
    """Graphs of one kind, which get their place in the folder only after all have passed."""
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
    """Write graphs into a folder, each as `<name>.pt2`.

    Raises:
        VideomemError: If torch cannot.
    """
    paths = []
    for graph, program in programs.items():
        paths.append(folder / f"{graph.name}.pt2")
        with no_graph_of(graph, "torch.export"):
            torch.export.save(program, paths[-1])
    return paths


def run_pt2(path: Path) -> Run:
    """Runs a graph in torch."""
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        answer = module(*tensors)
        return [answer] if isinstance(answer, torch.Tensor) else list(answer)

    return run
