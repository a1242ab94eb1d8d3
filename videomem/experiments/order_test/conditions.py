"""Training conditions and test conditions: the frame orders that a learner is trained on and tested on.

An accuracy is named `<training condition>/<test condition>`, such as `ordered/shuffled`. Dense tables use the two
letters instead: OS.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

TrainingCondition = Literal["ordered", "fixed_permutation", "reshuffled", "common_permutation", "windows", "blocks"]
TestCondition = Literal["ordered", "shuffled", "reversed", "common_permutation", "windows", "blocks"]


class Condition(NamedTuple):
    """A condition as dense tables and reports show it."""

    letter: str
    description: str


TRAINING_CONDITIONS: dict[str, Condition] = {
    "ordered": Condition("O", "frames in order"),
    "fixed_permutation": Condition("F", "one fixed permutation per clip"),
    "reshuffled": Condition("S", "a new permutation in every epoch"),
    "common_permutation": Condition("C", "one permutation common to all clips"),
    "windows": Condition("W", "frames shuffled within windows, fixed per clip"),
    "blocks": Condition("B", "blocks of frames shuffled, fixed per clip"),
}
TEST_CONDITIONS: dict[str, Condition] = {
    "ordered": Condition("O", "frames in order"),
    "shuffled": Condition("S", "frames shuffled"),
    "reversed": Condition("R", "frames reversed"),
    "common_permutation": Condition("C", "the permutation common to all clips"),
    "windows": Condition("W", "frames shuffled within windows"),
    "blocks": Condition("B", "blocks of frames shuffled"),
}
assert (*TRAINING_CONDITIONS,) == get_args(TrainingCondition) and (*TEST_CONDITIONS,) == get_args(TestCondition)

PRIMARY: tuple[TrainingCondition, TrainingCondition] = ("ordered", "fixed_permutation")

# Accuracies that the contrasts are made of, in the order of tables.
ORDERED, SHUFFLED, REVERSED = "ordered/ordered", "ordered/shuffled", "ordered/reversed"
FIXED, FIXED_ORDERED = "fixed_permutation/shuffled", "fixed_permutation/ordered"
RESHUFFLED, RESHUFFLED_ORDERED = "reshuffled/shuffled", "reshuffled/ordered"
COMMON, WINDOWS, BLOCKS = "common_permutation/common_permutation", "windows/windows", "blocks/blocks"
PAIRS = (ORDERED, SHUFFLED, REVERSED, RESHUFFLED, RESHUFFLED_ORDERED, FIXED, FIXED_ORDERED, COMMON, WINDOWS, BLOCKS)


def letters(pair: str) -> str:
    """The two letters of an accuracy's name: OS of `ordered/shuffled`."""
    training, test = pair.split("/")
    return TRAINING_CONDITIONS[training].letter + TEST_CONDITIONS[test].letter


def described(pair: str) -> tuple[str, str]:
    """Descriptions of the training condition and of the test condition of an accuracy's name."""
    training, test = pair.split("/")
    return TRAINING_CONDITIONS[training].description, TEST_CONDITIONS[test].description
