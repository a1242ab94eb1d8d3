"""Models of whole clips by name: code of the user, video classifiers of transformers, and several views of a video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import failed
from helpers.hub_server import local_hub
from torch import Tensor

from videomem.cli.main import main
from videomem.experiments.model_sensitivity.clip_predictions import PredictionSettings, predict_clip
from videomem.experiments.model_sensitivity.video_networks import load_video_network
from videomem.experiments.model_sensitivity.video_transformers import load_video_transformer
from videomem.experiments.model_sensitivity.views import ViewReader, Views, average_views, three_crops
from videomem.experiments.permutations import IN_ORDER, SHUFFLE
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import read_catalog, write_catalog
from videomem.video.sampling import Uniform
from videomem.video.synthetic import SyntheticSettings, synthesize

FRAMES = 8


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of videos of directions, each of 8 frames."""
    folder = tmp_path_factory.mktemp("videos")
    synthesize(SyntheticSettings(train_pairs=1, val_pairs=1, test_pairs=1, frame_size=64), folder)
    return folder / "catalog.csv"


def arguments(videos: Path, out: Path, model: str, *more: str) -> list[str]:
    given = ["--model", model, "--catalog", str(videos), "--workers", "0", "--permutations", "3", "--device", "cpu"]
    return ["sensitivity", *given, "--no-suite", "--out", str(out), *more]


def result(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "sensitivity.json").read_text()))


USER = """
import hashlib
import json
import pathlib
import torch

ANSWERS = json.loads(pathlib.Path("answers.json").read_text())

def key(clip):  # of the frames in this order
    return hashlib.sha256(clip.contiguous().numpy().tobytes()).hexdigest()

class Ordered:
    "Knows the class of each clip in its order, and of no other order."
    def __init__(self, keys):
        self.class_names, self.keys = ANSWERS["classes"], keys

    def __call__(self, clips):
        assert clips.dtype == torch.uint8 and clips.shape[2] == 3
        return torch.stack([self.logits(clip) for clip in clips])

    def logits(self, clip):
        label = ANSWERS["labels"].get(self.keys(clip), -1)
        return torch.eye(len(self.class_names) + 1)[label][:-1] + torch.linspace(0, 1e-3, len(self.class_names))

def ordered():
    return Ordered(key)

def order_blind():
    return Ordered(lambda clip: "".join(sorted(key(frame) for frame in clip)))

def without_names():
    return lambda clips: clips[:, 0].float().mean((1, 2, 3))[:, None] * torch.arange(len(ANSWERS["classes"]))

def raising():
    raise LookupError("my weights\\nare lost")

def failing():
    def model(clips):
        raise KeyError("a layer")
    model.class_names = ANSWERS["classes"]
    return model

def nothing():
    return None
"""


@pytest.fixture
def user_code(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the current folder whose models know every test clip."""
    import hashlib

    def key(clip: Tensor) -> str:
        return hashlib.sha256(clip.contiguous().numpy().tobytes()).hexdigest()

    catalog, labels = read_catalog(videos), {}
    for clip in catalog.split("test"):
        frames = torch.from_numpy(raw(clip)).permute(0, 3, 1, 2)
        label = catalog.classes.index(clip.label)
        # A clip and its reversal have the same set of frames: the order-blind model knows one label of both.
        labels |= {key(frames): label, "".join(sorted(map(key, frames))): label}
    (tmp_path / "answers.json").write_text(json.dumps({"classes": list(catalog.classes), "labels": labels}))
    (tmp_path / "my_models.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", __import__("sys").path[:])
    monkeypatch.delitem(__import__("sys").modules, "my_models", raising=False)


def raw(clip: Clip) -> Any:
    from videomem.video.decoding import decode_clip

    return decode_clip(clip.path, Uniform(FRAMES)).frames_THWC


@pytest.mark.usefixtures("user_code")
def test_the_sensitivity_of_models_that_know_the_order_or_only_the_frames_is_exact(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, frames = tmp_path / "out", ["--frames", str(FRAMES), "--trust"]
    assert main(arguments(videos, out, "my_models:ordered", *frames)) == 0
    found = result(out)
    order, shuffled = found["conditions"]
    last = sum(row["num_clips"] for row in found["classes"] if row["name"] == read_catalog(videos).classes[-1])
    assert order["accuracy"]["value"] == 1 and shuffled["flip_rate"] > 0.8
    # A shuffled clip is unknown, and unknown clips are of the last class, but for the orders that show it in order.
    assert shuffled["accuracy"]["value"] == pytest.approx(last / found["num_clips"], abs=1e-9)
    assert (found["model"], found["weights"], found["average"]) == ("my_models:ordered", "", None)
    assert "Shuffling the frames lowers accuracy by" in capsys.readouterr().out
    assert main(arguments(videos, out, "my_models:order_blind", *frames)) == 0
    order, shuffled = result(out)["conditions"]
    assert shuffled["reliance"]["value"] == shuffled["max_logit_change"] == 0 and order["accuracy"]["value"] == 0.5


@pytest.mark.usefixtures("user_code")
def test_outputs_are_named_by_a_file_where_a_model_has_no_names(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "out", ["my_models:without_names", "--trust"]
    assert "has no class_names; name its outputs with --class-names FILE" in failed(
        capsys, *arguments(videos, out, *model)
    )
    classes = list(read_catalog(videos).classes)
    (tmp_path / "names.txt").write_text("\n".join(name.upper().replace("_", " ") for name in classes))
    assert main(arguments(videos, out, *model, "--class-names", str(tmp_path / "names.txt"))) == 0
    (tmp_path / "few.txt").write_text("\n".join(classes[:-1]))
    error = failed(capsys, *arguments(videos, out, *model, "--class-names", str(tmp_path / "few.txt")))
    assert f"label {classes[-1]!r} is none of the {len(classes) - 1} classes" in error
    (tmp_path / "many.txt").write_text("\n".join([*classes, "another"]))
    error = failed(capsys, *arguments(videos, out, *model, "--class-names", str(tmp_path / "many.txt")))
    assert f"{len(classes) + 1}) are needed" in error
    assert "--class-names" in failed(capsys, *arguments(videos, out, *model, "--class-names", "gone.txt"))


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("my_models:ordered", [], "runs the code of that module; pass --trust to allow it"),
        ("my_models:raising", ["--trust"], "--model my_models:raising: raises LookupError: my weights are lost"),
        ("my_models:failing", ["--trust"], "(KeyError: 'a layer')"),
        ("my_models:nothing", ["--trust"], "returns a NoneType, but must return a function of clips"),
        ("my_models:gone", ["--trust"], "raises AttributeError: module 'my_models' has no attribute 'gone'"),
        ("no_models:gone", ["--trust"], "raises ModuleNotFoundError: No module named 'no_models'"),
        ("r3d_18", ["--trust"], "--trust has no effect with --model r3d_18, which runs no code of yours; leave it out"),
        ("hf://owner/name", ["--trust"], "--trust has no effect with --model hf://owner/name"),
        ("my_models:ordered", ["--trust", "--weights", "random"], "--weights has no effect with --model my_models"),
        ("my_models:ordered", ["--trust", "--crops", "3"], "--crops 3: the preprocessing of my_models:ordered does no"),
        ("my_models:ordered", ["--trust", "--average", "logits"], "--average has no effect on a single view"),
    ],
)
def test_code_that_cannot_be_measured_is_a_one_line_error(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, more: list[str], message: str
) -> None:
    assert message in failed(capsys, *arguments(videos, tmp_path / "out", model, *more))


# Video classifiers of transformers.

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SIZES = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
VJEPA2 = {
    **{"crop_size": 32, "frames_per_clip": FRAMES, "hidden_size": 16, "num_hidden_layers": 1, "num_pooler_layers": 1},
    **{"num_attention_heads": 2, "pred_hidden_size": 16, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
}
MODELS = {"videomae": "VideoMAE", "timesformer": "Timesformer", "vivit": "Vivit", "vjepa2": "VJEPA2"}


def class_of(kind: str) -> Any:
    return getattr(transformers, f"{MODELS[kind]}ForVideoClassification")


def config_of(kind: str) -> Any:
    sizes = VJEPA2 if kind == "vjepa2" else {"image_size": 32, "num_frames": FRAMES, **SMALL}
    return getattr(transformers, f"{MODELS[kind]}Config")(**sizes)


def processor(kind: str) -> Any:
    if kind == "vjepa2":
        return transformers.VJEPA2VideoProcessor(crop_size=32)
    return (transformers.VivitImageProcessor if kind == "vivit" else transformers.VideoMAEImageProcessor)(**SIZES)


@pytest.fixture(scope="module")
def saved(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each model type, with the classes of the videos."""
    folder, paths = tmp_path_factory.mktemp("transformers"), {}
    for kind in MODELS:
        paths[kind], config = folder / kind, config_of(kind)
        torch.manual_seed(0)
        config.id2label = dict(enumerate(read_catalog(videos).classes))
        class_of(kind)(config).save_pretrained(paths[kind])
        processor(kind).save_pretrained(paths[kind])
    return paths


@pytest.mark.parametrize("kind", MODELS)
def test_a_video_classifier_of_transformers_gives_the_logits_of_its_own_processor_and_model(
    saved: dict[str, Path], videos: Path, tmp_path: Path, kind: str
) -> None:
    assert main(arguments(videos, tmp_path, str(saved[kind]))) == 0
    found, model = result(tmp_path), load_video_transformer(str(saved[kind]), None)
    assert (found["num_frames"], found["weights"]) == (FRAMES, "its own") and not Path(found["model"]).is_absolute()
    clip = read_catalog(videos).split("test")[0]
    frames, _ = ViewReader(model.prepare, Views(FRAMES)).read(clip)
    theirs = class_of(kind).from_pretrained(saved[kind]).eval()
    shown = list(raw(clip)) if kind != "vjepa2" else torch.from_numpy(raw(clip)).permute(0, 3, 1, 2)
    inputs = processor(kind)(shown, return_tensors="pt")
    with torch.inference_mode():
        assert torch.allclose(model.network(frames[None]), theirs(**inputs).logits, atol=1e-5)


def test_a_model_on_the_hub_is_measured_at_the_commit_that_the_result_names(
    saved: dict[str, Path], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with local_hub(tmp_path / "cache", monkeypatch) as hub:
        more = shutil.copytree(saved["videomae"], tmp_path / "more")
        (more / "pytorch_model.bin").write_bytes(b"pickle")
        (more / "modeling.py").write_text("raise SystemExit")
        sha = hub.add("user/model", more)
        assert main(arguments(videos, tmp_path / "out", "hf://user/model")) == 0
        assert result(tmp_path / "out")["model"] == f"hf://user/model@{sha}"
        assert not any(request.endswith((".bin", ".py")) for request in hub.requests)
        assert "hf://user/gone: no such repository" in failed(
            capsys, *arguments(videos, tmp_path / "out", "hf://user/gone")
        )


def edit(folder: Path, name: str, **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


DAMAGE: dict[str, tuple[Any, str]] = {
    "pickled weights": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "no model.safetensors"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
    "another type": (lambda f: edit(f, "config.json", model_type="bert"), "supported types are timesformer, videomae"),
    "another processor": (
        lambda f: edit(f, "preprocessor_config.json", image_processor_type="CLIPImageProcessor"),
        "a processor CLIPImageProcessor, but VideoMAEImageProcessor is supported",
    ),
    "a huge size": (
        lambda f: edit(f, "preprocessor_config.json", size={"shortest_edge": 10**9}),
        "but must be within 1..4096 pixels",
    ),
    "settings of another kind": (
        lambda f: edit(f, "preprocessor_config.json", image_mean="x"),
        "processor",
    ),
    "other classes": (lambda f: edit(f, "config.json", id2label={"0": "a", "1": "b"}), "whose weights"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_of_transformers_that_does_not_fit_is_a_one_line_error(
    saved: dict[str, Path], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = shutil.copytree(saved["videomae"], tmp_path / "folder")
    harm, message = DAMAGE[damage]
    harm(folder)
    assert message in failed(capsys, *arguments(videos, tmp_path / "out", str(folder)))


def test_a_class_that_the_model_lacks_and_another_number_of_frames_are_a_one_line_error(
    saved: dict[str, Path], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(saved["videomae"])
    clips = read_catalog(videos).clips
    other = Clip(str(tmp_path / "other.mp4"), "juggling", "train", "another")
    write_catalog(Catalog((*clips, other)), tmp_path / "more.csv")
    error = failed(capsys, *arguments(tmp_path / "more.csv", tmp_path / "out", folder))
    assert "label 'juggling' is none of the" in error
    assert f"takes clips of {FRAMES} frames" in failed(
        capsys, *arguments(videos, tmp_path / "out", folder, "--frames", "4")
    )


def test_the_weights_of_a_network_of_torchvision_are_those_of_kinetics_400_unless_others_are_named(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def get_model(name: str, weights: Any) -> Any:
        asked.append(weights)
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", get_model)
    for more in ([], ["--weights", "kinetics400"], ["--weights", "KINETICS400_V1"]):
        error = failed(capsys, *arguments(videos, tmp_path / "out", "r3d_18", *more))
        assert "--weights KINETICS400_V1: torchvision's r3d_18 cannot be downloaded (no network)" in error
    assert [str(weights) for weights in asked] == ["R3D_18_Weights.KINETICS400_V1"] * 3


# Several views.


def test_predictions_of_several_views_are_the_mean_over_views_in_each_frame_order() -> None:
    torch.manual_seed(0)
    views_VT, weights = torch.rand(3, FRAMES, 5), torch.rand(FRAMES, 5, 4)

    def model(clips: Tensor) -> Tensor:
        return torch.einsum("btd,tdc->bc", clips, weights)

    for average in ("logits", "probabilities"):
        settings = PredictionSettings(num_permutations=4, seed=3, average=average)  # type: ignore[arg-type]
        order, shuffled = predict_clip(model, views_VT, 1, 7, (IN_ORDER, SHUFFLE), settings)
        right, change = [], 0.0
        in_order = None
        orders = [np.arange(FRAMES)[None], SHUFFLE.frame_orders(FRAMES, FRAMES, 4, (3, 7))]
        for row in np.concatenate(orders):
            logits = [model(view[torch.from_numpy(row)][None])[0].double() for view in views_VT]  # one view at a time
            mean = torch.stack(logits).mean(0)
            if average == "probabilities":
                mean = torch.stack([one.softmax(0) for one in logits]).mean(0).log()
            in_order = mean if in_order is None else in_order
            change = max(change, float((mean - in_order).abs().max()))
            right.append(float(int(mean.argmax()) == 1))
        assert order.correct_K.tolist() == right[:1] and shuffled.correct_K.tolist() == right[1:]
        assert shuffled.max_logit_change == pytest.approx(change, rel=1e-5)


def test_views_that_are_equal_predict_what_one_view_predicts() -> None:
    logits_AC = torch.rand(6, 4).double()
    views = torch.stack([logits_AC] * 3)
    assert torch.allclose(average_views(views, "logits"), logits_AC)
    assert torch.allclose(average_views(views, "probabilities"), logits_AC.log_softmax(1))


def test_clips_of_a_video_share_its_frames_evenly_or_lie_at_a_fixed_rate() -> None:
    times_s = np.arange(40) / 10
    assert Views(8).indices(times_s).tolist() == [Uniform(8).indices(times_s).tolist()]
    assert Views(4, 2).indices(times_s).tolist() == [[2, 12, 22, 32], [7, 17, 27, 37]]
    assert Views(3, 3, fps=5).indices(times_s).tolist() == [[0, 2, 4], [17, 19, 21], [35, 37, 39]]
    assert Views(3, 1, fps=5).indices(times_s).tolist() == [[17, 19, 21]]
    assert Views(4, 2, fps=1).indices(times_s[:20]).tolist() == [[0, 10, 19, 19]] * 2


def test_crops_are_the_ends_and_the_center_of_the_longer_side() -> None:
    wide = torch.arange(3 * 4 * 10).reshape(3, 4, 10)
    crops = three_crops(wide, wide[:, 1:3, 4:6])
    assert torch.equal(crops, torch.stack([wide[:, 1:3, :2], wide[:, 1:3, 4:6], wide[:, 1:3, 8:]]))
    high = wide.transpose(1, 2)
    assert torch.equal(three_crops(high, high[:, 4:6, 1:3])[2], high[:, 8:, 1:3])


@pytest.mark.parametrize("kind", ["r3d_18", "s3d", "videomae", "vjepa2"])
def test_the_center_of_three_crops_is_the_single_crop_and_all_have_its_scale(
    saved: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in saved:
        prepare = load_video_transformer(str(saved[kind]), None).prepare
    else:
        monkeypatch.setattr("torchvision.models.get_model", lambda *_, **__: torch.nn.Identity())
        prepare = load_video_network(kind, "random", ["a", "b"]).prepare
    ramp = np.broadcast_to(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], (60, 90, 3))
    single, crops = prepare(np.ascontiguousarray(ramp), 1), prepare(np.ascontiguousarray(ramp), 3)
    assert torch.equal(crops[1], single[0]) and crops.shape == (3, *single.shape[1:])
    left, center, right = crops[:, 0].mean((1, 2)).tolist()
    assert left <= center <= right and (left < right or kind == "s3d")  # s3d squeezes frames to 256x256.


def test_views_of_a_video_are_read_at_once_and_named_in_the_result(
    saved: dict[str, Path], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(videos, tmp_path, str(saved["vivit"]), "--clips", "2", "--crops", "3", "--fps", "5")) == 0
    found = result(tmp_path)
    assert [found[name] for name in ("temporal_views", "spatial_views", "fps", "average")] == [2, 3, 5.0, "logits"]
    model = load_video_transformer(str(saved["vivit"]), None)
    clip = read_catalog(videos).split("test")[0]
    assert "logits are averaged over 6 views of each video (2 clips x 3 crops)" in capsys.readouterr().out
    views, decoded = ViewReader(model.prepare, Views(FRAMES, 2, 3)).read(clip)
    assert views.shape == (6, FRAMES, 3, 32, 32) and len(decoded.indices_T) <= 2 * FRAMES
    first, _ = ViewReader(model.prepare, Views(FRAMES, 2, 1)).read(clip)
    assert torch.equal(views[[1, 4]], first)  # The views of a clip are next to each other, its center in the middle.
