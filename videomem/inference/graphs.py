"""A model as two graphs for other runtimes: one for whole clips, one for a single frame of a stream and its state.

Both are `nn.Module`s without Python loops or conditions on sizes, which tracing would make constant: the axes batch,
time, height and width have any size. Inputs and outputs are described in `docs/export.md`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan_op
from torch.export import Dim, ExportedProgram
from torch.func import functional_call

from videomem.errors import VideomemError, one_line
from videomem.features.preprocessing import Preprocessing
from videomem.heads import HeadState, Memory, State
from videomem.inference.model import Classifier

# Runs a graph in some runtime: inputs in order -> outputs in order.
Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Kernel = Callable[[Tensor], Tensor]
MAX_WEIGHT_BITS = 22  # of the fraction of a resizing weight in torch
BATCH, TIME, HEIGHT, WIDTH = "batch", "time", "height", "width"
# Sizes at which graphs are traced; they support other sizes.
_TRACED = {BATCH: 2, TIME: 3, HEIGHT: 40, WIDTH: 52}
EXPORT_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError)


class Port(NamedTuple):
    """An input or output of a graph. In `shape`, axes of any size have a name instead of a length."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]

    def at(self, sizes: Mapping[str, int]) -> list[int]:
        """The shape for given sizes of the named axes."""
        return [sizes[axis] if isinstance(axis, str) else axis for axis in self.shape]

    @property
    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": str(self.dtype).removeprefix("torch."), "shape": list(self.shape)}


class Case(NamedTuple):
    """Clips, with the logits of the model.

    Attributes:
        x: Input of the graph: frames or features (B, T, ...).
        lengths_B: Number of real frames of each clip.
        logits_BC: Logits of the model.
        logits_BTC: Logits after each frame, with padding treated as frames.
    """

    x: Tensor
    lengths_B: Tensor
    logits_BC: Tensor
    logits_BTC: Tensor


def shape_in_graph(frames_NHWC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Like `Preprocessing.shape_frames`: (N, height, width, 3) uint8 of any size -> (N, 3, crop, crop) uint8.

    Resizing with antialiasing is separable, so it is two matrix products, each rounded to levels of uint8; cropping
    selects rows of the matrices. A few of a million values differ by one level; see `docs/export.md`.
    """
    height, width = frames_NHWC.shape[1:3]
    # Sizes as tensors: a comparison of Python integers would be evaluated at export and become constant.
    sizes_2 = torch.stack([torch.full((), size, dtype=torch.int64) for size in (height, width)])
    resize_px = preprocessing.resize_px
    resized_2 = resize_px * sizes_2 // sizes_2.min() if isinstance(resize_px, int) else torch.tensor(resize_px)
    kernel = KERNELS[preprocessing.interpolation]
    rows, columns = (
        crop_matrix(size, sizes_2[axis], resized_2[axis], preprocessing.crop_px, kernel, preprocessing.crop_rounding)
        for axis, size in enumerate((height, width))
    )
    return _levels(rows @ _levels(frames_NHWC.movedim(3, 1).float() @ columns.T)).to(torch.uint8)


def _levels(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def crop_matrix(
    num_pixels: int, size: Tensor, resized: Tensor, crop_px: int, kernel: Kernel, rounding: str = "half_even"
) -> Tensor:
    """Weights (crop, pixels) that resize and center-crop one axis.

    Args:
        size: Length of the axis, as a tensor.
        resized: Length after resizing.
        kernel: Weight as a function of the distance in pixels of the coarser grid.
    Reference:
        torch's `interpolate(antialias=True)` of uint8, whose weights are rounded to 16 bits; torchvision's
        `center_crop`, which rounds half to even.
    """
    scale = size.double() / resized.double()
    first = (torch.round if rounding == "half_even" else torch.trunc)((resized - crop_px).double() / 2)
    wanted = torch.arange(crop_px, device=size.device) + first
    # The first row before the crop: it has the largest weights, since the kernel is cut off at the border.
    centers_P1 = (scale * (torch.cat([torch.zeros_like(wanted[:1]), wanted]) + 0.5)).unsqueeze(1)
    distances = torch.arange(num_pixels, device=size.device) + 0.5 - centers_P1
    weights = kernel((distances / scale.clamp(min=1)).abs())
    weights = weights / weights.sum(dim=1, keepdim=True)
    unit = torch.exp2(-torch.floor(torch.log2((2**15 - 0.5) / weights.max())).clamp(max=MAX_WEIGHT_BITS))
    return ((weights[1:] / unit).round() * unit).float()


def cubic(distance: Tensor) -> Tensor:
    """Cubic kernel of Keys 1981 with a = -0.5, as used by Pillow and by torch with antialiasing."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


KERNELS: dict[str, Kernel] = {"bilinear": lambda distance: (1 - distance).clamp(min=0), "bicubic": cubic}


class FrameFeatures(nn.Module):
    """Features of frames, rounded as in training. Without a backbone the inputs are features, which are rounded."""

    def __init__(self, model: Classifier, preprocess: bool) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.preprocess = preprocess
        self.dtype: torch.dtype = getattr(torch, model.settings.dtype)
        self.feature_dim = model.head.feature_dim

    def port(self, name: str, *axes: str) -> Port:
        """The input of the graph, called `name` if it is frames, else `features`."""
        if self.backbone is None:
            return Port("features", torch.float32, (*axes, self.feature_dim))
        crop_px = self.backbone.preprocessing.crop_px
        return Port(name, torch.uint8, (*axes, *((HEIGHT, WIDTH, 3) if self.preprocess else (3, crop_px, crop_px))))

    def forward(self, frames: Tensor) -> Tensor:
        """Features of frames with any leading axes, which are flattened for the backbone only.

        Up to torch 2.13, features that are flattened and unflattened cannot be exported with any number of frames.
        """
        if self.backbone is None:
            return frames.to(self.dtype)
        leading, frames = frames.shape[:-3], frames.flatten(0, -4)
        frames = shape_in_graph(frames, self.backbone.preprocessing) if self.preprocess else frames
        return self.backbone(frames).to(self.dtype).unflatten(0, leading)


class Graph(nn.Module, ABC):
    """Base class of the two graphs.

    Args:
        model: A trained model.
        preprocess: Include preprocessing of frames of any size.
    """

    name: str
    inputs: list[Port]
    outputs: list[Port]

    def __init__(self, model: Classifier, preprocess: bool = False) -> None:
        super().__init__()
        self.features = FrameFeatures(model, preprocess)
        self.head = model.head
        self.logits = Port("logits", model.head.norm.mean.dtype, (BATCH, len(model.class_names)))
        self.eval()

    @abstractmethod
    def difference(self, run: Run, case: Case) -> float:
        """Largest difference between the logits of this graph in a runtime and those of the model."""


Programs = Mapping[Graph, ExportedProgram]


class ClipGraph(Graph):
    """Whole clips: frames (B, T, ...), lengths (B,) -> logits (B, C). Padding is ignored."""

    name = "clip"

    def __init__(self, model: Classifier, preprocess: bool = False) -> None:
        super().__init__(model, preprocess)
        self.inputs = [self.features.port("frames", BATCH, TIME), Port("lengths", torch.int64, (BATCH,))]
        self.outputs = [self.logits]

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        y = self.head.projection(self.head.norm(self.features(frames)))
        for memory in self.head.memories:
            y = memory.activation(states(memory, memory.project(y)))
        return self.head.readout(self.head.classify(y), lengths)

    def difference(self, run: Run, case: Case) -> float:
        (logits_BC,) = run([case.x, case.lengths_B])
        return largest_difference(logits_BC, case.logits_BC)


class StepGraph(Graph):
    """One frame of a stream: frame (B, ...), state -> logits (B, C), next state. The initial state is zeros."""

    name = "step"

    def __init__(self, model: Classifier, preprocess: bool = False) -> None:
        super().__init__(model, preprocess)
        with torch.no_grad():
            _, state = self.head.step(self.head.norm.mean.unsqueeze(0))
        self.parts_of_layers = [len(layer) for layer in state.layers]
        names = [f"layer{n}_{part}" for n, parts in enumerate(self.parts_of_layers) for part in part_names(parts)]
        ports = [
            Port(name, value.dtype, (BATCH, value.shape[1]))
            for name, value in zip([*names, "readout"], flat(state), strict=True)
        ]
        self.inputs = [self.features.port("frame", BATCH), *ports]
        self.outputs = [self.logits, *(port._replace(name=f"next_{port.name}") for port in ports)]

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        parts = iter(state)
        layers = tuple(tuple(islice(parts, number)) for number in self.parts_of_layers)
        logits_BC, after = self.head.step(self.features(frame), HeadState(layers, next(parts)))
        return logits_BC, *flat(after)

    def difference(self, run: Run, case: Case) -> float:
        state = [torch.zeros(port.at({BATCH: len(case.x)}), dtype=port.dtype) for port in self.inputs[1:]]
        differences = []
        for frame, expected_BC in zip(case.x.unbind(1), case.logits_BTC.unbind(1), strict=True):
            logits_BC, *state = run([frame, *state])
            differences.append(largest_difference(logits_BC, expected_BC))
        return max(differences, key=lambda value: math.inf if math.isnan(value) else value)


def part_names(num_parts: int) -> list[str]:
    """Names of the parts of a layer's state: h, or h and c as in an LSTM, or h, c1, c2, ..."""
    others = num_parts - 1
    return ["h", *(["c"] if others == 1 else [f"c{number}" for number in range(1, num_parts)])]


def flat(state: HeadState) -> list[Tensor]:
    return [*(part for layer in state.layers for part in layer), state.readout]


def largest_difference(answer: Tensor, expected: Tensor) -> float:
    """The largest absolute difference, or infinity if the shapes differ, which broadcasting would hide."""
    return float((answer - expected).abs().max()) if answer.shape == expected.shape else math.inf


class _Cell(nn.Module):
    """The cell of a memory as a module, so that `functional_call` can replace its weights."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, terms_BK: Tensor, *state: Tensor) -> State:
        return self.memory.cell(terms_BK, state)


def states(memory: Memory, terms_BTK: Tensor) -> Tensor:
    """States (B, T, H) by a loop over the memory's cell that remains a loop in the exported graph.

    It calls the operator behind torch's `scan` directly. `scan` compiles its function and may then treat the number of
    frames of an earlier call as constant. All tensors used in the loop must be inputs of the operator.
    """
    if memory.memoryless:
        return terms_BTK
    cell = _Cell(memory)
    weights = dict(cell.named_parameters())
    before = [part.clone() for part in memory.initial_state(terms_BTK[:, 0])]

    def step(*tensors: Tensor) -> list[Tensor]:
        state, (terms_BK, *values) = tensors[: len(before)], tensors[len(before) :]
        after = functional_call(cell, dict(zip(weights, values, strict=True)), (terms_BK, *state))
        return [*(part.clone() for part in after), after[0].clone()]  # The outputs must not share a tensor.

    *_, h_TBH = scan_op(step, before, [terms_BTK.transpose(0, 1)], tuple(weights.values()))
    return h_TBH.transpose(0, 1)


def trace(graph: Graph) -> ExportedProgram:
    """Export a graph to operations of torch, with named axes of any size.

    Raises:
        VideomemError: If torch cannot export the graph, or an axis would have a fixed size.
    """
    dims = {axis: Dim(axis) for axis in _TRACED}
    example = [torch.ones(port.at(_TRACED), dtype=port.dtype) for port in graph.inputs]
    axes = [{n: dims[axis] for n, axis in enumerate(port.shape) if isinstance(axis, str)} for port in graph.inputs]
    varying = tuple(axes) if isinstance(graph, ClipGraph) else (axes[0], tuple(axes[1:]))
    with torch.no_grad(), export_errors(graph, "torch.export"):
        program = torch.export.export(graph, tuple(example), dynamic_shapes=varying)
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # It has the source paths of this machine.
    return program


@contextmanager
def export_errors(graph: Graph, exporter: str, *more_errors: type[Exception]) -> Iterator[None]:
    """Raise a `VideomemError` for errors of an exporter, including its types in `more_errors`."""
    try:
        yield
    except EXPORT_ERRORS + more_errors as error:
        raise VideomemError(
            f"{exporter} cannot make the {graph.name} graph of this model ({type(error).__name__}: {one_line(error)}); "
            "the exported folder is complete without it and can be read by `videomem.load`"
        ) from error
