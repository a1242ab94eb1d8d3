"""How often the verdict of the order test on generated data is right, for data whose answer is known.

    python benchmarks/order_sentences.py [--sets 10] [--kind mark_start ...]

Every data set has 60 groups of 2 clips of 12 frames with 12 features of noise, and two classes:

    mark_start, mark_middle, mark_end   one marked frame at a fixed position shows the class, and the others show random
                                        ones: the class is a function of the set of frames
    bursts                              3 or 6 active frames, in one burst at a random place
    autoregressive                      features of an AR(1) process with a mean that depends on the class
    length                              the class decides the length of the clip, 4 to 12 frames
    copies                              random classes, and each clip has a copy in another group
    static                              all frames of a clip are equal and show the class
    two_tokens                          two marked frames at random places, whose order is the class
    pairs                               three pairs of adjacent marked frames, whose order within the pairs is the class
    rare                                a trend shows the class, and one class has 6 % of the clips

Every data set and every training is drawn from the seed. A sentence is wrong if it contradicts the answer; verdicts
that leave the question open are neither right nor wrong.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections import Counter
from zlib import crc32

import numpy as np

from videomem.experiments.order_test.plan import OrderSettings, Recipe
from videomem.experiments.order_test.result import OrderTestResult
from videomem.experiments.order_test.run import order_test

GROUPS, PER_GROUP, FRAMES, DIM = 60, 2, 12, 12
SETTINGS = OrderSettings(
    heads=("none", "attention", "set", "gru", "gru_last", "conv", "position_attention"),
    training_conditions=("ordered", "fixed_permutation", "reshuffled", "rotated"),
    runs=6, folds=6, num_permutations=5, hidden_dim=32, projection="none",
)  # fmt: skip
RECIPE = Recipe(epochs=30, learning_rate=3e-3, dropout=0.3)
# Verdicts that are right and wrong; others leave the question open.
NO_ORDER = ({"does not matter"}, {"matters", "order or position", "negligible"})
POSITION = ({"does not matter", "order or position"}, {"matters", "negligible"})
ORDER = ({"matters", "order or position"}, {"does not matter", "negligible"})
ANSWERS = {
    **dict.fromkeys(("mark_start", "mark_middle", "mark_end"), POSITION),
    **dict.fromkeys(("bursts", "autoregressive", "length"), NO_ORDER),
    "copies": ({"not learned"}, {"matters", "order or position", "negligible", "does not matter"}),
    "static": ({"nothing to order"}, {"matters", "order or position", "negligible", "does not matter", "undetermined"}),
    **dict.fromkeys(("two_tokens", "pairs", "rare"), ORDER),
}
WARNINGS = {"length": "length", "copies": "same content", "static": "static clips", "rare": "rare classes"}


def generate(kind: str, seed: int) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Features (T, D), labels and groups of clips."""
    rng, num = np.random.default_rng((crc32(kind.encode()), seed)), GROUPS * PER_GROUP
    x_NTD, labels_N = rng.normal(size=(num, FRAMES, DIM)), rng.integers(0, 2, num)
    lengths_N = np.full(num, FRAMES)
    if kind == "rare":
        labels_N = (np.arange(num) % 17 == 0).astype(int)
    signs_N = 2 * labels_N - 1
    for row in range(num):
        _add(kind, x_NTD[row], int(signs_N[row]), rng)
    if kind == "autoregressive":
        for t in range(1, FRAMES):
            x_NTD[:, t] = 0.8 * x_NTD[:, t - 1] + 0.6 * x_NTD[:, t]
        x_NTD[:, :, 0] += 0.7 * signs_N[:, None]
    if kind == "length":
        lengths_N = np.where(labels_N == 1, rng.integers(7, FRAMES + 1, num), rng.integers(4, 10, num))
    groups = np.repeat(np.arange(GROUPS), PER_GROUP)
    if kind == "copies":
        half = num // 2
        x_NTD[half:], labels_N[half:] = x_NTD[:half], labels_N[:half]
    clips = [x_TD[:length].astype(np.float32) for x_TD, length in zip(x_NTD, lengths_N, strict=True)]
    return clips, [f"class {label}" for label in labels_N], [str(group) for group in groups]


def _add(kind: str, x_TD: np.ndarray, sign: int, rng: np.random.Generator) -> None:
    """Add to the noise of a clip what shows its class."""
    if kind.startswith("mark"):
        place = {"mark_start": 0, "mark_middle": FRAMES // 2, "mark_end": FRAMES - 1}[kind]
        shown_T = rng.choice([-1, 1], size=FRAMES)
        shown_T[place] = sign
        x_TD[:, 1] += 2 * shown_T
        x_TD[place, 0] += 4
    elif kind == "bursts":
        active = 6 if sign > 0 else 3
        start = rng.integers(0, FRAMES - active + 1)
        x_TD[start : start + active, 0] += 2.5
    elif kind == "static":
        x_TD[:] = x_TD[0]
        x_TD[:, 0] += 0.8 * sign
    elif kind == "two_tokens":
        places = np.sort(rng.choice(FRAMES, 2, replace=False))[::sign]
        x_TD[places, [0, 1]] += 4
    elif kind == "pairs":
        for first in 2 * rng.choice(FRAMES // 2, 3, replace=False):
            x_TD[np.array([first, first + 1])[::sign], [0, 1]] += 4
    elif kind == "rare":
        x_TD[:, 0] += 1.5 * sign * np.linspace(-1, 1, FRAMES)


def tested(kind: str, seed: int, processes: int) -> OrderTestResult:
    clips, labels, groups = generate(kind, seed)
    with tempfile.TemporaryDirectory() as cache:
        return order_test(clips, labels, groups, settings=SETTINGS, recipe=RECIPE, cache=cache, num_processes=processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=10, help="data sets of each kind")
    parser.add_argument("--kind", action="append", choices=ANSWERS, help="this kind only; may be repeated")
    parser.add_argument("--processes", type=int, default=2, help="training jobs in parallel")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print("| data | right | wrong | open | verdicts | warned | mean gain, points |\n|---|---|---|---|---|---|---|")
    for kind in options.kind or ANSWERS:
        results = [tested(kind, seed, options.processes) for seed in range(options.sets)]
        right, wrong = ANSWERS[kind]
        kinds = Counter(result.verdict.kind for result in results)
        counts = [sum(kinds[verdict] for verdict in verdicts) for verdicts in (right, wrong)]
        warned = sum(WARNINGS.get(kind) in {check.name for check in result.checks} for result in results)
        gains = [result.information.gain.value for result in results if result.information]
        words = ", ".join(f"{count} {verdict}" for verdict, count in kinds.most_common())
        print(
            f"| {kind} | {counts[0]} | {counts[1]} | {options.sets - sum(counts)} | {words} | "
            f"{warned if kind in WARNINGS else ''} | {100 * np.mean(gains):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
