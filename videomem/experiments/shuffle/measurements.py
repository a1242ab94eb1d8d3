"""What a trained head loses when the order of the frames is taken away.

Because the backbone sees one frame at a time, shuffling features is shuffling frames; and what depends on one frame
only is computed once and permuted by index. Only the recurrence runs again.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from io import StringIO
from statistics import fmean, pstdev

import numpy as np
import torch
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments import permutations
from videomem.heads import Head

CONDITIONS = ("ordered", "shuffled", "reversed")


@dataclass(frozen=True)
class Measurement:
    """One head under one frame order of the frames, over all clips; a row of `shuffle.csv`.

    Attributes:
        head: The memory's name.
        seed: Seed that the head was trained with.
        condition: `ordered`, `shuffled` or `reversed`.
        permutation: Number of the frame order within its condition.
        accuracy: Share of clips classified rightly.
        flip_rate: Share of clips whose predicted class is another than in order.
        max_logit_change: Largest change of any logit against the ordered clip, frames' terms permuted by index.
        max_logit_change_forward: The same from a plain `forward` on permuted features; None where it was not run.
        js_divergence: Mean Jensen-Shannon divergence of the class probabilities from those in order, in nats.
    """

    head: str
    seed: int
    condition: str
    permutation: int
    accuracy: float
    flip_rate: float
    max_logit_change: float
    max_logit_change_forward: float | None
    js_divergence: float


COLUMNS = tuple(field.name for field in fields(Measurement))


@dataclass
class _Sums:
    """Sums over batches, scalars on the head's device: a GPU is asked for them once, at the end."""

    right: Tensor
    flipped: Tensor
    divergence: Tensor
    change: Tensor
    change_forward: Tensor | None = None

    @classmethod
    def zeros(cls, device: torch.device) -> _Sums:
        kinds = (torch.int64, torch.int64, torch.float64, torch.float32)
        return cls(*(torch.zeros((), dtype=dtype, device=device) for dtype in kinds))


@torch.inference_mode()
def measure_order(
    head: Head,
    batches: Iterable[VideoBatch],
    seed: int,
    num_permutations: int = 100,
    num_forward: int = 3,
    permutation_seed: int = 0,
) -> list[Measurement]:
    """Evaluate a head on ordered, shuffled and reversed frames.

    Args:
        head: A trained head; it is put into evaluation mode.
        batches: Batches of features.
        seed: The head's training seed, for the rows.
        num_permutations: K, permutations of each clip.
        num_forward: Of how many permutations the plain `forward` is run as well.
        permutation_seed: Seed of the permutations; clip c has those of (permutation_seed, c), whatever its batch.
    Returns:
        1 + K + 1 measurements: ordered, shuffled (one per permutation), reversed.
    """
    head.eval()
    sums = [_Sums.zeros(head.norm.mean.device) for _ in range(num_permutations + 2)]
    num_clips = 0
    for batch in batches:
        num_clips += len(batch.labels)
        terms_BTK = head.project(batch.x)
        plain_BC = head.forward_projected(terms_BTK, batch.lengths)
        forward_BC = head(batch.x, batch.lengths)
        if not torch.isfinite(forward_BC).all():
            raise VideomemError(f"{head.label} (seed {seed}) gives logits that are not finite; its training diverged")
        frame_orders_KBT = _frame_orders(batch, num_permutations, permutation_seed)
        with_forward = {0, *range(1, 1 + num_forward), num_permutations + 1}
        for k, indices_BT in enumerate(frame_orders_KBT):
            logits_BC = head.forward_projected(permute_frames(terms_BTK, indices_BT), batch.lengths)
            _add(sums[k], plain_BC, logits_BC, batch.labels)
            if k in with_forward:
                moved_BC = head(permute_frames(batch.x, indices_BT), batch.lengths)
                change, before = (moved_BC - forward_BC).abs().max(), sums[k].change_forward
                sums[k].change_forward = change if before is None else torch.maximum(before, change)
    names = [("ordered", 0), *(("shuffled", k) for k in range(num_permutations)), ("reversed", 0)]
    return [_measurement(head.label, seed, *name, total, num_clips) for name, total in zip(names, sums, strict=True)]


def permute_frames(x_BTK: Tensor, indices_BT: Tensor) -> Tensor:
    """Frames of each clip in the given order: out[b, t] = x[b, indices[b, t]]."""
    return x_BTK.gather(1, indices_BT.unsqueeze(2).expand(-1, -1, x_BTK.shape[2]))


def _frame_orders(batch: VideoBatch, num_permutations: int, seed: int) -> Tensor:
    """Frame orders (K + 2, B, T) of a batch: ordered, K permutations, reversed."""
    num_frames = batch.x.shape[1]
    of_clip = []
    for clip, length in zip(batch.clip.tolist(), batch.lengths.tolist(), strict=True):
        rows = (
            permutations.ordered(length, num_frames),
            permutations.shuffled(length, num_frames, num_permutations, (seed, clip)),
            permutations.reversed_order(length, num_frames),
        )
        of_clip.append(np.concatenate(rows))
    return torch.from_numpy(np.stack(of_clip, axis=1)).to(batch.x.device)


def _add(total: _Sums, plain_BC: Tensor, logits_BC: Tensor, labels_B: Tensor) -> None:
    predicted_B = logits_BC.argmax(1)
    total.right += (predicted_B == labels_B).sum()
    total.flipped += (predicted_B != plain_BC.argmax(1)).sum()
    total.change = torch.maximum(total.change, (logits_BC - plain_BC).abs().max())
    total.divergence += js_divergence(plain_BC, logits_BC).sum()


def js_divergence(logits_BC: Tensor, other_BC: Tensor) -> Tensor:
    """Jensen-Shannon divergence (B,) of two softmax distributions in nats: 0 for equal ones, at most log 2.

    Reference:
        Lin 1991, "Divergence measures based on the Shannon entropy", eq. 3.3.
    """
    log_p, log_q = logits_BC.double().log_softmax(1), other_BC.double().log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - float(np.log(2))
    kl_p = (log_p.exp() * (log_p - log_m)).sum(1)
    kl_q = (log_q.exp() * (log_q - log_m)).sum(1)
    return ((kl_p + kl_q) / 2).clamp(min=0)


def _measurement(head: str, seed: int, condition: str, permutation: int, total: _Sums, num_clips: int) -> Measurement:
    clips = max(num_clips, 1)
    return Measurement(
        head,
        seed,
        condition,
        permutation,
        int(total.right) / clips,
        int(total.flipped) / clips,
        float(total.change),
        None if total.change_forward is None else float(total.change_forward),
        float(total.divergence) / clips,
    )


def as_csv(measurements: Sequence[Measurement]) -> str:
    """`shuffle.csv`: a row per measurement; an empty field is a measurement that was not made."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([["" if v is None else v for v in vars(row).values()] for row in measurements])
    return text.getvalue()


@dataclass(frozen=True)
class Summary:
    """A head over all its seeds: mean accuracy in each condition, and its spread over seeds."""

    head: str
    num_seeds: int
    accuracy: dict[str, float]
    deviation: dict[str, float]
    flip_rate: float
    js_divergence: float
    max_logit_change: float
    max_logit_change_forward: float | None


def summarize(measurements: Sequence[Measurement]) -> list[Summary]:
    """One line per head, in the order in which heads first come; means over seeds of the means over permutations."""
    return [_summary(head, measurements) for head in dict.fromkeys(row.head for row in measurements)]


def _summary(head: str, measurements: Sequence[Measurement]) -> Summary:
    rows = [row for row in measurements if row.head == head]
    seeds = sorted({row.seed for row in rows})
    of_seed = {
        condition: [
            fmean(row.accuracy for row in rows if row.condition == condition and row.seed == seed) for seed in seeds
        ]
        for condition in CONDITIONS
    }
    shuffled_rows = [row for row in rows if row.condition == "shuffled"]
    forward = [row.max_logit_change_forward for row in shuffled_rows if row.max_logit_change_forward is not None]
    return Summary(
        head=head,
        num_seeds=len(seeds),
        accuracy={condition: fmean(values) for condition, values in of_seed.items()},
        deviation={condition: pstdev(values) for condition, values in of_seed.items()},
        flip_rate=fmean(row.flip_rate for row in shuffled_rows),
        js_divergence=fmean(row.js_divergence for row in shuffled_rows),
        max_logit_change=max(row.max_logit_change for row in shuffled_rows),
        max_logit_change_forward=max(forward) if forward else None,
    )


def change_text(change: float | None) -> str:
    """A change of logits for tables: `0` only where it is exactly that, empty where it was not measured."""
    if change is None:
        return ""
    return f"{change:.2g}"
