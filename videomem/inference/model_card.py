"""The model card of an exported folder: the model, its use, accuracy, training and limitations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from videomem.utils.text import printable

_FEW_CLIPS = 20  # The model card lists classes with fewer training clips.


def model_card(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    graphs: str = "",
    name: str = ".",
    license: str | None = None,
) -> str:
    """The README of an exported folder as Markdown, with the front matter read by model hubs.

    Args:
        name: What `videomem.load` is called with in the code examples: the folder itself, or a repository.
        license: Identifier of the license, as on the Hugging Face Hub; None: the model card states none.
    """
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(config, license), sort_keys=False, allow_unicode=True)}---",
        f"# {_text(config['label'])} on {_text(_below(config))}\n\n{_summary(config, preprocessor)}",
        f"## Use\n\n{_use(config, name)}",
        *([f"## Use without videomem\n\n{graphs.strip()}"] if graphs else []),
        f"## Accuracy and use of frame order\n\n{_evaluation(config)}",
        f"## Training\n\n{_table(_training(config))}",
        "## Limitations\n\n" + "\n".join(f"- {line}" for line in _limits(config, preprocessor)),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Mapping[str, Any], license: str | None) -> dict[str, Any]:
    found = config["evidence"].get("evaluation") or {}
    matter: dict[str, Any] = {
        **({} if license is None else {"license": license}),
        "library_name": "videomem",
        "pipeline_tag": "video-classification",
        "tags": ["videomem", "video-classification", "frame-order", config["memory"]["name"].lower()],
    }
    if "accuracy" in found:
        metrics = [{"type": "accuracy", "value": round(found[name], 4), "name": f"accuracy, frames {words}"}
                   for name, words in (("accuracy", "in order"), ("shuffled", "shuffled"))]  # fmt: skip
        data = {"name": _data_name(config), "type": _data_name(config), "split": found["split"]}
        matter["metrics"] = ["accuracy"]
        results = [{"task": {"type": "video-classification"}, "dataset": data, "metrics": metrics}]
        matter["model-index"] = [{"name": config["label"], "results": results}]
    return matter


def _data_name(config: Mapping[str, Any]) -> str:
    return str(config["training"].get("data", "unknown"))


def _below(config: Mapping[str, Any]) -> str:
    imported = config["imported"]
    return f"{config['backbone']['name']} {config['backbone']['layer']}" if imported is None else str(imported["name"])


def _summary(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> str:
    names = [_text(name) for name in config["id2label"].values()]
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    sampling = preprocessor["sampling"]
    how = ", ".join(f"{name} {value}" for name, value in sampling.items() if name != "name")
    segment_frames = config["backbone"]["segment_frames"]
    unit = "frame" if segment_frames == 1 else f"segment of {segment_frames} frames"
    return (
        f"A video classifier of {len(names)} classes ({shown}): a frozen network turns each {unit} into a feature "
        f"vector, and a head, {_code(config['label'])}, "
        f"{'combines them whatever their order' if config['order_blind'] else 'processes them in order'}. "
        f"Frames are sampled by {sampling['name']} ({how}). Made with {config['made_with']}."
    )


def _use(config: Mapping[str, Any], name: str) -> str:
    about = "this folder; downloads nothing and runs no code from it" if name == "." else "runs no code from it"
    call = f'videomem.load("{name}")  # {about}'
    if config["imported"] is not None or config["backbone"]["weights"] != "exported":
        dim = config["feature_dim"]
        return f"""The backbone is not in this folder: the model takes features ({dim} per frame).

```python
import torch
import videomem

model = {call}
features = torch.zeros(1, 16, {dim})  # your features (B, T, D)
logits = model.classify(features, torch.tensor([16]))
print(model.class_names[logits.argmax()])
```"""
    predict = f"""```python
import videomem

model = {call}
print(model.predict("video.mp4").top(3))"""
    if config["backbone"]["segment_frames"] > 1:
        return f"""{predict}
```

```sh
videomem predict videos/*.mp4 --model {name}
```"""
    return f"""{predict}

stream = model.stream()  # one frame at a time, with a state of constant size
for live in videomem.frames_of_file("video.mp4"):  # or any other frames (height, width, 3) uint8 RGB
    answer = stream.step(live.frame_HWC)
print(model.class_names[answer.probabilities_C.argmax()])
```

```sh
videomem predict videos/*.mp4 --model {name}
ffmpeg -i video.mp4 -f rawvideo -pix_fmt rgb24 - | videomem stream - --size 640x480 --model {name}
```"""


def _evaluation(config: Mapping[str, Any]) -> str:
    found, verdict = config["evidence"].get("evaluation"), config["evidence"].get("order_test")
    if not found:
        text = "Not measured: this model was saved without an evaluation."
    elif "reason" in found:
        text = f"Not measured: {found['reason']}."
    else:
        rows = {
            "frames in order": found["accuracy"],
            f"frames shuffled, mean of {found['num_permutations']}": found["shuffled"],
            "frames reversed": found["reversed"],
            "always the most frequent class": found["chance"],
        }
        text = _table({name: f"{100 * value:.1f} %" for name, value in rows.items()}, "accuracy") + (
            f"\n\n{found['num_clips']} clips of {found['num_groups']} groups, split {_code(found['split'])} of "
            f"{_code(_data_name(config))}. Shuffling changes the predicted class in "
            f"{100 * found['flip_rate']:.1f} % of cases, and logits by at most "
            f"{found['max_logit_change']:.2g}. This shows how much this trained model relies on frame order, not how "
            "much frame order contributes to training."
        )
    if verdict:
        text += (
            f"\n\nOrder test of {_code(verdict['label'])} on this data (training with and without frame order; plan "
            f"{verdict['plan_sha256'][:16]}): frame order is worth {100 * verdict['value']:.1f} points (95 % interval "
            f"{100 * verdict['low']:.1f} to {100 * verdict['high']:.1f}), verdict on this learner "
            f"*{_text(verdict['verdict'])}*. Verdict on the data: {_text(verdict['data_verdict'])}."
        )
    return text


def _training(config: Mapping[str, Any]) -> dict[str, Any]:
    training = config["training"]
    words = {
        "data": f"{_code(_data_name(config))}, {sum(training.get('class_counts', []))} training clips",
        "seed": training.get("seed"),
        "epochs": f"{training.get('epochs')} ({training.get('steps')} steps); weights of the last epoch",
        "learning rate, weight decay": f"{training.get('learning_rate')}, {training.get('weight_decay')}",
        "optimizer, schedule": _text(f"{training.get('optimizer')}, {training.get('lr_schedule')}"),
        "dropout": training.get("dropout"),
        "batch": f"{training.get('batch_size')} clips in each process",
        "backbone's weights": _text(training.get("backbone_weights")),
    }
    return words if training else {"training": "unknown"}


def _limits(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Iterator[str]:
    training, found = config["training"], config["evidence"].get("evaluation") or {}
    yield "It predicts one of its classes for every video, even if the video shows none of them."
    if str(training.get("backbone_weights", "")).startswith("random"):
        yield "Its backbone has random weights and was not trained on images."
    counts = training.get("class_counts", [])
    few = [_text(name) for name, count in zip(config["id2label"].values(), counts, strict=False) if count < _FEW_CLIPS]
    if few:
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        yield f"Classes with fewer than {_FEW_CLIPS} training clips: {', '.join(few[:10])}{more}."
    if found.get("num_groups", 20) < 20:
        yield f"Its accuracy was measured on {found['num_groups']} groups, too few for a reliable confidence interval."
    if "accuracy" in found and found["accuracy"] <= found["chance"]:
        yield "Its accuracy is not better than that of always predicting the most frequent class."
    if preprocessor["sampling"]["name"] == "Uniform":
        yield "It was trained on frames spread over whole clips; motion is slower in a stream of all frames."
    yield "Probabilities are a softmax of the logits and are not calibrated."


def _text(value: object) -> str:
    """Text that Markdown shows as it is: names of classes may have its special characters, or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$:@])", r"\\\1", printable(value))


def _code(value: object) -> str:
    return f"`{printable(value).replace('`', chr(39))}`"


def _table(rows: Mapping[str, Any], head: str = "") -> str:
    return "\n".join(
        [f"| | {head} |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items())]
    )


def _cell(value: object) -> str:
    return re.sub(r"(?<!\\)\|", r"\|", str(value))


_SIZES = {"batch": 1, "time": 16, "height": 240, "width": 320}

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
    """Code examples that run the graphs of a report without videomem, in the exported folder."""
    texts = []
    for graph in report.get("graphs", []):
        title, code = _TEXTS[graph["file"]]
        port, time = graph["inputs"][0], _SIZES["time"]
        shape = [_SIZES.get(axis, axis) for axis in port["shape"]]
        if "time" not in port["shape"]:
            shape[0] = time  # The first axis is the frames of the stream.
        fields = {"name": port["name"], "dtype": port["dtype"], "shape": tuple(shape), "time": time}
        texts.append(f"{title}\n{code.format(what=_meaning(port), **fields)}")
    return "\n".join(texts)


def _meaning(port: dict[str, Any]) -> str:
    if port["name"] == "features":
        return "features of each frame"
    return (
        "RGB, of any size" if "height" in port["shape"] else "RGB, resized and cropped as in preprocessor_config.json"
    )
