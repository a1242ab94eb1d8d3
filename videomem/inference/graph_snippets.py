"""Markdown code examples that run exported graphs without videomem, for the model card and docs/export.md."""

from __future__ import annotations

from typing import Any

from videomem.inference.graphs import BATCH, HEIGHT, TIME, WIDTH

_EXAMPLE = {BATCH: 1, TIME: 16, HEIGHT: 240, WIDTH: 320}

_ONNX_CLIP = """
```python
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("onnx/clip.onnx")  # needs weights.data in the same folder
{name} = np.zeros({shape}, np.{dtype})  # {what}
lengths = np.array([{time}], np.int64)  # number of real frames of each clip
(logits,) = session.run(None, {{"{name}": {name}, "lengths": lengths}})
class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
print(class_names[logits[0].argmax()])
```
"""
_ONNX_STEP = """
```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("onnx/step.onnx")
_, *ports = session.get_inputs()
state = {{port.name: np.zeros((1, port.shape[1]), np.float32) for port in ports}}  # initial state
for {name} in np.zeros({shape}, np.{dtype}):  # {what}
    logits, *after = session.run(None, {{"{name}": {name}[None], **state}})
    state = dict(zip(state, after))  # outputs have the order of the inputs
print(logits)
```
"""
_PT2_CLIP = """
```python
import torch

clip = torch.export.load("torch_export/clip.pt2").module()
{name} = torch.zeros({shape}, dtype=torch.{dtype})  # {what}
logits = clip({name}, torch.tensor([{time}]))
```
"""
_PT2_STEP = """
```python
import json

import torch

step = torch.export.load("torch_export/step.pt2").module()
with open("checks.json") as file:
    (graph,) = (graph for graph in json.load(file)["graphs"] if graph["file"] == "torch_export/step.pt2")
state = [torch.zeros(1, port["shape"][1]) for port in graph["inputs"][1:]]  # initial state
for {name} in torch.zeros({shape}, dtype=torch.{dtype}):  # {what}
    logits, *state = step({name}[None], *state)
```
"""
_TEXTS = {
    "onnx/clip.onnx": ("Whole clips in onnxruntime, of any number of frames, padded at the end:", _ONNX_CLIP),
    "onnx/step.onnx": ("A stream in onnxruntime, frame by frame, with the state carried along:", _ONNX_STEP),
    "torch_export/clip.pt2": ("Whole clips in torch:", _PT2_CLIP),
    "torch_export/step.pt2": ("A stream in torch:", _PT2_STEP),
}


def snippets(report: dict[str, Any]) -> str:
    """Code examples for the graphs in a report, to be run in the exported folder.

    Args:
        report: Report of `export_graphs`, or the content of `checks.json`.
    """
    return "\n".join(_snippet(graph) for graph in report.get("graphs", []))


def _snippet(graph: dict[str, Any]) -> str:
    title, code = _TEXTS[graph["file"]]
    port = graph["inputs"][0]
    sizes = [_EXAMPLE.get(axis, axis) for axis in port["shape"]]
    if TIME not in port["shape"]:
        sizes[0] = _EXAMPLE[TIME]  # The first axis is the frames of the stream.
    fields = {"name": port["name"], "dtype": port["dtype"], "shape": tuple(sizes), "time": _EXAMPLE[TIME]}
    return f"{title}\n{code.format(what=_meaning(port), **fields)}"


def _meaning(port: dict[str, Any]) -> str:
    if port["name"] == "features":
        return "features of each frame"
    return "RGB, of any size" if HEIGHT in port["shape"] else "RGB, resized and cropped as in preprocessor_config.json"
