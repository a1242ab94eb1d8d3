"""Stacked training: each classifier is trained as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from conftest import CONFIGS, varied_heads
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from videomem.batch import VideoBatch
from videomem.experiments.memories import read_heads
from videomem.heads.readout import AttentionReadout, BestFrameReadout
from videomem.training.lit_classifier import LitClassifier
from videomem.training.stacked import StackedClassifiers
from videomem.utils.parallel_jobs import one_thread, quiet
from videomem.utils.plain_data import from_plain

HEADS = read_heads(sorted(path.stem for path in (CONFIGS / "head").glob("*.yaml")), hidden_dim=6)
D, C, STEPS = 5, 3, 50


class Batches(LightningDataModule):
    """Batches that are given, for one classifier or for several."""

    def __init__(self, batches: Sequence[Any], statistics: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self._batches, self._statistics = batches, statistics

    def train_dataloader(self) -> Any:
        return DataLoader(self._batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def feature_statistics(self) -> Any:
        return self._statistics


def drawn_batches(seed: int) -> list[VideoBatch]:
    """Batches of clips of 2 to 7 frames; the last is smaller."""
    rng, batches = torch.Generator().manual_seed(seed), []
    for step in range(STEPS):
        size = 8 if step < STEPS - 1 else 3 + seed
        lengths = torch.randint(2, 8, (size,), generator=rng)
        x_BTD = torch.randn(size, int(lengths.max()), D, generator=rng)
        labels = torch.randint(0, C, (size,), generator=rng)
        x_BTD[:, :, 0] += labels[:, None]
        x_BTD[torch.arange(x_BTD.shape[1]) >= lengths[:, None]] = 0
        batches.append(VideoBatch(x_BTD, lengths, labels, torch.arange(size)))
    return batches


def classifier_of(head: dict[str, Any], seed: int) -> LitClassifier:
    torch.manual_seed(seed)
    sizes = {"feature_dim": D, "class_names": list("abc"), "class_counts": [1, 2 + seed, 3], "num_layers": 2}
    recipe = {"dropout": 0.3, "learning_rate": 1e-2, "class_weighting": "balanced", "seed": seed}
    classifier = from_plain(LitClassifier, {**head, **sizes, **recipe})
    assert isinstance(classifier, LitClassifier)
    return classifier


def fit(module: Any, data: LightningDataModule) -> None:
    with one_thread(), quiet():
        Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=0.5, barebones=True).fit(module, datamodule=data)


@varied_heads
def test_a_stacked_head_gets_the_weights_that_it_gets_alone(head: str) -> None:
    seeds = (0, 1, 2)
    batches = [drawn_batches(seed) for seed in seeds]
    statistics = [(torch.full((D,), 0.1 * seed), torch.full((D,), 1.0 + seed)) for seed in seeds]
    stacked = [classifier_of(HEADS[head], seed) for seed in seeds]
    for classifier, pair in zip(stacked, statistics, strict=True):
        classifier.head.norm.set_statistics(*pair)
    before = [weight.clone() for weight in stacked[0].parameters()]
    stack = StackedClassifiers(stacked)
    fit(stack, Batches(list(zip(*batches, strict=True))))
    assert all(map(torch.equal, before, stacked[0].parameters()))
    assert torch.stack(stack.losses).shape == (STEPS, len(seeds))
    for seed, trained in zip(seeds, stack.unstack(), strict=True):
        alone = classifier_of(HEADS[head], seed)
        fit(alone, Batches(batches[seed], statistics[seed]))
        moved = False
        for (weight_name, weight), single in zip(trained.named_parameters(), alone.parameters(), strict=True):
            if isinstance(trained.head.readout, (AttentionReadout, BestFrameReadout)) and weight.ndim == 1:
                weight, single = (
                    weight[:C],
                    single[:C],
                )  # The bias of scores has no effect, so its gradient is rounding.
            assert torch.allclose(weight, single, rtol=1e-5, atol=1e-5), weight_name
            moved |= not torch.allclose(weight, single * 0, atol=1e-3)
        assert moved
