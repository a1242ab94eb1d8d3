"""A tour from the memoryless classifier to gated memories; each section has a small measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.experiments import permutations
from videomem.experiments.drawing import BLUE, GREEN, INK, SMALL, VERMILLION, WIDTH, Figure, figure_function
from videomem.experiments.memories import read_memories
from videomem.experiments.memory_horizon.horizon_figures import gates_figure, gradient_figure, recall_figure
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan, plan_of
from videomem.experiments.memory_horizon.recall_result import RecallResult
from videomem.experiments.memory_horizon.recall_training import RecallRecipe, train_on_batches
from videomem.experiments.trace import time_constants, trace
from videomem.features.backbone import BackboneSettings, extract_features, load_backbone
from videomem.heads import Head, Leaky
from videomem.utils.parallel_jobs import one_thread, quiet
from videomem.video.synthetic import ACTIONS, SyntheticSettings, render_clip

NUM_BATCHES = 150  # of the training of `memoryless`
ALPHAS = (0.5, 0.9, 0.98)
ORDERS = {"in order": BLUE, "reversed": VERMILLION, "shuffled": GREEN}  # each frame order with its color


class Section(NamedTuple):
    """One section of the tour.

    Attributes:
        title: Title of the section.
        memories: Heads of `configs/head/` in its recall measurement; empty if the section measures something else.
        draw: Draws the figure of its recall measurement.
    """

    title: str
    memories: tuple[str, ...] = ()
    draw: Callable[[RecallResult], Figure] = recall_figure


def _gradients(result: RecallResult) -> Figure:
    return gradient_figure(result.memories)


def _gates(result: RecallResult) -> Figure:
    return gates_figure(result.memories, result.memories[0].measured_on)


SECTIONS: dict[str, Section] = {
    "memoryless": Section("A classifier without memory cannot tell a video from its reversal"),
    "sums": Section("Keep nothing, or keep everything", ("leaky_zero", "leaky_sum")),
    "rnn": Section("The previous state is activated and projected at every step", ("rnn",)),
    "residual": Section("A path that passes the previous state unchanged", ("rnn", "leaky", "gated"), _gradients),
    "leaky": Section("A leaky unit decays at a fixed rate"),
    "gates": Section("One forget gate per hidden unit and step", ("leaky", "gated")),
    "retention": Section("The forget gates of gated, GRU and LSTM at cues", ("gated", "gru", "lstm"), _gates),
    "parallel": Section("Gates that depend on the current frame alone", ("mingru", "minlstm")),
}


def recall_plan(names: Sequence[str]) -> RecallPlan:
    """Returns the plan of a short recall measurement: up to 64 frames, two seeds."""
    recipe = RecallRecipe(max_steps=1500, min_steps=400, max_delay=64)
    return plan_of(names, recipe, num_seeds=2)


class Reversals(NamedTuple):
    """A head trained to distinguish videos from their reversals.

    Attributes:
        accuracy: Accuracy on test videos and their reversals.
        logit_change: Largest change of a logit if the test videos are shuffled.
        right_KT: Probability that the object moves right after each frame of one test video, in each of `ORDERS`.
    """

    accuracy: float
    logit_change: float
    right_KT: np.ndarray


def memoryless(
    backbone: BackboneSettings, heads: Sequence[str] = ("none", "gru"), num_train: int = 60, num_test: int = 20
) -> dict[str, Reversals]:
    """Trains and tests heads on videos of an object that moves right, and on their reversals.

    Returns:
        The result of each head by its name.
    """
    settings = SyntheticSettings(num_frames=16)
    videos = [
        render_clip(ACTIONS["move_right", "move_left"], settings, [number])[0] for number in range(num_train + num_test)
    ]
    network = load_backbone(backbone)
    frames = torch.cat([network.preprocessing.shape_frames(np.stack(video)) for video in videos])
    x_BTD = extract_features(network, frames).unflatten(0, (len(videos), settings.num_frames))
    order = torch.from_numpy(permutations.shuffled(settings.num_frames, settings.num_frames, 1, (0,))[0])
    return {name: _reversals(_tell_direction(name, x_BTD[:num_train]), x_BTD[num_train:], order) for name in heads}


@torch.inference_mode()
def _reversals(head: Head, x_BTD: Tensor, order_T: Tensor) -> Reversals:
    full = torch.full((len(x_BTD),), x_BTD.shape[1])
    forward, backward = head(x_BTD, full).argmax(1), head(x_BTD.flip(1), full).argmax(1)
    terms = head.project(x_BTD)
    moved = head.forward_projected(terms[:, order_T], full) - head.forward_projected(terms, full)
    shown = torch.stack([x_BTD[0], x_BTD[0].flip(0), x_BTD[0, order_T]])
    return Reversals(
        accuracy=float(torch.cat([forward == 1, backward == 0]).float().mean()),
        logit_change=float(moved.abs().max()),
        right_KT=trace(head, shown).answers_BTC.softmax(2)[:, :, 1].numpy(),
    )


def _tell_direction(name: str, x_BTD: Tensor) -> Head:
    """Trains a head on videos (class 1) and their reversals (class 0)."""
    arguments = {"memory": read_memories([name], 64)[name], "class_names": ["left", "right"], "class_counts": [1, 1],
                 "projection_dim": 64, "seed": 0}  # fmt: skip
    frames_ND = x_BTD.flatten(0, 1)
    with quiet(), one_thread():
        return train_on_batches(arguments, _directions(x_BTD), (frames_ND.mean(0), frames_ND.std(0))).head


def _directions(x_BTD: Tensor) -> Iterator[VideoBatch]:
    generator, labels = torch.Generator().manual_seed(0), torch.tensor([1, 0]).repeat_interleave(16)
    for _ in range(NUM_BATCHES):
        x = x_BTD[torch.randint(len(x_BTD), (len(labels) // 2,), generator=generator)]
        yield VideoBatch(torch.cat([x, x.flip(1)]), torch.full_like(labels, x.shape[1]), labels, labels)


class Pulse(NamedTuple):
    """The response of a leaky unit to one pulse.

    Attributes:
        alpha: Share kept at each frame.
        left_T: Share of the pulse that remains after each frame.
        tau: Time constant fitted to it, in frames.
        expected: -1 / log alpha.
    """

    alpha: float
    left_T: np.ndarray
    tau: float
    expected: float


def pulses() -> list[Pulse]:
    """Measures the response to a pulse at the first of 64 frames, for each alpha of `ALPHAS`."""
    num_frames, found = 64, []
    x_BTD = torch.zeros(1, num_frames, 1)
    x_BTD[0, 0] = 1
    for alpha in ALPHAS:
        memory = Leaky(1, 1, alpha=alpha)
        with torch.no_grad():
            memory.input.weight.fill_(1)
            memory.input.bias.zero_()
            left_T = memory(x_BTD, torch.tensor([num_frames]))[0][0, :, 0].double().numpy()
        tau = -1 / np.polyfit(np.arange(num_frames), np.log(left_T), 1)[0]
        found.append(Pulse(alpha, left_T, float(tau), float(time_constants(np.log(alpha)))))
    return found


@figure_function
def memoryless_figure(found: Mapping[str, Reversals]) -> Figure:
    """Draws the prediction of each head after each frame, for one video in three frame orders."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (name, of_head) in zip(panels, found.items(), strict=True):
        steps = np.arange(1, of_head.right_KT.shape[1] + 1)
        for (order, color), right_T in zip(ORDERS.items(), of_head.right_KT, strict=True):
            axes.plot(steps, right_T, color=color, linewidth=1.6, label=order)
            axes.plot(steps[-1:], right_T[-1:], color=color, marker="o", markersize=5, clip_on=False)
        axes.axhline(0.5, color=INK, alpha=0.3, linewidth=0.8)
        axes.set_title(f"{name}: accuracy {100 * of_head.accuracy:.0f} %", fontsize=SMALL)
        axes.set_ylim(0, 1)
        axes.set_xlabel("frames seen")
    panels[0].set_ylabel("p(moves right)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=SMALL)
    return figure


@figure_function
def pulse_figure(found: Sequence[Pulse]) -> Figure:
    """Draws the remaining share of a pulse on a logarithmic axis, where each decay is a straight line."""
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.subplots()
    for pulse, color in zip(found, ORDERS.values(), strict=True):
        axes.plot(pulse.left_T, color=color, linewidth=1.6, label=f"alpha {pulse.alpha:g}, tau {pulse.tau:.3g}")
        axes.plot([pulse.tau], [np.exp(-1)], marker="o", color=color, markersize=6, clip_on=False)
    axes.axhline(np.exp(-1), color=INK, alpha=0.3, linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(1e-2, 1.2)
    axes.set_yticks([0.01, 0.1, np.exp(-1), 1], ["0.01", "0.1", "1/e", "1"])
    axes.minorticks_off()
    axes.set_xlim(0, len(found[0].left_T) - 1)
    figure.legend(loc="outside upper center", ncols=len(found), frameon=False, fontsize=8, columnspacing=1.0,
                  handlelength=1.2)  # fmt: skip
    axes.set_xlabel("frames since the pulse")
    axes.set_ylabel("share remaining")
    return figure
