"""How much memory the content of an untrusted file may take."""

from __future__ import annotations

SMALL = 64 * 2**20  # Taken without a question.
RATIO = 100  # More than features, tables and predictions are compressed.


def is_out_of_proportion(num_bytes: int, num_stored: int) -> bool:
    """Whether content is so much larger than what is stored of it that it was made to fill the memory.

    Args:
        num_bytes: Bytes of the content in memory.
        num_stored: Bytes of the file, or of its part with the content.
    """
    return num_bytes > max(SMALL, RATIO * num_stored)
