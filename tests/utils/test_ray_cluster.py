"""Training jobs on a Ray cluster: the numbers of local jobs, in the same cache."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.order_clips import drawn, planned

from videomem.errors import VideomemError
from videomem.experiments.order_test.training import run_jobs
from videomem.experiments.order_test.training_results import TrainingResult
from videomem.utils import ray_cluster
from videomem.utils.parallel_jobs import run_cached
from videomem.utils.ray_cluster import RayJobs


class InProcessRay:
    """What `RayJobs` uses of Ray, without processes. Arguments and results are pickled; a task runs when it is read."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, lost_after: int = 1000) -> None:
        self._left, self.is_shut_down = lost_after, False

    def put(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def remote(self, **needs: float) -> Any:
        assert needs == {"num_cpus": 1, "num_gpus": 0}
        return lambda function: SimpleNamespace(remote=lambda what, call: (function, what, pickle.dumps(call)))

    def wait(self, running: list[Any], num_returns: int) -> Any:
        return running[-1:], running[:-1]

    def get(self, task: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("The cluster is gone.\nA traceback follows.")
        function, what, call = task
        return pickle.loads(pickle.dumps(function(pickle.loads(what), pickle.loads(call))))  # noqa: S301

    def shutdown(self) -> None:
        self.is_shut_down = True


def write_number(number: int, paths: Any, shared: int) -> None:
    if number < 0:
        raise VideomemError(f"{number} is negative")
    if number == 0:
        Path("/nowhere/features").read_bytes()
    for path in paths:
        path.write_text(f"{path.name} {number + shared}")


def calls_in(folder: Path, *numbers: int) -> dict[tuple[Path, ...], tuple[int]]:
    return {(folder / f"{number}.a", folder / f"{number}.b"): (number,) for number in numbers}


def use(monkeypatch: pytest.MonkeyPatch, ray: InProcessRay) -> None:
    monkeypatch.setattr(ray_cluster, "connected", lambda address: ray)


def test_files_of_jobs_on_a_cluster_are_written_where_local_jobs_write_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ray := InProcessRay())
    told: list[tuple[int, int]] = []
    calls = calls_in(tmp_path / "ray", 1, 2, 3)
    run_cached(write_number, calls, 10, 2, lambda *numbers: told.append(numbers), runner=RayJobs())
    (tmp_path / "local").mkdir()
    run_cached(write_number, calls_in(tmp_path / "local", 1, 2, 3), 10)
    for path in (tmp_path / "local").iterdir():
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes()
    assert told == [(0, 6), (2, 6), (4, 6), (6, 6)] and ray.is_shut_down


@pytest.mark.parametrize(("number", "message"), [(-5, "-5 is negative"), (0, "/nowhere/features: No such file")])
def test_a_job_that_fails_on_a_cluster_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    use(monkeypatch, ray := InProcessRay())
    with pytest.raises(VideomemError, match=f"^on the Ray cluster: {message}"):
        run_cached(write_number, calls_in(tmp_path, 1, number, 2), 10, runner=RayJobs())
    assert ray.is_shut_down and (tmp_path / "2.a").exists()


def test_jobs_resume_after_a_cluster_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_in(tmp_path, 1, 2, 3)
    use(monkeypatch, InProcessRay(lost_after=2))
    with pytest.raises(VideomemError, match=r"^Ray: The cluster is gone\..*finished results are kept: run it again$"):
        run_cached(write_number, calls, 10, runner=RayJobs())
    assert len(list(tmp_path.iterdir())) == 4
    use(monkeypatch, InProcessRay(lost_after=1))
    run_cached(write_number, calls, 10, runner=RayJobs())
    assert len(list(tmp_path.iterdir())) == 6


def without_seconds(result: TrainingResult) -> dict[str, Any]:
    names = {field.name for field in fields(result)} - {"seconds", "seconds_testing"}
    return {name: getattr(result, name) for name in sorted(names)}


def assert_equal_results(cache: Path, runner: Any) -> None:
    clips = drawn(groups=8)
    plan = planned(clips, heads=("none", "gru"), runs=1, folds=2)
    local, other = run_jobs(plan, clips, cache / "local"), run_jobs(plan, clips, cache / "ray", runner=runner)
    assert sorted(path.name for path in (cache / "ray").iterdir()) == sorted(
        path.name for path in (cache / "local").iterdir()
    )
    assert local.keys() == other.keys()
    for job, result in local.items():
        np.testing.assert_equal(without_seconds(other[job]), without_seconds(result))


def test_an_order_test_on_a_cluster_has_the_results_of_a_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, InProcessRay())
    assert_equal_results(tmp_path, RayJobs())


@pytest.mark.slow
def test_an_order_test_on_ray_has_the_results_of_a_local_one(tmp_path: Path) -> None:
    assert_equal_results(tmp_path, RayJobs())
