"""`videomem inspect`: states and predictions of a head on one video, figure, tables, and errors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import failed, varied_heads
from helpers.small_heads import MEMORIES, every_memory, every_readout
from helpers.tiny_model import tiny_model
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from torch import nn

import videomem
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments.drawing import drawn
from videomem.experiments.inspect.inspection import (
    Inspection,
    OrderTrace,
    Video,
    changes,
    clip_time_constants,
    inspect_frames,
    read_video,
    state_size,
)
from videomem.experiments.inspect.inspection_figure import Thumbnails, draw_inspection, spread
from videomem.experiments.inspect.inspection_report import (
    SCHEMA_VERSION,
    InspectionResult,
    ShownFrame,
    inspection_result,
    render,
    view_inspection,
)
from videomem.experiments.inspect.inspection_tables import InspectionText, inspection_text
from videomem.experiments.tables import csv_text
from videomem.heads import GRU, LastReadout, Leaky, Readout
from videomem.inference.model import load, model_of
from videomem.training.checkpoint import read_checkpoint
from videomem.utils.result_models import dump, parse
from videomem.video.catalog import Catalog
from videomem.video.sampling import FixedRate
from videomem.video.synthetic import write_video

D = 7


def tiny_video(num_frames: int = 6, path: str = "video.mp4", fps: float | None = 10.0) -> Video:
    frames = torch.randint(0, 256, (num_frames, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    places = np.arange(num_frames)
    return Video(path, frames, places, num_frames, None if fps is None else places / fps)


@pytest.fixture
def video(catalog: Catalog) -> str:
    return next(clip.path for clip in catalog.clips if clip.split == "test")


# Models.


def test_a_checkpoint_and_its_folder_give_the_same_model(
    checkpoints: dict[str, Path], tmp_path: Path, video: str
) -> None:
    model_of(read_checkpoint(checkpoints["gru"])).save_pretrained(tmp_path / "out")
    one, other = load(checkpoints["gru"]), load(tmp_path / "out")
    frames = one.read(video)[None]
    assert torch.equal(frames[0], other.read(video)) and torch.equal(one(frames), other(frames))
    assert one.class_names == other.class_names == videomem.load(tmp_path / "out").class_names
    assert not one.training


def test_moving_a_model_leaves_the_backbone_of_others_where_it_is(checkpoints: dict[str, Path]) -> None:
    load(checkpoints["gru"]).to("meta")
    assert next(load(checkpoints["gru"]).frame_network.parameters()).device.type == "cpu"


def test_a_checkpoint_is_refused_when_the_weights_of_its_backbone_changed(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videomem.inference.model.backbone_identity", lambda settings: {"weights_sha256": "another"})
    with pytest.raises(VideomemError, match="was trained on other weights than random has now"):
        load(checkpoints["gru"])


# Computation.


@every_memory
@every_readout
@pytest.mark.parametrize("layer", [1, 2])
def test_the_answers_are_those_of_the_head_in_every_order(name: str, readout: type[Readout], layer: int) -> None:
    model, video = tiny_model(MEMORIES[name], readout, num_layers=2), tiny_video()
    inside = inspect_frames(model, video.frames_TCHW, seed=3, layer=layer)
    assert [one.order for one in inside.traces] == ["in order", "shuffled", "reversed"]
    for one in inside.traces:
        assert sorted(one.frames_T) == list(range(6))
        logits = model(video.frames_TCHW[torch.from_numpy(one.frames_T)][None])
        assert np.allclose(one.probabilities_TC[-1], logits[0].double().softmax(0), atol=1e-5)
        assert np.allclose(one.probabilities_TC.sum(axis=1), 1)
        assert ((one.keep_TH >= 0) & (one.keep_TH <= 1)).all() and (one.change_T >= 0).all()
        assert one.keep_TH.shape == one.activations_TH.shape == (6, len(inside.tau_H))
    assert list(inside.traces[2].frames_T) == [5, 4, 3, 2, 1, 0]
    assert inside.keeps == (name not in ("none", "leaky alpha=0", "rnn", "position", "conv"))
    assert inside.keeps_evenly == (not inside.keeps or name.startswith("leaky"))


@pytest.mark.parametrize("name", ["none", "leaky alpha=0"])
def test_logits_of_a_memoryless_head_are_bit_identical_under_permutation(name: str) -> None:
    first, shuffled, backwards = inspect_frames(tiny_model(MEMORIES[name]), tiny_video(33).frames_TCHW).traces
    assert np.array_equal(first.probabilities_TC[-1], shuffled.probabilities_TC[-1])
    assert np.array_equal(first.probabilities_TC[-1], backwards.probabilities_TC[-1])
    assert not np.allclose(first.probabilities_TC[0], backwards.probabilities_TC[0])


def test_the_same_seed_gives_the_same_shuffle_and_another_seed_another() -> None:
    model, frames = tiny_model(MEMORIES["gru"]), tiny_video(12).frames_TCHW
    orders = [inspect_frames(model, frames, seed).traces[1].frames_T.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_head_reset_at_every_frame_sees_single_frames_only() -> None:
    frames = tiny_video().frames_TCHW
    mean = inspect_frames(tiny_model(MEMORIES["gru"]), frames)
    assert np.array_equal(mean.traces[0].emptied_C, mean.traces[2].emptied_C)
    model = tiny_model(MEMORIES["gru"], LastReadout)
    for one in inspect_frames(model, frames).traces:
        alone = model(frames[one.frames_T[-1]][None, None])[0].double().softmax(0)
        assert np.allclose(one.emptied_C, alone, atol=1e-6)


def test_time_constants_are_those_of_the_leaky_integrator() -> None:
    tau_H = inspect_frames(tiny_model(partial(Leaky, hidden_dim=4, alpha=0.8)), tiny_video().frames_TCHW).tau_H
    assert np.allclose(tau_H, -1 / math.log(0.8), rtol=1e-5)
    # The first step has no previous state; one closed forget gate gives tau = 0, one that is always open infinity.
    keep_TH = np.array([[0.0, 1.0, 1.0], [0.5, 0.0, 1.0], [0.5, 1.0, 1.0]])
    assert np.allclose(clip_time_constants(keep_TH), [1 / math.log(2), 0, np.inf])


def test_changes_are_in_units_of_the_usual_size_of_the_state() -> None:
    kept_TH = np.array([[3.0, 4.0], [3.0, 4.0], [-3.0, -4.0]])
    assert state_size(kept_TH) == pytest.approx(5)
    assert np.allclose(changes(kept_TH, 5), [1, 0, 2])
    assert np.allclose(changes(100 * kept_TH, state_size(100 * kept_TH)), [1, 0, 2])
    assert state_size(np.zeros((3, 2))) == 1


def test_a_prediction_is_settled_after_its_last_change() -> None:
    def settled(*winners: int) -> int:
        return OrderTrace(
            "in order", np.arange(len(winners)), *(np.zeros((2, 2)),) * 2, np.eye(3)[list(winners)], *(np.zeros(2),) * 2
        ).settled

    assert (settled(1, 1, 1), settled(0, 1, 1), settled(1, 0, 1), settled(0, 1, 2)) == (0, 1, 2, 2)


def test_a_head_that_diverged_cannot_be_inspected() -> None:
    model = tiny_model(MEMORIES["gru"])
    nn.init.constant_(model.head.classify.bias, torch.nan)
    with pytest.raises(VideomemError, match="its training diverged"):
        inspect_frames(model, tiny_video().frames_TCHW)


def test_frames_have_the_times_at_which_they_are_shown(tmp_path: Path) -> None:
    images = [np.full((8, 8, 3), 20 * number, np.uint8) for number in range(11)]
    write_video(tmp_path / "video.mp4", images, fps=5)
    video = read_video(tiny_model(MEMORIES["gru"]), tmp_path / "video.mp4")
    assert video.times_s_T is not None and np.allclose(video.times_s_T, video.places_T / 5)
    assert video.places_T.tolist() == [0, 2, 4, 6, 8, 10] and video.step_s == pytest.approx(0.4)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:03}.png")
    assert read_video(tiny_model(MEMORIES["gru"]), tmp_path / "images").times_s_T is None
    known = read_video(tiny_model(MEMORIES["gru"]), tmp_path / "images", num_frames=3, fps=5).times_s_T
    assert known is not None and np.allclose(known, [0, 1, 2])


# Figure and tables.


def inside_of(name: str, readout: type[Readout] | None = None, num_frames: int = 6) -> Inspection:
    return inspect_frames(tiny_model(MEMORIES[name], readout), tiny_video(num_frames).frames_TCHW)


NASTY = ("$x^2$ & <b>bold</b>", "W" * 60, "\\frac{1}{2} $", "left\nright", "слева направо", "")


@pytest.mark.parametrize(("num_classes", "num_frames"), [(2, 2), (6, 24), (400, 64)])
def test_every_text_of_the_figure_lies_within_it(num_classes: int, num_frames: int) -> None:
    names = tuple(
        (NASTY[c] if c < len(NASTY) else f"pushing something {c} from left to right") for c in range(num_classes)
    )
    video = tiny_video(num_frames, "$a_1$ <i>very</i> long name " * 4 + ".mp4")
    inside = inspect_frames(tiny_model(partial(GRU, hidden_dim=5), class_names=names), video.frames_TCHW)
    with drawn():
        figure = draw_inspection(video, inside)
        FigureCanvasAgg(figure).draw()
        shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        boxes = [text.get_window_extent() for text in shown]
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in zip(shown, boxes, strict=True):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()
    labels = [box for text, box in zip(shown, boxes, strict=True) if text.get_position()[0] == 1.03]
    ranked = sorted(labels, key=lambda box: box.y0)
    assert len(ranked) >= min(num_classes, 3) and all(below.y1 <= above.y0 + 0.5 for below, above in pairwise(ranked))
    page = render(video, inside, view_inspection(video, inside))
    assert "<b>bold" not in page and "<i>very" not in page and page.count("<svg") == 1


def test_labels_are_spread_without_changing_their_order() -> None:
    assert spread([0.9, 0.5], 0.1) == [0.9, 0.5]
    placed = spread([0.5, 0.49, 0.0, 0.0, 0.0], 0.1)
    assert all(above - below >= 0.1 - 1e-9 for above, below in pairwise(placed)) and min(placed) == 0


@pytest.mark.parametrize("num_frames", [2, 16, 20, 21, 64, 300])
def test_pictures_stand_over_the_middle_of_their_columns(num_frames: int) -> None:
    places = Thumbnails(tiny_video(num_frames)).places
    assert len(places) <= 20 and len({b - a for a, b in pairwise(places)}) <= 1
    every = places[1] - places[0]
    assert places[0] - (every - 1) / 2 == 0 and places[-1] + (every - 1) / 2 <= num_frames - 1


def in_tables(text: InspectionText) -> str:
    return "\n".join(csv_text(table) for table in (text.predictions, text.timing, text.retention))


def test_notes_and_tables_say_what_each_kind_of_memory_does() -> None:
    video = tiny_video()
    text = {
        name: inspection_text(video, inside_of(name)) for name in ("none", "rnn", "leaky alpha=0.9", "gru", "mingru")
    }
    assert "identical to the bit" in text["none"].predictions_note and "no other" in text["none"].retention_note
    assert "no time constants" in text["rnn"].retention_note and "median time constant" not in in_tables(text["rnn"])
    assert "the same share at every frame" in text[
        "leaky alpha=0.9"
    ].retention_note and "9.5 frames (0.95 s)" in in_tables(text["leaky alpha=0.9"])
    assert "lowest mean retention" in in_tables(text["gru"]) and "frame alone" not in text["gru"].retention_note
    assert "lowest mean retention" not in in_tables(text["leaky alpha=0.9"])
    assert "depends on the current frame alone" in text["mingru"].retention_note
    assert "does not decay" in inspection_text(video, inside_of("leaky alpha=1")).retention_note
    assert "the last frame alone" in inspection_text(video, inside_of("none", LastReadout)).predictions_note
    for name in ("rnn", "gru", "mingru"):
        assert "reset before every frame" in text[name].predictions_note
        assert "prediction without memory" in in_tables(text[name])
    assert "prediction without memory" not in in_tables(text["none"])


def with_answers(emptied: list[int], answers: list[int], order_blind: bool) -> Inspection:
    inside = inside_of("gru")
    traces = tuple(
        one._replace(probabilities_TC=np.eye(3)[[answer] * 6], emptied_C=np.eye(3)[alone])
        for one, answer, alone in zip(inside.traces, answers, emptied, strict=True)
    )
    return replace(inside, traces=traces, readout_is_order_blind=order_blind)


def test_an_answer_that_the_last_frame_gives_alone_is_not_called_memory() -> None:
    def said(emptied: list[int], answers: list[int], order_blind: bool) -> str:
        return inspection_text(tiny_video(), with_answers(emptied, answers, order_blind)).predictions_note

    assert "need no memory" in said([0, 0, 1], [0, 0, 1], False)
    assert "some predictions differ and need memory" in said([0, 0, 0], [0, 0, 1], False)
    assert "all predictions differ and need memory" in said([1, 1, 0], [0, 0, 1], False)
    assert "the predictions that differ from it need memory" in said([0, 0, 0], [0, 0, 1], True)
    assert "order makes no difference" in said([0, 0, 0], [0, 0, 0], True)


def test_tables_without_times_give_frames_alone() -> None:
    video = tiny_video(fps=None)
    tables = in_tables(inspection_text(video, inside_of("gru")))
    assert " s)" not in tables and "largest change of the state,frame" in tables
    assert inspection_result(video, inside_of("gru")).frames[0] == ShownFrame(frame=1, frame_of_video=0, time_s=None)


def test_numbers_are_json_though_a_time_constant_is_infinite() -> None:
    result = inspection_result(tiny_video(), inside_of("leaky alpha=1"))
    assert set(json.loads(dump(result))["time_constants_frames"]) == {"Infinity"}
    assert parse(InspectionResult, dump(result), SCHEMA_VERSION, "inspect.json") == result


# The command.


@varied_heads
def test_the_command_writes_figure_page_and_numbers(
    checkpoints: dict[str, Path], tmp_path: Path, video: str, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", video, "--model", str(checkpoints[head]), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "inspect.json").read_text())
    model = load(checkpoints[head])
    (logits,) = model(model.read(video)[None])
    first = content["orders"]["in_order"]
    assert first["answer"] == model.class_names[int(logits.argmax())] and content["schema_version"] == 1
    assert np.allclose(first["probabilities"][-1], logits.double().softmax(0), atol=1e-4)
    assert len(content["time_constants_frames"]) == 128 and len(content["frames"]) == 8
    assert content["orders"]["reversed"]["frames"] == list(range(8, 0, -1))
    keeps_state = (
        "leaky",
        "leaky_learned",
        "leaky_sum",
        "gated",
        "gru",
        "gru_last",
        "lstm",
        "lstm_last",
        "mingru",
        "minlstm",
    )
    assert (first["retention"] is not None) == (head in keeps_state)
    assert (tmp_path / "out" / "inspect.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert "src=" not in page and "@import" not in page and page.count('href="data:image/png') == 5
    for said in ("in order", "shuffled", "reversed", "time constants", "changed most at frame", "inspect.json"):
        assert said in printed


def test_frames_that_are_shown_again_are_counted_once(
    checkpoints: dict[str, Path], tmp_path: Path, video: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["inspect", video, "--model", str(checkpoints["none"]), "--frames", "40", "--out", str(out)]) == 0
    num = json.loads((out / "inspect.json").read_text())["num_frames_of_video"]
    assert f"{num} of its {num} frames, shown as 40" in capsys.readouterr().out


def test_the_command_takes_a_folder_and_gives_the_same_numbers_again(
    checkpoints: dict[str, Path], tmp_path: Path, video: str
) -> None:
    model_of(read_checkpoint(checkpoints["gated"])).save_pretrained(tmp_path / "exported")
    written = []
    for model in (checkpoints["gated"], tmp_path / "exported", tmp_path / "exported"):
        assert main(["inspect", video, "--model", str(model), "--out", str(tmp_path), "--frames", "5"]) == 0
        written.append((tmp_path / "inspect.json").read_bytes())
    assert written[0] == written[1] == written[2] and len(json.loads(written[0])["frames"]) == 5


@pytest.fixture
def bad(checkpoints: dict[str, Path], tmp_path: Path) -> SimpleNamespace:
    """Returns a folder with invalid videos and models."""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    write_video(tmp_path / "one.mp4", [np.zeros((64, 64, 3), np.uint8)])
    (tmp_path / "folder").mkdir()
    model_of(read_checkpoint(checkpoints["gru"])).save_pretrained(tmp_path / "headless", with_backbone=False)
    return SimpleNamespace(root=tmp_path, good=checkpoints["gru"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": "nowhere.mp4"}, "nowhere.mp4: no such file"),
        ({"video": "broken.mp4"}, "broken.mp4: not decodable"),
        ({"video": "one.mp4"}, "one.mp4: the video has 1 frame, but at least 2 are needed"),
        ({"video": "folder"}, "nor a folder with images"),
        ({"--model": "nowhere"}, "nowhere: no such model; give a folder of `videomem export`, a checkpoint"),
        ({"--model": "folder"}, "lacks config.json, so it is not a folder of `videomem export`"),
        ({"--model": "broken.mp4"}, "not a checkpoint of plain data"),
        ({"--model": "headless"}, "exported without its backbone; export it again with it"),
        ({"--frames": "0"}, "--frames is 0, but must be at least 2"),
        ({"--layer": "3"}, "--layer is 3, but gru has 1 layers; choose one in 1..1"),
        ({"--layer": "0"}, "--layer is 0, but must be at least 1"),
        ({"--source-fps": "0"}, "--source-fps is 0.0, but must be above 0 and finite"),
        ({"--device": "warp"}, "--device warp"),
        ({"--out": "broken.mp4"}, "broken.mp4"),
    ],
)
def test_what_cannot_be_inspected_is_a_one_line_error(
    bad: SimpleNamespace, video: str, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    given: dict[str, Any] = {"video": video, "--model": bad.good, "--out": bad.root / "out"}
    for name, value in changes.items():
        given[name] = bad.root / value if name in ("video", "--model", "--out") else value
    options = [part for name, value in given.items() for part in ((name, value) if name != "video" else (value,))]
    error = failed(capsys, "inspect", *options)
    assert message in error and not (bad.root / "out").exists()


def test_a_video_too_short_for_the_sampling_rate_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", [np.full((8, 8, 3), n, np.uint8) for n in range(3)], fps=30)
    model = tiny_model(MEMORIES["gru"])
    model.settings = replace(model.settings, sampling=FixedRate(5.0))
    with pytest.raises(VideomemError, match=r"takes 1 frame of this short video.* set --frames"):
        read_video(model, tmp_path / "short.mp4")
    assert len(read_video(model, tmp_path / "short.mp4", num_frames=3).frames_TCHW) == 3
