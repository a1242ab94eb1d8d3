"""Exported graphs give the logits of the model for any batch size and number of frames, or are removed."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT, failed
from helpers.small_heads import MEMORIES, C, D, every_memory, every_readout
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms import functional as F

import videomem
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.features.backbone import Backbone, BackboneSettings
from videomem.features.encoders.by_torchvision import preset
from videomem.features.preprocessing import Preprocessing
from videomem.features.settings import FeatureSettings, ImportedFeatures
from videomem.heads import (
    READOUTS,
    AttentionReadout,
    BestFrameReadout,
    Head,
    LastReadout,
    MaxReadout,
    MeanReadout,
    MemoryFactory,
    Readout,
    SetReadout,
)
from videomem.inference import graph_export
from videomem.inference.graph_export import check, export_graphs, make_cases, run_pt2
from videomem.inference.graphs import ClipGraph, Graph, StepGraph, shape_in_graph, trace
from videomem.inference.model import Classifier
from videomem.inference.model_card import snippets
from videomem.inference.onnx_graphs import run_onnx, write_onnx
from videomem.video.sampling import Uniform

logging.getLogger("torch.__trace").propagate = False  # It logs thousands of lines for each export.
TINY = Preprocessing(12, 8, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


class TinyBackbone(nn.Module):
    """A replacement for a network: one layer on small frames."""

    feature_dim = D
    preprocessing, settings = TINY, BackboneSettings(weights="random")
    device, batch_size = Backbone.device, Backbone.batch_size

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * TINY.crop_px**2, D)

    def forward(self, frames: Tensor) -> Tensor:
        return self.layer(TINY.normalize(frames).flatten(1))


def tiny_model(
    memory: MemoryFactory = MEMORIES["gru"],
    readout: type[Readout] = MeanReadout,
    num_layers: int = 1,
    projection_dim: int | None = None,
    backbone: bool = False,
    dtype: Any = "float16",
) -> Classifier:
    torch.manual_seed(0)
    head = Head(memory, D, C, num_layers, readout, projection_dim=projection_dim)
    head.norm.set_statistics(torch.randn(D), torch.rand(D) + 0.5)
    imported = None if backbone else ImportedFeatures("elsewhere", D)
    feature_settings = FeatureSettings(BackboneSettings(weights="random"), Uniform(6), dtype=dtype, imported=imported)
    network: Any = TinyBackbone() if backbone else None
    return Classifier(head, ["left", "right", "up"], feature_settings, network)


def padded(batch: int, num_frames: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features that are exact in float16, and lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(1, num_frames + 1, (batch,), generator=generator)
    return torch.randn(batch, num_frames, D, generator=generator).half().float(), lengths_B


# In torch.


@every_readout
@every_memory
def test_a_clip_graph_answers_as_the_model_at_any_batch_time_and_length(name: str, readout: type[Readout]) -> None:
    mean = readout is MeanReadout
    model = tiny_model(MEMORIES[name], readout, num_layers=2 if mean else 1, projection_dim=4 if mean else None)
    graph = ClipGraph(model)

    @settings(max_examples=6, deadline=None)
    @given(batch=st.integers(1, 5), num_frames=st.integers(1, 9), seed=st.integers(0, 99))
    def holds(batch: int, num_frames: int, seed: int) -> None:
        x_BTD, lengths_B = padded(batch, num_frames, seed)
        expected_BC = model.classify(x_BTD, lengths_B)
        assert torch.allclose(graph(x_BTD, lengths_B), expected_BC, rtol=0, atol=2e-6)
        behind_BT1 = (torch.arange(num_frames) >= lengths_B[:, None])[..., None]
        assert torch.allclose(graph(x_BTD.masked_fill(behind_BT1, 60000), lengths_B), expected_BC, rtol=0, atol=2e-6)

    with torch.no_grad():
        holds()


@every_readout
@every_memory
def test_a_step_graph_from_zeros_answers_as_the_model_after_every_frame(name: str, readout: type[Readout]) -> None:
    model = tiny_model(MEMORIES[name], readout, num_layers=2, projection_dim=4)
    graph = StepGraph(model)
    x_BTD, _ = padded(3, 7, seed=0)
    state = [torch.zeros(port.at({"batch": 3})) for port in graph.inputs[1:]]
    with torch.no_grad():
        for number in range(7):
            logits_BC, *state = graph(x_BTD[:, number], *state)
            expected_BC = model.classify(x_BTD[:, : number + 1], torch.full((3,), number + 1))
            assert torch.allclose(logits_BC, expected_BC, rtol=0, atol=2e-6)


class Everything(NamedTuple):
    """All graphs of a model with its backbone and preprocessing, in a folder."""

    model: Classifier
    folder: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Everything:
    model, folder = tiny_model(MEMORIES["lstm"], backbone=True), tmp_path_factory.mktemp("everything")
    return Everything(model, folder, export_graphs(model, folder, preprocess=True))


def test_graphs_have_no_path_of_the_machine(everything: Everything) -> None:
    folder = everything.folder
    private = [str(path) for path in (ROOT, Path(torch.__file__).parent.parent, sys.prefix, Path.home(), folder)]
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        contents = [path.read_bytes()]
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                contents += map(archive.read, archive.namelist())
        for content in contents:
            assert not [name for name in (*private, "stack_trace") if name.encode() in content], path
    assert len(files) == 6


def test_inputs_and_outputs_of_graphs_are_named_after_their_content() -> None:
    graph = StepGraph(tiny_model(MEMORIES["lstm"], num_layers=2, backbone=True))
    names = ["layer0_h", "layer0_c", "layer1_h", "layer1_c", "readout"]
    assert [port.name for port in graph.inputs] == ["frame", *names]
    assert [port.name for port in graph.outputs] == ["logits", *(f"next_{name}" for name in names)]
    assert graph.inputs[0].shape == ("batch", 3, 8, 8) and graph.inputs[-1].shape == ("batch", C + 1)
    preprocessing = ClipGraph(tiny_model(backbone=True), preprocess=True)
    assert preprocessing.inputs[0].shape == ("batch", "time", "height", "width", 3)
    assert [port.name for port in ClipGraph(tiny_model()).inputs] == ["features", "lengths"]
    conv = StepGraph(tiny_model(MEMORIES["conv"]))  # It sees 3 frames.
    assert [port.name for port in conv.inputs[1:]] == ["layer0_h", "layer0_c1", "layer0_c2", "readout"]


def test_graphs_round_features_as_in_training() -> None:
    fine_BTD = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(0))
    lengths_B = torch.tensor([5, 3])
    for dtype in ("float16", "float32"):
        model = tiny_model(dtype=dtype)
        rounded_BTD = fine_BTD.to(getattr(torch, dtype)).float()
        with torch.no_grad():
            answer_BC = ClipGraph(model)(fine_BTD, lengths_B)
        assert torch.allclose(answer_BC, model.classify(rounded_BTD, lengths_B), rtol=0, atol=1e-7)


# Preprocessing.


def level_differences(height: int, width: int, interpolation: str, seed: int) -> Tensor:
    preprocessing = Preprocessing(64, 56, interpolation, (0.5,) * 3, (0.5,) * 3)
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    expected = preprocessing.shape_frames(frames)
    shaped = shape_in_graph(torch.from_numpy(frames), preprocessing)
    assert shaped.shape == expected.shape and shaped.dtype == torch.uint8
    return (shaped.int() - expected.int()).abs()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 9))
@example(height=64, width=64, seed=0)
@example(height=1, width=1, seed=0)
@example(height=400, width=3, seed=0)
@example(height=720, width=1280, seed=0)
@example(height=127, width=254, seed=2)  # The largest share found, 0.0019.
def test_frames_of_any_size_are_shaped_as_torchvision_does_but_for_rounding(
    interpolation: str, height: int, width: int, seed: int
) -> None:
    differences = level_differences(height, width, interpolation, seed)
    assert differences.max() <= 1 and (differences > 0).float().mean() < 3e-3


def test_a_frame_of_the_resized_size_is_only_cropped() -> None:
    assert level_differences(64, 64, "bilinear", 0).max() == 0


def test_normalizing_has_the_bits_of_torchvision() -> None:
    frames = torch.randint(0, 256, (3, 3, 9, 9), dtype=torch.uint8)
    for name in ("alexnet", "vit_b_16"):
        preprocessing = preset(name)
        images = F.convert_image_dtype(frames, torch.float32)
        expected = F.normalize(images, list(preprocessing.mean), list(preprocessing.std))
        assert torch.equal(preprocessing.normalize(frames), expected)


# In onnxruntime.


def written(model: Classifier, folder: Path) -> tuple[ClipGraph, Path]:
    """The clip graph of a model, and its ONNX file."""
    graph = ClipGraph(model)
    (path,) = write_onnx({graph: trace(graph)}, folder, model.class_names)
    return graph, path


def session_of(folder: Path, name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "onnx" / f"{name}.onnx")


# The others differ from these in their equations alone; other tests export "none" and "gru".
ONNX_MEMORIES = ["lstm", "minlstm", "position", "conv"]
MORE_MEMORIES = ["none", "leaky learned", "rnn", "gated", "gru", "mingru"]


@pytest.mark.parametrize(
    "name", [*ONNX_MEMORIES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_MEMORIES)]
)
def test_onnx_graphs_of_every_memory_pass_their_checks_and_others(name: str, tmp_path: Path) -> None:
    number = list(MEMORIES).index(name)
    readout = list(READOUTS.values())[number % len(READOUTS)]
    model = tiny_model(MEMORIES[name], readout, 1 + number % 3 // 2, 4 if number % 2 else None)
    report = export_graphs(model, tmp_path, torch_export=False)
    assert all(graph["largest_difference"] < 2e-6 for graph in report["graphs"])
    session = session_of(tmp_path, "clip")
    for batch, num_frames in ((1, 1), (3, 40), (7, 2)):
        x_BTD, lengths_B = padded(batch, num_frames, seed=num_frames)
        (logits_BC,) = session.run(None, {"features": x_BTD.numpy(), "lengths": lengths_B.numpy()})
        assert np.allclose(logits_BC, model.classify(x_BTD, lengths_B), rtol=0, atol=5e-6)


def test_nearly_closed_gates_give_the_same_in_onnxruntime(tmp_path: Path) -> None:
    model = tiny_model(MEMORIES["minlstm"])
    memory: Any = model.head.layers[0]
    x_BTD, lengths_B = padded(3, 5, seed=0)
    of_each_unit = torch.tensor([(-200.0, -200.0), (-200.0, -198.0), (60.0, -60.0), (-1e4, 1e4), (-200.0, -200.0)])
    memory.forget_gate.bias.data.copy_(of_each_unit[:, 0])
    memory.input_gate.bias.data.copy_(of_each_unit[:, 1])
    _, path = written(model, tmp_path)
    (logits_BC,) = run_onnx(path)([x_BTD, lengths_B])
    assert torch.allclose(logits_BC, model.classify(x_BTD, lengths_B), rtol=0, atol=5e-6)


def test_a_mean_over_frames_has_the_same_bits_in_onnxruntime_whatever_their_order(tmp_path: Path) -> None:
    _, path = written(tiny_model(MEMORIES["none"]), tmp_path)
    session = onnxruntime.InferenceSession(path)
    x_BTD, _ = padded(4, 11, seed=1)
    shuffled_BTD = x_BTD[:, torch.randperm(11, generator=torch.Generator().manual_seed(2))]
    lengths = np.full(4, 11)
    one, other = (session.run(None, {"features": x.numpy(), "lengths": lengths})[0] for x in (x_BTD, shuffled_BTD))
    assert np.array_equal(one, other)


def test_both_onnx_graphs_share_one_file_of_weights_and_carry_class_names(
    everything: Everything, tmp_path: Path
) -> None:
    model = everything.model
    shutil.copytree(everything.folder / "onnx", tmp_path / "onnx")
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["clip.onnx", "step.onnx", "weights.data"]
    once = 4 * sum(value.numel() for value in model.backbone.layer.parameters())  # type: ignore[union-attr]
    assert once / 2 < (tmp_path / "onnx" / "weights.data").stat().st_size < 2 * once
    words = session_of(tmp_path, "step").get_modelmeta().custom_metadata_map["class_names"]
    assert json.loads(words) == model.class_names
    (tmp_path / "onnx" / "weights.data").unlink()
    with pytest.raises(Exception, match=r"weights\.data"):
        session_of(tmp_path, "clip")


def test_frames_of_any_size_go_into_a_graph_that_preprocesses(everything: Everything) -> None:
    model = everything.model
    clip, step = (session_of(everything.folder, name) for name in ("clip", "step"))
    for height, width in ((8, 8), (90, 61)):
        raw = np.random.default_rng(0).integers(0, 256, (2, 5, height, width, 3), dtype=np.uint8)
        frames = torch.stack([TINY.shape_frames(video) for video in raw])
        lengths = torch.tensor([5, 2])
        (logits,) = clip.run(None, {"frames": raw, "lengths": lengths.numpy()})
        assert np.allclose(logits, model(frames, lengths), rtol=0, atol=1e-3)
        state = {port.name: np.zeros((2, port.shape[1]), np.float32) for port in step.get_inputs()[1:]}
        for number in range(5):
            logits, *after = step.run(None, {"frame": raw[:, number], **state})
            state = dict(zip(state, after, strict=True))
        assert np.allclose(logits, model(frames), rtol=0, atol=1e-3)


# Wrong graphs.


class FrozenClip(ClipGraph):
    """A graph traced from a Python loop: it supports only the number of frames at export."""

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        first = torch.arange(3).clamp(max=frames.shape[1] - 1)
        return super().forward(frames[:, first], lengths.clamp(max=3))


class Unrolled(ClipGraph):
    """A loop in Python over the frames."""

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        return self.head(frames, lengths)


class WrongWeights(StepGraph):
    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits_BC, *after = super().forward(frame, *state)
        return 1.01 * logits_BC, *after


class NotANumber(ClipGraph):
    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(frames, lengths) * torch.nan


class Broadcast(ClipGraph):
    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(frames, lengths).unsqueeze(1)


SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in (NotANumber, Broadcast)]


@pytest.mark.parametrize("kind", [FrozenClip, WrongWeights, *SLOW_KINDS])
def test_a_graph_with_other_outputs_is_refused_and_removed(
    kind: type[Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_export, "ClipGraph" if issubclass(kind, ClipGraph) else "StepGraph", kind)
    with pytest.raises(VideomemError, match=f"{kind.name}.onnx: its logits differ") as caught:
        export_graphs(tiny_model(), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [NotANumber, Broadcast])
def test_outputs_that_are_not_numbers_or_have_another_shape_do_not_pass(kind: type[ClipGraph]) -> None:
    model = tiny_model(MEMORIES["none"])
    cases = make_cases(model, preprocess=False)
    check(ClipGraph(model), lambda inputs: [ClipGraph(model)(*inputs)], cases, "clip.onnx")
    with pytest.raises(VideomemError, match=r"clip\.onnx: its logits differ"):
        check(ClipGraph(model), lambda inputs: [kind(model)(*inputs)], cases, "clip.onnx")


def test_what_passed_before_a_failure_stays_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_export, "write_pt2", lambda programs, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_graphs(tiny_model(), tmp_path)
    report = json.loads((tmp_path / "checks.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checks.json", "onnx"]
    assert [graph["file"] for graph in report["graphs"]] == ["onnx/clip.onnx", "onnx/step.onnx"]


def test_existing_graphs_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "mine.txt").write_text("years of work")
    with pytest.raises(VideomemError, match="onnx: exists already"):
        export_graphs(tiny_model(), tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["onnx", "mine.txt"]


def test_a_loop_in_python_is_not_traced_with_its_number_of_frames() -> None:
    with pytest.raises(VideomemError, match=r"torch\.export cannot make the clip graph .* time"):
        trace(Unrolled(tiny_model(MEMORIES["gated"])))


def test_other_weights_in_the_file_are_noticed(tmp_path: Path) -> None:
    model = tiny_model(backbone=True)
    graph, path = written(model, tmp_path)
    cases = make_cases(model, preprocess=False)
    check(graph, run_onnx(path), cases, path.name)
    weights = np.fromfile(tmp_path / "weights.data", np.float32)
    (weights * 1.05).tofile(tmp_path / "weights.data")
    with pytest.raises(VideomemError, match="differ from the model's"):
        check(graph, run_onnx(path), cases, path.name)


def test_what_onnxruntime_cannot_run_is_a_one_line_error(tmp_path: Path) -> None:
    _, path = written(tiny_model(), tmp_path)
    x_BTD, lengths_B = padded(2, 3, seed=0)
    with pytest.raises(VideomemError, match=r"clip\.onnx: onnxruntime cannot run it .*Expected: 7"):
        run_onnx(path)([x_BTD[..., 1:], lengths_B])
    path.write_bytes(b"no graph")
    with pytest.raises(VideomemError, match=r"clip\.onnx: onnxruntime cannot run it"):
        run_onnx(path)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VideomemError, match=r"onnxruntime; run `pip install 'videomem\[onnx\]'`"):
        export_graphs(tiny_model(), tmp_path)
    assert export_graphs(tiny_model(), tmp_path, onnx=False)["graphs"]


def test_preprocessing_needs_a_backbone(tmp_path: Path) -> None:
    with pytest.raises(VideomemError, match="--preprocess needs the backbone"):
        export_graphs(tiny_model(), tmp_path, preprocess=True)


def test_graphs_of_a_bfloat16_backbone_are_refused(tmp_path: Path) -> None:
    model = tiny_model(backbone=True)
    assert model.backbone is not None
    model.backbone.settings = BackboneSettings(precision="bfloat16")
    with pytest.raises(VideomemError, match="precision is bfloat16"):
        export_graphs(model, tmp_path)


# Files of torch.export, the command line, and the documentation.


@pytest.mark.parametrize(
    ("name", "readout"),
    [
        ("lstm", MeanReadout),
        ("minlstm", LastReadout),
        ("conv", MaxReadout),
        pytest.param("none", AttentionReadout, marks=pytest.mark.slow),
        pytest.param("position", BestFrameReadout, marks=pytest.mark.slow),
        pytest.param("none", SetReadout, marks=pytest.mark.slow),
    ],
)
def test_pt2_files_answer_as_the_model_when_read_again(name: str, readout: type[Readout], tmp_path: Path) -> None:
    model = tiny_model(MEMORIES[name], readout)
    report = export_graphs(model, tmp_path, onnx=False)
    assert [graph["file"] for graph in report["graphs"]] == ["torch_export/clip.pt2", "torch_export/step.pt2"]
    x_BTD, lengths_B = padded(4, 23, seed=0)
    (logits_BC,) = run_pt2(tmp_path / "torch_export" / "clip.pt2")([x_BTD, lengths_B])
    assert torch.allclose(logits_BC, model.classify(x_BTD, lengths_B), rtol=0, atol=2e-6)


# Those whose state is a largest or a weighted score; the tests of memories export each of the others.
ONNX_READOUTS = [MaxReadout, AttentionReadout, BestFrameReadout]
MORE_READOUTS = [readout for readout in READOUTS.values() if readout not in ONNX_READOUTS]


@pytest.mark.parametrize(
    "readout", [*ONNX_READOUTS, *(pytest.param(readout, marks=pytest.mark.slow) for readout in MORE_READOUTS)]
)
def test_onnx_graphs_of_every_readout_pass_their_checks(readout: type[Readout], tmp_path: Path) -> None:
    """Also with outputs far below zero, where zeros as the initial state could be mistaken for a frame."""
    model = tiny_model(MEMORIES["none"], readout)
    model.head.classify.bias.data -= 200
    report = export_graphs(model, tmp_path, torch_export=False)
    assert all(graph["largest_difference"] < 1e-6 * graph["largest_logit"] + 2e-6 for graph in report["graphs"])


@pytest.mark.slow
@every_readout
@every_memory
def test_every_memory_and_readout_in_every_format(name: str, readout: type[Readout], tmp_path: Path) -> None:
    model = tiny_model(MEMORIES[name], readout, num_layers=2, projection_dim=4, backbone=True)
    for preprocess in (False, True):
        report = export_graphs(model, tmp_path / str(preprocess), preprocess=preprocess)
        assert len(report["graphs"]) == 4
        assert all(graph["largest_difference"] < graph["tolerance"] / 5 for graph in report["graphs"])


def run_code(markdown: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run each code block in a folder; returns the number of blocks."""
    monkeypatch.chdir(folder)
    blocks = re.findall(r"```python\n(.*?)```", markdown, re.DOTALL)
    for block in blocks:
        exec(compile(block, "snippet", "exec"), {})  # noqa: S102 - code of this project
    return len(blocks)


def test_the_command_exports_alexnet_as_onnx_whose_snippets_run(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(checkpoints["gru"]), "--out", str(out), "--onnx", "--preprocess"]) == 0
    printed = capfd.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed[-2:]] == ["onnx/clip.onnx", "onnx/step.onnx"]
    report = json.loads((out / "checks.json").read_text())
    assert run_code(snippets(report), out, monkeypatch) == 2
    assert snippets(report).strip() in (out / "README.md").read_text()
    model = videomem.load(out)
    raw = np.random.default_rng(0).integers(0, 256, (2, 4, 120, 90, 3), dtype=np.uint8)
    frames = torch.stack([model.frame_network.preprocessing.shape_frames(video) for video in raw])
    lengths = torch.tensor([4, 3])
    (logits,) = session_of(out, "clip").run(None, {"frames": raw, "lengths": lengths.numpy()})
    assert np.allclose(logits, model(frames, lengths), rtol=0, atol=report["graphs"][0]["tolerance"])


def test_graphs_of_a_model_without_its_backbone_take_features(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = ["export", str(checkpoints["lstm"]), "--out", str(out), "--without-backbone", "--onnx"]
    assert main([*arguments, "--torch-export"]) == 0
    report = json.loads((out / "checks.json").read_text())
    feature_dim = json.loads((out / "config.json").read_text())["feature_dim"]
    expected = {"name": "features", "dtype": "float32", "shape": ["batch", "time", feature_dim]}
    assert report["graphs"][0]["inputs"][0] == expected
    assert run_code(snippets(report), out, monkeypatch) == 4
    shutil.rmtree(out)
    assert "--preprocess needs the backbone" in failed(capsys, *arguments, "--preprocess")
    without_graphs = [word for word in arguments if word not in ("--onnx", "--without-backbone")]
    assert "add --onnx" in failed(capsys, *without_graphs, "--preprocess")
    assert not out.exists()


def test_a_failed_check_ends_the_command_with_one_line_and_keeps_the_folder(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_export, "StepGraph", WrongWeights)
    out = tmp_path / "out"
    error = failed(capsys, "export", checkpoints["gru"], "--out", out, "--without-backbone", "--onnx")
    assert "onnx/step.onnx: its logits differ" in error and "the other files are complete" in error
    assert not (out / "onnx").exists() and not (out / "checks.json").exists()
    assert videomem.load(out).backbone is None


def test_the_page_on_export_shows_the_code_for_its_folder_and_it_runs(
    everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    assert snippets(everything.report).strip() in page
    assert run_code(page, everything.folder, monkeypatch) == 4
