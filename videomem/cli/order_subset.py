"""`videomem order subset`: write the catalog of the clips or classes that need frame order, by an order test."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videomem.cli.options import number, parser
from videomem.cli.terminal import say
from videomem.errors import VideomemError
from videomem.experiments.order_test.subset import (
    check_catalog,
    class_scores,
    classes_above,
    clips_above,
    read_clip_scores,
    restricted_to_classes,
    restricted_to_clips,
    unscored_splits,
)
from videomem.experiments.tables import points
from videomem.video.catalog import Catalog
from videomem.video.catalog_checks import catalog_problems
from videomem.video.catalog_files import read_catalog, write_catalog

WARNING = (
    "warning: these scores were estimated on the same clips, so the results of that order test are too high for the "
    "subset; report only accuracies of new trainings on it"
)


def main(command: str, arguments: Sequence[str]) -> int:
    """Write the subset and print its size."""
    options = parser(command, __doc__)
    options.add_argument("result", type=Path, help="folder that `videomem order --out` has written")
    options.add_argument("--catalog", type=Path, required=True, help="catalog of the order test")
    options.add_argument("--out", type=Path, required=True, help="catalog to write, .csv, .parquet or .arrow")
    options.add_argument("--by", choices=("clip", "class"), default="clip", help="what is kept or left out")
    chosen = options.add_mutually_exclusive_group()
    chosen.add_argument("--top-share", type=share, help="share of the scored clips to keep, those with the highest "
                        "scores")  # fmt: skip
    chosen.add_argument("--min-score", type=score, help="lowest score of a clip to keep; with --by class, the value "
                        "that the interval of a class must lie above (default there: 0)")  # fmt: skip
    given = options.parse_args(arguments)
    if given.by == "class" and given.top_share is not None:
        raise VideomemError("--top-share has no effect with --by class; set --min-score")
    if given.by == "clip" and given.top_share is None and given.min_score is None:
        raise VideomemError("nothing says which clips to keep; set --top-share, --min-score, or --by class")
    if given.out.resolve() == given.catalog.resolve():
        raise VideomemError(f"--out {given.out}: the catalog itself; give another file")
    scored, catalog = read_clip_scores(given.result), read_catalog(given.catalog)
    check_catalog(catalog, scored, str(given.catalog))
    if given.by == "class":
        gains, least = class_scores(scored), given.min_score or 0.0
        labels = classes_above(gains, least)
        say(f"{len(labels)} of {len(gains)} classes have an interval above {points(least)} points")
        subset = restricted_to_classes(catalog, labels)
    else:
        kept = clips_above(scored, given.top_share, given.min_score)
        lowest = points(kept[-1].score)
        say(f"{len(kept)} of {len(scored)} scored clips kept, with scores of {lowest} points or more")
        for split in unscored_splits(catalog, scored):
            say(f"{split}: no clip was tested, so all clips of the kept classes stay")
        subset = restricted_to_clips(catalog, scored, kept)
    if problems := catalog_problems(subset):
        raise VideomemError(f"the subset is not usable: {problems[0]}; keep more clips")
    write_catalog(subset, given.out)
    _print_contents(catalog, subset)
    say(WARNING, to_stderr=True)
    say(f"catalog {given.out}")
    return 0


def _print_contents(catalog: Catalog, subset: Catalog) -> None:
    for split in catalog.splits:
        clips = subset.split(split)
        num_classes, num_groups = len({clip.label for clip in clips}), len({clip.group for clip in clips})
        say(f"{split}: {len(clips)} of {len(catalog.split(split))} clips, {num_classes} classes, {num_groups} groups")


def share(text: str) -> float:
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"is {text}, but must be in (0, 1]")
    return value


def score(text: str) -> float:
    value = number(text)
    if not -1 <= value < 1:
        raise argparse.ArgumentTypeError(f"is {text}, but must be in [-1, 1); give a share of 1, not points")
    return value
