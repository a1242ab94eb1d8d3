"""Optimizer, learning-rate schedule, label smoothing and early stopping of `fit`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import data_arguments, failed, fit_arguments
from pytorch_lightning import LightningDataModule, Trainer
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader

from videomem.batch import VideoBatch
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.heads import GRU
from videomem.training.lit_classifier import LitClassifier
from videomem.training.stacked import StackedClassifiers

SCHEDULED = ["--model.lr_schedule", "cosine", "--model.warmup_epochs", "1", "--data.batch_size", "8"]


class Random(LightningDataModule):
    """Four random batches of three classes."""

    def train_dataloader(self) -> Any:
        rng = torch.Generator().manual_seed(0)
        one = [
            VideoBatch(torch.randn(6, 4, 5, generator=rng), torch.full((6,), 4), torch.arange(6) % 3, torch.arange(6))
        ]
        return DataLoader(one * 4, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def feature_statistics(self) -> Any:
        return torch.zeros(5), torch.ones(5)


class Rates(LitClassifier):
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates = [*getattr(self, "rates", []), optimizer.param_groups[0]["lr"]]


def trained(cls: type[LitClassifier] = LitClassifier, epochs: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    model = cls(partial(GRU, hidden_dim=4), 5, list("abc"), [1, 2, 3], **options)
    Trainer(max_epochs=epochs, accelerator="cpu", barebones=True).fit(model, datamodule=Random())
    return model


@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_the_cosine_schedule_is_that_of_torch(warmup_epochs: int) -> None:
    model = trained(Rates, learning_rate=0.5, lr_schedule="cosine", warmup_epochs=warmup_epochs)
    num_warmup = 4 * warmup_epochs
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler: Any = CosineAnnealingLR(optimizer, 12 - num_warmup)
    if num_warmup:
        warmup = LinearLR(optimizer, 1 / num_warmup, total_iters=num_warmup - 1)
        scheduler = SequentialLR(optimizer, [warmup, scheduler], [num_warmup])
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert model.rates == pytest.approx(expected)


def test_sgd_with_momentum_is_that_of_torch_and_decays_matrices_only() -> None:
    model = trained(epochs=1, optimizer="sgd", momentum=0.9, learning_rate=0.1, weight_decay=0.2, label_smoothing=0.1,
                    class_weighting="balanced")  # fmt: skip
    torch.manual_seed(0)
    other = LitClassifier(partial(GRU, hidden_dim=4), 5, list("abc"), [1, 2, 3], class_weighting="balanced")
    parts = [[p for p in other.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False)]
    groups = [{"params": parts[0], "weight_decay": 0.2}, {"params": parts[1]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    loss = nn.CrossEntropyLoss(other.class_weights, label_smoothing=0.1)
    for batch in Random().train_dataloader():
        optimizer.zero_grad()
        loss(other.head(batch.x, batch.lengths), batch.labels).backward()
        optimizer.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer", [[], ["--model.optimizer", "sgd", "--model.momentum", "0.9"]], ids=["adamw", "sgd"]
)
def test_a_run_with_a_schedule_is_resumed_bit_for_bit(workspace: Path, tmp_path: Path, optimizer: list[str]) -> None:
    checkpoint = {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
                  "init_args": {"filename": "{epoch}", "save_top_k": -1, "save_on_train_epoch_end": True}}  # fmt: skip
    (tmp_path / "each.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [checkpoint]}}))
    options = [*SCHEDULED, *optimizer, "--config", str(tmp_path / "each.yaml")]
    assert main(["fit", *fit_arguments(workspace, tmp_path / "whole", epochs=3), *options]) == 0
    before = tmp_path / "whole" / "checkpoints" / "epoch=1.ckpt"
    resumed = [*fit_arguments(workspace, tmp_path / "rest", epochs=3), *options, "--ckpt-path", str(before)]
    assert main(["fit", *resumed]) == 0
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "epoch=2.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "rest")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_options_without_effect_or_meaning_are_refused(
    workspace: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", *fit_arguments(workspace, tmp_path / "run")]
    assert "model.optimizer is adamw; set it to sgd" in failed(capsys, *fit, "--model.momentum", "0.9")
    assert "model.label_smoothing is 1.0, but must be in [0, 1)" in failed(capsys, *fit, "--model.label_smoothing", "1")
    assert "model.warmup_epochs is -1" in failed(capsys, *fit, "--model.warmup_epochs", "-1")
    assert "which is all of the training; raise trainer.max_epochs" in failed(capsys, *fit, *SCHEDULED)
    endless = ["--model.lr_schedule", "cosine", "--trainer.max_epochs", "-1"]
    assert "the training has no end; set trainer.max_epochs" in failed(capsys, *fit, *endless)
    test = ["test", "--ckpt-path", checkpoints["gru"], "--model.lr_schedule", "cosine"]
    assert "an evaluation trains nothing" in failed(capsys, *test)
    config = tmp_path / "schedule.yaml"
    config.write_text("model: {lr_schedule: cosine}")
    order = ["order", *data_arguments(workspace), "--config", config, "--out", tmp_path / "order"]
    assert "model.lr_schedule is cosine, but an order test trains its heads with constant" in failed(capsys, *order)
    model = LitClassifier(partial(GRU, hidden_dim=4), 5, list("abc"), [1, 2, 3], label_smoothing=0.1)
    with pytest.raises(VideomemError, match="no label smoothing"):
        StackedClassifiers([model])


def test_the_recipe_of_the_documentation_stops_early_and_keeps_the_best_epoch(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = (Path(__file__).parent.parent.parent / "docs" / "training.md").read_text()
    recipe = document.split("```yaml\n# early_stopping.yaml\n")[1].split("```")[0]
    (tmp_path / "early_stopping.yaml").write_text(recipe)
    options = ["--config", str(tmp_path / "early_stopping.yaml"), "--model.learning_rate", "0.05"]
    assert main(["fit", *fit_arguments(workspace, tmp_path / "run", epochs=200), *options]) == 0
    last, best = (
        torch.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best")
    )
    assert best["epoch"] <= last["epoch"] - 5 < 190
    assert main(["test", "--ckpt-path", str(tmp_path / "run" / "checkpoints" / "best.ckpt")]) == 0
    assert f"epoch {best['epoch'] + 1}: 20 clips" in " ".join(capsys.readouterr().out.split())
