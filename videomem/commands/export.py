"""`videomem export`: turn a checkpoint into a folder that others can load."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videomem.checkpoint import read_checkpoint
from videomem.commands.arguments import parser
from videomem.model.classifier import load, model_of
from videomem.model.graph_export import export_graphs, refuse_impossible, summary


def main(verb: str, arguments: Sequence[str]) -> int:
    """Write the folder."""
    options = parser(verb, __doc__)
    options.add_argument("checkpoint", type=Path, help="a checkpoint of `videomem fit`")
    options.add_argument("--out", type=Path, required=True, help="new folder; load it with `videomem.load(folder)`")
    options.add_argument("--without-backbone", action="store_true", help="leave the backbone's weights out")
    add_graph_options(options)
    given = options.parse_args(arguments)
    model = model_of(read_checkpoint(given.checkpoint))
    graphs = (given.onnx, given.torch_export, given.preprocess)
    refuse_impossible(*graphs, has_backbone=model.backbone is not None and not given.without_backbone)
    model.save_pretrained(given.out, not given.without_backbone)
    print(f'exported to {given.out}; load it with videomem.load("{given.out}")')
    if given.onnx or given.torch_export:
        for line in summary(export_graphs(load(given.out), given.out, *graphs)):
            print(line)
    return 0


def add_graph_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--onnx", action="store_true", help="also as ONNX graphs of clips and of one step, checked")
    options.add_argument("--torch-export", action="store_true", help="the same as files of torch.export (.pt2)")
    options.add_argument(
        "--preprocess",
        action="store_true",
        help="let the graphs take uint8 frames of any size, and resize and crop there",
    )
