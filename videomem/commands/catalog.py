"""`videomem catalog`: build or check the table of your videos."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from videomem.commands.arguments import Parser, at_least, parser
from videomem.errors import VideomemError
from videomem.video.catalog import (
    Catalog,
    Clip,
    absolute_clips,
    assign_splits,
    catalog_problems,
    file_problem,
    write_catalog,
)
from videomem.video.layouts import from_csv, from_folder


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run `catalog build` or `catalog check`."""
    options = parser(verb, __doc__)
    actions = options.add_subparsers(dest="action", required=True, parser_class=Parser)
    build = actions.add_parser("build", help="from the videos of a folder, or from your own table")
    layouts = build.add_subparsers(dest="layout", required=True, parser_class=Parser)
    folder = layouts.add_parser("folder", help="ROOT/[train|val|test/]CLASS/VIDEO")
    table = layouts.add_parser(
        "csv", help="your own table: path,label and, as you have them, split,group,start_s,end_s"
    )
    table.add_argument("--table", type=Path, required=True, help="your CSV or Parquet file")
    for layout in (folder, table):
        layout.add_argument("--root", type=Path, required=True, help="folder that paths are relative to")
        layout.add_argument("--out", type=Path, required=True, help="catalog to write, .csv or .parquet")
        layout.add_argument("--seed", type=at_least(0), default=0, help="seed of the split, where none is given")
        layout.add_argument(
            "--fractions", type=_fractions, default="0.7,0.15,0.15", help="train,val,test; 0 leaves a split out"
        )
    check = actions.add_parser("check", help="say what is wrong with a catalog, and what is in it")
    check.add_argument("catalog", type=Path)
    given = options.parse_args(arguments)
    if given.action == "check":
        return _check(given.catalog)
    clips = from_folder(given.root) if given.layout == "folder" else from_csv(given.root, given.table)
    return _build(clips, given.out, given.fractions, given.seed)


def _fractions(text: str) -> dict[str, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not (min(values) >= 0 < values[0] and abs(sum(values) - 1) <= 1e-6):
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares such as 0.7,0.15,0.15 that sum to 1")
    return {split: value for split, value in zip(("train", "val", "test"), values, strict=True) if value}


def _build(clips: Sequence[Clip], out: Path, fractions: dict[str, float], seed: int) -> int:
    given = {bool(clip.split) for clip in clips}
    if given == {True, False}:
        missing = next(clip for clip in clips if not clip.split)
        raise VideomemError(f"{missing}: the split is empty, but other rows have one; give all rows a split or none")
    clips = tuple(clips) if given == {True} else assign_splits(clips, fractions, seed)
    catalog = Catalog(clips, out)
    problems = [*catalog_problems(catalog), *_file_problems(clips)]
    if problems:
        _list(problems[1:])
        raise VideomemError(f"{len(problems)} problem(s), so no catalog was written; the first: {problems[0]}")
    write_catalog(catalog, out)
    _print_contents(catalog)
    print(f"catalog {out}")
    return 0


def _check(path: Path) -> int:
    catalog = absolute_clips(path)
    problems = [*catalog_problems(catalog), *_file_problems(catalog.clips)]
    _print_contents(catalog)
    if problems:
        _list(problems[1:])
        raise VideomemError(f"{path}: {len(problems)} problem(s); the first: {problems[0]}")
    print(f"{path}: no problems")
    return 0


def _file_problems(clips: Sequence[Clip]) -> list[str]:
    problems = (file_problem(path) for path in dict.fromkeys(clip.path for clip in clips))
    return [problem for problem in problems if problem]


def _list(problems: Sequence[str], most: int = 20) -> None:
    for problem in problems[:most]:
        print(problem, file=sys.stderr)
    if len(problems) > most:
        print(f"... and {len(problems) - most} more", file=sys.stderr)


def _print_contents(catalog: Catalog) -> None:
    table = Table(title=f"{len(catalog.clips)} clips, {len({clip.group for clip in catalog.clips})} groups")
    table.add_column("label")
    for split in catalog.splits:
        table.add_column(escape(split or "(none)"), justify="right")
    counts = Counter((clip.label, clip.split) for clip in catalog.clips)
    for label in catalog.classes:
        table.add_row(escape(label), *(str(counts[label, split]) for split in catalog.splits))
    Console().print(table)
