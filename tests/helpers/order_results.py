"""Order results built in code: one for each verdict, and some that are difficult to display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from videomem.experiments.html import Example, Strip
from videomem.experiments.order_test.result import (
    SCHEMA_VERSION,
    Controls,
    DataFacts,
    HeadResult,
    Information,
    OrderTestResult,
    PerturbationResult,
    SizePoint,
)
from videomem.statistics.results import (
    ChiralPair,
    ChiralPairs,
    ClassGain,
    Estimate,
    Randomization,
    Verdict,
    VerdictKind,
)

NASTY = "<script>alert('x')</script> & \"$\\frac{1}{2}$\" 手を振る naïve\nsecond line " + "w" * 40
MEMORIES = ("none", "gru", "leaky", "rnn", "gated", "lstm", "mingru", "minlstm")
GAIN = {"gru": 0.231, "leaky": 0.094, "rnn": 0.141, "gated": 0.214, "lstm": 0.219, "mingru": 0.187, "minlstm": 0.192}
PERTURBATIONS = (
    *(("windows", "windows of 2", 0.031, 0.94, 0.75), ("windows", "windows of 4", 0.078, 0.84, 0.41)),
    *(("windows", "windows of 8", 0.164, 0.64, 0.24), ("blocks", "blocks of 8", 0.25, 0.12, 0.93)),
    *(("blocks", "blocks of 4", 0.31, 0.04, 0.82), ("blocks", "blocks of 2", 0.33, 0.01, 0.57)),
    *(("shuffle", "shuffle", 0.332, 0.0, 0.125), ("reverse", "reverse", 0.5, -1.0, 1.0)),
    *(("rotate", "rotate", 0.333, 0.33, 0.97), ("frozen", "frozen", 0.469, None, 0.0)),
)
SE = {"control": 0.004, "negligible": 0.003, "does not matter": 0.004, "undetermined": 0.02}
SHARE = {"windows of 2": 0.08, "windows of 4": 0.22, "windows of 8": 0.51, "blocks of 8": 0.62, "blocks of 4": 0.81,
         "blocks of 2": 0.93, "shuffle": 1.0, "reverse": 1.62, "rotate": 0.44, "frozen": 1.2}  # fmt: skip


def estimate(value: float, se: float = 0.017, p: float | None = None) -> Estimate:
    t = abs(value) / se if se else math.inf
    p = math.erfc(t / math.sqrt(2)) if p is None else p
    return Estimate(value, se, 17.3, value - 2.1 * se, value + 2.1 * se, value - 1.74 * se, value + 1.74 * se, p, 40, 5)


def memory(name: str, gain: float, class_names: Sequence[str], kind: VerdictKind | None, seed: int = 0) -> HeadResult:
    """A head with the value of order `gain`; order-blind if `kind` is None."""
    control = kind is None
    oo, fs = 0.612 + gain, 0.612
    accuracies = {
        "ordered/ordered": oo,
        "ordered/shuffled": oo if control else oo - 1.3 * gain,
        "ordered/reversed": oo if control else oo - 2.1 * gain,
        "fixed_permutation/shuffled": fs,
        "fixed_permutation/ordered": fs + 0.1 * gain,
        "reshuffled/shuffled": fs + 0.021,
        "reshuffled/ordered": fs + 0.024,
        "common_permutation/common_permutation": fs + 0.4 * gain,
        "windows/windows": oo - 0.2 * gain,
        "blocks/blocks": oo - 0.7 * gain,
    }
    value = estimate(gain, SE.get(kind or "control", 0.017))
    return HeadResult(
        name=name,
        label=f"{name}(hidden_dim=128)",
        is_order_blind=control,
        num_parameters=66_314 + 1000 * seed,
        accuracies={pair: estimate(share) for pair, share in accuracies.items()},
        balanced_accuracy=estimate(oo),
        losses=(0.7, 0.5, 0.4),
        value_of_order=value,
        verdict=None if kind is None else Verdict(kind, sentence(name, gain, kind), _remedy(kind)),
        augmentation=estimate(0.021),
        reliance=estimate(oo - accuracies["ordered/shuffled"]) if not control else None,
        reliance_test=None if control else Randomization(1 / 1001, 1000, 1 / 1001),
        shift=estimate(accuracies["reshuffled/shuffled"] - accuracies["ordered/shuffled"]),
        practical_gain=None if control else estimate(oo - accuracies["reshuffled/shuffled"]),
        rotated=estimate(0.3 * gain),
        common=estimate(oo - accuracies["common_permutation/common_permutation"]),
        normalized=None if control else gain / (oo - 0.12),
        suite=tuple(_perturbation(perturbation, oo, 0.0 if control else gain) for perturbation in PERTURBATIONS),
        classes=_classes(class_names, gain, seed),
        chiral=None if control or len(class_names) < 4 else _chiral(class_names),
        confusion_ordered=_confusion(len(class_names), oo, seed),
        confusion_shuffled=_confusion(len(class_names), accuracies["ordered/shuffled"], seed + 1),
        mcnemar_p=None,
        sizes=tuple(
            SizePoint(share, int(480 * share), estimate(oo - 0.1 * (1 - share)), estimate(gain * share**0.5, 0.02))
            for share in (0.25, 0.5, 1.0)
        ),
        sensitivity={} if control else {"equal_parameters": estimate(0.93 * gain)},
        max_logit_change=0.0 if control else 9.4,
        max_logit_change_forward=2e-6 if control else 9.41,
    )


def sentence(name: str, gain: float, kind: VerdictKind) -> str:
    value = estimate(gain, SE.get(kind, 0.017))
    ends = f"{100 * value.low:+.1f} to {100 * value.high:+.1f}"
    points = (
        f"{100 * gain:+.1f} points (95 % interval {ends}, p {'< 0.001' if value.p < 0.001 else f'= {value.p:.2f}'})"
    )
    return {
        "matters": f"Order matters for {name}: training and testing in order is worth {points} of accuracy",
        "order or position": f"For {name}, order or position is worth {points}",
        "negligible": f"For {name}, order is worth {points}: more than nothing, less than the margin of 2 points",
        "does not matter": f"Order does not matter for {name}: its value, {points}, is within the margin",
        "hurts": f"For {name}, frames in order cost {points} of accuracy",
        "undetermined": f"For {name}, the data do not decide: the value of order is {points}",
        "not learned": f"{name}: not learned; balanced accuracy 18.0 %, and chance is 16.7 %",
        "nothing to order": "Nothing to order: all 120 test clips have the same features in all frames",
        "no verdict": "No verdict: 12 groups of test clips are fewer than the 20 that a verdict needs",
    }[kind]


def order_result(
    kind: VerdictKind = "matters", names: Sequence[str] = MEMORIES[:2], class_names: Sequence[str] = ()
) -> OrderTestResult:
    """A realistic result; the first memory is a control if its name is `none`."""
    class_names = class_names or ("finger left", "finger right", "finger up", "finger down", "open hand", "close hand")
    scale = {"matters": 1.0, "hurts": -0.3, "negligible": 0.05, "undetermined": 0.1}.get(kind, 0.012)
    heads = tuple(
        memory(name, 0.002 if name == "none" else scale * GAIN.get(name, 0.2), class_names,
               None if name == "none" else kind, seed)
        for seed, name in enumerate(names)
    )  # fmt: skip
    control = next((one for one in heads if one.is_order_blind), None)
    lead = max(heads, key=lambda one: one.value_of_order.value)
    return OrderTestResult(
        schema_version=SCHEMA_VERSION,
        plan={"catalog": "gestures", "heads": list(names), "margin": 0.02, "runs": 5, "seeds": [0, 1, 2, 3, 4],
              "permutations": {"windows": [2, 4, 8], "blocks": [8, 4, 2]}, "alpha": 0.05, "note": None},
        plan_sha256="5f1c0e3a9b7d44e2a1c6f8d09b3e7a55c2d1f0e9b8a7968574635241f0e1d2c3",
        data=DataFacts("gestures", tuple(class_names), 720, 240, 480, 120, 40, "random", "16", 9216,
                       "AlexNet fc6, ImageNet weights", 2),
        metric="accuracy",
        checks=(),
        information=Information(lead.value_of_order, lead.name, "none", {lead.name: 5, "none": 5},
                                lead.balanced_accuracy, lead.rotated),
        verdict=Verdict(kind, sentence(lead.name, lead.value_of_order.value, kind), _remedy(kind)),
        heads=heads,
        controls=Controls(0.183, 1 / 6, 0.402, 0.447, 9, 0.861, control.accuracies["ordered/ordered"].value)
        if control
        else None,
        noise_floor=control.value_of_order if control else None,
        margin=0.02,
        margin_share=None,
        num_runs=5,
        seeds=(0, 1, 2, 3, 4),
        num_permutations=100,
        failures=(("videos/left_017.mp4", "frame 12 of 31 cannot be decoded: invalid data"),
                  ("videos/up_003.mp4", "no video stream")),
        command="videomem order --config configs/base.yaml --config configs/data/gestures.yaml --heads none gru",
        versions={"videomem": "0.1.0", "torch": "2.11.0", "python": "3.11.2"},
        device="cpu, 2 cores",
        seconds=184.2,
        seconds_training=163.9,
    )  # fmt: skip


def no_verdict_result() -> OrderTestResult:
    """A result with few groups, one memory, and without any optional part."""
    result = order_result("no verdict", ["gru"], ["a", "b"])
    nothing = Estimate(0.03, math.nan, math.inf, -math.inf, math.inf, math.nan, math.nan, math.nan, 12, 1)
    (one,) = result.heads
    bare = replace(
        replace(one, value_of_order=nothing, augmentation=None, reliance_test=None, shift=None),
        **dict.fromkeys(("practical_gain", "rotated", "common", "normalized", "chiral", "max_logit_change")),
        **dict.fromkeys(("suite", "classes", "confusion_ordered", "confusion_shuffled", "sizes"), ()),
        sensitivity={},
        max_logit_change_forward=None,
        accuracies={
            "ordered/ordered": estimate(0.6),
            "ordered/shuffled": nothing,
            "fixed_permutation/shuffled": estimate(0.57),
        },
    )
    return replace(result, heads=(bare,), controls=None, noise_floor=None, failures=(), num_runs=1, seeds=(7,))


def nasty_result() -> OrderTestResult:
    """A result with names that are markup, formulas, long, in other scripts, and on two lines."""
    result = order_result("matters", ["none", NASTY], [f"{NASTY} {number}" for number in range(5)])
    return replace(
        result,
        failures=(("</table><script>\udcff", NASTY),),
        command=NASTY,
        versions={NASTY: NASTY},
        plan={NASTY: [NASTY, {NASTY: 1}]},
        data=replace(result.data, catalog=NASTY, features=NASTY),
        verdict=Verdict("matters", NASTY, NASTY),
    )


def examples(class_names: Sequence[str], heads: Sequence[str], num_frames: int = 16) -> list[Example]:
    """For each of two pairs of classes, a clip of a moving bar in order and reversed."""
    found = []
    for first, second in (class_names[:2], class_names[2:4]):
        frames = _bar(num_frames, 48)
        backwards = {head: second if number else first for number, head in enumerate(heads)}
        strips = [
            Strip("ordered", frames, dict.fromkeys(heads, first)),
            Strip("reversed", frames[::-1], backwards),
        ]
        found.append(Example(first, second, strips))
    return found


def _bar(num_frames: int, side: int) -> NDArray[np.uint8]:
    frames_THWC = np.full((num_frames, side, side, 3), (52, 60, 72), np.uint8)
    for number in range(num_frames):
        start = number * (side - 10) // max(num_frames - 1, 1)
        frames_THWC[number, 12:36, start : start + 10] = (236, 188, 90)
    return frames_THWC


def _remedy(kind: VerdictKind) -> str:
    return "about 31 groups of test clips would decide it" if kind in ("undetermined", "no verdict") else ""


def _perturbation(
    perturbation: tuple[str, str, float, float | None, float], oo: float, gain: float
) -> PerturbationResult:
    name, label, displacement, tau, adjacency = perturbation
    lost = 1.3 * gain * SHARE.get(label, SHARE.get(name, 1.2))
    retrained = estimate(0.6 * lost) if label in ("windows of 4", "blocks of 4") else None
    return PerturbationResult(name, label, displacement, tau, adjacency, estimate(oo - lost), estimate(lost), retrained)


def _classes(names: Sequence[str], gain: float, seed: int) -> tuple[ClassGain, ...]:
    values = np.random.default_rng(seed).normal(gain, 0.09, len(names))
    return tuple(
        ClassGain(name, 7, float(v), 0.06, float(0.6 * v + 0.4 * gain), float(0.6 * v + 0.4 * gain - 0.08),
                  float(0.6 * v + 0.4 * gain + 0.08), 0.031, 0.19, 1 / 64)
        for name, v in zip(names, values, strict=True)
    )  # fmt: skip


def _chiral(names: Sequence[str]) -> ChiralPairs:
    return ChiralPairs((ChiralPair(names[0], names[1], 0.41, 0.002), ChiralPair(names[2], names[3], 0.16, 0.21)),
                       20, 20, 0.001)  # fmt: skip


def _confusion(num_classes: int, accuracy: float, seed: int) -> tuple[tuple[float, ...], ...]:
    counts = np.random.default_rng(seed).poisson(30 * (1 - accuracy) / num_classes, (num_classes, num_classes)) + 0.0
    counts[np.diag_indices(num_classes)] = round(100 * accuracy)
    return tuple(tuple(row) for row in counts.tolist())
