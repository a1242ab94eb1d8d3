"""The frozen image network that computes a feature vector for each frame, and its preprocessing."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.transforms import functional as F

from videomem.errors import VideomemError
from videomem.features.weights import load_state, read_state

# Names of the layers of torchvision's AlexNet in Krizhevsky 2014, "One weird trick"; fc6 and fc7 are after the ReLU.
ALEXNET_LAYERS = {"pool5": "features.12", "fc6": "classifier.2", "fc7": "classifier.5", "logits": "classifier.6"}
# Frames of a batch: on a CPU, of a network with at least MANY_WEIGHTS, and of others.
GPU_BATCH, LARGE_CPU_BATCH, SMALL_CPU_BATCH = 64, 32, 8
MANY_WEIGHTS = 2**25


@dataclass(frozen=True)
class BackboneSettings:
    """The network, the layer whose output is used, and the source of the weights.

    Args:
        name: Name of a torchvision image classifier, as for `torchvision.models.get_model`.
        layer: `pool5`, `fc6`, `fc7` or `logits` of AlexNet, or any node of the graph of a network.
        weights: `imagenet` (downloaded by torchvision), `random`, or the path of a saved state_dict.
        seed: Seed of `random` weights.
        grid: Feature maps are average-pooled to at most grid x grid cells, giving C features for each cell.
        precision: Of convolutions and matrix products. `bfloat16` is faster on processors that have instructions for
            it, such as AVX512-BF16, and rounds to 8 significant bits.
    """

    name: str = "alexnet"
    layer: str = "fc6"
    weights: str = "imagenet"
    seed: int = 0
    grid: int = 3
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= 32:
            raise VideomemError(f"backbone.grid is {self.grid}, but must be within 1..32")
        if not 0 <= self.seed < 2**32:
            raise VideomemError(f"backbone.seed is {self.seed}, but must be within 0..{2**32 - 1}")


@dataclass(frozen=True)
class Preprocessing:
    """torchvision's preset for a network: resize the shorter side, crop the centre, scale to 0..1, normalize.

    `shape_frames` resizes and crops uint8 images where frames are decoded. `normalize` does the rest, on the device.
    """

    resize_px: int
    crop_px: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, name: str) -> Preprocessing:
        """The preset of the default weights of a network. Downloads nothing."""
        preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        sizes = preset.resize_size[0], preset.crop_size[0]
        return cls(*sizes, preset.interpolation.value, tuple(preset.mean), tuple(preset.std))

    def shape_frames(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        """Resize and crop frames (T, height, width, 3) uint8 of any size to (T, 3, crop, crop) uint8.

        Integers are resized as integers, as Pillow does: several times faster than in floating point, and with the same
        bits on every processor.
        """
        height, width = frames_THWC.shape[1:3]
        size = [self.resize_px * side // min(height, width) for side in (height, width)]
        # One frame at a time: a resize of all frames would hold a long clip twice in memory.
        resized = (
            interpolate(frame.permute(2, 0, 1)[None], size, mode=self.interpolation, antialias=True)[0]
            for frame in torch.from_numpy(frames_THWC)
        )
        return torch.stack([F.center_crop(frame, [self.crop_px]) for frame in resized])

    def normalize(self, frames: Tensor) -> Tensor:
        """Scale and normalize frames (N, 3, crop, crop) uint8 to float32."""
        # Bit-identical to torchvision's `normalize`, which cannot be exported because it checks std for zeros.
        mean_311, std_311 = (
            torch.tensor(row)[:, None, None].to(frames.device, non_blocking=True) for row in (self.mean, self.std)
        )
        images = frames.float() / 255
        return images.sub_(mean_311).div_(std_311)


class Backbone(nn.Module):
    """A network up to one of its layers. It is frozen: always in evaluation mode, without gradients.

    In-place operations are turned off, since they would change the output of an earlier layer.

    Shape:
        frames (N, 3, crop, crop) uint8 -> features (N, D) float32
    """

    def __init__(self, settings: BackboneSettings, load_weights: bool = True) -> None:
        """Build the network. With `load_weights=False`, its weights must be loaded from a state_dict afterwards."""
        super().__init__()
        self.settings = settings
        check_name(settings.name)
        self.preprocessing = Preprocessing.of(settings.name)
        network = _build(settings) if load_weights else torchvision.models.get_model(settings.name, weights=None)
        self.node = _node(network, settings)
        for module in network.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        self.network = create_feature_extractor(network.eval(), {self.node: "features"})
        self.requires_grad_(False)
        self.eval()
        with torch.no_grad():
            output = self.network(torch.zeros(_TRIED, 3, *[self.preprocessing.crop_px] * 2))["features"]
        if not _has_features(output):
            shape = f"outputs of shape {tuple(output.shape)}" if isinstance(output, Tensor) else "several outputs"
            raise VideomemError(
                f"backbone.layer is {settings.layer!r}, which gives {shape} for {_TRIED} frames, but must give a "
                "vector or square maps for each; `videomem extract --layers` lists the layers that do"
            )
        self.feature_dim = pooled(output, settings.grid).shape[1]
        if settings.precision == "bfloat16":  # Once: autocast would round the weights for every batch.
            for module in self.network.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    module.to(torch.bfloat16)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def batch_size(self) -> int:
        """Number of frames of a batch; see `extract_features`.

        On a CPU, the outputs of layers fit in its caches only if the batch is small, but many weights, as in the
        classifier of AlexNet, have to be read for each batch. `benchmarks/extraction.py` measures both.
        """
        if self.device.type != "cpu":
            return GPU_BATCH
        num_weights = sum(weights.numel() for weights in self.parameters())
        return LARGE_CPU_BATCH if num_weights >= MANY_WEIGHTS else SMALL_CPU_BATCH

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
            maps = self.network(images)["features"]
        return pooled(maps, self.settings.grid)

    def weights_hash(self) -> str:
        """SHA-256 of the names, shapes and values of the weights up to the layer."""
        digest = sha256()
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            value = value.float() if value.dtype == torch.bfloat16 else value  # NumPy has no bfloat16.
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Everything in the network that determines a feature; part of the store's key."""
        settings = {"name": self.settings.name, "node": self.node, "grid": self.settings.grid,
                    "precision": self.settings.precision}  # fmt: skip
        return {**settings, "weights_sha256": self.weights_hash(), "preprocessing": asdict(self.preprocessing)}


_TRIED = 2  # Frames by which a layer is tried: an output of one row may be the same for all frames.


def _has_features(output: object) -> TypeGuard[Tensor]:
    """Whether the output of a layer has a vector or maps for each of `_TRIED` frames, which are square, as maps are."""
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != _TRIED:
        return False
    return output.ndim != 4 or output.shape[2] == output.shape[3] or _is_channels_last(output)


def _is_channels_last(maps: Tensor) -> bool:
    return maps.shape[1] == maps.shape[2] != maps.shape[3]


def pooled(maps: Tensor, grid: int) -> Tensor:
    """Features (N, D) of the output of a layer: square maps are pooled to at most grid x grid cells.

    Maps are (N, C, height, width) or, in some transformers, (N, height, width, C). The features are those of the cells
    of the first channel, then of the next one.
    """
    if maps.ndim == 4:
        if _is_channels_last(maps):
            maps = maps.permute(0, 3, 1, 2)
        cells = min(grid, maps.shape[2]), min(grid, maps.shape[3])  # More cells would repeat features.
        maps = torch.nn.functional.adaptive_avg_pool2d(maps, cells)
    return maps.flatten(1).float()


@torch.no_grad()
def layer_dims(settings: BackboneSettings) -> dict[str, int]:
    """Number of features D at each layer of a network, in the order of computation. Needs no weights."""
    check_name(settings.name)
    network = torchvision.models.get_model(settings.name, weights=None).eval()
    nodes = get_graph_node_names(network)[1][1:]
    extractor = create_feature_extractor(network, nodes)
    crop_px = Preprocessing.of(settings.name).crop_px
    outputs = extractor(torch.zeros(_TRIED, 3, crop_px, crop_px))
    return {node: pooled(output, settings.grid).shape[1] for node, output in outputs.items() if _has_features(output)}


def check_name(name: str) -> None:
    """Raise a VideomemError if torchvision has no image classifier of a name."""
    if name not in (available := torchvision.models.list_models(module=torchvision.models)):
        raise VideomemError(
            f"backbone.name is {name!r}, but torchvision does not have it; it has, for example, "
            f"{nearest(name, available)}"
        )


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
    """Features (N, D) of frames (N, 3, crop, crop) uint8, computed in batches of exactly `backbone.batch_size` frames.

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


def _build(settings: BackboneSettings) -> nn.Module:
    if settings.weights == "imagenet":
        try:
            return torchvision.models.get_model(settings.name, weights="DEFAULT")
        except (OSError, RuntimeError) as error:
            raise VideomemError(
                f"backbone.weights is imagenet, but torchvision's {settings.name} cannot be downloaded ({error}); "
                "connect to the network, or name a file or `random`"
            ) from error
    if settings.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            return torchvision.models.get_model(settings.name, weights=None)
    network = torchvision.models.get_model(settings.name, weights=None)
    option = "backbone.weights"
    load_state(network, read_state(Path(settings.weights), option), settings.weights, settings.name, option)
    return network


def _node(network: nn.Module, settings: BackboneSettings) -> str:
    layer = ALEXNET_LAYERS.get(settings.layer, settings.layer) if settings.name == "alexnet" else settings.layer
    nodes = get_graph_node_names(network)[1][1:]
    if not any(node == layer or node.startswith(f"{layer}.") for node in nodes):
        names = ", ".join(ALEXNET_LAYERS) if settings.name == "alexnet" else nearest(layer, nodes)
        raise VideomemError(
            f"backbone.layer is {settings.layer!r}, which {settings.name} does not have; try {names}, or list all with "
            "`videomem extract --layers`"
        )
    return layer


def nearest(word: str, choices: Sequence[str]) -> str:
    """The choices most similar to a word, for error messages."""
    near = difflib.get_close_matches(word, choices, n=5, cutoff=0.3)
    return ", ".join([*near, *choices[-3:]][:6])
