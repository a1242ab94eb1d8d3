from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import every_head, fit_arguments, logged_by
from helpers.recomputed import check_recomputed
from torch import Tensor

from videomem.batch import VideoBatch, pad_videos
from videomem.cli.main import main
from videomem.cli.shuffle import results_table
from videomem.cli.train import run
from videomem.errors import VideomemError
from videomem.experiments import permutations
from videomem.experiments.clips import shown_frames
from videomem.experiments.frame_order_predictions import permute_frames
from videomem.experiments.shuffle.measurements import (
    COLUMNS,
    CONDITIONS,
    Evaluation,
    Measurement,
    as_csv,
    js_divergence,
    measure_order,
)
from videomem.experiments.shuffle.shuffle_figures import FlippedClip, animations, flipped_clips, gif
from videomem.experiments.shuffle.shuffle_result import measure_checkpoint, sentence, summarize
from videomem.features.backbone import load_backbone
from videomem.features.clip_decoding import decode_frames
from videomem.heads import GRU, LSTM, Head
from videomem.statistics.contrasts import estimate_mean
from videomem.statistics.verdict import interval
from videomem.training.checkpoint import read_checkpoint


def test_permute_moves_frames_as_told() -> None:
    x = torch.arange(6.0).view(1, 3, 2)
    assert permute_frames(x, torch.tensor([[2, 0, 1]]))[0, :, 0].tolist() == [4, 0, 2]


def test_js_divergence_is_between_nothing_and_log_two() -> None:
    logits = torch.randn(50, 7) * 5
    assert js_divergence(logits, logits).max() == 0
    apart = js_divergence(torch.tensor([[0.0, 100.0]]), torch.tensor([[100.0, 0.0]]))
    assert float(apart) == pytest.approx(math.log(2))
    other = torch.randn(50, 7) * 5
    p, q = logits.double().softmax(1), other.double().softmax(1)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2
    assert torch.allclose(js_divergence(logits, other), expected, atol=1e-10)


@pytest.mark.parametrize("memory", [GRU, LSTM])
def test_projected_and_permuted_logits_are_those_of_torch(memory: type[GRU] | type[LSTM]) -> None:
    head = Head(partial(memory, hidden_dim=16), 24, 5).eval()
    x, lengths = pad_videos([torch.randn(length, 24) for length in (12, 7, 1)])
    indices = torch.stack([torch.from_numpy(permutations.shuffled(n, 12, 1, (n,))[0]) for n in lengths.tolist()])
    ours = head.forward_projected(permute_frames(head.project(x), indices), lengths)
    layer = head.memories[0]
    assert isinstance(layer, GRU | LSTM)
    states, _ = layer.forward_library(head.norm(permute_frames(x, indices)), lengths)
    assert torch.allclose(ours, head.readout(head.classify(states), lengths), atol=1e-5)


def by_condition(rows: list[Measurement], condition: str) -> list[Measurement]:
    return [row for row in rows if row.condition == condition]


def measured(path: Path, num_permutations: int = 5) -> list[Measurement]:
    checkpoint = read_checkpoint(path)
    data = checkpoint.data_module()
    data.setup("test")
    return measure_order(checkpoint.classifier().head, data.test_dataloader(), 0, num_permutations, 2).rows


@every_head
def test_order_blind_heads_ignore_order_to_the_bit_and_all_others_do_not(
    checkpoints: dict[str, Path], head: str
) -> None:
    rows = measured(checkpoints[head])
    assert len(rows) == 7
    (ordered,) = by_condition(rows, "ordered")
    assert ordered.flip_rate == ordered.max_logit_change == 0
    moved = by_condition(rows, "shuffled") + by_condition(rows, "reversed")
    forward = [row.max_logit_change_forward for row in moved if row.max_logit_change_forward is not None]
    assert len(forward) == 3
    if read_checkpoint(checkpoints[head]).classifier().head.order_blind:
        assert head in ("none", "leaky_zero", "attention", "best_frame", "max", "set")
        assert {row.accuracy for row in rows} == {ordered.accuracy} and ordered.accuracy <= 0.5
        assert all(row.max_logit_change == 0 and row.flip_rate == 0 for row in moved)
        assert max(forward) <= 1e-5
    else:
        assert min(row.max_logit_change for row in moved) > 1e-4 < min(forward)


@pytest.mark.parametrize("head", ["none", "gated", "lstm"])
def test_shuffling_pixels_is_shuffling_features(checkpoints: dict[str, Path], head: str) -> None:
    checkpoint = read_checkpoint(checkpoints[head])
    data, classifier = checkpoint.data_module(), checkpoint.classifier()
    backbone = load_backbone(data.settings.backbone)
    dtype = getattr(torch, data.settings.dtype)
    predictions: dict[str, list[Tensor]] = {"pixels": [], "features": []}
    for row in data.rows("test")[:8]:
        frames, _ = decode_frames(data.clips[row], data.settings)
        order = torch.from_numpy(permutations.shuffled(len(frames), len(frames), 1, (row,))[0])
        pixels = backbone(frames[order]).to(dtype)[None]
        lengths = torch.tensor([len(frames)])
        features = permute_frames(data.features(row)[None], order[None])
        with torch.inference_mode():
            predictions["pixels"].append(classifier(pixels, lengths)[0])
            terms = classifier.head.project(data.features(row)[None])
            predictions["features"].append(
                classifier.head.forward_projected(permute_frames(terms, order[None]), lengths)[0]
            )
            assert torch.allclose(classifier(features, lengths)[0], predictions["pixels"][-1], atol=1e-4)
    pixels, features = (torch.stack(predictions[name]) for name in ("pixels", "features"))
    assert torch.allclose(pixels, features, atol=1e-4)
    assert torch.equal(pixels.argmax(1), features.argmax(1))


def test_permutations_do_not_depend_on_the_batch(checkpoints: dict[str, Path]) -> None:
    checkpoint = read_checkpoint(checkpoints["rnn"])
    found = []
    for batch_size in (20, 7):
        data = checkpoint.data_module(batch_size=batch_size)
        data.setup("test")
        found.append(measure_order(checkpoint.classifier().head, data.test_dataloader(), 0, 4, 0).rows)
    for one, other in zip(*found, strict=True):
        assert one.accuracy == other.accuracy and one.max_logit_change == pytest.approx(
            other.max_logit_change, abs=1e-4
        )
        assert one.max_logit_change_forward is None or one.condition != "shuffled"


def test_accuracy_flips_and_changes_are_those_of_a_plain_loop() -> None:
    head = Head(partial(GRU, hidden_dim=8), 6, 4).eval()
    x, lengths = pad_videos([torch.randn(n, 6) for n in (9, 9, 4, 6)])
    batch = VideoBatch(x, lengths, torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11, 12, 13]))
    row = by_condition(measure_order(head, [batch], 0, 3, 3).rows, "shuffled")[2]
    right = flips = 0
    change = 0.0
    for b, length in enumerate(lengths.tolist()):
        order = permutations.shuffled(length, 9, 3, (0, int(batch.clip[b])))[2, :length].copy()
        with torch.inference_mode():
            plain = head(x[b : b + 1, :length], torch.tensor([length]))[0]
            moved = head(x[b : b + 1, torch.from_numpy(order)], torch.tensor([length]))[0]
        right += int(moved.argmax() == b)
        flips += int(moved.argmax() != plain.argmax())
        change = max(change, float((moved - plain).abs().max()))
    assert (row.accuracy, row.flip_rate) == (right / 4, flips / 4)
    assert row.max_logit_change == pytest.approx(change, abs=1e-5)
    assert row.max_logit_change_forward == pytest.approx(change, abs=1e-5)


def row(condition: str, accuracy: float, forward: float | None = None) -> Measurement:
    return Measurement("a", "run/last", 3, 0, condition, 0, accuracy, 0.5, 1.0, forward, 0.1)


def evaluation(**correct: list[float]) -> Evaluation:
    rows = [row(condition, 0.5, 0.3) for condition in CONDITIONS]
    correct_N = {condition: np.array(values) for condition, values in correct.items()}
    clips = list(range(len(correct_N["ordered"])))
    return Evaluation(rows, clips, correct_N, np.zeros((len(rows), len(clips)), int))


def test_intervals_are_those_of_the_groups_of_clips_within_what_an_accuracy_can_be() -> None:
    ordered, shuffled = [1.0] * 15 + [0.0], [0.5] * 8 + [0.0, 0.5] * 4
    groups = [f"g{n // 2}" for n in range(16)]
    summary = summarize(evaluation(ordered=ordered, shuffled=shuffled, reversed=[0.0] * 16), groups, order_blind=False)
    numbers = np.arange(16) // 2
    for name, values, limits in (("ordered", ordered, (0, 1)), ("shuffled", shuffled, (0, 1))):
        expected = estimate_mean(values, numbers, np.zeros(16, int), limits=limits)
        assert summary.estimate[name] == expected
        assert summary.accuracy[name] == pytest.approx(expected.value)
    assert summary.estimate["ordered"] is not None and summary.estimate["ordered"].high == 1.0
    assert summary.estimate["reversed"] is not None and summary.estimate["reversed"].low == 0.0
    lost = estimate_mean(np.subtract(ordered, shuffled), numbers, np.zeros(16, int), limits=(-1, 1))
    assert summary.reliance == pytest.approx(lost.value) and summary.reliance_estimate == lost
    assert sentence(summary, "gru") == f"gru loses {100 * lost.value:.1f} points if its test clips are shuffled " \
        f"({interval(lost)}); 8 groups of test clips are few: the order test needs 20 for a verdict."  # fmt: skip
    many = summarize(evaluation(ordered=[1.0] * 20, shuffled=[0.5] * 20, reversed=[0.0] * 20),
                     [f"g{n}" for n in range(20)], order_blind=False)  # fmt: skip
    assert "few" not in sentence(many, "gru")


def test_a_reliance_that_is_zero_by_construction_has_no_interval() -> None:
    same = [1.0, 0.0] * 4
    found = evaluation(ordered=same, shuffled=same, reversed=same)
    assert summarize(found, list("aabbccdd"), order_blind=True).reliance_estimate is None
    assert summarize(found, list("aabbccdd"), order_blind=False).reliance_estimate is not None


def test_clips_of_one_group_have_an_accuracy_without_an_interval() -> None:
    found = evaluation(ordered=[1.0, 0.0], shuffled=[0.0, 0.0], reversed=[0.0, 0.0])
    summary = summarize(found, ["a", "a"], order_blind=False)
    assert summary.accuracy["ordered"] == 0.5 and set(summary.estimate.values()) == {None}
    assert "50.0 points" in sentence(summary, "gru") and "no interval" in sentence(summary, "gru")


def test_the_table_has_the_promised_columns_and_leaves_unmeasured_fields_empty() -> None:
    (found,) = csv.DictReader(StringIO(as_csv([row("shuffled", 0.5)])))
    assert tuple(found) == COLUMNS == (
        "head", "checkpoint", "epoch", "seed", "condition", "permutation", "accuracy", "flip_rate",
        "max_logit_change", "max_logit_change_forward", "js_divergence",
    )  # fmt: skip
    assert found["max_logit_change_forward"] == ""
    summary = summarize(evaluation(ordered=[1.0], shuffled=[0.0], reversed=[0.0]), ["a"], order_blind=False)
    shown = results_table([replace(summary, max_logit_change=change) for change in (0.0, 1e-9)]).rows
    assert [line[-1] for line in shown] == ["0", "1e-09"]


def test_a_head_that_diverged_is_not_called_order_invariant() -> None:
    head = Head(partial(GRU, hidden_dim=8), 6, 4)
    torch.nn.init.constant_(head.classify.bias, torch.nan)
    batch = VideoBatch(torch.randn(2, 5, 6), torch.tensor([5, 5]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    with pytest.raises(VideomemError, match="its training diverged"):
        measure_order(head, [batch], 0, 2)


def test_every_checkpoint_has_its_own_rows_whatever_its_size_epoch_and_seed(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for width in ("4", "6"):
        run("fit", [*fit_arguments(workspace, tmp_path / f"h{width}"), "--model.memory.hidden_dim", width])
    first = Path("h4/checkpoints/last.ckpt")
    resumed = [*fit_arguments(workspace, tmp_path / "more", epochs=3), "--model.memory.hidden_dim", "4"]
    run("fit", [*resumed, "--ckpt-path", str(first)])
    shutil.copy(first, first.with_name("best.ckpt"))
    paths = [str(first), "h4/checkpoints/best.ckpt", "h6/checkpoints/last.ckpt", "more/checkpoints/last.ckpt"]
    command = ["shuffle", *paths, str(first.absolute()), "--permutations", "2", "--out", "out", "--wandb", "disabled"]
    assert main(command) == 0
    rows = list(csv.DictReader(Path("out/shuffle.csv").read_text().splitlines()))
    expected = [("gru #1", "h4/last", "1"), ("gru #1", "h4/best", "1"), ("gru #2", "h6/last", "1")]
    expected += [("gru #1", "more/last", "3")]
    assert [(r["head"], r["checkpoint"], r["epoch"]) for r in rows] == [one for one in expected for _ in range(4)]
    summaries = list(csv.DictReader(Path("out/shuffle_summary.csv").read_text().splitlines()))
    assert [(r["head"], r["checkpoint"], r["epoch"]) for r in summaries] == expected
    assert all(
        0 <= float(r["ordered: low"]) <= float(r["ordered"]) <= float(r["ordered: high"]) <= 1 for r in summaries
    )
    assert "intervals over groups" in " ".join(capsys.readouterr().out.split())


def test_shuffle_writes_table_and_figure_of_several_checkpoints(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [str(checkpoints[head]) for head in ("none", "gru")]
    assert main(["shuffle", *paths, "--permutations", "4", "--out", "out", "--wandb", "disabled"]) == 0
    rows = list(csv.DictReader(Path("out/shuffle.csv").read_text().splitlines()))
    assert len(rows) == 2 * 6 and {r["head"] for r in rows} == {"none", "gru"}
    result = json.loads(Path("out/shuffle.json").read_text())
    assert [one["head"] for one in result["checkpoints"]] == ["none", "gru"]
    blind, gru = result["sentences"]
    assert "order-blind by construction" in blind and "95 % interval" in gru
    out = " ".join(capsys.readouterr().out.split())
    assert " ".join(gru.split()) in out
    check_recomputed("out")
    assert Path("out/shuffle.png").read_bytes().startswith(b"\x89PNG")


def test_clips_that_flip_are_those_right_in_order_and_most_often_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted_KN = np.array([[0, 1, 2, 3], [0, 0, 1, 2], [0, 1, 1, 2], [9, 9, 9, 9]])
    correct = {"ordered": [1.0, 1.0, 1.0, 0.0], "shuffled": [1.0, 0.5, 0.0, 0.0], "reversed": [0.0] * 4}
    found = evaluation(**correct)._replace(predicted_KN=predicted_KN, clips_N=[10, 11, 12, 13])
    assert flipped_clips(found) == [FlippedClip(12, 2, 0), FlippedClip(11, 1, 0)]
    monkeypatch.setattr("videomem.experiments.shuffle.shuffle_figures.MAX_CLIPS", 1)
    assert flipped_clips(found) == [FlippedClip(12, 2, 0)]


def test_a_flipped_clip_is_shown_in_order_and_as_it_was_shuffled(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    command = ["shuffle", str(checkpoints["gru"]), "--permutations", "4", "--out", str(tmp_path), "--wandb", "offline"]
    assert main(command) == 0
    checkpoint = read_checkpoint(checkpoints["gru"])
    data = checkpoint.data_module()
    found = measure_checkpoint(checkpoint, data, 4, 0, 0).evaluation
    (first, *_) = flipped_clips(found)
    shown = list(animations(data, found, 4, 0))
    assert len(shown) == len(flipped_clips(found)) == len(list(tmp_path.rglob("media/videos/**/*.gif")))
    frames = shown_frames(data, first.row)
    assert frames is not None
    order = permutations.shuffled(len(frames), len(frames), 4, (0, first.row))[first.permutation]
    assert shown[0][0] == gif(frames, frames[order])
    logits = checkpoint.classifier().eval()(data.features(first.row)[order][None], torch.tensor([len(frames)]))
    assert shown[0][1].endswith(f"predicted {data.class_names[int(logits.argmax())]}")
    assert any("captions" in json.dumps(record) for record in logged_by(tmp_path))
