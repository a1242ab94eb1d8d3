"""`videomem predict` and `Classifier.predict`: all ways to name videos, with one line per video, also for failures."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import videomem
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.inference.model import Classifier, load
from videomem.video.catalog import Catalog
from videomem.video.files import videos_named


@pytest.fixture(scope="module")
def model(checkpoints: dict[str, Path]) -> Classifier:
    return load(checkpoints["gru"])


@pytest.fixture
def videos(catalog: Catalog, tmp_path: Path) -> Path:
    """Two videos at two depths, a damaged one, a folder of images, and a file that is not a video."""
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    shutil.copy(catalog.clips[0].path, tmp_path / "videos" / "one.mp4")
    shutil.copy(catalog.clips[1].path, tmp_path / "videos" / "deep" / "two.MP4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "videos" / "notes.txt").write_text("not a video")
    for number in range(4):
        pixels = np.full((40, 60, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def records(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[list[Any], str]:
    assert main(["predict", *map(str, arguments), "--format", "jsonl", "--workers", "0"]) == status
    captured = capsys.readouterr()
    return [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_words_name_files_folders_patterns_and_lists(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(videos)
    below = ["videos/broken.mp4", "videos/deep/two.MP4", "videos/one.mp4"]
    assert videos_named(["videos"]) == below
    assert videos_named(["videos/*.mp4"]) == ["videos/broken.mp4", "videos/one.mp4"]
    assert videos_named(["videos/**/*.MP4", "videos/one.mp4"]) == ["videos/deep/two.MP4", "videos/one.mp4"]
    assert videos_named(["-"], ["videos/one.mp4\r\n", "\n", "gone.mp4\n"]) == ["videos/one.mp4", "gone.mp4"]
    assert videos_named(["videos", "videos/one.mp4", "videos/*"]) == [*below, "videos/notes.txt"]
    assert videos_named(["images", "images/{}.png", "no*.mp4", "gone"]) == [
        "images", "images/{}.png", "no*.mp4", "gone",
    ]  # fmt: skip
    shutil.copytree("images", "clips/a")
    assert videos_named(["clips"]) == ["clips/a"]
    Path("odd[1].mp4").touch()
    assert videos_named(["odd[1].mp4"]) == ["odd[1].mp4"]


def test_predict_gives_the_logits_of_forward(model: Classifier, catalog: Catalog) -> None:
    path = catalog.clips[0].path
    found = model.predict(path)
    assert repr(found).startswith(f"Prediction for {path}: {found.label} 0.") and len(repr(found)) < 500
    expected_C = model(model.read(path).unsqueeze(0))[0].softmax(0)
    assert torch.equal(found.probabilities_C, expected_C)
    assert found.label == model.class_names[int(expected_C.argmax())] == found.top(1)[0][0]
    assert found.probabilities_TC.shape == (8, len(model.class_names)) and found.times_s_T is not None
    assert torch.equal(found.probabilities_TC[-1], expected_C) and found.indices_T[0] == 0
    assert sum(probability for _, probability in found.top(99)) == pytest.approx(1)


def test_answers_over_time_are_those_of_shorter_clips(model: Classifier, catalog: Catalog) -> None:
    frames = model.read(catalog.clips[0].path)
    found = model.predict_features(model.features(frames))
    for length in (1, 5, 8):
        shorter = model(frames[None, :length])[0].softmax(0)
        assert torch.allclose(found.probabilities_TC[length - 1], shorter, atol=1e-4)


def test_a_broken_video_does_not_affect_the_others(
    videos: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found, errors = records(capsys, videos / "videos", videos / "gone.mp4", "--model", checkpoints["gru"], status=1)
    assert [Path(one["path"]).name for one in found] == ["broken.mp4", "two.MP4", "one.mp4", "gone.mp4"]
    assert ["error" in one for one in found] == [True, False, False, True]
    assert "broken.mp4: not decodable" in errors and "gone.mp4: no such file" in errors and "2 of 4 videos" in errors
    assert len(found[1]["top"]) == 5 and found[1]["label"] == found[1]["top"][0]["label"]
    assert found[1]["num_frames"] == 8 and "over_time" not in found[1]


def test_a_folder_and_a_checkpoint_give_the_same_predictions_in_a_table(
    videos: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(checkpoints["gru"]).save_pretrained(tmp_path / "exported")
    video = videos / "videos" / "one.mp4"
    (one,), _ = records(capsys, video, "--model", checkpoints["gru"], "--over-time", "--top", 2)
    (other,), _ = records(capsys, video, "--model", tmp_path / "exported", "--over-time", "--top", 2)
    assert one == other and len(one["over_time"]) == 8 and one["over_time"][-1]["top"] == one["top"]
    assert main(["predict", str(video), "--model", str(tmp_path / "exported"), "--over-time", "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and lines[0].split()[:2] == [str(video), one["label"]]
    assert lines[-1].split()[-10:] == lines[0].split()[-10:]


def test_a_list_on_standard_input_and_a_folder_of_images(
    videos: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{videos / 'images'}\n".encode() + b"\xff\n")))
    (found, lost), errors = records(capsys, "-", "--model", checkpoints["gru"], "--over-time", status=1)
    assert "no such file" in lost["error"] and r"\udcff: no such file" in errors
    assert found["num_frames"] == 8 and found["over_time"][0]["time_s"] is None
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    assert main(["predict", "-", "--model", str(checkpoints["gru"])]) == 2
    assert "standard input is empty" in capsys.readouterr().err


def test_names_cannot_write_to_the_terminal(
    videos: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    odd = videos / "a\x1b[2Jb\nc.mp4"
    shutil.copy(videos / "videos" / "one.mp4", odd)
    assert (
        main(["predict", str(odd), str(videos / "\x1bgone"), "--model", str(checkpoints["gru"]), "--workers", "0"]) == 1
    )
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err and len(captured.out.splitlines()) == 1
    assert r"a\x1b[2Jb\nc.mp4" in captured.out


def test_what_cannot_be_predicted_is_a_one_line_error(
    videos: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(checkpoints["gru"]).save_pretrained(tmp_path / "headless", with_backbone=False)
    for model, message in (("headless", "without its backbone"), ("nowhere", "no such model")):
        assert main(["predict", str(videos), "--model", str(tmp_path / model)]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "gone"), "--model", str(checkpoints["gru"]), "--workers", "0"]) == 2
    broken = load(checkpoints["gru"])
    broken.head.classify.bias.data.fill_(torch.nan)
    with pytest.raises(VideomemError, match="not finite"):
        broken.predict(videos / "videos" / "one.mp4")
    with pytest.raises(videomem.VideomemError, match="no such file"):
        broken.predict("gone.mp4")
