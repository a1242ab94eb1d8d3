"""`videomem synthesize`: make synthetic videos whose class is told by order alone, or by looks alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videomem.cli.options import add_fields, parser
from videomem.video.synthetic import SyntheticSettings, synthesize

HELPS = {
    "train_pairs": "pairs (a clip and its reversal) of each action for training",
    "val_pairs": "pairs of each action for validation",
    "test_pairs": "pairs of each action for testing",
    "num_frames": "frames per clip, even",
    "frame_size": "height and width in pixels, even",
    "fps": "frames per second",
    "seed": "seed of everything that is drawn",
    "label_by": "direction (what the object does: order tells) or shape (what it looks like: order tells nothing)",
}


def main(command: str, arguments: Sequence[str]) -> int:
    """Write lossless clips and their catalog."""
    options = parser(command, __doc__)
    options.add_argument("--out", type=Path, required=True, help="folder for clips/ and catalog.csv")
    add_fields(options, SyntheticSettings(), HELPS)
    given = vars(options.parse_args(arguments))
    out = given.pop("out")
    catalog = synthesize(SyntheticSettings(**given), out)
    print(f"{len(catalog.clips)} clips of {len(catalog.classes)} classes in {out}; catalog {out / 'catalog.csv'}")
    return 0
