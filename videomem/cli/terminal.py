"""All text that commands write to the terminal.

File names, labels and messages come from files: characters that a terminal would act on are escaped, square brackets
are no markup, and characters that the terminal cannot encode are replaced instead of ending the command.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from videomem.utils.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# How the typographic characters of reports are written where only ASCII or another small set can be encoded.
_REPLACED = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "…": "...",
    "“": '"',
    "”": '"',
    "∞": "inf",
    "²": "^2",
    "φ": "phi",
}


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    """The error handler `videomem.replace`, as `codecs.register_error` describes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_REPLACED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


def encode_anything() -> None:
    """Let standard output and standard error take any text, whatever their encoding."""
    codecs.register_error("videomem.replace", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="videomem.replace")


def say(*lines: object, to_stderr: bool = False) -> None:
    """Print each argument as one line."""
    print(*map(printable, lines), sep="\n", file=sys.stderr if to_stderr else sys.stdout, flush=True)


def console(to_stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console for tables and progress bars. Texts are shown as they are, without markup."""
    from rich.console import Console  # Imported here so that `videomem --help` is fast.

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str("\n".join(map(printable, text.split("\n"))), **options)

    return PlainConsole(stderr=to_stderr, markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)


def table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]], left: Sequence[str] = (), **style: Any
) -> Table:
    """Returns a table for `console`.

    Args:
        left: Further columns that are aligned to the left.
        style: Further arguments of rich's `Table`.
    """
    from rich.table import Table

    shown = Table(title=title, **style)
    for name in columns:
        is_left = name in (columns[0], *left)
        shown.add_column(name, justify="left" if is_left else "right", overflow="fold")
    for row in rows:
        shown.add_row(*map(str, row))
    return shown


def narrow_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Returns a table of many columns, in as little space as possible."""
    from rich.box import SIMPLE_HEAD

    shown = table(title, columns, rows, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in shown.columns[1:]:
        column.no_wrap = True
    return shown
