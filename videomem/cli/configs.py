"""`videomem configs`: copy the config files of videomem to a folder, to use and to edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videomem.cli.options import parser
from videomem.cli.terminal import say
from videomem.errors import VideomemError
from videomem.utils.atomic import write_atomic
from videomem.utils.folders import config_folder


def main(command: str, arguments: Sequence[str]) -> int:
    """Copy the config files; existing files are not overwritten."""
    options = parser(command, __doc__)
    options.add_argument("--out", type=Path, default=Path("configs"), help="output folder")
    out = options.parse_args(arguments).out
    if out.exists() and not out.is_dir():
        raise VideomemError(f"{out}: a file, but must be a folder")
    source, num_new = config_folder(), 0
    for path in sorted(source.rglob("*.yaml")):
        target = out / path.relative_to(source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, path.read_bytes())
            num_new += 1
        elif target.read_bytes() != path.read_bytes():
            say(f"kept the existing {target}")
    say(f"{num_new} configs written to {out}")
    return 0
