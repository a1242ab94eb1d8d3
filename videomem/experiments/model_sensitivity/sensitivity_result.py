"""The result of a sensitivity measurement; `sensitivity.json` is such a result as JSON. Accuracies are shares of 1."""

from __future__ import annotations

from videomem.experiments.frame_order_predictions import PerturbationEffect
from videomem.experiments.notebook import NotebookResult
from videomem.statistics.results import Estimate, Randomization
from videomem.utils.result_models import Number, SharedPath, SharedText, Text, dump, result_model
from videomem.utils.text import p_text

SCHEMA_VERSION = 3


@result_model
class PerturbationSensitivity(PerturbationEffect):
    """The effect of one perturbation on a model of whole clips.

    Attributes:
        flip_rate: Share of predictions that differ from the prediction in order.
        max_logit_change: Largest absolute change of any logit against the clip in order; of the logarithm of any
            probability, where probabilities are averaged over views.
    """

    flip_rate: Number
    max_logit_change: Number


@result_model
class ClassSensitivity:
    """The accuracy on the clips of one class.

    Attributes:
        name: Name of the class.
        num_clips: Number of its clips.
        accuracy: Accuracy in order.
        shuffled: Accuracy with shuffled frames.
    """

    name: Text
    num_clips: int
    accuracy: Number
    shuffled: Number


@result_model
class OrderSensitivity(
    NotebookResult,
    overview="videomem.experiments.model_sensitivity.sensitivity_view:overview",
    figure="videomem.experiments.model_sensitivity.sensitivity_view:figure",
):
    """The result of `order_sensitivity`.

    Attributes:
        conditions: Results in order, shuffled, and under the other perturbations of the suite.
        reliance_test: Randomization test of shuffled against in order.
        classes: The classes that have clips.
        majority: Accuracy of always predicting the most frequent class of these clips.
        num_clips: Number of clips.
        num_groups: Number of groups they were cut from.
        num_permutations: Number of frame orders of each clip under each random perturbation.
        seed: Seed of the frame orders.
    """

    conditions: tuple[PerturbationSensitivity, ...]
    reliance_test: Randomization
    classes: tuple[ClassSensitivity, ...]
    majority: Number
    num_clips: int
    num_groups: int
    num_permutations: int
    seed: int

    @property
    def accuracy(self) -> Estimate:
        """Accuracy in order."""
        return self.conditions[0].accuracy

    @property
    def shuffled(self) -> PerturbationSensitivity:
        """Result with shuffled frames."""
        return next(condition for condition in self.conditions if condition.name == "shuffle")

    @property
    def reliance(self) -> Estimate:
        """Accuracy in order minus accuracy shuffled."""
        assert self.shuffled.reliance is not None
        return self.shuffled.reliance

    def table(self) -> list[dict[str, str | float | None]]:
        """Returns one row per condition, as shares of 1, with both ends of the 95 % intervals.

        The reliance in order is 0 by construction and has no interval.
        """
        measures = ("flip_rate", "max_logit_change", "displacement", "kendall_tau", "adjacency")
        return [
            {"name": row.name, "label": row.label}
            | _with_ends("accuracy", row.accuracy)
            | _with_ends("reliance", row.reliance)
            | {name: getattr(row, name) for name in measures}
            for row in self.conditions
        ]

    def to_json(self) -> str:
        """Returns the result as strict JSON; see `videomem.utils.result_models`."""
        return dump(self)

    def sentence(self) -> str:
        """Returns a sentence with the effect of shuffling, its interval and p-value."""
        value, low, high = (100 * end for end in (self.reliance.value, self.reliance.low, self.reliance.high))
        change = "changes" if value == 0 else "lowers" if value > 0 else "raises"
        if value < 0:
            low, high = -high, -low
        return (
            f"Shuffling the frames {change} accuracy by {abs(value):.1f} points (95 % interval {low:.1f} to "
            f"{high:.1f}, {p_text(self.reliance_test.p)}): from {self.accuracy.value:.3f} to "
            f"{self.shuffled.accuracy.value:.3f} on {self.num_clips} clips of {self.num_groups} groups."
        )


def _with_ends(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Returns an estimate and the ends of its 95 % interval by column; 0 without interval for None."""
    value, low, high = (0.0, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


@result_model
class FailedClip:
    """A clip that could not be decoded.

    Attributes:
        path: Path of the video.
        reason: Why it could not be decoded.
    """

    path: SharedPath
    reason: SharedText


@result_model
class SensitivityResult(OrderSensitivity):
    """The result of `videomem sensitivity`, written to `sensitivity.json`.

    Attributes:
        schema_version: Version of this schema; other versions are refused.
        model: Name of the model; a repository on the Hub with its commit.
        weights: Its weights; empty for a model in code of the user.
        catalog: Path of the catalog.
        split: The evaluated split.
        num_frames: Number of frames of each view.
        temporal_views: Number of clips at different times of each video.
        spatial_views: Number of crops of each of them.
        fps: Frames per second of a view; None: its frames are spread over the video.
        average: What is averaged over views: `probabilities` or `logits`; None for a single view.
        failures: Clips that could not be decoded.
    """

    schema_version: int
    model: SharedPath
    weights: SharedPath
    catalog: SharedPath
    split: Text
    num_frames: int
    temporal_views: int
    spatial_views: int
    fps: Number | None
    average: Text | None
    failures: tuple[FailedClip, ...]
