"""Measure whether frame order matters, in your videos and to your model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Answer", "BackboneSettings", "Classifier", "Clips", "OrderSensitivity", "OrderSettings", "OrderTestResult",
    "Prediction", "RecallRecipe", "RecallResult", "Recipe", "Stream", "VideomemError", "__version__", "frames_of_file",
    "load", "load_clips", "memory_horizon", "order_sensitivity", "order_test",
]  # fmt: skip

if TYPE_CHECKING:
    from videomem.errors import VideomemError
    from videomem.experiments.clips import Clips
    from videomem.experiments.memory_horizon.recall_measurement import memory_horizon
    from videomem.experiments.memory_horizon.recall_result import RecallResult
    from videomem.experiments.memory_horizon.recall_training import RecallRecipe
    from videomem.experiments.model_sensitivity.order_sensitivity import order_sensitivity
    from videomem.experiments.model_sensitivity.sensitivity_result import OrderSensitivity
    from videomem.experiments.order_test.plan import OrderSettings, Recipe
    from videomem.experiments.order_test.result import OrderTestResult
    from videomem.experiments.order_test.run import order_test
    from videomem.experiments.video_clips import load_clips
    from videomem.features.backbone import BackboneSettings
    from videomem.inference.model import Classifier, Prediction, load
    from videomem.inference.streaming import Answer, Stream
    from videomem.video.live import frames_of_file

_MODULES = {
    "Answer": "inference.streaming",
    "BackboneSettings": "features.backbone",
    "Classifier": "inference.model",
    "Clips": "experiments.clips",
    "OrderSensitivity": "experiments.model_sensitivity.sensitivity_result",
    "OrderSettings": "experiments.order_test.plan",
    "OrderTestResult": "experiments.order_test.result",
    "Prediction": "inference.model",
    "RecallRecipe": "experiments.memory_horizon.recall_training",
    "RecallResult": "experiments.memory_horizon.recall_result",
    "Recipe": "experiments.order_test.plan",
    "Stream": "inference.streaming",
    "VideomemError": "errors",
    "frames_of_file": "video.live",
    "load": "inference.model",
    "load_clips": "experiments.video_clips",
    "memory_horizon": "experiments.memory_horizon.recall_measurement",
    "order_sensitivity": "experiments.model_sensitivity.order_sensitivity",
    "order_test": "experiments.order_test.run",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: torch takes seconds to import, and `videomem --help` must not wait for it.
    if name in _MODULES:
        return getattr(import_module(f"videomem.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'videomem' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, for tab completion."""
    return sorted(__all__)
