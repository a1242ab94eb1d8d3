"""Stores on an object store: the same bytes as in a local folder, and one line if it cannot be reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from urllib.request import Request, urlopen

import pytest
import torch
from conftest import data_arguments, failed, fit_arguments
from moto.server import ThreadedMotoServer

from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.features import clip_decoding, store
from videomem.features.backbone import BackboneSettings
from videomem.features.extraction import extract
from videomem.features.failures import Failure, FailureTable
from videomem.features.folder import store_folder
from videomem.features.settings import FeatureSettings
from videomem.features.store import FeatureStore
from videomem.video.catalog import Catalog, Clip
from videomem.video.sampling import Uniform

SETTINGS = FeatureSettings(BackboneSettings(weights="random", layer="pool5", grid=2), Uniform(4))


class Server:
    """An S3 server on the loopback address, which keeps its objects while it is stopped."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    running = Server()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # s3fs tries again, too, and waits less.
        "VIDEOMEM_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    urlopen(Request(f"http://127.0.0.1:{running.port}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(use_listings_cache=False).mkdir("videos")
    yield running
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VIDEOMEM_CACHE", str(tmp_path / "cache"))
    if request.param == "s3":
        request.getfixturevalue("server")
        return "s3://videos/features"
    return f"memory://{tmp_path.name}/features"


@pytest.fixture
def clips(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> list[Clip]:
    monkeypatch.setattr(store, "SHARD_CLIPS", 4)
    return list(catalog.clips[:10])


def contents(root: str | Path) -> dict[str, bytes]:
    files = FeatureStore(root, SETTINGS).files
    names = [f"{folder}/{name}" for folder in ("plan", "shards") for name in files.states(folder)]
    return {name: files.read(name) for name in names}


def test_a_remote_store_has_the_bytes_of_a_local_one(tmp_path: Path, clips: list[Clip], url: str) -> None:
    broken = Clip(str(tmp_path / "broken.mp4"), "a", "train", "g")
    Path(broken.path).write_bytes(b"not a video")
    reports = [extract([*clips, broken], SETTINGS, root) for root in (tmp_path / "local", url)]
    assert contents(url) == contents(tmp_path / "local") and len(contents(url)) == 4
    assert [report.num_extracted for report in reports] == [10, 10]
    failures = [FeatureStore(root, SETTINGS).failure_table.read().keys() for root in (tmp_path / "local", url)]
    assert failures[0] == failures[1] and len(failures[1]) == 1
    here, there = (FeatureStore(root, SETTINGS) for root in (tmp_path / "local", url))
    for (key, entry), (other, same) in zip(here.read_index().items(), there.read_index().items(), strict=True):
        assert key == other and entry == same and torch.equal(here.shards.read(entry), there.shards.read(same))
    again = extract([*clips, broken], SETTINGS, url)
    assert (again.num_done_before, again.num_extracted, len(again.failures)) == (10, 0, 1)


def test_of_two_planners_on_an_object_store_one_creates_the_plan(url: str) -> None:
    """The other one finds it and repeats."""
    start = Barrier(2)
    plans: list[object] = []

    def plan(keys: list[str]) -> None:
        mine = FeatureStore(url, SETTINGS)
        start.wait()
        plans.append(mine.extend_plan(keys))

    threads = [Thread(target=plan, args=([f"{part}{n:031}" for n in range(3)],)) for part in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plans) == 2
    planned = sorted(FeatureStore(url, SETTINGS).read_plan())
    assert planned == [[f"{part}{n:031}" for n in range(3)] for part in "ab"]


def test_an_object_created_before_is_kept(url: str) -> None:
    folder = store_folder(url)
    folder.write("plan/0.json", b"first", exclusive=True)
    folder.write("plan/0.json", b"second", exclusive=True)
    assert folder.read("plan/0.json") == b"first"


def test_a_changed_object_is_downloaded_again(url: str) -> None:
    folder = store_folder(url)
    for content in (b"one", b"two", b"three"):
        folder.write("shards/0", content)
        assert folder.local("shards/0").read_bytes() == content


def test_failures_on_an_object_store_are_joined_and_replaced(url: str) -> None:
    failures = [Failure(name, "decode", "auto", "Error", "message", 0.5) for name in "abc"]
    FailureTable(store_folder(url)).add(failures[0])
    FailureTable(store_folder(url)).add(failures[1], failures[2])
    assert sorted(FailureTable(store_folder(url)).read().values(), key=lambda one: one.path) == failures
    FailureTable(store_folder(url)).rewrite(failures[:1])
    assert list(FailureTable(store_folder(url)).read().values()) == failures[:1]


@pytest.mark.parametrize("address", ["gs://bucket/features", "nonsense://a"])
def test_a_url_whose_package_is_missing_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(VideomemError, match=r"needs gcsfs; run `pip install gcsfs`|not a folder of stores; use"):
        store_folder(address)


def test_a_server_that_stops_ends_extraction_with_one_line_and_it_resumes(
    workspace: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "SHARD_CLIPS", 4)
    real, calls = clip_decoding.decode_frames, iter(range(1000))

    def decode(clip: Clip, settings: FeatureSettings, preprocessing: object = None) -> object:
        if next(calls) == 9:
            server.stop()
        return real(clip, settings)

    two_frames = ("--data.features.sampling.num_frames", "2")
    arguments = [*data_arguments(workspace), "--data.store", "s3://videos/features", *two_frames]
    monkeypatch.setattr(clip_decoding, "decode_frames", decode)
    error = failed(capsys, "extract", *arguments, "--workers", "0")
    assert error.startswith("videomem: error: s3://videos/features/") and "cannot be reached" in error
    server.start()
    assert main(["extract", *arguments, "--workers", "0"]) == 0
    assert "already stored" in capsys.readouterr().out
    fit = [*fit_arguments(workspace, tmp_path / "run"), "--data.store", "s3://videos/features", *two_frames]
    assert main(["fit", *fit, "--data.num_workers", "1"]) == 0
