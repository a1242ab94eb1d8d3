"""Measure how much the logits of exported models differ from the trained models, for all heads and formats.

    python benchmarks/export.py                  # about 12 minutes on 2 cores
    python benchmarks/export.py --preprocess     # with preprocessing included in the graphs
    python benchmarks/export.py --heads gru --backbone resnet18 --layer layer4

Videos are synthetic, the weights of the backbone are random, and each head of configs/head is trained for fifty steps.
The table has the largest difference of a logit from that of the trained model, over clips of 1, 5, 16 and 24 frames in
batches of 1 to 3 with padding; for `step`, after every frame.

A first table compares preprocessing in a graph with that of torchvision on uint8 frames of noise, the worst case.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

import videomem
from videomem.features.backbone import Backbone, BackboneSettings, extract_features
from videomem.features.encoders.by_torchvision import preset
from videomem.features.settings import FeatureSettings
from videomem.heads import Head
from videomem.inference.graph_export import export_graphs, make_case, run_pt2
from videomem.inference.graphs import Case, ClipGraph, Graph, StepGraph, shape_in_graph
from videomem.inference.model import Classifier
from videomem.inference.onnx_graphs import run_onnx
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import from_plain
from videomem.video.catalog import Catalog
from videomem.video.decoding import decode_clip
from videomem.video.sampling import Uniform
from videomem.video.synthetic import SyntheticSettings, synthesize

CONFIGS = Path(__file__).parent.parent / "configs" / "head"
LENGTHS = ((1,), (5, 2), (16, 1, 9), (24,))
SIZES = ((240, 320), (360, 640), (720, 1280), (1920, 1080), (90, 61), (225, 300), (256, 256))
STEPS = 50
FORMATS = {"onnx/clip.onnx": run_onnx, "onnx/step.onnx": run_onnx,
           "torch_export/clip.pt2": run_pt2, "torch_export/step.pt2": run_pt2}  # fmt: skip


def print_rounding() -> None:
    print("interpolation | size | values that differ, of a million | by at most, of 255 levels\n---|---|---|---")
    for name in ("alexnet", "efficientnet_b0"):
        for height, width in SIZES:
            preprocessing = preset(name)
            frames = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), dtype=np.uint8)
            shaped = shape_in_graph(torch.from_numpy(frames), preprocessing).int()
            differences = (shaped - preprocessing.shape_frames(frames).int()).abs()
            share = 1e6 * float((differences > 0).double().mean())
            print(
                f"{preprocessing.interpolation} | {width}x{height} | {share:.1f} | {int(differences.max())}", flush=True
            )


def train(head: Head, x_NTD: Tensor, labels_N: Tensor) -> None:
    """Train a head for fifty steps on all clips."""
    rows = x_NTD.float().flatten(0, 1)
    head.norm.set_statistics(rows.mean(0), rows.std(0))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    lengths_N = torch.full((len(x_NTD),), x_NTD.shape[1])
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(x_NTD, lengths_N), labels_N).backward()
        optimizer.step()


def build(config: Path, class_names: list[str], settings: FeatureSettings, backbone: Backbone) -> Classifier:
    sizes = {"num_layers": 1, "projection_dim": None, "feature_dim": backbone.feature_dim}
    arguments = {"readout": None, **yaml.safe_load(config.read_text())["model"], **sizes}
    classes = {"class_names": class_names, "class_counts": [1] * len(class_names)}
    torch.manual_seed(0)
    head = from_plain(LitClassifier, {**arguments, **classes, "dropout": 0.0}).head
    return Classifier(head, class_names, settings, backbone, arguments)


def frames_of(catalog: Catalog, lengths: tuple[int, ...]) -> tuple[NDArray[np.uint8], Tensor]:
    """Test clips (B, T, height, width, 3), padded by repeating the last frame, and their lengths."""
    clips = [clip for clip in catalog.clips if clip.split == "test"][: len(lengths)]
    frames = [
        decode_clip(clip.path, Uniform(24)).frames_THWC[:length] for clip, length in zip(clips, lengths, strict=True)
    ]
    padded = [np.concatenate([part, part[-1:].repeat(max(lengths) - len(part), axis=0)]) for part in frames]
    return np.stack(padded), torch.tensor(lengths)


def differences(model: Classifier, cases: list[Case], shaped: list[Tensor], preprocess: bool) -> list[float]:
    """Largest differences of the exported folder and of each format."""
    graphs: dict[str, Graph] = {"clip": ClipGraph(model, preprocess), "step": StepGraph(model, preprocess)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "exported"
        model.save_pretrained(folder)
        loaded = videomem.load(folder)
        found = [
            max(float((loaded(frames, case.lengths_B) - case.logits_BC).abs().max())
                for frames, case in zip(shaped, cases, strict=True))
        ]  # fmt: skip
        export_graphs(model, folder, preprocess=preprocess)
        for file, reader in FORMATS.items():
            run, graph = reader(folder / file), graphs[Path(file).stem]
            found.append(max(graph.difference(run, case) for case in cases))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    options.add_argument("--heads", nargs="+", choices=names, default=names, help="of configs/head")
    options.add_argument("--backbone", default="alexnet", help="a network of torchvision, with random weights")
    options.add_argument("--layer", default="fc6", help="its layer")
    options.add_argument("--preprocess", action="store_true", help="graphs that take frames of any size")
    given = options.parse_args()
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}\n")
    print_rounding()
    with tempfile.TemporaryDirectory() as temporary:
        catalog = synthesize(
            SyntheticSettings(train_pairs=4, val_pairs=0, test_pairs=1, num_frames=24, frame_size=96),
            Path(temporary) / "v",
        )
        print_differences(
            catalog, given.heads, BackboneSettings(given.backbone, given.layer, "random"), given.preprocess
        )


def print_differences(catalog: Catalog, heads: list[str], network: BackboneSettings, preprocess: bool) -> None:
    settings = FeatureSettings(network, Uniform(16))
    backbone = Backbone(settings.backbone)
    class_names = sorted({clip.label for clip in catalog.clips})
    train_clips = [clip for clip in catalog.clips if clip.split == "train"]
    labels_N = torch.tensor([class_names.index(clip.label) for clip in train_clips])

    def features(frames: Tensor) -> Tensor:
        x_ND = extract_features(backbone, frames.flatten(0, 1)).half()
        return x_ND.unflatten(0, frames.shape[:2])

    def shape(clips: Iterable[NDArray[np.uint8]]) -> Tensor:
        return torch.stack([backbone.preprocessing.shape_frames(clip) for clip in clips])

    x_NTD = features(shape(decode_clip(clip.path, settings.sampling).frames_THWC for clip in train_clips))
    raw, lengths = zip(*(frames_of(catalog, lengths) for lengths in LENGTHS), strict=True)
    shaped = [shape(clips) for clips in raw]
    given = [torch.from_numpy(clips) for clips in raw] if preprocess else shaped
    inputs = list(zip(given, map(features, shaped), lengths, strict=True))
    print("\nhead | largest logit | folder | " + " | ".join(FORMATS) + "\n" + "|".join(["---"] * 7))
    for name in heads:
        model = build(CONFIGS / f"{name}.yaml", class_names, settings, backbone)
        train(model.head, x_NTD, labels_N)
        cases = [make_case(model, *part) for part in inputs]
        largest = max(float(case.logits_BTC.abs().max()) for case in cases)
        found = differences(model, cases, shaped, preprocess)
        print(" | ".join([name, f"{largest:.1f}", *(f"{value:.1e}" for value in found)]), flush=True)


if __name__ == "__main__":
    main()
