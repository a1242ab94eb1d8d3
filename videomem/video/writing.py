"""Write video files with PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

LOSSLESS = {"qp": "0", "bf": "0", "preset": "ultrafast"}


def write_video(
    path: Path | str,
    frames: Iterable[NDArray[np.uint8]],
    fps: int | Fraction = 16,
    codec: str = "libx264rgb",
    pixel_format: str = "rgb24",
    options: Mapping[str, str] = LOSSLESS,
) -> None:
    """Encode RGB frames (height, width, 3) uint8, by default as lossless H.264.

    The same frames give a byte-identical file. Lossy H.264 encodes a clip and its reversal differently, which would
    reveal the direction of time to an order-blind model; lossless encoding does not.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=dict(options))
        assert isinstance(stream, VideoStream)
        stream.codec_context.thread_count = 1
        stream.pix_fmt = pixel_format
        for number, image in enumerate(frames):
            if number == 0:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
