"""`videomem synthesize`: make synthetic videos whose class depends on frame order only, or on appearance only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videomem.cli.options import add_synthetic_settings, parser
from videomem.cli.terminal import say
from videomem.video.synthetic import SyntheticSettings, synthesize


def main(command: str, arguments: Sequence[str]) -> int:
    """Write lossless clips and their catalog."""
    options = parser(command, __doc__)
    options.add_argument("--out", type=Path, required=True, help="output folder for clips/ and catalog.csv")
    add_synthetic_settings(options)
    given = vars(options.parse_args(arguments))
    out = given.pop("out")
    catalog = synthesize(SyntheticSettings(**given), out)
    say(f"{len(catalog.clips)} clips of {len(catalog.classes)} classes in {out}; catalog {out / 'catalog.csv'}")
    return 0
