"""A model of whole clips with all that is needed to evaluate it, and its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videomem.errors import VideomemError
from videomem.experiments.model_sensitivity.clip_predictions import Model
from videomem.experiments.model_sensitivity.views import Average, PrepareFrame
from videomem.utils.text import nearest


@dataclass(frozen=True)
class VideoModel:
    """A model of whole clips.

    Attributes:
        name: What the result calls it.
        weights: What the result calls its weights.
        network: Maps clips (B, T, 3, height, width) to logits (B, C).
        prepare: Its preprocessing.
        num_frames: T.
        average: What is averaged over views, as in the publication of the model.
        class_names: Names of the outputs; None if it has none.
        most_crops: Largest number of crops of a frame.
    """

    name: str
    weights: str
    network: Model
    prepare: PrepareFrame
    num_frames: int
    average: Average
    class_names: Sequence[str] | None
    most_crops: int = 3


def match_labels(labels: Sequence[str], categories: Sequence[str]) -> dict[str, int]:
    """Returns the index of the output of each label; case and underscores do not matter.

    Raises:
        VideomemError: If a label is not among them, or two outputs have the name of a label.
    """
    plain = [_plain(category) for category in categories]
    places = {}
    for label in labels:
        if (number := plain.count(_plain(label))) != 1:
            problem = "the name of several" if number else "none"
            raise VideomemError(
                f"label {label!r} is {problem} of the {len(categories)} classes that these weights tell apart; near it "
                f"are: {nearest(_plain(label), list(categories))}; rename it in the catalog, leave its clips out, or "
                "name the outputs with --class-names"
            )
        places[label] = plain.index(_plain(label))
    return places


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())
