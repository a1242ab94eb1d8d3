"""Extraction on a Ray cluster: the same bytes as on one machine, also after kills."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, data_arguments, failed
from helpers.store_files import shard_files

from videomem.cli.main import main
from videomem.features import ray_engine, store
from videomem.features.ray_engine import needs_of_actor


def extract_command(workspace: Path, root: Path, *options: str) -> list[str]:
    return ["extract", *data_arguments(workspace), "--data.store", str(root), "--engine", "ray", *options]


class InProcessRay:
    """What `RayEngine` uses of Ray, without processes: one actor, which gets its tasks last first."""

    exceptions = SimpleNamespace(RayError=RuntimeError)
    is_shut_down = False

    @property
    def data(self) -> Any:
        return self

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def from_items(self, items: list[Any], override_num_blocks: int) -> Any:
        assert override_num_blocks == len(items)
        self._items = pickle.dumps(items)
        return self

    def map_batches(self, actor: Any, fn_constructor_args: Any, batch_size: int, **needs: float) -> Any:
        assert batch_size == 1 and needs == {"concurrency": 1, "num_cpus": 1, "num_gpus": 0}
        self._actor = actor(*pickle.loads(pickle.dumps(fn_constructor_args)))  # noqa: S301
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for item in reversed(pickle.loads(self._items)):  # noqa: S301
            answer = self._actor({name: np.array([value]) for name, value in item.items()})
            yield {name: values[0] for name, values in answer.items()}

    def shutdown(self) -> None:
        self.is_shut_down = True


def test_an_actor_writes_the_bytes_of_the_local_engine(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "connected", lambda address: ray)
    ray = InProcessRay()
    assert main(extract_command(workspace, tmp_path)) == 0 and ray.is_shut_down
    assert shard_files(tmp_path).items() <= shard_files(workspace / "features").items()  # Which has other stores, too.
    assert "50 clips extracted" in capsys.readouterr().out


@pytest.mark.slow
def test_ray_writes_the_bytes_of_the_local_engine(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(extract_command(workspace, tmp_path)) == 0
    assert shard_files(tmp_path).items() <= shard_files(workspace / "features").items()  # Which has other stores, too.
    said = capfd.readouterr()
    assert len(said.out.splitlines()) == 1
    assert all(line.startswith("videomem: ") for line in said.err.splitlines()), said.err
    assert main(extract_command(workspace, tmp_path)) == 0
    assert "nothing to do" in capfd.readouterr().out


def test_two_actors_share_a_gpu() -> None:
    assert needs_of_actor("cuda", 4) == {"num_cpus": 4, "num_gpus": 0.5}
    assert needs_of_actor("cpu", 0) == {"num_cpus": 1, "num_gpus": 0}


def test_an_address_without_a_cluster_is_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in ("127.0.0.1:1", "nowhere:port"):
        error = failed(capsys, *extract_command(workspace, tmp_path, "--address", address))
        assert f"--address {address}: no Ray cluster answers" in error


SCRIPT = """
import sys
from videomem.features import store
from videomem.features.ray_engine import needs_of_actor
store.SHARD_CLIPS = 2
from videomem.cli.main import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def _actors() -> list[int]:
    """Process ids of the actors of the session that this test has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"_ShardActor" in title + _title(folder) and _MARK in environment:
            found.append(int(folder.name))
    return found


def _title(folder: Path) -> bytes:
    return (folder / "comm").read_bytes()


_MARK = f"VIDEOMEM_TEST={os.getpid()}".encode()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["actor", "driver"])
def test_a_killed_actor_or_driver_leaves_no_hole_and_no_duplicate(
    workspace: Path, tmp_path: Path, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SHARD_CLIPS", 2)
    assert main(["extract", *data_arguments(workspace), "--data.store", str(tmp_path / "local")]) == 0
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VIDEOMEM_TEST": str(os.getpid())}
    command = [sys.executable, str(script), *extract_command(workspace, tmp_path / "ray")]
    process = subprocess.Popen(command, env=environment)
    while not list((tmp_path / "ray").rglob("*.safetensors")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid if victim == "driver" else _actors()[0], signal.SIGKILL)
    status = process.wait(200)
    assert status == (-signal.SIGKILL if victim == "driver" else 0)
    if victim == "driver":
        assert shard_files(tmp_path / "ray") != shard_files(tmp_path / "local")
        assert subprocess.run(command, env=environment, timeout=200).returncode == 0
    assert shard_files(tmp_path / "ray") == shard_files(tmp_path / "local")
