from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, summary_of
from helpers.recomputed import check_recomputed
from helpers.result_files import check_file
from torch import Tensor, nn

import videomem
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments import permutations
from videomem.experiments.model_sensitivity import video_networks
from videomem.experiments.model_sensitivity.sensitivity_result import (
    SCHEMA_VERSION,
    OrderSensitivity,
    SensitivityResult,
)
from videomem.experiments.model_sensitivity.video_model import match_labels
from videomem.experiments.model_sensitivity.video_networks import load_video_network
from videomem.experiments.model_sensitivity.views import ViewReader, Views
from videomem.experiments.permutations import suite
from videomem.utils.result_models import schema_json
from videomem.utils.sharing import shared_path
from videomem.video.catalog import Catalog
from videomem.video.catalog_files import read_catalog, write_catalog
from videomem.video.sampling import Uniform

CLASSES, FRAMES = 4, 8


def made(num_clips: int = 24, num_frames: int = FRAMES, seed: int = 0) -> tuple[list[Tensor], list[int], list[int]]:
    """Clips (T, C) whose first frame tells the class; a dozen groups."""
    generator = torch.Generator().manual_seed(seed)
    clips, labels = [], [clip % CLASSES for clip in range(num_clips)]
    for label in labels:
        clip = torch.rand(num_frames, CLASSES, generator=generator)
        clip[0, label] += 2
        clips.append(clip)
    return clips, labels, [clip // 2 for clip in range(num_clips)]


def first_frame(clips_BTC: Tensor) -> Tensor:
    return clips_BTC[:, 0]


class SortedMean(nn.Module):
    """A model without order: it sums sorted values, so that not a bit moves."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(CLASSES, CLASSES)
        self.drop = nn.Dropout(0.5)
        self.modes: set[bool] = set()

    def forward(self, clips_BTC: Tensor) -> Tensor:
        self.modes.add(self.training)
        return self.drop(self.classify(clips_BTC.sort(1).values.sum(1)))


def test_a_model_that_averages_frames_has_no_reliance_to_the_bit() -> None:
    clips, labels, groups = made()
    model = SortedMean()
    model.drop.eval()
    found = videomem.order_sensitivity(model, clips, labels, groups, num_permutations=5)
    assert found.reliance.value == 0 and found.reliance_test.p == 1
    for row in found.conditions:
        if row.name not in ("frozen", "subsample"):
            assert row.max_logit_change == row.flip_rate == 0 and (row.reliance is None or row.reliance.value == 0)
            assert row.accuracy.value == found.accuracy.value
    assert model.modes == {False} and model.training and not model.drop.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_intervals_stay_within_what_an_accuracy_can_be_and_zero_by_construction_has_none() -> None:
    clips, labels, groups = made()
    found = videomem.order_sensitivity(lambda x: x.new_zeros(len(x), CLASSES), clips, labels, groups)
    never = videomem.order_sensitivity(lambda x: -x[:, 0], clips, labels, groups)
    for one in (found, never):
        assert all(0 <= row.accuracy.low <= row.accuracy.high <= 1 for row in one.conditions)
    in_order, shuffled = never.table()[:2]
    assert in_order["reliance"] == 0 and in_order["reliance_low"] is in_order["reliance_high"] is None
    assert shuffled["reliance_low"] is not None


def test_a_model_of_the_first_frame_relies_on_order() -> None:
    clips, labels, groups = made()
    found = videomem.order_sensitivity(first_frame, clips, labels, groups, num_permutations=10)
    assert found.accuracy.value == 1 and found.reliance.low > 0.3 and found.reliance_test.p < 0.001
    by_label = {row.label: row for row in found.conditions}
    assert by_label["in order"].reliance is None and by_label["every 2 frames"].reliance.value == 0
    assert by_label["windows of 2"].reliance.value < by_label["windows of 4"].reliance.value < found.reliance.value
    assert by_label["reverse"].kendall_tau == pytest.approx(-1) and by_label["frozen"].kendall_tau is None
    assert "lowers accuracy by" in found.sentence() and ", p < 0.001): from" in found.sentence()
    assert repr(found).startswith(f"OrderSensitivity: {found.sentence()}\n") and len(repr(found)) < 300


def test_accuracies_are_those_of_a_plain_loop_with_the_promised_seeds() -> None:
    lengths = [5, 8, 8, 3, 8, 1]
    clips = [torch.rand(length, CLASSES, generator=torch.Generator().manual_seed(length)) for length in lengths]
    labels, groups = [0, 1, 2, 3, 0, 1], ["a", "a", "b", "b", "c", "d"]
    found = videomem.order_sensitivity(first_frame, clips, labels, groups, num_permutations=4, seed=7, batch_size=3)
    right = [
        int(clip[int(row[0])].argmax()) == label
        for place, (clip, label) in enumerate(zip(clips, labels, strict=True))
        for row in permutations.shuffled(len(clip), len(clip), 4, (7, place))
    ]
    assert found.shuffled.accuracy.value == pytest.approx(np.mean(right))
    assert found.accuracy.value == np.mean([int(c[0].argmax()) == b for c, b in zip(clips, labels, strict=True)])
    assert (found.num_clips, found.num_groups, found.majority) == (6, 4, 2 / 6)
    assert {row.name: (row.num_clips, row.accuracy) for row in found.classes}["0"][0] == 2


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_have_as_many_rows_each_and_none_is_too_large(batch_size: int) -> None:
    sizes: list[int] = []

    def model(clips_BTC: Tensor) -> Tensor:
        sizes.append(len(clips_BTC))
        return clips_BTC[:, 0]

    clips, labels, groups = made(4)
    groups = [0, 0, 1, 1]
    kind = videomem.order_sensitivity(model, clips, labels, groups, num_permutations=4, batch_size=batch_size)
    assert max(sizes) <= batch_size and (batch_size == 64 or set(sizes) == {batch_size})
    assert kind == videomem.order_sensitivity(first_frame, clips, labels, groups, num_permutations=4, batch_size=5)


def test_clips_may_be_arrays_or_read_when_asked_for_and_each_is_asked_for_once() -> None:
    clips, labels, groups = made(8)
    groups = [0, 0, 1, 1, 2, 2, 3, 3]
    asked: list[int] = []

    class Lazy:
        def __getitem__(self, place: int) -> Any:
            asked.append(place)
            return clips[place].numpy()

    def run(given: Any) -> OrderSensitivity:
        return videomem.order_sensitivity(first_frame, given, labels, groups, num_permutations=2)

    assert run(Lazy()) == run(clips) == run(torch.stack(clips)) == run(torch.stack(clips).numpy())
    assert asked == list(range(8))


def test_a_suite_and_class_names_can_be_passed() -> None:
    clips, labels, groups = made(8)
    names = ["up", "down", "left", "right"]
    named = [names[label] for label in labels]
    found = videomem.order_sensitivity(
        first_frame, clips, named, groups, num_permutations=2, suite=(), class_names=names
    )
    assert [row.name for row in found.conditions] == ["order", "shuffle"]
    assert [row.name for row in found.classes] == names and all(row.accuracy == 1 for row in found.classes)
    perturbations = [perturbation for perturbation in suite(FRAMES) if perturbation.name in ("reverse", "shuffle")]
    found = videomem.order_sensitivity(first_frame, clips, labels, groups, num_permutations=2, suite=perturbations)
    assert [row.name for row in found.conditions] == ["order", "shuffle", "reverse"]
    plain = json.loads(found.to_json(), parse_constant=pytest.fail)
    assert plain["conditions"][1]["accuracy"]["value"] == found.table()[1]["accuracy"]


def nothing(clips: Tensor) -> Tensor:
    return clips[:, 0] * torch.nan


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no logits": ({"model": lambda x: [x]}, "gives a list"),
    "a vector": ({"model": lambda x: x[0, 0]}, r"gives \(4,\)"),
    "one answer for all": ({"model": lambda x: x[:1, 0]}, r"gives \(1, 4\) for"),
    "not finite": ({"model": nothing}, "not finite"),
    "labels beyond the outputs": ({"labels": [0, 1, 2, 9]}, "of class 9, but the model has 4"),
    "a negative label": ({"labels": [0, 1, 2, -1]}, "negative"),
    "an unknown name": ({"labels": ["a", "b", "c", "d"]}, "none of class_names"),
    "other outputs": ({"class_names": ["a", "b"]}, r"\(\d+, 2\) are needed"),
    "too few labels": ({"labels": [0, 1]}, "4 clips, 2 labels, 4 groups"),
    "too few groups": ({"groups": [0]}, "4 clips, 4 labels, 1 groups"),
    "one group": ({"groups": [5] * 4}, "of 1 group"),
    "nothing at all": ({"clips": [], "labels": [], "groups": []}, "0 clips of 0 group"),
    "an empty clip": ({"clips": [torch.zeros(0, 4)] * 4}, r"of shape \(0, 4\)"),
    "a scalar": ({"clips": [torch.tensor(1.0)] * 4}, r"of shape \(\)"),
    "no tensor": ({"clips": ["video.mp4"] * 4}, "clip 0 is a str"),
    "objects": ({"clips": [np.array([{}, {}])] * 4}, "clip 0 is of shape"),
    "no permutation": ({"num_permutations": 0}, "num_permutations is 0"),
    "no batch": ({"batch_size": 0}, "batch_size is 0"),
    "a negative seed": ({"seed": -1}, "seed is -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_mismatched_parts_are_a_one_line_error(case: str) -> None:
    clips, labels, _ = made(4)
    changes, message = BAD[case]
    given = {"model": first_frame, "clips": clips, "labels": labels, "groups": [0, 0, 1, 1], **changes}
    with pytest.raises(VideomemError, match=message) as caught:
        videomem.order_sensitivity(**given)
    assert "\n" not in str(caught.value)


def test_a_model_is_restored_even_if_the_measurement_fails() -> None:
    clips, labels, _ = made(4)
    model = nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(3, 2))
    model[0].eval()
    with pytest.raises(RuntimeError):
        videomem.order_sensitivity(model, clips, labels, [0, 0, 1, 1])
    assert model.training and not model[0].training and model[2].training


# Networks of torchvision, through the command line.


class TinyNetwork(nn.Module):
    """Stands in for a video network: brightness of the corners of the first and the last frame."""

    def __init__(self, num_classes: int = 400) -> None:
        super().__init__()
        self.fc = nn.Linear(8, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        assert clips.ndim == 5 and clips.shape[1] == 3 and clips.dtype == torch.float32
        ends = clips[:, :, [0, -1]].mean(1)
        return self.fc(torch.nn.functional.adaptive_avg_pool2d(ends, 2).flatten(1))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model(name: str, weights: object = None, num_classes: int = 400) -> nn.Module:
        return TinyNetwork(num_classes)

    monkeypatch.setattr(video_networks.torchvision.models, "get_model", get_model)


def arguments(workspace: Path, out: Path, *more: str) -> list[str]:
    catalog = str(workspace / "videos" / "catalog.csv")
    given = ["--model", "r3d_18", "--weights", "random", "--catalog", catalog, "--frames", "6", "--workers", "0"]
    return ["sensitivity", *given, "--permutations", "3", "--out", str(out), "--device", "cpu", *more]


@pytest.mark.usefixtures("tiny")
def test_the_command_writes_numbers_a_table_and_one_sentence(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(workspace, tmp_path, "--wandb", "offline")) == 0
    said = capsys.readouterr()
    assert "Shuffling the frames" in said.out and "windows of 2" in said.out and "never trained" in said.err
    content = json.loads((tmp_path / "sensitivity.json").read_text())
    rows = list(csv.DictReader((tmp_path / "sensitivity.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == [row["label"] for row in content["conditions"]]
    assert rows[0]["reliance"] == "0.0" and content["num_frames"] == 6 and content["failures"] == []
    assert float(rows[1]["max_logit_change"]) > 0
    check_file(tmp_path / "sensitivity.json", SensitivityResult, SCHEMA_VERSION)
    logged = summary_of(tmp_path)
    assert logged["config"]["model"] == "r3d_18" and str(workspace) not in json.dumps(logged)
    assert logged["summary"]["sensitivity/accuracy"] == content["conditions"][0]["accuracy"]["value"]
    check_recomputed(tmp_path)
    shuffle_only = tmp_path / "other"
    assert main(arguments(workspace, shuffle_only, "--no-suite")) == 0
    fewer = json.loads((shuffle_only / "sensitivity.json").read_text())["conditions"]
    assert [row["accuracy"] for row in fewer] == [row["accuracy"] for row in content["conditions"][:2]]


@pytest.mark.usefixtures("tiny")
def test_a_clip_that_does_not_decode_is_in_the_failure_table_and_in_no_figure(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = list(read_catalog(workspace / "videos" / "catalog.csv").clips)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    test = [place for place, clip in enumerate(clips) if clip.split == "test"]
    clips[test[1]] = type(clips[0])(str(broken), clips[test[1]].label, "test", "broken")
    write_catalog(Catalog(tuple(clips)), tmp_path / "catalog.csv")
    out = tmp_path / "out"
    assert main(arguments(workspace, out, "--catalog", str(tmp_path / "catalog.csv"))) == 1
    content = json.loads((out / "sensitivity.json").read_text())
    assert content["num_clips"] == len(test) - 1 and [f["path"] for f in content["failures"]] == [shared_path(broken)]
    assert "broken.mp4" in (out / "failures.csv").read_text()
    assert "1 clip(s) failed; all are listed in" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_weights_of_a_file_must_be_for_the_classes_of_the_catalog(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    num_classes = len(read_catalog(workspace / "videos" / "catalog.csv").classes)
    torch.save(TinyNetwork(num_classes).state_dict(), tmp_path / "right.pth")
    torch.save(TinyNetwork(num_classes + 1).state_dict(), tmp_path / "wrong.pth")
    assert main(arguments(workspace, tmp_path, "--weights", str(tmp_path / "right.pth"), "--no-suite")) == 0
    assert main(arguments(workspace, tmp_path, "--weights", str(tmp_path / "wrong.pth"))) == 2
    assert f"{num_classes + 1} outputs, but the catalog has {num_classes} classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "resnet18"], "no video network of torchvision; it has mc3_18"),
        (["--weights", "nowhere"], "neither kinetics400, nor random, nor KINETICS400_V1 or DEFAULT, nor a file"),
        (["--split", "holdout"], "--split holdout: "),
        (["--model", "mvit_v2_s"], "--frames 6: mvit_v2_s needs at least 16"),
        (["--frames", "1"], "--frames is 1, but must be at least 2"),
        (["--catalog", "nowhere.csv"], "no such table"),
        (["--device", "warp"], "--device warp"),
        (["--time-limit", "9"], "--time-limit has no effect with --workers 0"),
    ],
)
def test_models_that_cannot_be_measured_are_a_one_line_error(
    workspace: Path, tmp_path: Path, changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(workspace, tmp_path / "out", *changes)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_schema_in_the_documentation_is_up_to_date() -> None:
    assert (ROOT / "docs/sensitivity_result.schema.json").read_text() == schema_json(SensitivityResult)


def test_labels_match_categories_whatever_their_case_and_underscores() -> None:
    categories = ["Playing Guitar", "abseiling", "yoga"]
    assert match_labels(["playing_guitar", "YOGA", "Yoga"], categories) == {"playing_guitar": 0, "YOGA": 2, "Yoga": 2}
    with pytest.raises(VideomemError, match=r"'yogi' is none of the 3 classes .* near it are: yoga"):
        match_labels(["yogi"], categories)
    with pytest.raises(VideomemError, match=r"'yoga' is the name of several of the 4 classes"):
        match_labels(["yoga"], [*categories, "Yoga"])


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "mvit_v2_s", "swin3d_t"])
def test_the_last_layer_of_a_network_is_found_by_its_outputs(name: str) -> None:
    with torch.device("meta"):
        network = video_networks.torchvision.models.get_model(name, weights=None, num_classes=7)
    assert len(network.state_dict()[f"{video_networks._last_layer(name)}.bias"]) == 7


def test_a_real_network_sees_frames_as_torchvision_prepares_them(workspace: Path) -> None:
    clip = read_catalog(workspace / "videos" / "catalog.csv").clips[0]
    model = load_video_network("r3d_18", "random", ["a", "b"], 4)
    reader, network = ViewReader(model.prepare, Views(4)), model.network
    frames, decoded = pickle.loads(pickle.dumps(reader)).read(clip)  # noqa: S301 - as it reaches workers
    whole = model.prepare.preset(torch.from_numpy(decoded.frames_THWC).permute(0, 3, 1, 2))
    assert torch.equal(frames.transpose(0, 1), whole) and model.class_names == ["a", "b"]
    assert decoded.indices_T.tolist() == Uniform(4).indices(np.arange(decoded.num_available)).tolist()
    with torch.inference_mode():
        logits = network(frames[None])
        assert torch.equal(logits, network.network(whole[None])) and logits.shape == (1, 2)
    again = load_video_network("r3d_18", "random", ["a", "b"], 4).network
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), again.parameters(), strict=True))
