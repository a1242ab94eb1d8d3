"""Speed of `extract` beside the limit of the machine, and beside the usual loop.

    python benchmarks/extraction.py                                        # about 15 minutes on 2 cores
    python benchmarks/extraction.py --clips 48 --sizes 640x480 --networks alexnet:fc6

Videos of a moving texture are written to a temporary folder, and 16 frames of each are used. The limit is the time that
the cores take if none of them ever waits: the CPU time of decoding, of resizing, and of the network at its fastest
batch size, each measured alone on one thread, divided by the number of cores. The usual loop decodes with decord (or
PyAV), resizes with Pillow, runs the network on the 16 frames of a clip, and saves an array, on all cores.

Each row is one run of `extract`. The imports of torch by the main process, and by the server that workers are forked
from, are not included: each happens once in a process. Above 1, it is faster than the usual loop; `of the limit` is at
most 1, up to noise.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from videomem.features.backbone import Backbone, BackboneSettings, load_backbone
from videomem.features.extraction import extract
from videomem.features.preprocessing import Preprocessing
from videomem.features.settings import FeatureSettings
from videomem.utils.parallel_jobs import one_thread
from videomem.utils.workers import run_isolated
from videomem.video.catalog import Clip
from videomem.video.decoders import by_decord
from videomem.video.decoding import DecodedClip, decode_clip
from videomem.video.sampling import Uniform, uniform_indices
from videomem.video.synthetic import write_video

NUM_FRAMES, SAMPLED = 60, 16
BATCHES: tuple[int, ...] = (4, 8, 16, 32, 64)
GPU_BATCHES = (256, 1024)
NETWORK_S = 2.0  # time for which each batch size is tried


def moving_texture(num_frames: int, height: int, width: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Frames (height, width, 3) of a window that moves over a static texture."""
    rng, num_rows, num_columns = np.random.default_rng(seed), height + num_frames // 2 + 8, width + 2 * num_frames + 8
    texture = rng.integers(0, 256, (num_rows // 8, num_columns // 8, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    return (texture[n // 2 : n // 2 + height, 2 * n : 2 * n + width] for n in range(num_frames))


def write(path: Path, seed: int, width: int, height: int) -> None:
    frames = moving_texture(NUM_FRAMES, height, width, seed)
    write_video(path, frames, 25, "libx264", "yuv420p", {"crf": "23", "preset": "veryfast"})


def cpu_seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def decoding_and_resizing(clips: list[Clip], shape: Preprocessing) -> tuple[float, float]:
    """CPU seconds of decoding and of resizing all clips, on one thread."""
    frames: list[DecodedClip] = []
    with one_thread():
        decode_s = cpu_seconds(lambda: frames.extend(decode_clip(clip.path, Uniform(SAMPLED)) for clip in clips))
        height, width = frames[0].frames_THWC.shape[1:3]
        size = [shape.resize_px * side // min(height, width) for side in (height, width)]

        def resize() -> None:
            for clip in frames:
                images = torch.from_numpy(clip.frames_THWC).permute(0, 3, 1, 2)
                interpolate(images, size, mode=shape.interpolation, antialias=True)

        return decode_s, cpu_seconds(resize)


def network_seconds(backbone: Backbone) -> float:
    """Seconds per frame of the network at its fastest batch size: of one CPU thread, or of a GPU."""
    shape, on_gpu, per_frame_s = backbone.preprocessing, backbone.device.type != "cpu", []
    clock = time.perf_counter if on_gpu else time.process_time
    with one_thread():
        for batch_size in GPU_BATCHES if on_gpu else BATCHES:
            batch = torch.randint(0, 256, (batch_size, 3, shape.crop_px, shape.crop_px), dtype=torch.uint8)
            batch = batch.to(backbone.device)
            backbone(batch).cpu()
            num, started = 0, clock()
            while clock() < started + NETWORK_S:
                backbone(batch).cpu()  # Waits for the GPU.
                num += batch_size
            per_frame_s.append((clock() - started) / num)
    return min(per_frame_s)


def usual_decoding(path: str) -> NDArray[np.uint8]:
    """The sampled frames by decord, or by PyAV, where there is no decord."""
    if by_decord.is_installed():
        import decord

        reader = decord.VideoReader(path)
        frames: NDArray[np.uint8] = reader.get_batch(uniform_indices(len(reader), SAMPLED).tolist()).asnumpy()
        return frames
    with av.open(path) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([images[index] for index in uniform_indices(len(images), SAMPLED)])


def usual_loop(clips: list[Clip], backbone: Backbone, out: Path) -> float:
    """Wall time of the usual loop."""
    preset = backbone.preprocessing
    out.mkdir()
    started = time.perf_counter()
    for number, clip in enumerate(clips):
        resized = []
        for image in map(Image.fromarray, usual_decoding(clip.path)):
            scale = preset.resize_px / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
            left, top = (image.width - preset.crop_px) // 2, (image.height - preset.crop_px) // 2
            resized.append(np.asarray(image.crop((left, top, left + preset.crop_px, top + preset.crop_px))))
        frames = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
        np.save(out / f"{number}.npy", backbone(frames.to(backbone.device)).cpu().numpy())
    return time.perf_counter() - started


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clips", type=int, default=100)
    options.add_argument("--sizes", nargs="+", default=["640x480", "320x240"], help="width x height")
    options.add_argument("--networks", nargs="+", default=["alexnet:fc6", "resnet18:avgpool"], help="name:layer")
    options.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    given = options.parse_args()
    cores = torch.get_num_threads()
    print(
        f"{os.cpu_count()} cores, {cores} threads, torch {torch.__version__}, {given.clips} clips of {SAMPLED} frames"
    )
    print("| size | network | precision | workers | seconds | of the limit | usual loop / extract |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        list(run_isolated(str, [""], 1, 60.0, preload="videomem.features.clip_decoding"))  # Starts the server.
        for size in given.sizes:
            width, height = map(int, size.split("x"))
            clips = []
            for number in range(given.clips):
                path = Path(folder) / f"{size}-{number}.mp4"
                write(path, number, width, height)
                clips.append(Clip(str(path), "class", "train", str(number)))
            for network in given.networks:
                name, layer = network.split(":")
                exact = load_backbone(BackboneSettings(name, layer, "random"))
                loop_s = usual_loop(clips, exact, Path(folder) / f"{size}-{name}")
                for precision in given.precisions:
                    settings = BackboneSettings(name, layer, "random", precision=precision)
                    backbone = load_backbone(settings)
                    parts = decoding_and_resizing(clips, backbone.preprocessing)
                    parts = *parts, network_seconds(backbone) * SAMPLED * len(clips)
                    for workers in given.workers:
                        features = FeatureSettings(settings, Uniform(SAMPLED))
                        started = time.perf_counter()
                        with tempfile.TemporaryDirectory(dir=folder) as root:
                            report = extract(clips, features, root, num_workers=workers)
                            seconds = time.perf_counter() - started
                        assert report.num_extracted == len(clips)
                        shares = f"{sum(parts) / cores / seconds:.2f} | {loop_s / seconds:.2f}"
                        print(f"| {size} | {name} | {precision} | {workers} | {seconds:.1f} | {shares} |", flush=True)
                    cpu = ", ".join(f"{part:.1f}" for part in parts)
                    print(f"| {size} | {name} | {precision} | CPU seconds: {cpu} | {sum(parts) / cores:.1f} | 1 | "
                          f"{loop_s / sum(parts) * cores:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
