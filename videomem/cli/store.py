"""`videomem store`: merge, verify, clean or describe feature stores, in folders or at URLs."""

from __future__ import annotations

from collections.abc import Sequence

from videomem.cli.options import parser
from videomem.cli.terminal import console, say, table
from videomem.features.maintenance import garbage, merge, problems, statistics_of, stores_in


def main(command: str, arguments: Sequence[str]) -> int:
    """Runs `merge`, `verify`, `gc` or `stats`."""
    options = parser(command, __doc__)
    commands = options.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in {
        "merge": "copy the clips of stores into another folder; those that are there already are not copied",
        "verify": "read every shard and compare the checksums of all clips",
        "gc": "remove what killed processes left, and shards that no plan names",
        "stats": "print the settings, clips, frames, bytes and failures of each store",
    }.items():
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name == "merge":
            one.add_argument("out", metavar="OUT", help="folder of stores, or its URL, which receives the clips")
            one.add_argument("roots", metavar="IN", nargs="+", help="folders of stores, or their URLs")
        else:
            one.add_argument("root", metavar="STORE", help="folder of stores, or its URL")
        if name == "gc":
            one.add_argument("--dry-run", action="store_true", help="print what would be removed, and keep it")
    given = options.parse_args(arguments)
    if given.action == "merge":
        merged = merge(given.out, given.roots)
        say(f"{merged.num_copied} clips copied into {given.out}, {merged.num_known} were already there")
        return 0
    if given.action == "verify":
        return _verify(given.root)
    return _gc(given.root, given.dry_run) if given.action == "gc" else _stats(given.root)


def _verify(root: str) -> int:
    found = 0
    for found, problem in enumerate(problems(root), 1):  # noqa: B007 - their number is printed
        say(problem, to_stderr=True)
    num_clips = sum(statistics_of(store).num_clips for store in stores_in(root)) if not found else 0
    say(f"{found} problems in {root}" if found else f"{num_clips} clips in {root}, all with the right checksum")
    return 1 if found else 0


def _gc(root: str, dry_run: bool) -> int:
    total = 0
    for folder, name, num_bytes in list(garbage(root)):
        say(f"{'would remove' if dry_run else 'removed'} {folder.named(name)} ({num_bytes:,} bytes)")
        if not dry_run:
            folder.remove(name)
        total += num_bytes
    say(f"{total:,} bytes {'would be ' if dry_run else ''}freed in {root}")
    return 0


def _stats(root: str) -> int:
    columns = ["store", "settings", "clips", "frames", "bytes", "failures", "incomplete shards"]
    rows = []
    for one in map(statistics_of, stores_in(root)):
        numbers = one.num_clips, one.num_frames, one.num_bytes, one.num_failures, one.num_incomplete
        rows.append((one.key, one.words, *(f"{number:,}" for number in numbers)))
    console().print(table(None, columns, rows, left=["settings"]))
    return 0
