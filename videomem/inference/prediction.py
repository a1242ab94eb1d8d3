"""Predictions of many videos, of which one batch of the backbone has frames of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor

from videomem.features.clip_decoding import Decoded, decode_clips
from videomem.features.failures import Failure
from videomem.inference.model import Classifier, Prediction, top_classes
from videomem.utils.workers import TIME_LIMIT_S
from videomem.video.catalog import Clip


def top_record(class_names: Sequence[str], probabilities_C: Tensor, k: int) -> list[dict[str, object]]:
    """The k most probable classes with their probabilities, as plain data."""
    best = top_classes(class_names, probabilities_C, k)
    return [{"label": name, "probability": probability} for name, probability in best]


def predict_each(
    model: Classifier, clips: Sequence[Clip], num_workers: int = 1, time_limit_s: float = TIME_LIMIT_S
) -> Iterator[Prediction | Failure]:
    """Yield the prediction of each video in order, or a `Failure` if it cannot be decoded.

    A batch of the backbone has frames of several videos, so several predictions are available at once.

    Args:
        num_workers: Number of decoding processes. 0 decodes in this process, without a time limit or crash isolation.
        time_limit_s: A video fails if decoding it in a worker takes longer.
    Raises:
        VideomemError: If the model has no backbone, workers cannot start, or logits are not finite.
    """
    model.frame_network  # noqa: B018 - raises before anything is decoded
    decoded = decode_clips(clips, model.settings, model.blueprint.preprocessing, num_workers, time_limit_s)
    waiting: list[tuple[Clip, Decoded | Failure]] = []
    with closing(decoded) as answers:
        for clip, answer in zip(clips, answers, strict=True):
            waiting.append((clip, answer))
            if sum(len(one.frames) for _, one in waiting if isinstance(one, Decoded)) >= model.frame_network.batch_size:
                yield from _answer(model, waiting)
                waiting = []
    yield from _answer(model, waiting)


def _answer(model: Classifier, waiting: Sequence[tuple[Clip, Decoded | Failure]]) -> Iterator[Prediction | Failure]:
    frames = [torch.from_numpy(one.frames) for _, one in waiting if isinstance(one, Decoded)]
    features = iter(model.features(torch.cat(frames)).split(list(map(len, frames))) if frames else ())
    for clip, one in waiting:
        if isinstance(one, Failure):
            yield one
        else:
            yield model.predict_decoded(next(features), str(clip), one.fields["indices"], one.times_s)
