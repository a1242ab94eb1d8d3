"""Check that an exported graph gives the logits of the model, also at sizes other than those it was traced at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.inference.graphs import Case, Graph, Port, Run
from videomem.inference.model import Classifier

# Lengths of the clips of each case. T, the longest, differs from the T that graphs are traced at.
CASES = ((1,), (6,), (5, 1), (2, 8, 7))
# Height and width of the frames of each case, for graphs with preprocessing.
SIZES = ((240, 320), (61, 90), (288, 224), (256, 256))
# Tolerance relative to the largest logit: runtimes sum in another order, and a feature may round to the next float16.
# The largest difference observed is 1.4e-4.
RELATIVE_TOLERANCE = 1e-3


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
    return [_case(model, *spec) for spec in zip(given, features, CASES, strict=True)]


def _case(model: Classifier, given: Tensor, x_BTD: Tensor, lengths: Sequence[int]) -> Case:
    lengths_B = torch.tensor(lengths)
    full_B = torch.full_like(lengths_B, x_BTD.shape[1])
    after_each_BTC = model.head.readout.after_each(model.head.frame_outputs(x_BTD, full_B))
    return Case(given, lengths_B, model.classify(x_BTD, lengths_B), after_each_BTC)


def _frames(batch_time: tuple[int, int], size: tuple[int, int], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Random frames (B, T, height, width, 3) uint8 with different colours, contrast and noise."""
    each = (*batch_time, 1, 1)
    colour = generator.uniform(0, 255, (*each, 3))
    grain = generator.normal(0, generator.uniform(5, 80, (*each, 1)), (*batch_time, *size, 3))
    ramp = generator.uniform(-90, 90, (*each, 3)) * np.linspace(-1, 1, size[1])[:, None]
    return (colour + grain + ramp).clip(0, 255).round().astype(np.uint8)


def _features(model: Classifier, batch_time: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Features with about the mean and standard deviation of those in training."""
    norm = model.head.norm
    noise = torch.from_numpy(generator.normal(size=(*batch_time, model.head.feature_dim))).float()
    return norm.mean + noise / torch.where(norm.scale == 0, 1, norm.scale)


def check(graph: Graph, run: Run, cases: Sequence[Case], file: str) -> dict[str, Any]:
    """Check the logits of an exported graph, and return a report.

    Args:
        graph: The exported graph.
        run: Runs the graph from its file.
        cases: Clips with the logits of the model.
        file: Name of the file, for the report.
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
        "inputs": [_plain(port) for port in graph.inputs],
        "outputs": [_plain(port) for port in graph.outputs],
        "cases": [
            {"shape": list(case.x.shape), "lengths": case.lengths_B.tolist(), "largest_difference": difference}
            for case, difference in zip(cases, differences, strict=True)
        ],
        "largest_difference": max(differences),
        "tolerance": tolerance,
        "largest_logit": largest_logit,
    }


def _plain(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": str(port.dtype).removeprefix("torch."), "shape": list(port.shape)}
