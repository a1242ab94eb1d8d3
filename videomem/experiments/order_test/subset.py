"""Temporal subsets: the clips or classes of a data set for which an order test found that frame order is needed.

Reference:
    Sevilla-Lara et al. 2021, "Only time can tell: Discovering temporal data for temporal modeling" (arXiv 1907.08340).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videomem.errors import VideomemError
from videomem.experiments.tables import Column, Table, csv_text
from videomem.statistics.classes import class_gains
from videomem.statistics.clip_scores import ClipScores
from videomem.statistics.results import ClassGain
from videomem.utils.atomic import write_atomic
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import clip_of_row, read_table

FILE = Path("tables") / "clip_scores.csv"
_COUNTS, _GAINS = ("tests",), ("raw", "score", "standard_error")
_MOST_TESTS = 10_000_000  # of all clips
COLUMNS = ("path", "start_s", "end_s", "label", "group", *_COUNTS, *_GAINS)


@dataclass(frozen=True)
class ScoredClip:
    """A row of the table of clip scores; see `ClipScores`.

    Attributes:
        clip: The clip, with an absolute path; its split is empty.
        tests: Number of tests.
        raw: Mean over the tests.
        score: Mean, shrunk towards that of all clips.
        standard_error: Standard error of the score.
    """

    clip: Clip
    tests: int
    raw: float
    score: float
    standard_error: float


def write_clip_scores(
    folder: Path, clips: Sequence[Clip], scores: ClipScores, group_names: Mapping[int, str] = {}
) -> Path:
    """Write `tables/clip_scores.csv` to the folder of a result, with the highest score first, and return its path.

    Groups that are not in `group_names` have the name of the first clip in the table.

    Args:
        clips: The clips that the ids of `scores` are indices of, as `VideoDataModule.clips`.
    """
    names = dict(group_names)
    rows = []
    for place in np.argsort(-scores.scores, kind="stable").tolist():
        clip = clips[int(scores.clips[place])]
        group = names.setdefault(int(scores.groups[place]), clip.group)
        numbers = (float(of[place]) for of in (scores.raw, scores.scores, scores.standard_errors))
        rows.append((*clip.location, clip.label, group, int(scores.tests[place]), *numbers))
    table = Table("clip_scores", tuple(Column(name) for name in COLUMNS), tuple(rows))
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, csv_text(table).encode("utf-8", "surrogateescape"))
    return path


def read_clip_scores(folder: Path) -> list[ScoredClip]:
    """Read `tables/clip_scores.csv` from the folder of a result.

    Raises:
        VideomemError: If there is no such table, it has no rows or lacks a column, or a number is malformed.
    """
    path = folder / FILE
    if not path.is_file():
        raise VideomemError(f"{path}: no such table; give the folder that `videomem order --out` has written")
    rows = read_table(path, COLUMNS)
    if not rows:
        raise VideomemError(f"{path}: the table has no rows; run `videomem order` again")
    scored = [_scored(row, f"{path.name}: row {number}") for number, row in enumerate(rows, start=1)]
    if (num_tests := sum(one.tests for one in scored)) > _MOST_TESTS:
        raise VideomemError(f"{path}: {num_tests} tests, above the limit of {_MOST_TESTS}; run `videomem order` again")
    return scored


def _scored(row: Mapping[str, str], where: str) -> ScoredClip:
    numbers = {name: _number(row[name], name, where) for name in (*_COUNTS, *_GAINS)}
    tests = int(numbers.pop("tests"))
    if tests < 1 or str(tests) != row["tests"]:
        raise VideomemError(f"{where}: tests is {row['tests']}, but must be an integer of at least 1")
    if abs(numbers["raw"]) > 1:
        raise VideomemError(f"{where}: raw is {row['raw']}, but must be in [-1, 1]")
    return ScoredClip(clip_of_row(row, where), tests, **numbers)


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text if "_" not in text else "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise VideomemError(f"{where}: {name} is {text!r}, not a finite number; run `videomem order` again")
    return value


def class_scores(scored: Sequence[ScoredClip]) -> tuple[ClassGain, ...]:
    """Score and interval of each class, by `class_gains`: pooled over classes, with errors by groups.

    Each clip counts as often as it was tested, so that the result is that of all (run, clip).
    """
    names = sorted({one.clip.label for one in scored})
    label_of = {name: label for label, name in enumerate(names)}
    groups = {one.clip.group: number for number, one in enumerate(scored)}
    tests_M = [one.tests for one in scored]
    values_N = np.repeat([one.raw for one in scored], tests_M)
    groups_N = np.repeat([groups[one.clip.group] for one in scored], tests_M)
    labels_N = np.repeat([label_of[one.clip.label] for one in scored], tests_M)
    return class_gains(values_N, groups_N, np.zeros_like(groups_N), labels_N, names)


def clips_above(
    scored: Sequence[ScoredClip], top_share: float | None = None, min_score: float | None = None
) -> list[ScoredClip]:
    """The scored clips with the highest scores, highest first.

    Args:
        top_share: Share of the scored clips that is kept, in (0, 1], at least one clip. Clips with the same score as
            the last of them are kept too, because nothing tells them apart.
    Raises:
        VideomemError: If no clip was tested twice, all scores are equal, or none is high enough.
    """
    if max(one.tests for one in scored) == 1:
        raise VideomemError(
            "no clip was tested more than once, so clips cannot be told from chance; raise order.runs to at least "
            "twice order.folds, or keep classes with --by class"
        )
    kept = sorted(scored, key=lambda one: -one.score)
    if len(kept) > 1 and kept[0].score == kept[-1].score:
        raise VideomemError(
            f"all {len(kept)} scores are {kept[0].score:.3g}: clips do not differ by more than chance, so none can be "
            "selected by its score; raise order.runs, or keep classes with --by class"
        )
    if top_share is not None:
        min_score = kept[max(1, round(top_share * len(kept))) - 1].score
    if min_score is not None and kept[0].score < min_score:
        raise VideomemError(f"no clip has a score of at least {min_score:g}; the highest is {kept[0].score:.3g}")
    return [one for one in kept if min_score is None or one.score >= min_score]


def classes_above(gains: Sequence[ClassGain], min_score: float) -> list[str]:
    """Names of the classes whose 95 % interval lies above a value.

    Raises:
        VideomemError: If there is no such class.
    """
    kept = [gain.name for gain in gains if gain.low > min_score]
    if not kept:
        highest = max(gains, key=lambda gain: gain.low)
        raise VideomemError(
            f"no class has an interval above {min_score:g}; the highest is {highest.name!r} from {highest.low:.3g} to "
            f"{highest.high:.3g}; lower --min-score, or test more clips"
        )
    return kept


def check_catalog(catalog: Catalog, scored: Sequence[ScoredClip], name: str) -> None:
    """Check that a catalog has all scored clips, with the same labels.

    Raises:
        VideomemError: If it has not.
    """
    label_of = {clip.location: clip.label for clip in catalog.clips}
    lacking = [one.clip for one in scored if label_of.get(one.clip.location) != one.clip.label]
    if lacking:
        raise VideomemError(
            f"{name}: {len(lacking)} of {len(scored)} scored clips are not in the catalog with their label, the first "
            f"{lacking[0]}; give the catalog of the order test"
        )


def unscored_splits(catalog: Catalog, scored: Sequence[ScoredClip]) -> list[str]:
    """Splits without any scored clip, as `train` in a test with the catalog's own split."""
    locations = {one.clip.location for one in scored}
    with_scores = {clip.split for clip in catalog.clips if clip.location in locations}
    return [split for split in catalog.splits if split not in with_scores]


def restricted_to_clips(catalog: Catalog, scored: Sequence[ScoredClip], kept: Sequence[ScoredClip]) -> Catalog:
    """The kept clips of a catalog. In splits without any scored clip, all clips of their classes are kept."""
    unscored = unscored_splits(catalog, scored)
    locations, labels = {one.clip.location for one in kept}, {one.clip.label for one in kept}
    return _trainable(catalog, Catalog(tuple(
        clip for clip in catalog.clips
        if (clip.label in labels if clip.split in unscored else clip.location in locations)
    )))  # fmt: skip


def restricted_to_classes(catalog: Catalog, labels: Collection[str]) -> Catalog:
    """The clips of some classes, in all splits of a catalog."""
    return _trainable(catalog, Catalog(tuple(clip for clip in catalog.clips if clip.label in labels)))


def _trainable(catalog: Catalog, subset: Catalog) -> Catalog:
    """Leave out classes without any training clip, which cannot be predicted, if the catalog has training clips."""
    if "train" not in catalog.splits:
        return subset
    trained = {clip.label for clip in subset.split("train")}
    return Catalog(tuple(clip for clip in subset.clips if clip.label in trained))
