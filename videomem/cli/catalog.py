"""`videomem catalog`: build or check a catalog, the table of videos and labels."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

from videomem.cli.options import (
    SHARED,
    HelpFormatter,
    Parser,
    add_shared,
    at_least,
    number,
    parser,
    refuse_time_limit,
    refuse_unused,
)
from videomem.cli.terminal import console, say, table
from videomem.errors import VideomemError
from videomem.utils.atomic import write_atomic
from videomem.utils.progress import tracked
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_checks import catalog_problems, catalog_warnings
from videomem.video.catalog_files import absolute_clips, write_catalog
from videomem.video.datasets import LAYOUTS, Found, Layout
from videomem.video.files import file_problem, is_url, split_template
from videomem.video.splits import assign_splits, hold_out
from videomem.video.survey import ClipFacts, near_duplicates, summary, survey


def main(command: str, arguments: Sequence[str]) -> int:
    """Run `catalog build` or `catalog check`."""
    options = parser(command, __doc__)
    actions = options.add_subparsers(dest="action", required=True, parser_class=Parser)
    build = actions.add_parser("build", help="build a catalog from a public data set, a folder of videos, or a table")
    layouts = build.add_subparsers(dest="layout", required=True, parser_class=Parser)
    for name, layout in LAYOUTS.items():
        _add_layout(layouts, name, layout)
    check = actions.add_parser("check", help="report the content and the problems of a catalog",
                               formatter_class=HelpFormatter)  # fmt: skip
    check.add_argument("catalog", type=Path)
    add_shared(check, "--workers", "--time-limit")
    check.add_argument(
        "--no-decode", action="store_true", help="check only the table and that its files exist; decode no video"
    )
    given = options.parse_args(arguments)
    if given.action == "check":
        if given.no_decode:
            refuse_unused(check, given, ("workers", "time_limit"), "with --no-decode; leave it out")
        refuse_time_limit(check, given)
        return _check(given)
    layout = LAYOUTS[given.layout]
    found = layout.find(given.root, given.annotations, **{name: getattr(given, name) for name in given.options})
    return _build(_with_splits(found, layout, given), given)


def _add_layout(layouts: Any, name: str, layout: Layout) -> None:
    subparser = layouts.add_parser(
        name,
        help=layout.help,
        description=getdoc(sys.modules[layout.read.__module__]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparser.set_defaults(annotations=None, allow_missing=layout.missing_is_normal)
    if layout.annotations:
        subparser.add_argument("--annotations", type=Path, required=True, help=layout.annotations)
    own = [subparser.add_argument(flag, **(how or SHARED[flag])).dest for flag, how in layout.options.items()]
    subparser.set_defaults(options=own)
    subparser.add_argument("--root", type=Path, required=True, help="folder that contains the videos")
    subparser.add_argument("--out", type=Path, required=True, help="catalog to write, .csv, .parquet or .arrow")
    if not layout.missing_is_normal:
        missing = "exclude listed files that do not exist, and write their names to OUT.missing.txt"
        subparser.add_argument("--allow-missing", action="store_true", help=missing)
    if not layout.has_splits:
        shares = "shares of train, val and test; 0 for no such split (default: 0.7,0.15,0.15)"
        subparser.add_argument("--fractions", type=_fractions, default="0.7,0.15,0.15", help=shares)
    if not layout.has_val:
        share = "share of the training groups that is held out as val (default: 0)"
        subparser.add_argument("--val-share", type=_share, default=0.0, help=share)
    if not (layout.has_splits and layout.has_val):
        subparser.add_argument("--seed", type=at_least(0), default=0, help="seed of the split (default: 0)")


def _share(text: str) -> float:
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def _fractions(text: str) -> dict[str, float]:
    try:
        values = [number(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not (min(values) >= 0 < values[0] and abs(sum(values) - 1) <= 1e-6):
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares such as 0.7,0.15,0.15 that sum to 1")
    return {split: value for split, value in zip(("train", "val", "test"), values, strict=True) if value}


def _with_splits(found: Found, layout: Layout, given: argparse.Namespace) -> Found:
    """Draws the splits that the data set lacks, before any file is looked for: missing files do not change splits."""
    clips = found.clips
    if not layout.has_splits:
        known = {bool(clip.split) for clip in clips}
        if known == {True, False}:
            lacking = next(clip for clip in clips if not clip.split)
            raise VideomemError(
                f"{lacking}: the split is empty, but other rows have one; give all rows a split or none"
            )
        return found if known == {True} else found._replace(clips=[*assign_splits(clips, given.fractions, given.seed)])
    if not layout.has_val and given.val_share:
        return found._replace(clips=[*hold_out(clips, given.val_share, given.seed)])
    return found


def _build(found: Found, given: argparse.Namespace) -> int:
    problem_of = _file_problems(found.clips)
    lacking = [path for path, problem in problem_of.items() if problem and not is_url(path)]
    missing = [path for path in lacking if given.allow_missing or not os.path.exists(split_template(path)[0])]
    if missing and (not given.allow_missing or len(missing) == len(problem_of)):
        raise VideomemError(_what_is_missing(missing, len(problem_of), given.root))
    left_out = frozenset(missing)
    catalog = Catalog(tuple(clip for clip in found.clips if clip.path not in left_out))
    of_files = [problem for path, problem in problem_of.items() if problem and path not in left_out]
    effect = ", so no catalog was written"
    if of_files and not given.allow_missing:
        effect += " (--allow-missing excludes files that cannot be read)"
    _raise_all([*catalog_problems(catalog), *of_files], "", effect)
    write_catalog(catalog, given.out)
    list_of_missing = given.out.with_name(f"{given.out.name}.missing.txt")
    if missing:
        content = "".join(f"{name}\n" for name in missing)
        write_atomic(list_of_missing, content.encode("utf-8", "surrogateescape"))
    else:
        list_of_missing.unlink(missing_ok=True)
    _print_contents(catalog)
    for note in found.notes:
        say(note)
    if missing:
        say(f"{len(missing)} of {len(problem_of)} listed files are missing or empty; they are in {list_of_missing}")
    _warn([*found.warnings, *catalog_warnings(catalog)])
    say(f"catalog {given.out}")
    return 0


def _what_is_missing(missing: Sequence[str], num_listed: int, root: Path) -> str:
    first = ", ".join(os.path.relpath(path, root) for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
    if len(missing) == num_listed:
        return f"{root}: none of the {num_listed} listed files exists ({first}); check --root"
    return (
        f"{root}: {len(missing)} of the {num_listed} listed files are missing ({first}); complete the data set, or "
        "exclude them with --allow-missing"
    )


def _check(given: argparse.Namespace) -> int:
    catalog = absolute_clips(given.catalog)
    problem_of = _file_problems(catalog.clips)
    problems = [*catalog_problems(catalog), *(problem for problem in problem_of.values() if problem)]
    _print_contents(catalog)
    warnings, num_leak_warnings = catalog_warnings(catalog), 0
    if not given.no_decode:
        clips = [clip for clip in catalog.clips if problem_of[clip.path] is None]
        of_clips, num_leak_warnings = _survey(clips, given.workers, given.time_limit)
        problems += of_clips
    _warn(warnings)
    _raise_all(problems, f"{given.catalog}: ")
    num_warnings = len(warnings) + num_leak_warnings
    found = f"no errors, but {num_warnings} warning(s), see above" if num_warnings else "no problems"
    say(f"{given.catalog}: {found}")
    return 0


def _survey(clips: Sequence[Clip], num_workers: int, time_limit_s: float) -> tuple[list[str], int]:
    """Decodes every clip and prints a summary and a warning of near-duplicates in different splits.

    Returns:
        The problems of the clips that cannot be decoded, and the number of warnings.
    """
    answers = survey(clips, num_workers, time_limit_s)
    shown = tracked(answers, "decoding clips", len(clips), console(to_stderr=True))
    answer_of = dict(zip(clips, shown, strict=True))
    facts = {clip: answer for clip, answer in answer_of.items() if isinstance(answer, ClipFacts)}
    for name, text in summary(list(facts.values())).items():
        say(f"{name:<12} {text}")
    num_pairs, pairs = near_duplicates(facts)
    if pairs:
        of_splits = ", ".join(f"{count} in {splits}" for splits, count in num_pairs.items())
        remedy = "remove one clip of each pair, or put both in one split"
        _warn([f"near-duplicates are in different splits: {of_splits}; {remedy}; the first: {pairs[0]}"])
        _list(pairs[1:], num_pairs.total() - 1)
    return [answer for answer in answer_of.values() if isinstance(answer, str)], int(bool(pairs))


def _file_problems(clips: Iterable[Clip]) -> dict[str, str | None]:
    return {path: file_problem(path) for path in dict.fromkeys(clip.path for clip in clips)}


def _raise_all(problems: Iterable[str], where: str, effect: str = "") -> None:
    """Lists all problems but the first one, which the error names."""
    if found := list(dict.fromkeys(problems)):
        _list(found[1:])
        raise VideomemError(f"{where}{len(found)} problem(s){effect}; the first: {found[0]}")


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        say(f"warning: {warning}", to_stderr=True)


def _list(problems: Sequence[str], num_problems: int | None = None) -> None:
    for problem in problems[:20]:
        say(problem, to_stderr=True)
    if (more := (num_problems or len(problems)) - len(problems[:20])) > 0:
        say(f"... and {more} more", to_stderr=True)


def _print_contents(catalog: Catalog) -> None:
    num_groups = len({clip.group for clip in catalog.clips})
    say(f"{len(catalog.classes)} classes, {len(catalog.clips)} clips, {num_groups} groups")
    counts = Counter((clip.label, clip.split) for clip in catalog.clips)
    rows = [(label, *(counts[label, split] for split in catalog.splits)) for label in catalog.classes]
    console().print(table(None, ["label", *(split or "(none)" for split in catalog.splits)], rows))
