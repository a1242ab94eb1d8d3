"""Streams give the same predictions as whole clips, in constant memory."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HEADS
from helpers.barcodes import Kind
from helpers.small_heads import every_readout
from helpers.tiny_model import TinyBackbone
from helpers.tiny_model import tiny_model as model_of_memory
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from videomem.cli.main import main
from videomem.errors import DecodingError, VideomemError
from videomem.features.preprocessing import Preprocessing
from videomem.heads import GRU, LSTM, Leaky, MeanReadout, MinGRU, NoMemory, Position, Readout, TemporalConv
from videomem.inference.model import Classifier, load
from videomem.video.catalog import Catalog, Clip
from videomem.video.decoding import decode_clip
from videomem.video.live import LiveFrame, at_rate, frames_of_file, frames_of_pipe, telling_of_gaps
from videomem.video.sampling import FixedRate, Uniform, fixed_rate_indices

MEMORIES = {"none": NoMemory, "leaky": Leaky, "gru": GRU, "lstm": LSTM, "mingru": MinGRU, "position": Position,
            "conv": TemporalConv}  # fmt: skip


def tiny_model(name: str, readout: type[Readout] = MeanReadout) -> Classifier:
    """A small head over a few pixels of frames of 16x16."""
    model = model_of_memory(partial(MEMORIES[name], hidden_dim=5), readout)
    assert isinstance(model.backbone, TinyBackbone)
    model.backbone.preprocessing = Preprocessing(20, 16, "bilinear", (0.0,) * 3, (1.0,) * 3)  # type: ignore[assignment]
    return model


def lines(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> list[dict[str, Any]]:
    assert main(["stream", *map(str, arguments)]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("head", HEADS)
def test_a_stream_gives_the_offline_answer_on_the_same_frames(
    checkpoints: dict[str, Path], catalog: Catalog, head: str
) -> None:
    model = load(checkpoints[head])
    frames = decode_clip(catalog.clips[3].path, Uniform(8)).frames_THWC
    stream = model.stream()
    answers = [stream.step(frame) for frame in frames]
    shaped = model.frame_network.preprocessing.shape_frames(frames)
    offline = model.predict_features(model.features(shaped)).probabilities_TC
    online = torch.stack([answer.probabilities_C for answer in answers])
    assert torch.allclose(online, offline, atol=1e-3) and torch.equal(online.argmax(1), offline.argmax(1))
    assert [answer.num_frames for answer in answers] == list(range(1, 9))


def test_every_frame_of_a_file_is_streamed_as_it_is_decoded_offline(catalog: Catalog) -> None:
    for clip in catalog.clips[:4]:
        live = list(frames_of_file(clip.path))
        offline = decode_clip(clip.path, Uniform(len(live)))
        assert offline.num_available == len(live) and offline.times_s_T is not None
        assert all(np.array_equal(one.frame_HWC, other) for one, other in zip(live, offline.frames_THWC, strict=True))
        assert np.allclose([one.time_s for one in live], offline.times_s_T)


@given(steps=st.lists(st.floats(0.001, 2), min_size=0, max_size=30), fps=st.floats(0.1, 60))
def test_frames_at_a_rate_are_those_that_fixed_rate_chooses(steps: list[float], fps: float) -> None:
    times_s = np.concatenate([[0.0], np.cumsum(steps)])
    frame = np.zeros((1, 1, 3), np.uint8)
    live = [LiveFrame(place, time_s, frame) for place, time_s in enumerate(times_s.tolist())]
    chosen = [one.place for one in at_rate(live, fps)]
    assert chosen == fixed_rate_indices(times_s, fps, 100_000).tolist()


def test_a_frame_that_is_shown_for_years_is_not_repeated_until_then() -> None:
    """A file of two frames may have any times."""
    frame = np.zeros((1, 1, 3), np.uint8)
    live = at_rate([LiveFrame(0, 0.0, frame), LiveFrame(1, 1e9, frame)], 30)
    with pytest.raises(DecodingError, match=r"frame 1 follows 1e\+09 s after the last"):
        next(live)


def test_the_command_gives_the_answers_of_the_library(
    checkpoints: dict[str, Path], catalog: Catalog, capsys: pytest.CaptureFixture[str]
) -> None:
    path = catalog.clips[0].path
    found = lines(capsys, path, "--model", checkpoints["gru"], "--top", 3)
    stream, frames = load(checkpoints["gru"]).stream(), list(frames_of_file(path))
    assert [line["frame"] for line in found] == [frame.place for frame in frames]
    for line, live in zip(found, frames, strict=True):
        answer = stream.step(live.frame_HWC)
        assert line["time_s"] == live.time_s and len(line["top"]) == 3 and line["latency_ms"] > 0
        assert line["top"][0]["probability"] == pytest.approx(float(answer.probabilities_C.max()), abs=1e-6)
        assert line["frames_in_memory"] == answer.num_frames and not line["is_new_scene"]


def test_a_model_of_a_fixed_rate_streams_at_its_own_rate(
    checkpoints: dict[str, Path], catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoints["gru"], weights_only=True)
    sampling = {"class_path": "videomem.video.sampling.FixedRate", "init_args": {"fps": 5.0, "max_frames": 64}}
    content["datamodule_hyper_parameters"]["features"]["sampling"] = sampling
    content["datamodule_hyper_parameters"]["reversed_pairs"] = False
    torch.save(content, tmp_path / "fixed.ckpt")
    path = catalog.clips[0].path
    found = lines(capsys, path, "--model", tmp_path / "fixed.ckpt")
    offline = load(tmp_path / "fixed.ckpt").predict(path)
    assert (
        [line["frame"] for line in found] == offline.indices_T == decode_clip(path, FixedRate(5.0)).indices_T.tolist()
    )
    assert found[-1]["top"][0]["probability"] == pytest.approx(float(offline.probabilities_C.max()), abs=1e-3)


def test_raw_frames_of_a_pipe_give_the_answers_of_the_file(
    checkpoints: dict[str, Path], catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, pipe = catalog.clips[0].path, tmp_path / "pipe"
    frames = [live.frame_HWC for live in frames_of_file(path)]
    height, width = frames[0].shape[:2]
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"".join(frame.tobytes() for frame in frames),))
    writer.start()
    raw = ["--size", f"{width}x{height}", "--source-fps", 10, "--model", checkpoints["gru"]]
    found = lines(capsys, pipe, *raw)
    writer.join()
    expected = lines(capsys, path, "--model", checkpoints["gru"])
    assert [line["top"] for line in found] == [line["top"] for line in expected]
    assert found[3]["time_s"] == 0.3


class Trickle(io.RawIOBase):
    """A pipe that returns a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(memoryview(buffer)[:7])


def test_frames_that_come_in_pieces_are_put_together_and_a_part_is_refused() -> None:
    content = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).tobytes()
    whole = list(frames_of_pipe(Trickle(content), (5, 4)))  # type: ignore[arg-type]
    assert b"".join(live.frame_HWC.tobytes() for live in whole) == content and len(whole) == 3
    with pytest.raises(DecodingError, match="within frame 2: 59 of 60 bytes; is its size 5x4"):
        list(frames_of_pipe(Trickle(content[:-1]), (5, 4)))  # type: ignore[arg-type]


def test_a_scene_change_empties_the_memory_and_a_moving_video_does_not(catalog: Catalog) -> None:
    model = tiny_model("gru")
    one, other = (decode_clip(clip.path, Uniform(16)).frames_THWC for clip in (catalog.clips[0], catalog.clips[8]))
    stream = model.stream(scene_change=30)
    answers = [stream.step(frame) for frame in (*one, *(255 - other))]
    assert [place for place, answer in enumerate(answers) if answer.is_new_scene] == [16]
    assert [answer.num_frames for answer in answers] == [*range(1, 17), *range(1, 17)]
    alone = model.stream()
    expected = [alone.step(frame) for frame in 255 - other]
    assert torch.equal(answers[-1].logits_C, expected[-1].logits_C)
    assert not any(model.stream().step(frame).is_new_scene for frame in (one[0], 255 - one[0]))


def test_a_state_goes_on_in_another_stream(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (10, 32, 48, 3), np.uint8)
    for name in ("lstm", "none", "mingru"):
        model = tiny_model(name)
        whole, first, second = model.stream(), model.stream(), model.stream()
        expected = [whole.step(frame) for frame in frames][-1]
        for frame in frames[:6]:
            first.step(frame)
        first.save_state(tmp_path / "state.safetensors")
        second.load_state(tmp_path / "state.safetensors")
        found = [second.step(frame) for frame in frames[6:]][-1]
        assert torch.equal(found.logits_C, expected.logits_C) and found.num_frames == 10


def test_a_state_that_is_none_or_of_another_model_is_refused(tmp_path: Path) -> None:
    frame, state = np.zeros((32, 32, 3), np.uint8), tmp_path / "state.safetensors"
    model = tiny_model("gru")
    with pytest.raises(VideomemError, match="no state before its first frame"):
        model.stream().save_state(state)
    stream = model.stream()
    stream.step(frame)
    stream.save_state(state)
    with pytest.raises(VideomemError, match="the file of another model"):
        tiny_model("lstm").stream().load_state(state)
    other = tiny_model("gru")
    other.head.classify.weight.data.mul_(2)
    with pytest.raises(VideomemError, match="the file of another model"):
        other.stream().load_state(state)
    state.write_bytes(b"nothing")
    with pytest.raises(VideomemError, match="not the state of a stream"):
        model.stream().load_state(state)


def test_every_flipped_bit_of_a_state_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    model, path = tiny_model("lstm"), tmp_path / "state.safetensors"
    stream = model.stream()
    stream.step(np.zeros((32, 32, 3), np.uint8))
    stream.save_state(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        again = model.stream()
        try:
            again.load_state(path)
        except VideomemError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            assert again.num_frames == 1 and str(again.state) == str(stream.state)


@pytest.mark.parametrize("name", MEMORIES)
@every_readout
def test_the_state_of_a_stream_does_not_grow(name: str, readout: type[Readout]) -> None:
    stream = tiny_model(name, readout).stream(scene_change=30)
    frame = np.zeros((24, 32, 3), np.uint8)
    sizes = []
    for _ in range(50):
        stream.step(frame)
        assert stream.state is not None
        sizes.append(
            sum(part.numel() for layer in stream.state.layers for part in layer) + stream.state.readout.numel()
        )
    assert len(set(sizes)) == 1


@pytest.mark.slow
def test_ten_thousand_frames_take_no_more_memory_than_a_thousand() -> None:
    stream = tiny_model("lstm").stream(scene_change=30)
    frames = np.random.default_rng(0).integers(0, 256, (8, 120, 160, 3), np.uint8)
    peaks = []
    for number in range(10_000):
        stream.step(frames[number % 8])
        if number in (999, 9_999):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] - peaks[0] < 20_000  # KiB


def test_a_folder_of_images_is_streamed_and_a_gap_ends_it(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1, 2, 4):
        Image.fromarray(np.full((40, 60, 3), 50 * number, np.uint8)).save(tmp_path / f"{number}.png")
    found = lines(capsys, tmp_path, "--model", checkpoints["none"], "--source-fps", 2, "--fps", 1, status=1)
    assert [line["frame"] for line in found] == [0] and found[0]["time_s"] == 0.0
    (tmp_path / "4.png").unlink()
    assert [line["frame"] for line in lines(capsys, tmp_path, "--model", checkpoints["none"])] == [0, 1, 2]


def test_a_damaged_video_keeps_its_answers_and_ends_with_status_1(
    checkpoints: dict[str, Path], catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(catalog.clips[0].path, tmp_path / "whole.mp4")
    content = bytearray((tmp_path / "whole.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    (tmp_path / "damaged.mp4").write_bytes(content)
    assert main(["stream", str(tmp_path / "damaged.mp4"), "--model", str(checkpoints["gru"])]) == 1
    captured = capsys.readouterr()
    assert 0 < len(captured.out.splitlines()) < 16 and "damaged.mp4: damaged" in captured.err


@pytest.mark.parametrize("options", [(), ("--fps", "5")])
def test_a_stream_tells_of_times_that_jump(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    pts = [*range(20), *range(45, 65)]
    path = Kind("mp4", "libx264", {"bf": "0"}, num_frames=40, pts=pts).write(tmp_path / "jumps.mp4")
    assert main(["stream", str(path), "--model", str(checkpoints["none"]), *options]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    used = "the last frame is used for the time between" if options else "the frames are used as if evenly spaced"
    jump = "frame 20 follows 1.04 s after the last, 26 times the usual step: frames are missing, or time stamps jump"
    assert warnings == [f"videomem: warning: {jump}; {used}"]


def told(times_s: list[float | None]) -> list[str]:
    texts: list[str] = []
    frames = [LiveFrame(place, time_s, np.zeros((2, 2, 3), np.uint8)) for place, time_s in enumerate(times_s)]
    assert list(telling_of_gaps(frames, texts.append)) == frames
    return texts


def test_only_jumps_of_an_even_rate_are_told() -> None:
    even = [place / 25 for place in range(50)]
    assert told(even) == told([None] * 9) == told([0.0, 9.0]) == told([*even, 2.2]) == []
    assert told([1.1**place for place in range(60)]) == told([0, 0.1, 0.11, 1, 1.1, 2, 2.01, 2.1, 9, 9.1]) == []
    assert [text.partition(":")[0] for text in told([*even, 1.0])] == [
        "the time of frame 50 is 0.96 s before that of the last"
    ]


def test_what_cannot_be_streamed_is_a_one_line_error(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "raw").write_bytes(bytes(48))
    model = ["--model", str(checkpoints["gru"])]
    for arguments, message in (
        (["-", *model], "--size WIDTHxHEIGHT"),
        ([str(tmp_path / "gone.mp4"), *model], "gone.mp4: no such file"),
        ([str(tmp_path / "raw"), "--source-fps", "5", *model], "--source-fps has no effect on a video file"),
        ([str(tmp_path / "gone"), "--size", "4x4", *model], "No such file"),
        ([str(tmp_path / "empty"), "--size", "4x4", *model], "the source has no frames"),
        ([str(tmp_path / "raw"), "--size", "4x4", "--fps", "5", *model], "give --source-fps"),
        ([str(tmp_path / "raw"), "--size", "0x4", *model], "'0x4' is not WIDTHxHEIGHT"),
        ([str(tmp_path / "raw"), "--size", "4x4", "--reset-on-scene-change", "300", *model], "at most 255 levels"),
        ([str(tmp_path / "raw"), "--size", "4x4", "--model", str(tmp_path / "raw")], "not a checkpoint"),
    ):
        assert main(["stream", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out


def test_what_is_not_a_frame_is_refused() -> None:
    stream = tiny_model("gru").stream()
    for frame in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(VideomemError, match="takes \\(height, width, 3\\) uint8"):
            stream.step(frame)


def test_a_closed_output_pipe_ends_the_stream_without_an_error(checkpoints: dict[str, Path], catalog: Catalog) -> None:
    command = [sys.executable, "-m", "videomem", "stream", catalog.clips[0].path, "--model", checkpoints["gru"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode in (0, 141) and "Traceback" not in errors


def test_predict_and_stream_name_clips_alike(checkpoints: dict[str, Path], catalog: Catalog) -> None:
    model: Classifier = load(checkpoints["none"])
    clip = Clip(catalog.clips[0].path, "", "", "", start_s=0.2)
    assert model.predict(clip).path.endswith("[0.2, None)")
