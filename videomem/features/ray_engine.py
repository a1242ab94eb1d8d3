"""Extraction on a Ray cluster: each missing shard is a task, which an actor decodes, computes and writes.

A shard is written atomically by whoever has computed it, and always has the same bytes. A task that Ray repeats,
because its actor or its machine was lost, writes the same file again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from videomem.errors import VideomemError, one_line
from videomem.features.failures import Failure
from videomem.features.settings import FeatureSettings
from videomem.features.shard_extraction import Extracted, extract_shards
from videomem.features.store import FeatureStore
from videomem.utils.ray_cluster import connected
from videomem.video.catalog import Clip

_ACTORS_PER_GPU = 2  # While one reads the first clips of a shard, the other one computes.


@dataclass(frozen=True)
class RayEngine:
    """Computes shards on a Ray cluster.

    Args:
        address: Address of a running cluster; empty: that of `RAY_ADDRESS`, or else a new one on this machine.
    """

    address: str = ""

    def __call__(
        self,
        store: FeatureStore,
        shards: Mapping[int, Mapping[str, Clip]],
        device: str,
        num_workers: int,
        time_limit_s: float,
    ) -> Extracted:
        """Extract and write shards; yields what `extract_shards` does, in any order."""
        ray = connected(self.address)
        try:
            per_actor = needs_of_actor(device, num_workers)
            kinds = ray.cluster_resources()
            needs = [(kinds.get(kind[4:7].upper(), 0), need) for kind, need in per_actor.items() if need]
            num_actors = min(len(shards), *(int(there // need) for there, need in needs))
            if num_actors == 0:
                raise VideomemError(
                    f"the Ray cluster has {kinds.get('CPU', 0):g} CPUs and {kinds.get('GPU', 0):g} GPUs, but an actor "
                    f"needs {per_actor['num_cpus']} and {per_actor['num_gpus']:g}; lower --workers, or set --device cpu"
                )
            items = [{"number": number, "clips": _text(clips)} for number, clips in shards.items()]
            answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                _ShardActor,
                batch_size=1,
                concurrency=num_actors,
                fn_constructor_args=(store.root, store.settings, device, num_workers, time_limit_s),
                **per_actor,
            )
            for row in answers.iter_rows():
                if row["error"]:
                    raise VideomemError(row["error"])
                failures = [Failure(**fields) for fields in json.loads(row["failures"])]
                yield row["number"], failures, torch.from_numpy(np.array(row["largest"], dtype=np.float32))
        except ray.exceptions.RayError as error:
            raise VideomemError(f"Ray: {one_line(error)}; complete shards are kept: run it again") from error
        finally:
            ray.shutdown()


def needs_of_actor(device: str, num_workers: int) -> dict[str, float]:
    """The CPUs and GPUs that Ray reserves for an actor."""
    return {"num_cpus": max(num_workers, 1), "num_gpus": 1 / _ACTORS_PER_GPU if "cuda" in device else 0}


def _text(clips: Mapping[str, Clip]) -> str:
    return json.dumps([(key, asdict(clip)) for key, clip in clips.items()])


class _ShardActor:
    """Extracts one shard after another; its decoding processes are isolated as those of one machine are."""

    def __init__(
        self, root: Any, settings: FeatureSettings, device: str, num_workers: int, time_limit_s: float
    ) -> None:
        self._store = FeatureStore(root, settings)
        self._how = device, num_workers, time_limit_s

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        number, clips = int(batch["number"][0]), json.loads(str(batch["clips"][0]))
        shard = {key: Clip(**fields) for key, fields in clips}
        failures: list[Failure] = []
        largest_D, error = torch.zeros(0), ""
        try:
            ((_, failures, largest_D),) = extract_shards(self._store, {number: shard}, *self._how)
        except VideomemError as problem:  # Ray would repeat the task, and add a traceback.
            error = str(problem)
        except OSError as problem:
            error = f"{problem.filename or 'a file'}: {problem.strerror or problem}"
        told = json.dumps([asdict(failure) for failure in failures])
        return {"number": [number], "failures": [told], "largest": [largest_D.numpy()], "error": [error]}
