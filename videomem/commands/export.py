"""`videomem export`: turn a checkpoint into a folder that others can load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videomem.checkpoint import read_checkpoint
from videomem.commands.arguments import parser
from videomem.model.classifier import model_of


def main(verb: str, arguments: Sequence[str]) -> int:
    """Write the folder."""
    options = parser(verb, __doc__)
    options.add_argument("checkpoint", type=Path, help="a checkpoint of `videomem fit`")
    options.add_argument("--out", type=Path, required=True, help="new folder; load it with `videomem.load(folder)`")
    options.add_argument("--without-backbone", action="store_true", help="leave the backbone's weights out")
    given = options.parse_args(arguments)
    model_of(read_checkpoint(given.checkpoint)).save_pretrained(given.out, not given.without_backbone)
    print(f'exported to {given.out}; load it with videomem.load("{given.out}")')
    return 0
