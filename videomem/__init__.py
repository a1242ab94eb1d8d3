"""Does the order of the frames matter, in your videos and to your model?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "order_sensitivity", "order_test"]

if TYPE_CHECKING:
    from videomem.evaluation.sensitivity import order_sensitivity
    from videomem.export import load
    from videomem.order.protocol import order_test


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; the command line's help must not wait for it.
    if name == "load":
        from videomem.export import load

        return load
    if name == "order_sensitivity":
        from videomem.evaluation.sensitivity import order_sensitivity

        return order_sensitivity
    if name == "order_test":
        from videomem.order.protocol import order_test

        return order_test
    raise AttributeError(f"module 'videomem' has no attribute {name!r}")
