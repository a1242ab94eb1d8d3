"""A decoder that dies, hangs or raises, for tests of workers. Workers import this module, so it imports little."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from videomem.video.decoding import DecodedClip


def decode_roughly(path: str, *_: object, **__: object) -> DecodedClip:
    """Die, hang or raise, depending on the name of the file."""
    name = Path(path).name
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs":
        time.sleep(600)
    if name == "raises":
        raise ZeroDivisionError("of a strange file")
    return DecodedClip(np.zeros((4, 8, 9, 3), np.uint8), np.arange(4), 4, 2.0, "rough", "none")
