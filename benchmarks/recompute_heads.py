"""The part of `recompute.py` that computes heads again: their formulas on an exported folder's weights, in float64.

Heads of one layer of `none`, `leaky` (alpha fixed) or `gru`, with the mean over frames as readout. Features of frames
come from a feature store (docs/reproducibility.md describes the keys of clips).
"""

from __future__ import annotations

import argparse
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from recompute_statistics import FLOAT32, Report, read_csv, read_json
from scipy.special import expit, log_softmax, softmax

TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


def tensor(path: Path, name: str) -> np.ndarray:
    header, start = safetensors_header(path)
    one, dtype = header[name], TYPES[header[name]["dtype"]]
    shape, offset = tuple(one["shape"]), start + one["data_offsets"][0]
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


class Head:
    """h_t of the memory, outputs V phi(h_t) + b of each frame, and the running mean of the outputs."""

    def __init__(self, folder: Path) -> None:
        self.config = read_json(folder / "config.json")
        self.names = [self.config["id2label"][str(i)] for i in range(len(self.config["id2label"]))]
        self.kind, self.arguments = self.config["memory"]["name"], self.config["memory"]["arguments"]
        path = folder / "model.safetensors"
        names = [name for name in safetensors_header(path)[0] if name.startswith("head.")]
        self.w = {name.removeprefix("head."): np.array(tensor(path, name), float) for name in names}

    def reason_against(self) -> str | None:
        known = self.kind in ("NoMemory", "GRU") or (
            self.kind == "Leaky" and not self.arguments.get("learned") and not self.arguments.get("coupled")
        )
        plain = self.config["num_layers"] == 1 and self.config["projection_dim"] is None
        is_known = known and plain and self.config["readout"]["name"] == "MeanReadout"
        return None if is_known else f"{self.config['label']} is not written again here"

    def states(self, x_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """h_t (T, H), and the retention: z_t of torch's GRU, alpha of `leaky`, 0 of `none`."""
        w, x = self.w, np.clip((x_TD - self.w["norm.mean"]) * self.w["norm.scale"], -10, 10)
        states, keeps = [], []
        if self.kind == "GRU":
            (wi, wh), (bi, bh) = ([w[f"layers.0.rnn.{part}_{side}_l0"] for side in ("ih", "hh")]
                                  for part in ("weight", "bias"))  # fmt: skip
            h = np.zeros(wh.shape[1])
            for x_D in x:
                (ri, zi, ni), (rh, zh, nh) = np.split(wi @ x_D + bi, 3), np.split(wh @ h + bh, 3)
                z = expit(zi + zh)
                h = (1 - z) * np.tanh(ni + expit(ri + rh) * nh) + z * h
                states.append(h)
                keeps.append(z)
            return np.array(states), np.array(keeps)
        alpha = self.arguments["alpha"] if self.kind == "Leaky" else 0.0
        h = np.zeros(len(w["layers.0.input.bias"]))
        for x_D in x:
            h = alpha * h + w["layers.0.input.weight"] @ x_D + w["layers.0.input.bias"]
            states.append(h)
        return np.array(states), np.full((len(x), len(h)), alpha)

    def outputs(self, states: np.ndarray) -> np.ndarray:
        phi = states if self.kind == "GRU" else np.tanh(states)
        return phi @ self.w["classify.weight"].T + self.w["classify.bias"]

    def logits(self, x_TD: np.ndarray) -> np.ndarray:
        """Logits (T, C) after each frame."""
        outputs = self.outputs(self.states(x_TD)[0])
        return outputs.cumsum(0) / np.arange(1, len(outputs) + 1)[:, None]

    def without_memory(self, x_TD: np.ndarray) -> np.ndarray:
        """Logits (C,) if the state is reset before every frame."""
        return np.mean([self.outputs(self.states(x_D[None])[0])[0] for x_D in x_TD], axis=0)


class Features:
    """Features of the clips of a store, by the path of a video."""

    def __init__(self, store: Path) -> None:
        self.rows: dict[str, tuple[Path, dict[str, Any]]] = {}
        for path in sorted(store.glob("**/shards/*.safetensors")):
            index = json.loads(safetensors_header(path)[0]["__metadata__"]["index"])
            self.rows |= {row["clip"]: (path, row) for row in index["content"]["clips"]}

    def of(self, video: str, start_s: str = "", end_s: str = "") -> tuple[np.ndarray, list[int]]:
        """Features (T, D) and the indices of the frames in the video."""
        content = sha256(Path(video).read_bytes()).hexdigest()
        start, end = (float(text) if text else None for text in (start_s, end_s))
        path, row = self.rows[sha256(f"{content} {start} {end}".encode()).hexdigest()[:32]]
        return np.array(tensor(path, "features")[row["start_row"] : row["stop_row"]], float), row["indices"]


def catalog_rows(catalog: Path) -> list[dict[str, str]]:
    return [{**row, "path": str(catalog.parent / row["path"])} for row in read_csv(catalog)]


def tools(given: argparse.Namespace, report: Report, what: str) -> tuple[Head, Features] | None:
    """The head and the features, unless something is missing, which is reported."""
    if not given.model or not given.store or not given.catalog:
        report.skip(what, "needs --model, --store and --catalog")
        return None
    head = Head(given.model)
    if reason := head.reason_against():
        report.skip(what, reason)
        return None
    return head, Features(given.store)


def test_folder(folder: Path, given: argparse.Namespace, report: Report) -> None:
    metrics, table = read_json(folder / "metrics.json"), read_csv(folder / "confusion.csv")
    names = [row["true class"] for row in table]
    counts = np.array([[int(row[name]) for name in names] for row in table])
    per_class = [right / num if num else None for right, num in zip(counts.diagonal(), counts.sum(1), strict=True)]
    ours = {"num_clips": counts.sum(), "accuracy": counts.trace() / counts.sum(),
            "accuracy_macro": np.mean([one for one in per_class if one is not None]),
            "accuracy_per_class": dict(zip(names, per_class, strict=True))}  # fmt: skip
    report.compare("accuracies, from the confusion matrix", ours, metrics)
    if (found := tools(given, report, "loss, top 5 and the confusion matrix, from the weights")) is None:
        return
    head, features = found
    clips = [row for row in catalog_rows(given.catalog) if row["split"] == metrics["split"]]
    logits = [
        head.logits(features.of(row["path"], row.get("start_s", ""), row.get("end_s", ""))[0])[-1] for row in clips
    ]
    labels, log_p = np.array([names.index(row["label"]) for row in clips]), log_softmax(np.array(logits), axis=1)
    again = np.zeros_like(counts)
    np.add.at(again, (labels, log_p.argmax(1)), 1)
    report.compare("confusion matrix, from the weights", again, counts)
    own = log_p[np.arange(len(labels)), labels]
    if head.config["training"]["class_weighting"] == "none":
        report.compare("loss, from the weights", -own.mean(), metrics["loss"], FLOAT32)
    if "accuracy_top5" in metrics:
        top = ((log_p > own[:, None]).sum(1) < 5).mean()
        report.compare("top 5, from the weights", top, metrics["accuracy_top5"], 1e-6)


def inspect_folder(folder: Path, given: argparse.Namespace, report: Report) -> None:
    result = read_json(folder / "inspect.json")
    if (found := tools(given, report, "states and predictions")) is None:
        return
    head, features = found
    video = next(row["path"] for row in catalog_rows(given.catalog) if row["path"].endswith(result["video"]))
    x_TD, indices = features.of(video)
    x_TD = x_TD[[indices.index(frame["frame_of_video"]) for frame in result["frames"]]]
    in_order = head.states(x_TD)[0]
    rms = np.sqrt((in_order**2).sum(1).mean())
    for name, theirs in result["orders"].items():
        shown = x_TD[np.array(theirs["frames"]) - 1]
        states, keep = head.states(shown)
        p, alone = softmax(head.logits(shown), 1), softmax(head.without_memory(shown))
        answers, num = p.argmax(1), len(shown)
        change = np.linalg.norm(np.diff(states, axis=0, prepend=0), axis=1) / (rms or 1)
        settled = max([t + 2 for t in range(num) if answers[t] != answers[-1]], default=1)
        texts = {"answer": head.names[answers[-1]], "without_memory": {"answer": head.names[alone.argmax()]},
                 "settled_at_place": settled}  # fmt: skip
        report.compare("predictions in three frame orders", texts, theirs)
        numbers = {"probability": p[-1].max(), "without_memory": {"probability": alone.max()}, "probabilities": p}
        report.compare("class probabilities", numbers, theirs, FLOAT32)
        report.compare("change of the state", change, theirs["change"], FLOAT32)
        report.compare("retention", keep if head.kind != "NoMemory" else None, theirs["retention"], FLOAT32)
        if name == "in_order":
            # 1 / tau for long ones, which are rounded: in single precision a retention near 1 is.
            with np.errstate(divide="ignore"):
                tau, theirs_H = np.abs(-1 / np.log(keep[1:]).mean(0)), np.array(result["time_constants_frames"])
                ours, of_theirs = (np.where(tau < 100, one, 1 / one) for one in (tau, theirs_H))
            report.compare("time constants", ours, of_theirs, FLOAT32)
            most = {"frame": 2 + change[1:].argmax(), "change": change[1:].max()}
            report.compare("largest change", most, result["changed_most"], FLOAT32)


def outputs_folder(folder: Path, given: argparse.Namespace, report: Report) -> None:
    """Output of `predict --format jsonl --over-time`, and of `stream` in a file named after its video."""
    if (found := tools(given, report, "class probabilities")) is None:
        return
    head, features = found
    videos = {Path(row["path"]).stem: row["path"] for row in catalog_rows(given.catalog)}

    def check(what: str, top: list[dict[str, Any]], p: np.ndarray) -> None:
        report.compare(
            what, [p[head.names.index(one["label"])] for one in top], [one["probability"] for one in top], FLOAT32
        )

    for path in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if "frames_in_memory" in lines[0]:
            x_TD, indices = features.of(videos[path.stem])
            p = softmax(head.logits(x_TD[[indices.index(line["frame"]) for line in lines]]), 1)
            for place, line in enumerate(lines):
                check("stream: probabilities after each frame", line["top"], p[place])
                report.compare("stream: frames in memory", place + 1, line["frames_in_memory"])
            continue
        for line in lines:
            x_TD, indices = features.of(line["path"])
            p = softmax(head.logits(x_TD), 1)
            check("predict: probabilities", line["top"], p[-1])
            report.compare("predict: label", head.names[p[-1].argmax()], line["label"])
            report.compare("predict: frames", len(x_TD), line["num_frames"])
            for place, frame in enumerate(line.get("over_time", ())):
                check("predict: probabilities after each frame", frame["top"], p[place])
                report.compare("predict: frames", indices[place], frame["frame"])
