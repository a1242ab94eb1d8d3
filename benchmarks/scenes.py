"""What tells a new scene from motion: differences of neighbouring frames within videos, and where one follows another.

    python benchmarks/scenes.py FOLDER...

Prints how many frames within the videos differ from the one before by more than each threshold, and how many of the
cuts that arise by playing them one after the other do not. Videos may have cuts of their own, which count as within.
"""

from __future__ import annotations

import argparse

import numpy as np

from videomem.inference.streaming import SCENE_CHANGE, cell_means, difference
from videomem.video.files import videos_named
from videomem.video.live import frames_of_file


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("videos", nargs="+", help="videos, or folders of them")
    within, cuts, last = [], [], None
    for path in videos_named(options.parse_args().videos):
        for live in frames_of_file(path):
            cells = cell_means(live.frame_HWC)
            if last is not None:
                (within if live.place else cuts).append(difference(last, cells))
            last = cells
    largest = ", ".join(f"{value:.0f}" for value in sorted(within)[-6:])
    print(f"{len(within)} frames within videos: 99 % below {np.percentile(within, 99):.1f}, the largest {largest}")
    print(f"{len(cuts)} cuts: from {min(cuts):.1f}, median {np.median(cuts):.1f}")
    for threshold in (20, 25, SCENE_CHANGE, 35, 40):
        false, missed = sum(value > threshold for value in within), sum(value <= threshold for value in cuts)
        print(f"threshold {threshold:g}: {false} within videos are called cuts, {missed} cuts are missed")


if __name__ == "__main__":
    main()
