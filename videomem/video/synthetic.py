"""Write synthetic videos whose class depends only on frame order, or not at all on frame order.

Labeled by direction, every class has a partner, which is the same action played backwards. Each clip has its exact
reversal in the same split, so both classes of a pair have the same sets of frames, and a classifier that ignores frame
order is right on at most half of the clips. Labeled by shape, a clip and its reversal have the same class; shapes are
drawn independently of actions, so frame order carries no information about the class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videomem.errors import VideomemError
from videomem.utils.atomic import atomic_path, remove_orphans, write_atomic
from videomem.utils.folders import is_empty_or_absent
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import write_catalog
from videomem.video.files import ffmpeg_url

Image = NDArray[Any]
SETTINGS_FILE = "synthetic.json"
LOSSLESS = {"qp": "0", "bf": "0", "preset": "ultrafast"}


@dataclass(frozen=True)
class SyntheticSettings:
    """Settings of the synthetic data set. The same settings give byte-identical files.

    Args:
        train_pairs: Training pairs (a clip and its reversal) of each action.
        val_pairs: Validation pairs of each action.
        test_pairs: Test pairs of each action.
        num_frames: Frames per clip; an even number, so that sampling can be symmetric in time.
        frame_size: Height and width in pixels; an even number. The action stays inside the center crop.
        fps: Frames per second.
        seed: Seed of all random choices.
        label_by: `direction`: the action of the object, which depends on frame order. `shape`: its shape, which does
            not.
    """

    train_pairs: int = 56
    val_pairs: int = 4
    test_pairs: int = 10
    num_frames: int = 16
    frame_size: int = 112
    fps: int = 16
    seed: int = 0
    label_by: str = "direction"

    def __post_init__(self) -> None:
        if self.label_by not in ("direction", "shape"):
            raise VideomemError(f"label_by is {self.label_by!r}, but must be direction or shape")
        limits = {"train_pairs": (1, 10**6), "val_pairs": (0, 10**6), "test_pairs": (1, 10**6), "fps": (1, 240),
                  "num_frames": (2, 10**4), "frame_size": (64, 2048), "seed": (0, 2**32 - 1)}  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise VideomemError(f"{name} is {getattr(self, name)}, but must be within {low}..{high}")
        for name, value in (("num_frames", self.num_frames), ("frame_size", self.frame_size)):
            if value % 2:
                raise VideomemError(f"{name} is {value}, but must be even; take {value + 1}")


@dataclass(frozen=True)
class Pose:
    """The object in one frame. Positions and radius are in units of the frame's side; the center is 0."""

    x: float = 0.0
    y: float = 0.0
    radius: float = 0.17
    angle: float = 0.0
    opacity: float = 1.0


# An action computes the pose from the progress (0 to 1), the reach (0: small change, 1: largest) and the initial pose.
Action = Callable[[float, float, Pose], Pose]


def _across(p: float, reach: float) -> float:
    return (p - 0.5) * (0.35 + 0.17 * reach)


ACTIONS: dict[tuple[str, str], Action] = {
    ("move_right", "move_left"): lambda p, reach, pose: replace(pose, x=_across(p, reach)),
    ("move_down", "move_up"): lambda p, reach, pose: replace(pose, y=_across(p, reach)),
    ("grow", "shrink"): lambda p, reach, pose: replace(pose, radius=0.08 + p * (0.12 + 0.1 * reach)),
    ("appear", "vanish"): lambda p, reach, pose: replace(pose, opacity=p * (0.7 + 0.3 * reach)),
    ("turn_clockwise", "turn_anticlockwise"): lambda p, reach, pose: replace(
        pose, radius=pose.radius * 1.5, angle=0.3 * (pose.angle - math.pi) + p * math.pi * (0.7 + 0.3 * reach)
    ),
}


def synthesize(settings: SyntheticSettings, out: Path | str) -> Catalog:
    """Write `out/clips/*.mp4` and `out/catalog.csv`. File names are independent of the class.

    Raises:
        VideomemError: If `out` has any other content than an earlier result of the same settings.
    """
    out = Path(out).absolute()
    _claim(out, settings)
    clips = []
    for (forward, backward), split, number in _plan(settings):
        seed = int.from_bytes(blake2b(forward.encode(), digest_size=4).digest(), "big")
        frames, shape = render_clip(ACTIONS[forward, backward], settings, [number, seed])
        group = _name(settings.seed, f"pair {forward}", number)
        for label, sequence in ((forward, frames), (backward, frames[::-1])):
            path = out / "clips" / f"{_name(settings.seed, label, number)}.mp4"
            write_video(path, sequence, settings.fps)
            clips.append(Clip(str(path), shape if settings.label_by == "shape" else label, split, group))
    catalog = Catalog(tuple(clips))
    write_catalog(catalog, out / "catalog.csv")
    return catalog


def _plan(settings: SyntheticSettings) -> Iterator[tuple[tuple[str, str], str, int]]:
    splits = ["train"] * settings.train_pairs + ["val"] * settings.val_pairs + ["test"] * settings.test_pairs
    return ((action, split, number) for number, split in enumerate(splits) for action in ACTIONS)


def _claim(out: Path, settings: SyntheticSettings) -> None:
    claim, text = out / SETTINGS_FILE, json.dumps(asdict(settings), indent=1) + "\n"
    if not is_empty_or_absent(out) and not (claim.is_file() and claim.read_bytes() == text.encode()):
        raise VideomemError(f"{out}: is not empty; choose an empty folder for --out")
    (out / "clips").mkdir(parents=True, exist_ok=True)
    for folder in (out, out / "clips"):
        remove_orphans(folder)
    write_atomic(claim, text.encode())


def _name(seed: int, label: str, number: int) -> str:
    return blake2b(f"{seed}/{label}/{number}".encode(), digest_size=8).hexdigest()


def write_video(
    path: Path | str,
    frames: Iterable[NDArray[np.uint8]],
    fps: int | Fraction = 16,
    codec: str = "libx264rgb",
    pixel_format: str = "rgb24",
    options: Mapping[str, str] = LOSSLESS,
) -> None:
    """Encode RGB frames (height, width, 3) uint8, by default as lossless H.264, to a file such as `.mp4` or `.avi`.

    The same frames give a byte-identical file. Lossy H.264 encodes a clip and its reversal differently, which would
    reveal the direction of time to an order-blind model; lossless encoding does not.
    """
    path = Path(path)
    with atomic_path(path) as temporary, av.open(ffmpeg_url(temporary), "w", format=path.suffix[1:]) as container:
        stream = container.add_stream(codec, rate=fps, options=dict(options))
        assert isinstance(stream, VideoStream)
        stream.codec_context.thread_count = 1
        stream.pix_fmt = pixel_format
        for number, image in enumerate(frames):
            if number == 0:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


def render_clip(action: Action, settings: SyntheticSettings, key: list[int]) -> tuple[list[NDArray[np.uint8]], str]:
    """Render a clip of an object that performs an action: its frames (size, size, 3) and the name of its shape."""
    rng = np.random.default_rng([settings.seed, *key])
    size = settings.frame_size
    background = texture(rng, size, DARK)
    surface = texture(rng, size, BRIGHT)
    name = tuple(SHAPES)[rng.integers(len(SHAPES))]
    noise = float(rng.uniform(0, 1.5))
    x, y = rng.uniform(-0.1, 0.1, 2)
    pose = Pose(x, y, rng.uniform(0.14, 0.19), rng.uniform(0, 2 * math.pi))
    reach, easing = rng.uniform(), math.exp(rng.uniform(-0.4, 0.4))
    frames = []
    for progress in np.linspace(0, 1, settings.num_frames) ** easing:
        image = draw(background, surface, SHAPES[name], action(float(progress), reach, pose))
        image = image + rng.normal(0, noise, image.shape).astype(np.float32)
        frames.append(image.round().clip(0, 255).astype(np.uint8))
    return frames, name


# Color ranges of backgrounds and of objects.
DARK, BRIGHT = (0, 70), (170, 255)


def texture(rng: np.random.Generator, size: int, tones: tuple[int, int]) -> Image:
    """A plain color, a gradient, stripes or patches between two random colors of the range, (size, size, 3)."""
    one, other = rng.uniform(*tones, (2, 3))
    y, x = grid(size)
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.08, 0.3)
    along = x * math.cos(angle) + y * math.sin(angle)
    blotch_px = -(-size // 8)
    blotches = np.kron(rng.uniform(0, 1, (8, 8)), np.ones((blotch_px, blotch_px)))[:size, :size]
    kinds = (np.zeros_like(x), along + 0.5, 0.5 + 0.5 * np.sin(2 * math.pi * along / period), blotches)
    share = kinds[rng.integers(len(kinds))][..., None]
    return np.asarray(one * (1 - share) + other * share, dtype=np.float32)


def grid(size: int) -> tuple[Image, Image]:
    """Coordinates y and x of the pixels, (size, size) each, in units of the side; the center is 0."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


# Signed distance to the outline of a shape of radius 1, negative inside. No shape has a rotational symmetry.
def _wedge(x: Image, y: Image) -> Image:
    return np.maximum(np.hypot(x, y) - 1, np.maximum(-y, -x * 0.5 - y * 0.5) - 0.3)


def _arrow(x: Image, y: Image) -> Image:
    head = np.maximum(np.abs(x) * 0.8 + (y + 0.9) * 0.6 - 1.0, -y - 0.2)
    shaft = np.maximum(np.abs(x) - 0.25, np.abs(y + 0.4) - 0.6)
    return np.minimum(head, shaft)


def _half_disc(x: Image, y: Image) -> Image:
    return np.maximum(np.hypot(x, y) - 1, x)


def _corner(x: Image, y: Image) -> Image:
    upright = np.maximum(np.abs(x + 0.6) - 0.3, np.abs(y) - 0.9)
    foot = np.maximum(np.abs(x) - 0.9, np.abs(y - 0.6) - 0.3)
    return np.minimum(upright, foot)


Shape = Callable[[Image, Image], Image]
SHAPES: dict[str, Shape] = {"wedge": _wedge, "arrow": _arrow, "half_disc": _half_disc, "corner": _corner}


def draw(background: Image, surface: Image, shape: Shape, pose: Pose) -> Image:
    """Draw an object with a given surface and pose over a background, (size, size, 3)."""
    size = len(background)
    y, x = grid(size)
    x, y = (x - pose.x) / pose.radius, (y - pose.y) / pose.radius
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    distance_px = shape(x * cos + y * sin, y * cos - x * sin) * pose.radius * size
    cover = (pose.opacity * np.clip(0.5 - distance_px, 0, 1))[..., None]
    return np.asarray(background * (1 - cover) + surface * cover, dtype=np.float32)
