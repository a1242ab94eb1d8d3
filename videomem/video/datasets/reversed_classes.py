"""Pairs of classes of Something-Something and Jester whose labels name opposite directions of time.

A clip of one class, played backwards, looks like a clip of the other in the motion that the label names. Details may
still differ: a hand leads an object that it pulls, but follows one that it pushes. Price & Damen 2019, "Retro-Actions:
Learning 'Close' by Time-Reversing 'Open' Videos" (arXiv 1909.09422) study such pairs in both data sets.
"""

from __future__ import annotations

from collections.abc import Iterable

SOMETHING = (
    ("Approaching something with your camera", "Moving away from something with your camera"),
    ("Burying something in something", "Digging something out of something"),
    ("Closing something", "Opening something"),
    ("Covering something with something", "Uncovering something"),
    ("Folding something", "Unfolding something"),
    ("Moving something and something away from each other", "Moving something and something closer to each other"),
    ("Moving something away from something", "Moving something closer to something"),
    ("Moving something away from the camera", "Moving something towards the camera"),
    ("Moving something down", "Moving something up"),
    ("Pulling something from left to right", "Pulling something from right to left"),
    ("Pushing something from left to right", "Pushing something from right to left"),
    ("Putting something into something", "Taking something out of something"),
    ("Turning the camera downwards while filming something", "Turning the camera upwards while filming something"),
    ("Turning the camera left while filming something", "Turning the camera right while filming something"),
)
JESTER = (
    ("Pulling Hand In", "Pushing Hand Away"),
    ("Pulling Two Fingers In", "Pushing Two Fingers Away"),
    ("Rolling Hand Backward", "Rolling Hand Forward"),
    ("Sliding Two Fingers Down", "Sliding Two Fingers Up"),
    ("Sliding Two Fingers Left", "Sliding Two Fingers Right"),
    ("Swiping Down", "Swiping Up"),
    ("Swiping Left", "Swiping Right"),
    ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),
    ("Zooming In With Full Hand", "Zooming Out With Full Hand"),
    ("Zooming In With Two Fingers", "Zooming Out With Two Fingers"),
)


def known_reversed_pairs(class_names: Iterable[str]) -> list[tuple[str, str]]:
    """The known pairs of which both classes occur, with names as a catalog of the data set spells them."""
    names = set(class_names)
    return [pair for pair in SOMETHING + JESTER if names.issuperset(pair)]
