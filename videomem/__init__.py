"""Does the order of the frames matter, in your videos and to your model?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Answer", "Classifier", "OrderCard", "OrderSensitivity", "OrderSettings", "Prediction", "Recipe", "Stream",
    "VideomemError", "__version__", "frames_of_file", "load", "order_sensitivity", "order_test",
]  # fmt: skip

if TYPE_CHECKING:
    from videomem.errors import VideomemError
    from videomem.evaluation.sensitivity import OrderSensitivity, order_sensitivity
    from videomem.model.classifier import Classifier, Prediction, load
    from videomem.model.stream import Answer, Stream
    from videomem.order.card import OrderCard
    from videomem.order.plan import OrderSettings, Recipe
    from videomem.order.protocol import order_test
    from videomem.video.live import frames_of_file

_HOMES = {
    "Answer": "model.stream",
    "Classifier": "model.classifier",
    "OrderCard": "order.card",
    "OrderSensitivity": "evaluation.sensitivity",
    "OrderSettings": "order.plan",
    "Prediction": "model.classifier",
    "Recipe": "order.plan",
    "Stream": "model.stream",
    "VideomemError": "errors",
    "frames_of_file": "video.live",
    "load": "model.classifier",
    "order_sensitivity": "evaluation.sensitivity",
    "order_test": "order.protocol",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; the command line's help must not wait for it.
    if name in _HOMES:
        return getattr(import_module(f"videomem.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'videomem' has no attribute {name!r}")
