"""Text from files in messages: characters that a terminal would act on are escaped."""

from __future__ import annotations


def printable(text: object) -> str:
    """Text that is safe to print in one line: characters that move the cursor or change colours are escaped."""
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
