"""Comparisons of a device with the CPU on the same inputs: the first parts of `benchmarks/gpu.py`.

Products are in float32 (no TF32) unless a row says otherwise. Limits are of the relative error of `gpu_part`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_part import Part
from scan import MEMORIES as KINDS
from scan import states_and_gradients
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.features.backbone import Backbone, BackboneSettings, exact_float32, extract_features, load_backbone
from videomem.features.settings import FeatureSettings
from videomem.heads import READOUTS, Gated, Head, Leaky, Memory, NoMemory, Position, TemporalConv, linear_scan
from videomem.heads.scan import linear_loop

B, D, H, C = 6, 24, 16, 5
MEMORIES = {name: partial(memory, hidden_dim=H) for name, memory in KINDS.items()} | {
    "leaky coupled": partial(Leaky, hidden_dim=H, coupled=True),
    "gated uncoupled": partial(Gated, hidden_dim=H, coupled=False),
    "position": partial(Position, hidden_dim=H),
    "conv": partial(TemporalConv, hidden_dim=H),
}
# Heads without memory whose readout is not the mean.
WITH_READOUT = {readout.label: readout for readout in READOUTS.values() if readout.label}
HEADS = {**MEMORIES, **dict.fromkeys(WITH_READOUT, partial(NoMemory, hidden_dim=H))}
TRAINED = ("none", "leaky learned", "rnn", "gated", "gru", "lstm", "mingru", "minlstm")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def head_of(name: str, num_layers: int = 1, feature_dim: int = D) -> Head:
    torch.manual_seed(0)
    return Head(HEADS[name], feature_dim, C, num_layers, WITH_READOUT.get(name)).eval()


@contextmanager
def tf32() -> Iterator[None]:
    """Round the factors of products to TF32, the fast mode of GPUs."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, convolution.fp32_precision
    matmul.fp32_precision = convolution.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision, convolution.fp32_precision = before


# Features.


def random_frames(num: int) -> Tensor:
    return torch.randint(0, 256, (num, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def features(part: Part) -> None:
    """Backbones in float32, with TF32 and with autocast."""
    frames = random_frames(16)
    for name, layer in (("alexnet", "fc6"), ("resnet18", "avgpool")):
        on_cpu = load_backbone(BackboneSettings(name, layer, weights="random"))
        there, label = part.moved(on_cpu), f"{name} {layer}"
        expected, found = (extract_features(backbone, frames) for backbone in (on_cpu, there))
        part.compare(f"{label}, float32", found, expected, 1e-4)
        again = extract_features(there, frames.roll(3, 0)).roll(-3, 0)
        part.compare(f"{label}, in another place of the batch", again, expected if part.planted else found, 0)
        images = there.preprocessing.normalize(frames.to(part.device))
        with tf32():
            part.compare(f"{label}, TF32", there._features(images), expected, 1e-2)
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast(part.device, dtype):
                part.compare(f"{label}, autocast {str(dtype)[6:]}", there._features(images), expected, 3e-2)


# Heads.


def padded(num_frames: int, feature_dim: int = D) -> tuple[Tensor, Tensor]:
    """Noise for clips of different lengths, padding included, and their lengths."""
    lengths_B = torch.linspace(num_frames, 1, B).long()
    return noise(B, num_frames, feature_dim), lengths_B


def answers(head: Head, x_BTD: Tensor, lengths_B: Tensor, device: str) -> tuple[Tensor, list[Tensor]]:
    """Logits of padded clips, and the gradients of the features and of every parameter."""
    x_BTD, lengths_B = x_BTD.to(device).requires_grad_(), lengths_B.to(device)
    logits_BC = head(x_BTD, lengths_B)
    loss = torch.nn.functional.cross_entropy(logits_BC, torch.arange(B, device=device) % C)
    return logits_BC, list(torch.autograd.grad(loss, [x_BTD, *head.parameters()]))


def carried(memory: Memory, x_BTD: Tensor, device: str) -> list[Tensor]:
    """States of the second half of clips from the state carried over from the first, and the state after it."""
    cut = x_BTD.shape[1] // 2
    parts = (x_BTD[:, :cut].to(device), x_BTD[:, cut:].to(device))
    lengths = [torch.full((B,), half.shape[1], device=device) for half in parts]
    with torch.no_grad():
        _, state = memory(parts[0], lengths[0])
        h_BTH, last = memory(parts[1], lengths[1], state)
    return [h_BTH, *state, *last]


def heads(part: Part) -> None:
    """Logits, gradients and carried states of every memory and readout, over padded clips."""
    for num_frames in (16, 512):
        x_BTD, lengths_B = padded(num_frames)
        for name in HEADS:
            head = head_of(name, num_layers=2)
            there, label = part.moved(head), f"{name}, T = {num_frames}"
            with exact_float32():
                expected, found = answers(head, x_BTD, lengths_B, "cpu"), answers(there, x_BTD, lengths_B, part.device)
                states = carried(head.memories[0], x_BTD, "cpu"), carried(there.memories[0], x_BTD, part.device)
            part.compare(f"{label}, logits", found[0], expected[0], 1e-4)
            part.compare(f"{label}, gradients", found[1], expected[1], 1e-3)
            part.compare(f"{label}, carried state", states[1], states[0], 1e-4)
            if name in ("gru", "lstm"):
                found = answers(there, x_BTD, lengths_B, part.device)
                part.compare(f"{label}, logits with cuDNN's default precision", found[0], expected[0], 1e-2)
            if name == "best frame":  # With rounded scores, another frame can be the best.
                continue
            with torch.autocast(part.device, torch.bfloat16):
                found = answers(there, x_BTD, lengths_B, part.device)
            part.compare(f"{label}, logits, autocast bfloat16", found[0], expected[0], 5e-2)


def scan(part: Part) -> None:
    """States and gradients of the scan, compared with a loop in float64 on the CPU."""
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 2.0**-7)):
        for num_frames in (16, 512, 4096):
            keep = torch.rand(B, num_frames, H, generator=torch.Generator().manual_seed(1))
            given = [tensor.to(dtype) for tensor in (keep, noise(B, num_frames, H), noise(B, H, seed=2))]
            weights = noise(B, num_frames, H, seed=3).to(dtype)
            expected = states_and_gradients(linear_loop, [tensor.double() for tensor in given], weights)
            if part.planted:
                given[0] = given[0] / 2
            there = [tensor.to(part.device) for tensor in given]
            found = states_and_gradients(linear_scan, there, weights.to(part.device))
            part.compare(f"{str(dtype)[6:]}, T = {num_frames}", found, expected, limit)


def streams(part: Part) -> None:
    """Frame by frame on the device, compared with whole clips on the CPU; and a saved and restored state."""
    x_BTD = noise(B, 40, D)
    full_B = torch.full((B,), 40)
    for name in HEADS:
        head = head_of(name, num_layers=2)
        there, state = part.moved(head), None
        with exact_float32(), torch.no_grad():
            for x_BD in x_BTD.to(part.device).unbind(1):
                logits_BC, state = there.step(x_BD, state)
            part.compare(name, logits_BC, head(x_BTD, full_B), 1e-4)

    model = tiny_model("gru")
    there = part.moved(model)
    stream = there.stream()
    frames = np.random.default_rng(0).integers(0, 256, (6, 64, 80, 3), dtype=np.uint8)
    with exact_float32():
        expected = model(model.frame_network.preprocessing.shape_frames(frames)[None])[0]
        for frame in frames[:5]:
            stream.step(frame)
        stream.save_state(part.folder / "state.safetensors")
        resumed = there.stream()
        resumed.load_state(part.folder / "state.safetensors")
        last = [one.step(frames[5]).logits_C for one in (stream, resumed)]
    part.compare("a model of AlexNet and gru", last[0], expected, 1e-3)
    part.compare("the same from a saved state", last[1], expected if part.planted else last[0], 0)


def tiny_model(memory: str) -> Any:
    """An untrained model with its backbone, as `videomem.load` returns it."""
    from videomem.features.settings import FeatureSettings
    from videomem.inference.model import Classifier
    from videomem.video.sampling import Uniform

    settings = FeatureSettings(BackboneSettings("alexnet", "pool5", "random", grid=1), Uniform(8))
    backbone = Backbone(settings.backbone)
    return Classifier(head_of(memory, 1, backbone.feature_dim), [f"class{c}" for c in range(C)], settings, backbone)


# Training.


def stored(folder: Path, num_clips: int, num_frames: int = 16, feature_dim: int = D) -> dict[str, Any]:
    """Arguments of the data module of imported features: noise with a trend that depends on the class."""
    from videomem.features.importing import Importing, import_features
    from videomem.features.settings import ImportedFeatures
    from videomem.video.catalog import Catalog, Clip
    from videomem.video.catalog_files import write_catalog
    from videomem.video.sampling import Uniform

    rng, arrays = np.random.default_rng(0), folder / "arrays"
    arrays.mkdir(parents=True)
    trend = np.linspace(-1, 1, num_frames, dtype=np.float32)[:, None] * rng.standard_normal(feature_dim)
    clips = []
    for number in range(num_clips):
        label, split = number % C, "val" if number // C % 4 == 0 else "train"
        x_TD = rng.standard_normal((num_frames, feature_dim), dtype=np.float32) + label * trend
        np.save(arrays / f"{number}.npy", x_TD.astype(np.float16))
        clips.append(Clip(f"{number}.mp4", f"class{label}", split, f"group{number}"))
    write_catalog(Catalog(tuple(clips)), folder / "catalog.csv")
    import_features(folder / "catalog.csv", arrays, folder / "store", Importing("noise", Uniform(num_frames)))
    return {
        "catalog": str(folder / "catalog.csv"), "store": str(folder / "store"),
        "features": FeatureSettings(BackboneSettings(), Uniform(num_frames),
                                    imported=ImportedFeatures("noise", feature_dim)),
    }  # fmt: skip


def trained(
    device: str, memory: str, data: dict[str, Any], learning_rate: float, precision: Any = "32-true", steps: int = 30
) -> Tensor:
    """Training losses (steps,) of a head, by the Trainer with `deterministic: true`, validation included."""
    from pytorch_lightning import Callback

    from videomem.training.data_module import VideoDataModule
    from videomem.training.lit_classifier import LitClassifier

    losses: list[Tensor] = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
            losses.append(outputs["loss"].detach().float().cpu())

    torch.manual_seed(0)
    module = VideoDataModule(**data)
    classifier = LitClassifier(
        MEMORIES[memory], module.feature_dim, module.class_names, module.class_counts, learning_rate=learning_rate
    )
    limits = {"max_steps": steps, "max_epochs": -1, "gradient_clip_val": 1.0}
    trainer(device, Keep(), precision=precision, **limits).fit(classifier, datamodule=module)
    return torch.stack(losses)


def trainer(device: str, callback: Any, **options: Any) -> Any:
    """A deterministic Trainer on one device that prints and writes nothing."""
    from pytorch_lightning import Trainer

    return Trainer(
        accelerator="cpu" if device == "cpu" else "gpu", devices=1, deterministic=True, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[callback],
        **options,
    )  # fmt: skip


def fit(part: Part) -> None:
    """Losses of 30 steps of training with `deterministic: true`, in float32 and in mixed precision."""
    data = stored(part.folder, 160) | {"storage": "ram"}
    rate = 3e-3
    there = rate * (5 if part.planted else 1)
    for memory in TRAINED:
        with exact_float32():
            expected, found = trained("cpu", memory, data, rate), trained(part.device, memory, data, there)
        part.compare(f"{memory}, losses", found, expected, 1e-4)
        # The scaling of 16-mixed may skip a step.
        for precision, limit in (("bf16-mixed", 3e-2), ("16-mixed", 1e-1))[: 1 + part.is_gpu]:
            found = trained(part.device, memory, data, there, precision)
            part.compare(f"{memory}, losses, {precision}", found, expected, limit)


def stacked(part: Part) -> None:
    """Weights of heads that are trained at once, compared with those of each trained alone, both on the device."""
    from videomem.training.lit_classifier import LitClassifier
    from videomem.training.stacked import StackedClassifiers

    num_heads, steps = 3, 20
    lengths_B, labels_B = torch.linspace(12, 1, B).long(), torch.arange(B) % C
    parts = [(noise(B, 12, D, seed=seed), lengths_B, labels_B, torch.arange(B)) for seed in range(num_heads * steps)]
    batches = [VideoBatch(*(tensor.to(part.device) for tensor in one)) for one in parts]

    def classifier(memory: str, seed: int, learning_rate: float = 1e-2) -> LitClassifier:
        torch.manual_seed(seed)
        names, counts = [str(c) for c in range(C)], [1 + seed] * C
        return LitClassifier(MEMORIES[memory], D, names, counts, learning_rate=learning_rate, seed=seed).to(part.device)

    def train(module: Any, loss: Any) -> None:
        [optimizer] = [module.configure_optimizers()]
        for step in range(steps):
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()

    for memory in TRAINED:
        rate = 5e-2 if part.planted else 1e-2
        stack = StackedClassifiers([classifier(memory, seed, rate) for seed in range(num_heads)]).to(part.device)
        stack.on_fit_start()
        with exact_float32():
            train(stack, lambda step, stack=stack: stack.training_step(batches[step * num_heads :][:num_heads], step))
            for seed, found in enumerate(stack.unstack()):
                alone = classifier(memory, seed)

                def loss(step: int, alone: LitClassifier = alone, seed: int = seed) -> Tensor:
                    batch = batches[step * num_heads + seed]
                    return alone.loss(alone(batch.x, batch.lengths), batch.labels).mean()

                train(alone, loss)
                expected = list(alone.head.parameters())
                part.compare(f"{memory}, head {seed} of {num_heads}", list(found.head.parameters()), expected, 1e-3)


def storage(part: Part) -> None:
    """Batches of `data.storage: ram` and `device`, compared with those of memory-mapped files."""
    from pytorch_lightning.utilities import move_data_to_device

    from videomem.training.data_module import VideoDataModule

    data = stored(part.folder, 40)

    def batches(storage: str) -> list[Tensor]:
        module = VideoDataModule(**data, storage=storage)
        there = (move_data_to_device(batch, torch.device(part.device)) for batch in module.train_dataloader())
        return [tensor for batch in there for tensor in module.on_after_batch_transfer(batch, 0)]

    expected = batches("mmap")
    for name in ("ram", "device"):
        found = [tensor * 2 for tensor in batches(name)] if part.planted else batches(name)
        part.compare(name, found, expected, 0)


def video(part: Part) -> None:
    """Real decoding: extraction, training from video, and predictions."""
    from videomem.features.extraction import extract
    from videomem.training.data_module import VideoDataModule
    from videomem.video.sampling import Uniform
    from videomem.video.synthetic import SyntheticSettings, synthesize

    settings = SyntheticSettings(train_pairs=1, val_pairs=1, test_pairs=1, num_frames=8, frame_size=64)
    catalog = synthesize(settings, part.folder / "videos")
    features = FeatureSettings(BackboneSettings("alexnet", "pool5", "random", grid=1), Uniform(8))
    data = {"catalog": str(part.folder / "videos" / "catalog.csv"), "features": features}
    read = {}
    for device in dict.fromkeys(("cpu", part.device)):
        module = VideoDataModule(**data, store=str(part.folder / device))
        report = extract(catalog.clips, module.settings, part.folder / device, device)
        if report.failures:
            raise RuntimeError(report.failures[0].message)
        read[device] = [module.features(row) for row in range(len(module.clips))]
    found = [x_TD * 2 for x_TD in read[part.device]] if part.planted else read[part.device]
    part.compare("extracted features, stored in float16", found, read["cpu"], 2e-3)
    rate = 3e-3
    with exact_float32():
        live = trained(part.device, "gru", {**data, "source": "video"}, rate * (5 if part.planted else 1), steps=4)
        expected = trained("cpu", "gru", {**data, "store": str(part.folder / "cpu")}, rate, steps=4)
    part.compare("losses of `source: video`, against stored features", live, expected, 1e-2)
    model = tiny_model("lstm")
    there = part.moved(model)
    with exact_float32():
        paths = [clip.path for clip in catalog.clips[:3]]
        expected, found = ([one.predict(path).probabilities_TC for path in paths] for one in (model, there))
    part.compare("predictions after every frame", found, expected, 1e-3)


def order(part: Part) -> None:
    """A small order test: training jobs in one and in two processes, compared with those on the CPU."""
    from dataclasses import replace

    from videomem.experiments.clips import clips_of_arrays
    from videomem.experiments.memories import read_heads
    from videomem.experiments.order_test.plan import OrderPlan, OrderSettings, Recipe
    from videomem.experiments.order_test.training import run_jobs

    rng, trend = np.random.default_rng(0), np.linspace(-1, 1, 8)[:, None]
    signs = [1 if number % 2 else -1 for number in range(72)]
    arrays = [(rng.normal(0, 1, (8, D)) + sign * trend).astype(np.float32) for sign in signs]
    clips = clips_of_arrays(arrays, [str(sign) for sign in signs], [f"group{number // 3}" for number in range(72)])
    settings = OrderSettings(heads=("none", "gru", "mingru"), training_conditions=("ordered", "fixed_permutation"),
                             runs=2, folds=4, num_permutations=3, hidden_dim=H, projection_dim=8)  # fmt: skip
    recipe = Recipe(epochs=4, batch_size=16, learning_rate=1e-2, dropout=0.0)
    plan = OrderPlan("", settings, recipe, read_heads(settings.heads, H), len(clips), "")
    here, device = run_jobs(plan, clips, part.folder / "cpu"), "cuda:0" if part.is_gpu else "cpu"
    plan = replace(plan, recipe=replace(recipe, learning_rate=0.0)) if part.planted else plan
    one, two = (run_jobs(plan, clips, part.folder / f"there{n}", n, [device]) for n in (1, 2))
    for name in settings.heads:
        predicted = [
            np.concatenate([result.predicted["ordered"].ravel() for job, result in run.items() if job.name == name])
            for run in (here, one, two)
        ]
        part.compare(f"{name}, changed predictions", float((predicted[1] != predicted[0]).mean()), 0.0, 0.05)
        other = predicted[0] if part.planted else predicted[1]
        part.compare(f"{name}, the same in two processes", float((predicted[2] != other).mean()), 0.0, 0.0)


# Evaluation.


def shuffle(part: Part) -> None:
    """The shuffle evaluation, and the bit-exact order invariance of order-blind heads."""
    from videomem.experiments.shuffle.measurements import measure_order

    x_BTD, lengths_B = padded(16)
    batch = VideoBatch(x_BTD, lengths_B, torch.arange(B) % C, torch.arange(B))
    there = VideoBatch(*(tensor.to(part.device) for tensor in batch))
    for name in HEADS:
        head = head_of(name)
        with exact_float32():
            expected = measure_order(head, [batch], 0, 10).rows
            found = measure_order(part.moved(head), [there], 0, 10).rows
        kept = [torch.tensor([(row.js_divergence, row.max_logit_change) for row in rows]) for rows in (found, expected)]
        if head.order_blind:
            head = part.moved(head_of("leaky" if part.planted else name))
            rows = measure_order(head, [there], 0, 10, num_forward=10).rows
            part.compare(
                f"{name}, change of logits, permuted by index", max(row.max_logit_change for row in rows), 0.0, 0
            )
            forward = [row.max_logit_change_forward or 0.0 for row in rows]
            part.compare(f"{name}, change of logits, plain forward", max(forward), 0.0, 0)
        else:
            part.compare(f"{name}, divergences and changes of logits", *kept, 2e-3)


def inside(part: Part) -> None:
    """Gradients, time constants and Lyapunov exponents of trained heads, in float64."""
    from videomem.experiments.memory_horizon.gradients import sensitivity
    from videomem.experiments.memory_horizon.time_constants import lyapunov, retention

    x_BTD = noise(B, 12, D)
    for name in ("leaky", "gated", "gru", "lstm", "minlstm"):
        head = head_of(name, num_layers=2)
        measured = []
        for one, x in ((head, x_BTD), (part.moved(head), x_BTD.to(part.device))):
            found = sensitivity(one, x, [1, 4])
            tau = np.concatenate(retention(one, x))
            numbers = (*found.gradient, *found.direct, *found.swap, found.gradient_at_zero, *lyapunov(one, x))
            measured.append([torch.tensor(numbers), torch.from_numpy(tau)])
        part.compare(name, measured[1], measured[0], 1e-5)


def network(part: Part) -> None:
    """A network for whole clips, evaluated as by `videomem sensitivity`."""
    from videomem.experiments.model_sensitivity.clip_predictions import (
        PredictionSettings,
        evaluation_mode,
        predict_clip,
        with_shuffle,
    )
    from videomem.experiments.model_sensitivity.video_networks import load_video_network

    r3d = load_video_network("r3d_18", "random", [str(c) for c in range(C)], 8).network
    clip = noise(8, 3, 64, 64)
    predictions = []
    for model in (r3d, part.moved(r3d)):
        with exact_float32(), evaluation_mode(model):
            predictions.append(predict_clip(model, clip, 0, 0, with_shuffle(()), PredictionSettings(4, 2)))
    changes = [torch.tensor([result.max_logit_change for result in found]) for found in predictions]
    part.compare("r3d_18, change of logits", changes[1], changes[0], 1e-2)


def graphs(part: Part) -> None:
    """Exported graphs moved to the device, and ONNX graphs where onnxruntime has CUDA."""
    from torch.export import load
    from torch.export.passes import move_to_device_pass

    from videomem.errors import VideomemError
    from videomem.inference.graph_export import write_pt2
    from videomem.inference.onnx_graphs import onnx_libraries, run_onnx, write_onnx

    def run_pt2(path: Path) -> Any:
        module = move_to_device_pass(load(path), part.device).module()

        def run(tensors: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad(), exact_float32():
                found = module(*(tensor.to(part.device) for tensor in tensors))
            return [tensor.cpu() for tensor in ([found] if isinstance(found, Tensor) else found)]

        return run

    for memory in ("gated", "lstm", "mingru"):
        _compare_graphs(part, memory, write_pt2, run_pt2)
    try:
        runtime = onnx_libraries().runtime
    except VideomemError as error:
        part.note(f"ONNX graphs were left out: {error}")
        return
    provider = "CUDAExecutionProvider" if part.is_gpu else "CPUExecutionProvider"
    if provider not in runtime.get_available_providers():
        part.note("ONNX graphs were left out: this onnxruntime has no CUDA")
        return
    _compare_graphs(part, "gru", partial(write_onnx, class_names=[""] * C), partial(run_onnx, provider=provider))


def _compare_graphs(part: Part, memory: str, write: Any, load: Any) -> None:
    from videomem.inference.graph_export import make_cases
    from videomem.inference.graphs import ClipGraph, StepGraph, trace

    model = tiny_model(memory)
    cases = make_cases(model, preprocess=False)
    largest = max(float(case.logits_BTC.abs().max()) for case in cases)
    programs = {graph: trace(graph) for graph in (ClipGraph(model), StepGraph(model))}
    folder = part.folder / memory
    folder.mkdir()
    for graph, path in zip(programs, write(programs, folder), strict=True):
        run = load(path)

        def answers(tensors: Sequence[Tensor], run: Any = run) -> list[Tensor]:
            return [tensor * (2 if part.planted else 1) for tensor in run(tensors)]

        error = max(graph.difference(answers, case) for case in cases) / largest
        part.compare(f"{memory}, {path.name}", error, 0.0, 1e-3)
