"""`docs/order_card.md`, made from the dataclasses:

python -m videomem.experiments.order_test.schema > docs/order_card.md
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any

from videomem.experiments.order_test import result as card
from videomem.statistics import results

KINDS = (
    *(card.OrderCard, card.DataFacts, card.MemoryResult, card.PerturbationResult, card.SizePoint, card.Controls),
    *(results.Estimate, results.Randomization, results.Verdict),
    *(results.ClassGain, results.ChiralPairs, results.ChiralPair),
)
_POINTS = "share of 1 (0.02 is 2 points)"
UNITS = {
    **dict.fromkeys(("OrderCard.seconds", "OrderCard.seconds_training"), "seconds"),
    **dict.fromkeys(("OrderCard.margin", "ChiralPair.excess"), _POINTS),
    **dict.fromkeys((f"Controls.{item.name}" for item in fields(card.Controls)), "share of clips, 0 to 1"),
    "Controls.best_frame_position": "frame, from 0",
    **dict.fromkeys((f"ClassGain.{name}" for name in ("value", "se", "pooled", "low", "high")), _POINTS),
    **dict.fromkeys((f"Estimate.{item.name}" for item in fields(results.Estimate)), _POINTS),
    **dict.fromkeys(("Estimate.num_groups", "ClassGain.num_groups"), "groups"),
    **dict.fromkeys(("Estimate.num_runs", "OrderCard.num_runs"), "runs"),
    "Estimate.p": "probability",
    "Estimate.df": "degrees of freedom",
    **dict.fromkeys(("PerturbationResult.displacement", "SizePoint.fraction", "MemoryResult.normalized"), "share of 1"),
    "PerturbationResult.adjacency": "share of pairs, 0 to 1",
    "PerturbationResult.kendall_tau": "-1 to 1",
    **dict.fromkeys(("MemoryResult.confusion_ordered", "MemoryResult.confusion_shuffled"), "clips"),
    **dict.fromkeys(("MemoryResult.max_logit_change", "MemoryResult.max_logit_change_forward"), "logits"),
}
HEAD = """# The order card

`order.json` is one `OrderCard`, written by `card_to_json` and read by `card_from_json` of
`videomem/experiments/order_test/result.py`. It is strict JSON: a number that JSON lacks is one of the strings `NaN`,
`Infinity` and `-Infinity`. Dataclasses are
objects, tuples are lists, None is null. A reader refuses another `schema_version`, a field that is not listed here and
a field of another type. Accuracies, differences and margins are shares of 1: 0.02 is 2 points. A cell XY was trained in
arm X and tested in condition Y: O in order, S shuffled again at every epoch, F one fixed permutation per clip, C one
permutation common to all clips, R reversed, W frames shuffled within windows, B blocks of frames shuffled.

This page is made by `python -m videomem.experiments.order_test.schema > docs/order_card.md`; a test holds that it is
up to date.
"""


def schema_document() -> str:
    """Every field of every dataclass of the card, as Markdown: type, unit, meaning."""
    return "\n".join([HEAD, *(_section(kind) for kind in KINDS)])


def meanings(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each field, in one line each."""
    _, _, attributes = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", attributes, flags=re.MULTILINE)
    return {name: " ".join(text.split()).replace("|", r"\|") for name, text in found}


def unit(kind: type, name: str) -> str:
    plain = f"{kind.__name__}.{name}"
    return UNITS.get(plain, "probability" if re.fullmatch(r"p|.*_p|p_.*", name) else "")


def _section(kind: type) -> str:
    said = meanings(kind)
    summary = (inspect.getdoc(kind) or "").partition("\n\nAttributes:")[0]
    rows = [
        f"| `{item.name}` | {_type(item.type)} | {unit(kind, item.name)} | {said[item.name]} |" for item in fields(kind)
    ]
    return "\n".join(
        [f"## {kind.__name__}", "", summary, "", "| field | type | unit | meaning |", "|---|---|---|---|", *rows, ""]
    )


def _type(annotation: Any) -> str:
    return "`" + str(annotation).replace(" | ", " or ") + "`"


if __name__ == "__main__":
    print(schema_document(), end="")
