"""Graphs as files of `torch.export`, `torch_export/clip.pt2` and `step.pt2`, each with its weights, for torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from videomem.inference.graphs import Graph, Run, no_graph_of


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
