"""Every command that writes, on full disks: no incomplete file, one line that names the file, and a status."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIGS, data_arguments, failed, fit_arguments
from PIL import Image
from safetensors import safe_open

from videomem.cli.main import main
from videomem.experiments.order_test.subset import write_clip_scores
from videomem.statistics.clip_scores import clip_scores
from videomem.video.catalog_files import read_catalog
from videomem.video.decoding import decode_clip
from videomem.video.sampling import Uniform

Arguments = Callable[[Path, Path], list[object]]  # of the folder on the full disk and of the workspace


def model(workspace: Path) -> Path:
    return workspace / "runs" / "gru" / "checkpoints" / "last.ckpt"


def table(workspace: Path) -> Path:
    return workspace / "videos" / "catalog.csv"


def video(workspace: Path) -> str:
    return read_catalog(table(workspace)).clips[0].path


def order_result(workspace: Path) -> Path:
    """A folder with the table of clip scores that an order test writes."""
    clips = read_catalog(table(workspace)).clips
    names: dict[str, int] = {}
    groups = [names.setdefault(clip.group, len(names)) for clip in clips]
    values = np.linspace(-0.5, 0.5, len(clips)).tolist()
    write_clip_scores(workspace / "order_result", clips, clip_scores(2 * values, 2 * [*range(len(clips))], 2 * groups))
    return workspace / "order_result"


OFF = ["--wandb", "disabled"]
RECALL = ["--max-delay", "4", "--steps", "2", "--seeds", "1", "--drawings", "10", "--test", "4", "--hidden-dim", "4",
          "--processes", "1"]  # fmt: skip
ORDER = ["--config", str(CONFIGS / "order.yaml"), "--order.heads", '["none", "gru"]', "--order.runs", "2",
         "--order.folds", "2", "--order.num_permutations", "2", "--trainer.max_epochs", "1",
         "--processes", "1"]  # fmt: skip
COMMANDS: dict[str, Arguments] = {
    "configs": lambda out, _: ["configs", "--out", out],
    "catalog": lambda out, ws: ["catalog", "build", "csv", "--root", ws / "videos", "--table", table(ws), "--out",
                                out / "catalog.csv"],
    "synthesize": lambda out, _: ["synthesize", "--train-pairs", "1", "--val-pairs", "0", "--test-pairs", "1",
                                  "--frame-size", "64", "--out", out],
    "extract": lambda out, ws: ["extract", *data_arguments(ws), "--data.store", out, "--workers", "0"],
    "import-features": lambda out, ws: ["import-features", "--catalog", table(ws), "--features", ws / "arrays",
                                        "--name", "x", "--store", out],
    "fit": lambda out, ws: ["fit", *fit_arguments(ws, out, epochs=2)],
    "validate": lambda out, ws: ["validate", "--ckpt-path", model(ws), "--run-dir", out, *OFF],
    "test": lambda out, ws: ["test", "--ckpt-path", model(ws), "--run-dir", out, *OFF],
    "order": lambda out, ws: ["order", *data_arguments(ws), *ORDER, "--training-results", out / "results", "--out", out,
                              *OFF],
    "order subset": lambda out, ws: ["order", "subset", order_result(ws), "--catalog", table(ws), "--min-score", "-1",
                                     "--out", out / "subset.csv"],
    "shuffle": lambda out, ws: ["shuffle", model(ws), "--permutations", "1", "--out", out, *OFF],
    "memory": lambda out, _: ["memory", "--memories", "none", "gru", *RECALL, "--out", out, *OFF],
    "memory of checkpoints": lambda out, ws: ["memory", model(ws), "--out", out, *OFF],
    "tour": lambda out, _: ["tour", "leaky", "memoryless", "--out", out],
    "inspect": lambda out, ws: ["inspect", video(ws), "--model", model(ws), "--out", out],
    "stream": lambda out, ws: ["stream", video(ws), "--model", model(ws), "--state", out.parent / "state"],
    "export": lambda out, ws: ["export", model(ws), "--out", out / "exported", "--torch-export", "--onnx",
                               "--without-backbone", "--permutations", "1", *OFF],
    "sensitivity": lambda out, ws: ["sensitivity", "--model", "r3d_18", "--weights", "random", "--catalog", table(ws),
                                    "--no-suite", "--permutations", "1", "--frames", "4", "--workers", "0", "--out",
                                    out],
    "demo": lambda out, _: ["demo", "--heads", "none", "--runs", "2", "--epochs", "1", "--permutations", "2",
                            "--train-pairs", "2", "--val-pairs", "0", "--test-pairs", "1", "--frame-size", "64",
                            "--processes", "1", "--out", out, *OFF],
}  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A function that mounts an empty file system of a size in bytes, in place of an earlier one."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(num_bytes: int) -> Path:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
        return place

    yield mount
    subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def check_whole(path: Path) -> None:
    """Fail if a file is not complete."""
    content = path.read_bytes()
    if path.suffix in (".csv", ".html"):
        assert content.endswith(b"\n" if path.suffix == ".csv" else b"</html>"), path
    elif path.suffix == ".json":
        json.loads(content)
    elif path.suffix in (".ckpt", ".npz", ".pt2"):
        assert zipfile.ZipFile(path).testzip() is None, path
    elif path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".mp4":
        decode_clip(str(path), Uniform(16))
    elif path.suffix == ".safetensors" or path.name == "state":
        with safe_open(path, "pt") as file:
            assert list(file.keys())
    assert not path.name.endswith(".tmp"), path


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_leaves_no_incomplete_file_and_is_named_in_one_line(
    command: str,
    checkpoints: dict[str, Path],
    workspace: Path,
    disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "import-features":
        (workspace / "arrays").mkdir(exist_ok=True)
        for clip in read_catalog(table(workspace)).clips:
            np.save(workspace / "arrays" / f"{Path(clip.path).stem}.npy", np.random.rand(16, 64).astype(np.float32))
    place = disk(2**30)
    assert main([str(part) for part in COMMANDS[command](place / "out", workspace)]) == 0
    state = os.statvfs(place)
    num_blocks = state.f_blocks - state.f_bfree
    for size in sorted({0, num_blocks // 2, int(0.9 * num_blocks)} - {num_blocks}):
        place = disk(max(size, 1) * state.f_frsize)
        (place / "filler").write_bytes(bytes(state.f_frsize) if size == 0 else b"")
        arguments = [str(part) for part in COMMANDS[command](place / "out", workspace)]
        capsys.readouterr()
        status, printed = main(arguments), capsys.readouterr()
        error = printed.err.strip().splitlines()[-1]
        print(f"{command}, {size} of {num_blocks} blocks: {error}")
        assert status == 2 and error.startswith("videomem: error: ") and "Traceback" not in printed.err
        assert f"{place}/" in error and ".tmp" not in error
        assert "cannot be written: " in error or "No space left" in error or "free disk space" in error
        for path in place.rglob("*"):
            if path.is_file() and path.suffix != ".sqlite" and not path.name.startswith(".lock"):
                check_whole(path)


def test_a_file_size_limit_ends_a_training_with_the_name_of_the_checkpoint(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        error = failed(capsys, "fit", *fit_arguments(workspace, tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert error == f"videomem: error: {path}: cannot be written: File too large; what was there before was not changed"
    assert list(path.parent.iterdir()) == []
    assert main(["fit", *fit_arguments(workspace, tmp_path / "run")]) == 0
