"""Imported features: valid and invalid arrays, and use with every command."""

from __future__ import annotations

import csv
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import torch
from conftest import CONFIGS
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import videomem
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.features.arrays import ArrayProblem, open_source
from videomem.features.backbone import BackboneSettings
from videomem.features.importing import Importing, ImportReport, import_features
from videomem.features.settings import FeatureSettings, ImportedFeatures
from videomem.training.data_module import VideoDataModule
from videomem.video.sampling import FixedRate, Sampling, Uniform

D, FRAMES = 6, 4
Array = NDArray[Any]
VIDEOS = [f"{split}/{label}_{n}.mp4" for split in ("train", "val", "test") for label in ("up", "dön") for n in range(2)]


def write_catalog(folder: Path, videos: list[str] = VIDEOS, **columns: str) -> Path:
    """A catalog of videos that do not exist."""
    rows = [
        [video, video.split("/")[-1].split("_")[0], video.split("/")[0], video, *columns.values()] for video in videos
    ]
    with (folder / "catalog.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "split", "group", *columns], *rows])
    return folder / "catalog.csv"


@pytest.fixture(autouse=True)
def catalog(tmp_path: Path) -> Path:
    return write_catalog(tmp_path)


def arrays(videos: list[str] = VIDEOS, dtype: str = "float32") -> dict[str, Array]:
    """An array for every video, of different lengths; values rise in one class and fall in the other."""
    made = {}
    for place, video in enumerate(videos):
        ramp = np.linspace(-1, 1, 5 + place % 3)[:, None] * (1 if "up" in video else -1)
        noise = np.random.default_rng(place).normal(0, 0.1, (len(ramp), D))
        made[video] = (ramp + noise).astype(dtype)
    return made


def in_folder(name: str, place: Path) -> Path:
    path = place / "arrays" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def as_npy(made: dict[str, Array], place: Path) -> Path:
    for name, array in made.items():
        np.save(in_folder(f"{name}.npy", place), array)
    return place / "arrays"


def as_hdf5(made: dict[str, Array], place: Path) -> Path:
    with h5py.File(place / "arrays.h5", "w") as file:
        for name, array in made.items():
            file[name] = array
    return place / "arrays.h5"


def as_safetensors(made: dict[str, Array], place: Path) -> Path:
    save_file(made, place / "arrays.safetensors")
    return place / "arrays.safetensors"


def as_folder_of_hdf5(made: dict[str, Array], place: Path) -> Path:
    for name, array in made.items():
        with h5py.File(in_folder(f"{name}.h5", place), "w") as file:
            file["features"] = array
    return place / "arrays"


WRITERS: dict[str, Callable[[dict[str, Array], Path], Path]] = {
    "npy": as_npy, "hdf5": as_hdf5, "safetensors": as_safetensors, "a folder of hdf5": as_folder_of_hdf5,
}  # fmt: skip
NAMINGS: dict[str, Callable[[str], str]] = {
    "as written": lambda video: video,
    "without suffix": lambda video: os.path.splitext(video)[0],
}


def imported(folder: Path, features: Path, sampling: Sampling = Uniform(FRAMES), **options: Any) -> ImportReport:
    importing = Importing("clip", sampling, **options)
    return import_features(folder / "catalog.csv", features, folder / "store", importing)


def data_of(folder: Path, dim: int = D, sampling: Sampling = Uniform(FRAMES), **options: Any) -> VideoDataModule:
    features = FeatureSettings(BackboneSettings(), sampling, imported=ImportedFeatures("clip", dim), **options)
    return VideoDataModule(str(folder / "catalog.csv"), features, str(folder / "store"))


def stored(folder: Path, **options: Any) -> dict[str, Array]:
    data = data_of(folder, **options)
    return {os.path.relpath(clip.path, folder): data.features(row).numpy() for row, clip in enumerate(data.clips)}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_stored_are_the_rows_that_the_sampling_chooses(
    tmp_path: Path, writer: str, naming: str, dtype: str
) -> None:
    made = arrays(dtype=dtype)
    report = imported(tmp_path, WRITERS[writer]({NAMINGS[naming](v): a for v, a in made.items()}, tmp_path))
    assert (report.num_imported, report.failures, report.feature_dim) == (len(VIDEOS), (), D)
    found = stored(tmp_path)
    for video, array in made.items():
        rows = Uniform(FRAMES).indices(np.arange(len(array), dtype=float))
        assert np.array_equal(found[video], array[rows].astype("float16"))


def test_a_store_that_another_process_imports_into_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = as_npy(arrays(), tmp_path)
    imported(tmp_path, features)
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=BlockingIOError))
    with pytest.raises(VideomemError, match="another process is writing to it"):
        imported(tmp_path, features)


def test_stems_and_absolute_paths_name_arrays_too_and_accents_may_be_written_either_way(
    tmp_path: Path, catalog: Path
) -> None:
    videos = ["train/up_0.mp4", "train/dön_1.mp4"]
    made = arrays(videos)
    stem, absolute = "do\u0308n_1", str(tmp_path / videos[0])
    write_catalog(tmp_path, [videos[1]])
    catalog.write_text(catalog.read_text() + f"{absolute},up,train,a\n")
    named = {absolute: made[videos[0]], stem: made[videos[1]]}
    for writer in (as_hdf5, as_safetensors):
        assert imported(tmp_path, writer(named, tmp_path)).failures == ()
    assert sorted(stored(tmp_path)) == sorted(videos)


def test_bfloat16_is_read_as_the_numbers_that_it_is(tmp_path: Path) -> None:
    videos = VIDEOS[:4]
    write_catalog(tmp_path, videos)
    save_tensors({v: torch.from_numpy(a).bfloat16() for v, a in arrays(videos).items()}, tmp_path / "a.safetensors")
    assert imported(tmp_path, tmp_path / "a.safetensors", dtype="float32").failures == ()
    expected = torch.from_numpy(arrays(videos)[videos[0]]).bfloat16().float().numpy()
    found = stored(tmp_path, dtype="float32")[videos[0]]
    assert np.array_equal(found, expected[Uniform(FRAMES).indices(np.arange(5.0))])


def with_one(value: float) -> Array:
    array = arrays()[VIDEOS[1]]
    array[0, 1] = value
    return array


BAD: dict[str, tuple[Any, str]] = {
    "a vector": (np.zeros(5, np.float32), r"shape is \(5,\)"),
    "three axes": (np.zeros((5, D, 1), np.float32), "must be"),
    "a number": (np.float32(3), r"shape is \(\)"),
    "no features": (np.zeros((5, 0), np.float32), r"\(5, 0\)"),
    "no frames": (np.zeros((0, D), np.float32), "has 0 frame"),
    "one frame": (np.zeros((1, D), np.float32), "at least 2"),
    "integers": (np.zeros((5, D), np.int32), "values are int32"),
    "complex": (np.zeros((5, D), np.complex64), "values are complex64"),
    "another width": (np.ones((5, D + 1), np.float32), "has 7 features, but most have 6"),
    "NaN": (with_one(np.nan), "not finite"),
    "infinity": (with_one(-np.inf), "not finite"),
    "zeros": (np.zeros((5, D), np.float32), r"all values of array .* are 0; compute the features"),
    "below float16": (np.full((5, D), 1e-6, np.float32), "reach only 1e-06, where float16 is imprecise; pass --dtype"),
    "beyond float16": (with_one(1e5), "reach 1e[+]05, beyond the range of float16; pass --dtype float32"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("writer", ["npy", "hdf5"])
def test_a_bad_array_fails_only_its_clip_and_the_failure_table_states_the_reason(
    tmp_path: Path, writer: str, bad: str
) -> None:
    array, message = BAD[bad]
    report = imported(tmp_path, WRITERS[writer](arrays() | {VIDEOS[1]: array}, tmp_path))
    (failure,) = report.failures
    assert failure.path == str(tmp_path / VIDEOS[1]) and report.num_imported == len(VIDEOS) - 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failure.message)
    assert VIDEOS[1] not in stored(tmp_path) and "\n" not in failure.message
    assert VIDEOS[1] in (report.folder / "failures.csv").read_text()
    (tmp_path / "good").mkdir()
    again = imported(tmp_path, WRITERS[writer](arrays(), tmp_path / "good"))
    assert (again.num_imported, again.num_done_before, again.failures) == (1, len(VIDEOS) - 1, ())
    assert VIDEOS[1] in stored(tmp_path) and VIDEOS[1] not in (report.folder / "failures.csv").read_text()


def test_files_without_arrays_fail_only_their_clips(tmp_path: Path) -> None:
    folder = as_npy(arrays(), tmp_path)
    (folder / f"{VIDEOS[0]}.npy").write_bytes(b"")
    (folder / f"{VIDEOS[1]}.npy").write_bytes(b"no array at all")
    np.save(folder / f"{VIDEOS[2]}.npy", np.array([[{}, {}]] * 3, dtype=object), allow_pickle=True)
    (folder / f"{VIDEOS[3]}.npy").unlink()
    whole = (folder / f"{VIDEOS[4]}.npy").read_bytes()
    (folder / f"{VIDEOS[4]}.npy").write_bytes(whole[:-8])
    whole = (folder / f"{VIDEOS[5]}.npy").read_bytes()
    claim = whole.replace(b"(7, 6), }" + b" " * 9, b"(9999999999, 6), }")
    assert claim != whole and len(claim) == len(whole)
    (folder / f"{VIDEOS[5]}.npy").write_bytes(claim)
    (folder / f"{VIDEOS[6]}.npy").unlink()
    os.mkfifo(folder / f"{VIDEOS[6]}.npy")
    report = imported(tmp_path, folder)
    assert [failure.path for failure in report.failures] == [str(tmp_path / video) for video in VIDEOS[:7]]
    assert "no array of its name" in report.failures[3].message
    assert "is not a regular file" in report.failures[6].message
    assert sorted(stored(tmp_path)) == sorted(VIDEOS[7:])


@given(content=st.binary(max_size=300), start=st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00v\x00"]))
def test_arbitrary_bytes_raise_no_error_other_than_the_documented_one(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("a.npy", "b.h5", "c.safetensors"):
        (folder / name).write_bytes(start + content)
    with open_source(folder) as source:
        for name in "abc":
            with pytest.raises((ArrayProblem, VideomemError)):
                source.read(source.find(name, name)[0])
    for name in ("b.h5", "c.safetensors"):
        with pytest.raises(VideomemError, match=r"damaged, or not|no arrays in it"), open_source(folder / name):
            pass


def test_an_array_is_that_of_the_one_video_it_is_named_after(tmp_path: Path, catalog: Path) -> None:
    videos = ["train/a/up_1.mp4", "train/b/up_1.mp4", "train/up_2.mp4", "val/up_2.mp4", "up_3.mp4", "val/up_3.mp4"]
    videos += ["train/dön_4.mp4", "train/dön_4.avi", "train/dön_5.mp4"]
    write_catalog(tmp_path, videos)
    catalog.write_text(catalog.read_text().replace("up_3.mp4,up,up_3", "up_3.mp4,up,train"))
    array = arrays()[VIDEOS[0]]
    named = dict.fromkeys(["up_1", "train/up_2", "up_2", "up_3", "train/dön_4", "dön_5", "x/up_9"], array)
    report = imported(tmp_path, as_npy(named, tmp_path))
    unclear = {os.path.relpath(failure.path, tmp_path): failure.message for failure in report.failures}
    assert sorted(unclear) == sorted([videos[n] for n in (0, 1, 5, 6, 7)])
    assert f"up_1 matches {tmp_path / videos[0]} and {tmp_path / videos[1]}" in unclear[videos[0]]
    assert unclear[videos[5]].endswith(f"array up_3 matches {tmp_path / videos[4]}; name arrays by their complete path")
    assert sorted(stored(tmp_path)) == sorted(videos[n] for n in (2, 3, 4, 8))


@pytest.mark.parametrize("video", ["../secret.mp4", "../../etc/up_9.mp4", "train/../../secret.mp4"])
def test_no_path_of_a_catalog_leads_out_of_the_folder_of_arrays(tmp_path: Path, video: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    as_npy({"secret": arrays()[VIDEOS[0]]}, tmp_path)
    (tmp_path / "arrays" / "secret.npy").rename(tmp_path / "secret.npy")
    write_catalog(inner)
    features = as_npy(arrays(), inner)
    (inner / "catalog.csv").write_text((inner / "catalog.csv").read_text() + f"{video},up,train,x\n")
    report = imported(inner, features)
    assert len(report.failures) == 1 and "no array of its name" in report.failures[0].message


def test_links_and_storage_outside_of_an_hdf5_file_are_not_followed(tmp_path: Path) -> None:
    made = arrays()
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = made[VIDEOS[0]]
    (tmp_path / "raw").write_bytes(made[VIDEOS[1]].tobytes())
    with h5py.File(as_hdf5({video: made[video] for video in VIDEOS[3:]}, tmp_path), "a") as file:
        file[VIDEOS[0]] = h5py.ExternalLink(str(secret), "x")
        raw = made[VIDEOS[1]]
        file.create_dataset(VIDEOS[1], raw.shape, raw.dtype, external=[(str(tmp_path / "raw"), 0, raw.nbytes)])
        layout = h5py.VirtualLayout(shape=made[VIDEOS[0]].shape, dtype="f4")
        layout[:] = h5py.VirtualSource(str(secret), "x", shape=made[VIDEOS[0]].shape)
        file.create_virtual_dataset(VIDEOS[2], layout)
    report = imported(tmp_path, tmp_path / "arrays.h5")
    reasons = [failure.message for failure in report.failures]
    assert "no array of its name" in reasons[0] and all("in another file" in reason for reason in reasons[1:])
    assert len(reasons) == 3


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_importing_again_writes_nothing_and_a_changed_array_is_imported_again(tmp_path: Path) -> None:
    made = arrays()
    folder = imported(tmp_path, as_npy(made, tmp_path)).folder
    before = contents(folder)
    assert imported(tmp_path, tmp_path / "arrays").num_done_before == len(VIDEOS)
    assert before == contents(folder)
    made[VIDEOS[0]] = -made[VIDEOS[0]]
    old = stored(tmp_path)
    assert imported(tmp_path, as_npy(made, tmp_path)).num_imported == 1
    new = stored(tmp_path)
    assert np.array_equal(new[VIDEOS[0]], -old[VIDEOS[0]])
    assert all(np.array_equal(new[video], old[video]) for video in VIDEOS[1:])


def test_other_names_widths_samplings_and_types_are_other_stores(tmp_path: Path, catalog: Path) -> None:
    features = as_npy(arrays(), tmp_path)
    plain = Importing("clip", Uniform(4))
    changes: list[dict[str, Any]] = [{}, {"name": "dino"}, {"sampling": Uniform(5)}, {"dtype": "float32"}]
    imports = [replace(plain, **change) for change in changes]
    folders = [import_features(catalog, features, tmp_path / "store", importing).folder for importing in imports]
    wide = {name: np.concatenate([array, array], axis=1) for name, array in arrays().items()}
    (tmp_path / "wide").mkdir()
    folders.append(imported(tmp_path, as_npy(wide, tmp_path / "wide")).folder)
    assert len(set(folders)) == 5
    with pytest.raises(VideomemError, match=r"imported\.feature_dim (6|12) not 7.*run `videomem import-features`"):
        assert data_of(tmp_path, dim=7).clips


def test_trims_and_rates_need_times(tmp_path: Path) -> None:
    write_catalog(tmp_path, start_s="0.2", end_s="0.5")
    features = as_npy(arrays(), tmp_path)
    with pytest.raises(VideomemError, match="arrays have no times, but Uniform and trims need them; pass --source-fps"):
        imported(tmp_path, features)
    assert imported(tmp_path, features, fps=10.0).failures == ()
    found = stored(tmp_path)[VIDEOS[0]]
    assert np.array_equal(found, arrays()[VIDEOS[0]][[2, 2, 4, 4]].astype("float16"))
    write_catalog(tmp_path)
    with pytest.raises(VideomemError, match="but FixedRate and trims need them"):
        imported(tmp_path, features, FixedRate(5.0))
    assert imported(tmp_path, features, FixedRate(5.0), fps=10.0).failures == ()
    found = stored(tmp_path, sampling=FixedRate(5.0))[VIDEOS[0]]
    assert np.array_equal(found, arrays()[VIDEOS[0]][[0, 2, 4]].astype("float16"))


def test_clips_that_were_never_imported_are_named(tmp_path: Path) -> None:
    write_catalog(tmp_path, VIDEOS[:6])
    imported(tmp_path, as_npy(arrays(), tmp_path))
    write_catalog(tmp_path)
    with pytest.raises(VideomemError, match=r"not imported yet \(6 of 12 clips are not\); run `videomem import-feat"):
        assert data_of(tmp_path).clips


def one_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("videomem: error: ")
    return error


def test_unreadable_sources_are_a_one_line_error(
    tmp_path: Path, catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("text.txt", "no.h5", "no.safetensors"):
        (tmp_path / name).write_text("no arrays")
    (tmp_path / "empty").mkdir()
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("nothing")
    command = ["import-features", "--catalog", catalog, "--name", "clip", "--store", tmp_path / "store", "--features"]
    for features, message in {
        "nowhere": "no such file or folder",
        "text.txt": "neither a folder nor one of",
        "no.h5": "damaged, or not an HDF5 file",
        "no.safetensors": "damaged, or not a safetensors file",
        "empty": "no arrays in it",
        "empty.h5": "no arrays in it",
    }.items():
        assert message in one_line(capsys, *command, tmp_path / features)
    features = as_npy(arrays(), tmp_path)
    assert "--source-fps is -1.0" in one_line(capsys, *command, features, "--source-fps", "-1")
    assert "imported.name" in one_line(capsys, *command, features, "--name", " ")
    assert "no clip has features" in one_line(capsys, *command, as_npy({"other": np.zeros((3, 3))}, tmp_path / "empty"))


def test_every_command_works_on_imported_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    as_hdf5(arrays(), tmp_path)
    command = ["import-features", "--catalog", "catalog.csv", "--features", "arrays.h5", "--name", "clip"]
    assert main([*command, "--num-frames", str(FRAMES)]) == 0
    assert '"feature_dim": 6' in capsys.readouterr().out
    data = [
        *("--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "data" / "imported.yaml")),
        *("--data.catalog", "catalog.csv", "--data.features.imported", json.dumps({"name": "clip", "feature_dim": D})),
        *("--data.features.sampling.init_args.num_frames", str(FRAMES)),
    ]
    head = ["--config", str(CONFIGS / "head" / "gru.yaml"), "--config", str(CONFIGS / "quiet.yaml"), "--run-dir", "run"]
    short = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.check_val_every_n_epoch", "1"]
    assert "nothing to extract" in one_line(capsys, "extract", *data)
    assert "set data.source to features" in one_line(capsys, "fit", *data, *head, *short, "--data.source", "video")
    assert main(["fit", *data, *head, *short]) == 0
    checkpoint = "run/checkpoints/last.ckpt"
    for command in ("validate", "test"):
        assert main([command, "--ckpt-path", checkpoint]) == 0
    assert main(["shuffle", checkpoint, "--permutations", "3", "--out", "shuffle", "--wandb", "disabled"]) == 0
    assert len(Path("shuffle/shuffle.csv").read_text().splitlines()) == 6
    assert main(["export", checkpoint, "--out", "exported"]) == 0
    for model in (checkpoint, "exported"):
        assert "(clip) are imported" in one_line(capsys, "inspect", "video.mp4", "--model", model)
    model = videomem.load("exported")
    assert model.classify(torch.zeros(1, FRAMES, D), torch.tensor([FRAMES])).shape == (1, 2)
    for call in (lambda: model.read("video.mp4"), lambda: model(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8))):
        with pytest.raises(VideomemError, match=r"\(clip\) are imported"):
            call()
    assert "clip" in Path("exported/README.md").read_text() and "alexnet" not in Path("exported/README.md").read_text()


def test_failures_set_the_status_unless_they_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = arrays()
    del made[VIDEOS[2]]
    as_safetensors(made, tmp_path)
    command = ["import-features", "--catalog", "catalog.csv", "--features", "arrays.safetensors", "--name", "clip"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "1 failed" in said.out and "no array of its name" in said.err
    assert main([*command, "--allow-failures"]) == 0


def test_an_array_without_stored_values_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (10**5, 4000), "f4", chunks=(100, 4000))
    with open_source(tmp_path / "a.h5") as source, pytest.raises(ArrayProblem, match="but 0 bytes are stored"):
        source.read("a")


def test_values_of_hdf5_that_inflate_to_more_than_their_chunk_are_refused(tmp_path: Path) -> None:
    """Their shape and the bytes that are stored are in proportion."""
    content = zlib.compress(bytes(2**28), 9)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        values = file.create_dataset("a", (2, 6), "f4", chunks=(2, 6), compression="gzip")
        values.id.write_direct_chunk((0, 0), content)
        large = file.create_dataset("b", (2, 6), "f4", chunks=(2**12, 2**13), maxshape=(None, None), compression="gzip")
        large[:] = 1.0
        file.create_dataset("c", data=np.ones((2, 6), np.float32), chunks=(2, 6), compression="szip")
    with open_source(tmp_path / "a.h5") as source:
        for name, message in (("a", "inflates to more than its 48 bytes"), ("b", "use smaller chunks"),
                              ("c", "compressed with filter 4")):  # fmt: skip
            with pytest.raises(ArrayProblem, match=message):
                source.read(name)


@pytest.mark.parametrize("options", [{"compression": "gzip", "shuffle": True, "fletcher32": True},
                                     {"compression": "lzf"}, {"fletcher32": True}, {}])  # fmt: skip
def test_values_of_hdf5_are_read_with_every_allowed_filter(tmp_path: Path, options: dict[str, Any]) -> None:
    arrays = {"random": np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32), "ones": np.ones((9, 6), "f4")}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=(4, 6), **options)
    with open_source(tmp_path / "a.h5") as source:
        assert all(np.array_equal(source.read(name), array) for name, array in arrays.items())


def test_damaged_hdf5_files_are_one_line_or_are_read(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.h5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.ones((8, 6), np.float32))
        file.create_dataset("b", data=np.ones((8, 6), np.float32), chunks=(2, 6), compression="gzip")
    whole = path.read_bytes()
    for _ in range(1500):
        changed, place = bytearray(whole), int(rng.integers(len(whole)))
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            with open_source(path) as source:
                for name in ("a", "b"):
                    source.read(source.find(f"{name}.mp4", f"{name}.mp4")[0])
        except VideomemError as error:
            assert "\n" not in str(error)


def test_features_that_the_stored_type_keeps_imprecisely_are_a_warning_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    as_safetensors({name: array * np.float32([1, 1e-6, 1, 1, 0, 1]) for name, array in arrays().items()}, tmp_path)
    command = ["import-features", "--catalog", "catalog.csv", "--features", "arrays.safetensors", "--name", "clip"]
    assert main(command) == 0
    warning = (
        "warning: 1 of 6 features are in all clips too small for the full precision of float16; scale them, or pass"
    )
    assert warning in capsys.readouterr().err
    assert main([*command, "--dtype", "float32"]) == 0
    assert "warning" not in capsys.readouterr().err
