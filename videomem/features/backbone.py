"""The frozen network that computes a feature vector for each frame, or for each segment of frames."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call

from videomem.errors import VideomemError, one_line
from videomem.features.encoders import by_timm, by_torchvision, by_transformers
from videomem.features.encoders.encoder import BackboneSettings, Blueprint
from videomem.features.preprocessing import Preprocessing

# Each library has a module with the functions `blueprint`, `encoder` and `outputs`.
_LIBRARIES: dict[str, ModuleType] = {"torchvision": by_torchvision, "timm": by_timm, "transformers": by_transformers}
# Frames of a batch: on a CPU, of a network with at least MANY_WEIGHTS, and of others.
GPU_BATCH, LARGE_CPU_BATCH, SMALL_CPU_BATCH = 64, 32, 8
MANY_WEIGHTS = 2**25


class Backbone(nn.Module):
    """A network up to one of its layers. It is frozen: always in evaluation mode, without gradients.

    Args:
        settings: The network, its layer and its weights.
        blueprint: That of an exported folder, which has the weights too: they must be loaded from a state_dict
            afterwards. None: those of the settings.

    Shape:
        frames (N, 3, crop, crop) uint8, or segments (N, F, 3, crop, crop) -> features (N, D) float32
    """

    def __init__(self, settings: BackboneSettings, blueprint: Blueprint | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.blueprint = blueprint or blueprint_of(settings)
        self.preprocessing = self.blueprint.preprocessing
        library = _LIBRARIES[settings.library]
        self.encoder = library.encoder(settings, self.blueprint, load_weights=blueprint is None)
        self.requires_grad_(False)
        self.eval()
        output = self._tried()
        if not _has_features(output):
            shape = f"outputs of shape {tuple(output.shape)}" if isinstance(output, Tensor) else "several outputs"
            raise VideomemError(
                f"backbone.layer is {settings.layer!r}, which gives {shape} for {_TRIED} frames, but must give a "
                "vector or square maps for each; `videomem extract --layers` lists the layers that do"
            )
        self.feature_dim = pooled(output, settings.grid).shape[1]
        if settings.precision == "bfloat16":  # Once: autocast would round the weights for every batch.
            for module in self.encoder.modules():
                if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
                    module.to(torch.bfloat16)

    @torch.no_grad()
    def _tried(self) -> Any:
        """The output for a few images on the meta device, which has shapes only."""
        tensors = {**dict(self.encoder.named_parameters()), **dict(self.encoder.named_buffers())}
        shapes = {name: torch.empty_like(value, device="meta") for name, value in tensors.items()}
        images = torch.zeros(_TRIED, *input_shape(self.settings, self.preprocessing), device="meta")
        try:
            return functional_call(self.encoder, shapes, (images,))
        except (RuntimeError, ValueError, IndexError) as error:
            raise VideomemError(
                f"{self.settings.name} cannot take images of shape {tuple(images.shape[1:])}: {one_line(error)[:200]}"
            ) from error

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def batch_size(self) -> int:
        """Number of frames, or segments of frames, of a batch; see `extract_features`.

        On a CPU, the outputs of layers fit in its caches only if the batch is small, but many weights, as in the
        classifier of AlexNet, have to be read for each batch. `benchmarks/extraction.py` measures both.
        """
        num_weights = sum(weights.numel() for weights in self.parameters())
        on_cpu = LARGE_CPU_BATCH if num_weights >= MANY_WEIGHTS else SMALL_CPU_BATCH
        num_frames = on_cpu if self.device.type == "cpu" else GPU_BATCH
        return max(num_frames // self.settings.segment_frames, 1)

    def train(self, mode: bool = True) -> Backbone:
        """Ignore `mode` and stay in evaluation mode, since the network is frozen."""
        return super().train(False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.eval()  # A copied or unpickled `fx.GraphModule` is in training mode, which activates dropout.

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        with exact_float32():
            return self._features(self.preprocessing.normalize(frames))

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            maps = self.encoder(images)
        return pooled(maps, self.settings.grid)

    def weights_hash(self) -> str:
        """SHA-256 of the names, shapes and values of the weights up to the layer."""
        digest = sha256()
        for name, value in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            value = value.float() if value.dtype == torch.bfloat16 else value  # NumPy has no bfloat16.
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Everything in the network that determines a feature; part of the store's key."""
        settings = {name: getattr(self.settings, name) for name in ("library", "grid", "segment_frames", "precision")}
        return {**settings, "node": self.encoder.node, "weights_sha256": self.weights_hash(), **asdict(self.blueprint)}


@lru_cache(maxsize=16)
def blueprint_of(settings: BackboneSettings) -> Blueprint:
    """The blueprint of a network, cached, since it may be downloaded. Loads no weights.

    Raises:
        VideomemError: If there is no such network, or its library is not installed.
    """
    blueprint: Blueprint = _LIBRARIES[settings.library].blueprint(settings)
    return blueprint


_TRIED = 2  # Frames by which a layer is tried: an output of one row may be the same for all frames.


def input_shape(settings: BackboneSettings, preprocessing: Preprocessing) -> tuple[int, ...]:
    """The shape of what a feature vector is computed of: a frame, or a segment of frames."""
    image = 3, preprocessing.crop_px, preprocessing.crop_px
    return image if settings.segment_frames == 1 else (settings.segment_frames, *image)


def _has_features(output: object) -> TypeGuard[Tensor]:
    """Whether the output of a layer has a vector or maps for each of `_TRIED` frames, which are square, as maps are."""
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != _TRIED:
        return False
    if output.ndim == 5:
        return output.shape[3] == output.shape[4] or output.shape[2] == output.shape[3]
    return output.ndim != 4 or output.shape[2] == output.shape[3] or _is_channels_last(output)


def _is_channels_last(maps: Tensor) -> bool:
    return maps.shape[1] == maps.shape[2] != maps.shape[3]


def pooled(maps: Tensor, grid: int) -> Tensor:
    """Features (N, D) of the output of a layer: square maps are pooled to at most grid x grid cells.

    Maps are (N, C, height, width) or, in some transformers, (N, height, width, C); those of a video network have an
    axis of time before height and width, over which they are averaged. The features are those of the cells of the first
    channel, then of the next one.
    """
    if maps.ndim == 5:
        maps = maps.mean(2) if maps.shape[3] == maps.shape[4] else maps.mean(1)
    if maps.ndim == 4:
        if _is_channels_last(maps):
            maps = maps.permute(0, 3, 1, 2)
        cells = min(grid, maps.shape[2]), min(grid, maps.shape[3])  # More cells would repeat features.
        maps = torch.nn.functional.adaptive_avg_pool2d(maps, cells)
    return maps.flatten(1).float()


@torch.no_grad()
def layer_dims(settings: BackboneSettings) -> dict[str, int]:
    """Number of features D at each layer of a network, in the order of computation. Needs no weights."""
    blueprint = blueprint_of(settings)
    with torch.device("meta"):
        images = torch.zeros(_TRIED, *input_shape(settings, blueprint.preprocessing))
        found = _LIBRARIES[settings.library].outputs(settings, blueprint, images)
    return {layer: pooled(output, settings.grid).shape[1] for layer, output in found.items() if _has_features(output)}


@contextmanager
def exact_float32() -> Iterator[None]:
    """Use full float32 precision and deterministic kernels on a GPU.

    By default cuDNN rounds factors to TensorFloat-32 with a mantissa of 10 bits. Features of a GPU would then differ
    from those of a CPU by as much as float16 storage does, although both have the same key in the store.
    """
    cudnn: Any = torch.backends.cudnn  # Any: its type stubs lack `conv` and `rnn`.
    operations = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    precisions, deterministic = [operation.fp32_precision for operation in operations], cudnn.deterministic
    try:
        for operation in operations:
            operation.fp32_precision = "ieee"
        cudnn.deterministic = True
        yield
    finally:
        for operation, precision in zip(operations, precisions, strict=True):
            operation.fp32_precision = precision
        cudnn.deterministic = deterministic


def load_backbone(settings: BackboneSettings, device: torch.device | str = "cpu") -> Backbone:
    """A backbone on a device, cached, since building AlexNet takes a second.

    All callers share it: copy it before you move it to another device.
    """
    return _backbone_on(settings, str(device))


@lru_cache(maxsize=4)
def _backbone_on(settings: BackboneSettings, device: str) -> Backbone:
    return Backbone(settings) if device == "cpu" else copy.deepcopy(load_backbone(settings)).to(device)


@lru_cache(maxsize=2)
def backbone_identity(settings: BackboneSettings) -> dict[str, Any]:
    """The identity of a backbone, cached, since hashing AlexNet takes a second."""
    return load_backbone(settings).identity()


def extract_features(backbone: Backbone, frames: Tensor) -> Tensor:
    """Features (N, D) of frames (N, 3, crop, crop) uint8, or of segments of frames (N, F, 3, crop, crop).

    They are computed in batches of exactly `backbone.batch_size` frames or segments.

    The last batch is padded with zeros: in a batch of another size, the features of a frame can differ in their last
    bits.
    """
    device, batch_size = backbone.device, backbone.batch_size
    pinned = device.type == "cuda" and not frames.is_cuda  # A copy is asynchronous only from pinned memory.
    rows = []
    for part in frames.split(batch_size):
        filled = torch.zeros(batch_size, *part.shape[1:], dtype=part.dtype, device=part.device, pin_memory=pinned)
        filled[: len(part)] = part
        rows.append(backbone(filled.to(device, non_blocking=True))[: len(part)])
    return torch.cat(rows)
