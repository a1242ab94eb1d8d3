"""Measure how well frame differences distinguish scene changes from motion.

    python benchmarks/scenes.py FOLDER...

Prints, for several thresholds, how many frames within the videos differ from the previous frame by more than the
threshold, and how many cuts between consecutive videos do not. Cuts within a video are counted as motion.
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
