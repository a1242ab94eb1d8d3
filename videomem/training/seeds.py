"""Seeds from several numbers."""

from __future__ import annotations

import numpy as np


def mix_seed(*parts: int) -> int:
    """One seed from several numbers, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
