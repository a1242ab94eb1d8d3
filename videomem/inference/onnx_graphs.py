"""Write graphs as ONNX files, and run them in onnxruntime.

    onnx/clip.onnx, onnx/step.onnx    the graphs
    onnx/weights.data                 the weights of both graphs

The libraries are in the extra `onnx` and are imported on first use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from videomem.errors import VideomemError, one_line, requires_extra
from videomem.inference.graphs import Graph, Programs, Run, export_errors

if TYPE_CHECKING:
    from onnxscript import ir

WEIGHTS = "weights.data"
OPSET = 20
_LEAST_BYTES = 1024  # Smaller tensors stay in the graph.


class Onnx(NamedTuple):
    """The libraries of the extra `onnx`."""

    onnx: ModuleType
    runtime: ModuleType
    script: ModuleType


def onnx_libraries() -> Onnx:
    """Import the libraries.

    Raises:
        VideomemError: If one is missing.
    """
    with requires_extra("onnx", "ONNX"):
        import onnx
        import onnxruntime
        import onnxscript
    return Onnx(onnx, onnxruntime, onnxscript)


def onnx_versions() -> dict[str, str]:
    return {module.__name__: module.__version__ for module in onnx_libraries()} | {"opset": str(OPSET)}


def write_onnx(programs: Programs, folder: Path, class_names: Sequence[str]) -> list[Path]:
    """Write graphs as `<name>.onnx`, with their weights in one file; returns the paths of the graphs.

    Raises:
        VideomemError: If torch cannot convert a graph, or onnx rejects it.
    """
    onnx, _, script = onnx_libraries()
    models = [_as_onnx(graph, program) for graph, program in programs.items()]
    _move_weights(models, folder, script.ir)
    paths = [folder / f"{graph.name}.onnx" for graph in programs]
    for graph, path, model in zip(programs, paths, models, strict=True):
        model.metadata_props["class_names"] = json.dumps(list(class_names))
        script.ir.save(model, path)
        with export_errors(graph, "onnx", onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            onnx.checker.check_model(path, full_check=True)
    return paths


def _as_onnx(graph: Graph, program: ExportedProgram) -> ir.Model:
    names = [[port.name for port in ports] for ports in (graph.inputs, graph.outputs)]
    # The first input has all axes of any size; naming them there names them in the whole graph.
    axes = {number: axis for number, axis in enumerate(graph.inputs[0].shape) if isinstance(axis, str)}
    named = (axes, *({} for _ in graph.inputs[1:]))
    with export_errors(graph, "torch.onnx"):
        onnx_program = torch.onnx.export(
            program,
            input_names=names[0],
            output_names=names[1],
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten.log_sigmoid.default: _log_sigmoid},
            dynamic_shapes=named,
            verbose=False,
        )
    assert onnx_program is not None
    for node in onnx_libraries().script.ir.traversal.RecursiveGraphIterator(onnx_program.model.graph):
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # It has the source paths of this machine.
    return onnx_program.model


def _log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x)), finite also where sigmoid(x) underflows to 0, unlike the translation of onnxscript."""
    op = onnx_libraries().script.opset18  # The opset of torch's translations; it is converted to OPSET later.
    return op.Neg(op.Softplus(op.Neg(x)))


def _move_weights(models: Sequence[ir.Model], folder: Path, ir_module: ModuleType) -> None:
    """Write the large tensors of all models to one file, without duplicates, and refer to them from the models."""
    large = [
        (value, tensor, _content(tensor))
        for model in models
        for value in model.graph.initializers.values()
        if (tensor := value.const_value) is not None and tensor.nbytes >= _LEAST_BYTES
    ]
    unique = {content: tensor for _, tensor, content in large}
    outside = ir_module.external_data.convert_tensors_to_external(list(unique.values()), folder, WEIGHTS)
    placed = dict(zip(unique, outside, strict=True))
    for value, _, content in large:
        there = placed[content]
        value.const_value = ir_module.ExternalTensor(
            there.location, there.offset, there.length, there.dtype, shape=there.shape, name=value.name, base_dir=folder
        )


def _content(tensor: ir.TensorProtocol) -> tuple[str, str, bytes]:
    return str(tensor.dtype), str(tensor.shape), sha256(tensor.tobytes()).digest()


def run_onnx(path: Path, provider: str = "CPUExecutionProvider") -> Run:
    """Load a graph into onnxruntime, by default on the CPU; returns a function that runs it.

    Raises:
        VideomemError: If onnxruntime cannot load or run the graph.
    """
    runtime = onnx_libraries().runtime
    with _runtime_errors(runtime, path):
        session = runtime.InferenceSession(path, providers=[provider])
    names = [put.name for put in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        with _runtime_errors(runtime, path):
            return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


@contextmanager
def _runtime_errors(runtime: ModuleType, path: Path) -> Iterator[None]:
    """Raise a `VideomemError` for errors of onnxruntime, which have no common base class except Exception."""
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
             "RuntimeException")  # fmt: skip
    known = runtime.capi.onnxruntime_pybind11_state
    try:
        yield
    except tuple(getattr(known, name) for name in names) as error:
        raise VideomemError(f"{path.name}: onnxruntime cannot run it ({one_line(error)})") from error
