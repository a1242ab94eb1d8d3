"""Sensitivity of the logits to earlier frames: by gradients, and by replacing single frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.trace import in_double, trace_projected
from videomem.heads import Head
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import from_plain

ELEMENTS = 2**24  # elements (probes, clips, frames, units) per chunk; 128 MiB in float64


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of the logits of the last frame to the frame `lag` frames earlier, relative to the last frame.

    Each value is a median over the clips whose last frame has any effect; NaN if there are none.

    Attributes:
        lags: Lags in frames.
        gradient: RMS of d logits_T / d x_{T-lag}, divided by that at lag 0.
        direct: The same along the retention alone, divided by the whole gradient at lag 0.
        swap: RMS change of the logits if the frame is replaced by that of another clip, divided by that at lag 0.
        gradient_at_zero: RMS gradient at lag 0, in logits per training standard deviation of a feature.
        swap_at_zero: RMS change at lag 0, in logits.
    """

    lags: tuple[int, ...]
    gradient: tuple[float, ...]
    direct: tuple[float, ...]
    swap: tuple[float, ...]
    gradient_at_zero: float
    swap_at_zero: float


def sensitivity(head: Head, x_BTD: Tensor, lags: Sequence[int], seed: int = 0, max_probes: int = 32) -> Sensitivity:
    """Measures gradients of the last frame's logits, and their change if a single frame is replaced.

    The logits are those that the readout gives to the output of the last frame alone, because a mean over frames
    depends on every frame, whatever the memory. Features are in units of the training standard deviation, as returned
    by `FeatureNorm`; features that were constant in training are left out. The RMS is over classes and features. With
    more than `max_probes` classes it is estimated without bias from random signs r, since E |J^T r|^2 = |J|^2.
    Computations are in float64, because gradients decrease by many orders of magnitude.

    A gradient measures the effect of small changes; a replacement is as large as the difference between two clips, and
    uses real frames. Frame T - lag of each clip is replaced by that of the next clip in a random cycle of all clips.

    Args:
        head: A head, trained or not; it is not changed.
        x_BTD: Features of clips of one length.
        lags: Lags in frames, each from 0 to T - 1.
        seed: Seed of the cycle and of the random signs.
        max_probes: Largest number of backward passes per clip.
    Raises:
        VideomemError: If a lag is out of range, or there are fewer than 2 clips.
    Reference:
        Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", section 2 (gradients over lags);
        Hutchinson 1990 (random signs).
    """
    _check(head, x_BTD, lags, max_probes)
    generator, exact = torch.Generator().manual_seed(seed), in_double(head)
    partners_B = _circle(len(x_BTD), generator)
    probes_KC = _probes(head.readout.num_classes, max_probes, generator).to(x_BTD.device)
    places = [x_BTD.shape[1] - 1 - lag for lag in (0, *lags)]
    rows = torch.arange(len(x_BTD)).split(max(1, ELEMENTS // x_BTD[0].numel()))
    whole_BL, direct_BL = (
        torch.cat([_gradients(exact, x_BTD[part], places, probes_KC, direct) for part in rows]).cpu().numpy()
        for direct in (False, True)
    )
    moved_BL = torch.cat([_swaps(exact, x_BTD[part], x_BTD[partners_B[part]], places) for part in rows]).cpu().numpy()
    return Sensitivity(
        lags=tuple(lags),
        gradient=_median_ratios(whole_BL[:, 1:], whole_BL[:, 0]),
        direct=_median_ratios(direct_BL[:, 1:], whole_BL[:, 0]),
        swap=_median_ratios(moved_BL[:, 1:], moved_BL[:, 0]),
        gradient_at_zero=float(np.median(whole_BL[:, 0])),
        swap_at_zero=float(np.median(moved_BL[:, 0])),
    )


def untrained(classifier: LitClassifier, seed: int = 0) -> Head:
    """Returns a head with the configuration and `FeatureNorm` of a classifier but fresh weights, in evaluation mode.

    The head is made by its constructors, which initialize the biases of gates. The global generator is not changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh: Head = from_plain(LitClassifier, dict(classifier.hparams)).head
    fresh.norm.load_state_dict(classifier.head.norm.state_dict())
    return fresh.to(classifier.head.norm.mean.device).eval()


def check_features(head: Head, x_BTD: Tensor) -> None:
    """Checks the shape of features.

    Raises:
        VideomemError: If it is not (B, T, D) with the D of the head, B >= 1 and T >= 1.
    """
    if x_BTD.ndim != 3 or x_BTD.shape[2] != head.feature_dim or not x_BTD.numel():
        raise VideomemError(
            f"features have shape {tuple(x_BTD.shape)}, but the head takes (B, T, {head.feature_dim}) with B and T at "
            "least 1; use the feature store and layer that the head was trained on"
        )


def _check(head: Head, x_BTD: Tensor, lags: Sequence[int], max_probes: int) -> None:
    check_features(head, x_BTD)
    num_frames = x_BTD.shape[1]
    if wrong := [lag for lag in lags if not 0 <= lag < num_frames]:
        raise VideomemError(
            f"lag is {wrong[0]}, but clips of {num_frames} frames have lags 0..{num_frames - 1}; take longer clips"
        )
    if len(x_BTD) < 2:
        raise VideomemError(f"{len(x_BTD)} clip, but at least 2 are needed to replace frames; give more clips")
    if max_probes < 1:
        raise VideomemError(f"max_probes is {max_probes}, but must be at least 1")


def _circle(num_clips: int, generator: torch.Generator) -> Tensor:
    """Returns for each clip its successor (B,) in a random cycle of all clips, which is never the clip itself."""
    order = torch.randperm(num_clips, generator=generator)
    partners_B = torch.empty_like(order)
    partners_B[order] = order.roll(-1)
    return partners_B


def _probes(num_classes: int, max_probes: int, generator: torch.Generator) -> Tensor:
    """Returns directions (K, C) in logit space with sum_k r_k r_k' = 1, or with that expectation if K < C."""
    if num_classes <= max_probes:
        return torch.eye(num_classes, dtype=torch.float64)
    signs_KC = torch.randint(0, 2, (max_probes, num_classes), generator=generator).double() * 2 - 1
    return signs_KC / max_probes**0.5


def _gradients(head: Head, x_BTD: Tensor, places: list[int], probes_KC: Tensor, direct: bool) -> Tensor:
    """Returns RMS gradients (B, L) of the last frame's logits by the standardized frames at given positions."""
    y_BTD = head.norm(x_BTD)
    # Gradients are taken with respect to the narrow projected terms; only the given positions are mapped to features.
    terms_BTK = _project(head, y_BTD).requires_grad_()
    logits_BC = head.readout.of_frame(trace_projected(head, terms_BTK, direct).outputs_BTK[:, -1])
    y_BLD = y_BTD[:, places].requires_grad_()
    terms_BLK = _project(head, y_BLD)
    square_BL = y_BTD.new_zeros(y_BLD.shape[:2])
    # Gradients (K, *by) of the inner products of a tensor with K directions.
    gradients = partial(torch.autograd.grad, retain_graph=True, is_grads_batched=True)
    for part_KC in probes_KC.split(max(1, ELEMENTS // max(terms_BTK.numel(), y_BLD.numel()))):
        along_KBC = part_KC.unsqueeze(1).expand(-1, len(x_BTD), -1)
        by_terms = gradients(logits_BC, terms_BTK, along_KBC)[0][:, :, places]
        (by_features,) = gradients(terms_BLK, y_BLD, by_terms)
        square_BL += (by_features * (head.norm.scale != 0)).square().sum((0, -1))
    num_live = int((head.norm.scale != 0).sum())
    return (square_BL / (probes_KC.shape[1] * num_live)).sqrt()


def _project(head: Head, y_BTD: Tensor) -> Tensor:
    """Returns the projected terms of the first layer from standardized features."""
    return head.memories[0].project(head.projection(y_BTD))


@torch.no_grad()
def _swaps(head: Head, x_BTD: Tensor, other_BTD: Tensor, places: list[int]) -> Tensor:
    """Returns RMS changes (B, L) of the last frame's logits if one frame is replaced by that of another clip."""
    terms_BTK, other_BLK = (_project(head, head.norm(frames)) for frames in (x_BTD, other_BTD[:, places]))
    before_BC = _last_logits(head, terms_BTK)
    moved = []
    for number, place in enumerate(places):
        swapped_BTK = terms_BTK.clone()
        swapped_BTK[:, place] = other_BLK[:, number]
        moved.append((_last_logits(head, swapped_BTK) - before_BC).square().mean(1).sqrt())
    return torch.stack(moved, dim=1)


def _last_logits(head: Head, terms_BTK: Tensor) -> Tensor:
    """Returns logits (B, C) of the last frame from the projected terms of the first layer."""
    lengths_B = torch.full((len(terms_BTK),), terms_BTK.shape[1], device=terms_BTK.device)
    first, *above = head.memories
    y = first.activation(first.unroll(terms_BTK, lengths_B)[0])
    for memory in above:
        y = memory.activation(memory(y, lengths_B)[0])
    return head.readout.of_frame(head.classify(y[:, -1]))


def _median_ratios(values_BL: np.ndarray, at_zero_B: np.ndarray) -> tuple[float, ...]:
    """Returns medians (L,) of the values divided by those at lag 0, over the clips where these are not zero."""
    there_B = at_zero_B > 0
    if not there_B.any():
        return (float("nan"),) * values_BL.shape[1]
    return tuple(np.median(values_BL[there_B] / at_zero_B[there_B, None], axis=0).tolist())
