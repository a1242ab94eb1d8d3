"""Text in messages: characters that a terminal would act on are escaped, and the names nearest to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def printable(text: object) -> str:
    """Text that is safe to print in one line: characters that move the cursor or change colors are escaped."""
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(word: str, choices: Sequence[str]) -> str:
    """The choices most similar to a word, for error messages."""
    near = difflib.get_close_matches(word, choices, n=5, cutoff=0.3)
    return ", ".join(dict.fromkeys([*near, *choices[-3:]][:6]))


def p_text(p: float) -> str:
    """A p-value as `p < 0.001`, `p = 0.034` or `p = 0.21`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
