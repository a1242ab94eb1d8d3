"""Write checkpoints atomically, and restore a model or a training run from one without Lightning reading the file.

Lightning restores whatever a checkpoint has: a `ModelCheckpoint` takes paths from it, which it later deletes. Here it
gets the weights, and for `fit` the state of loops and optimizer, in the form that this run would write.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import Strategy
from torch import Tensor

from videomem.errors import VideomemError, one_line
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.atomic import write_atomic
from videomem.utils.torch_file import misfit


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint to a file next to its target and rename it.

    Lightning's own writer uses the folder for temporary files. If that is on another file system, it copies over the
    previous checkpoint, which an interruption or a full disk then leaves broken.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(path), buffer.getbuffer())


class CheckedCheckpoint(CheckpointIO):
    """Gives Lightning the checked content of a checkpoint instead of the file, and saves files as before.

    Args:
        content: What `load_checkpoint` returns.
        files: Writes and removes the checkpoints of the run.
    """

    def __init__(self, content: dict[str, Any], files: CheckpointIO) -> None:
        self._content, self._files = content, files

    def load_checkpoint(self, *_: Any, **__: Any) -> dict[str, Any]:
        return self._content

    def save_checkpoint(self, *arguments: Any, **keywords: Any) -> None:
        self._files.save_checkpoint(*arguments, **keywords)

    def remove_checkpoint(self, path: Any) -> None:
        self._files.remove_checkpoint(path)

    def teardown(self) -> None:
        self._files.teardown()


def restore_from(checkpoint: Checkpoint, trainer: Trainer, model: LitClassifier, resume: bool) -> None:
    """Let a trainer restore the model and, with `resume`, the training run from a checkpoint.

    Of callbacks, only the state of `EarlyStopping` is restored.

    Raises:
        VideomemError: If the weights are of another model, the state of the training run is not one that `videomem fit`
            writes with these settings, or the strategy of the trainer reads files itself.
    """
    if type(trainer.strategy).load_checkpoint is not Strategy.load_checkpoint:
        raise VideomemError(
            f"trainer.strategy is {type(trainer.strategy).__name__}, which reads checkpoints itself, unchecked; "
            "use auto or ddp"
        )
    if reason := misfit(model.state_dict(), checkpoint.content["state_dict"]):
        raise VideomemError(
            f"{checkpoint.path}: its weights are of another model ({reason}); do not change the `model` settings"
        )
    content = {"state_dict": checkpoint.content["state_dict"], "epoch": checkpoint.content["epoch"],
               "global_step": checkpoint.content["global_step"],
               VideoDataModule.__qualname__: checkpoint.content[VideoDataModule.__qualname__],
               "pytorch-lightning_version": pytorch_lightning.__version__, "callbacks": {}}  # fmt: skip
    if resume:
        try:
            content |= _training_state(checkpoint.content, trainer, model)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            reason = f"its training state is incomplete ({type(error).__name__}: {one_line(error)[:80]})"
            raise VideomemError(f"{checkpoint.path}: {reason}; train a new run") from error
        except VideomemError as error:
            raise VideomemError(
                f"{checkpoint.path}: {error}; train a new run, or use the versions of its run"
            ) from error
    trainer.strategy.checkpoint_io = CheckedCheckpoint(content, trainer.strategy.checkpoint_io)


def _training_state(content: Mapping[str, Any], trainer: Trainer, model: LitClassifier) -> dict[str, Any]:
    """The state of the loops and the optimizer, and that of a gradient scaler and of `EarlyStopping`, if any."""
    progress = {"fit_loop": trainer.fit_loop.state_dict()}
    state: dict[str, Any] = {"loops": {"fit_loop": content["loops"]["fit_loop"]}, "lr_schedulers": []}
    _check_form(state["loops"], progress, "loops")
    (optimizer_state,) = content["optimizer_states"]
    state["optimizer_states"] = [_optimizer_state(optimizer_state["state"], model.configure_optimizers())]
    if scaler := trainer.precision_plugin.state_dict():
        name = type(trainer.precision_plugin).__qualname__
        _check_form(content[name], scaler, name)
        state[name] = content[name]
    state["callbacks"] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if type(callback) is EarlyStopping and callback.state_key in content["callbacks"]:
            found, ours = content["callbacks"][callback.state_key], callback.state_dict()
            restored = {name: found[name] for name in ("wait_count", "stopped_epoch", "best_score", "patience")}
            _check_form(restored, {name: ours[name] for name in restored}, callback.state_key)
            state["callbacks"][callback.state_key] = ours | restored
    return state


def _check_form(found: Any, ours: Any, where: str) -> None:
    """Check that dictionaries have the same keys at all levels, numbers the same type, and tensors the same shape."""
    if isinstance(ours, dict):
        if not isinstance(found, dict) or found.keys() != ours.keys():
            raise VideomemError(f"{where} is not in the form that this version of Lightning writes")
        for name, value in ours.items():
            _check_form(found[name], value, f"{where}.{name}")
    elif isinstance(ours, Tensor):
        if not isinstance(found, Tensor) or found.shape != ours.shape or not found.is_floating_point():
            raise VideomemError(f"{where} is not a tensor of shape {tuple(ours.shape)}")
    elif type(found) is not type(ours) or not 0 <= found < 2**62:
        raise VideomemError(f"{where} is {one_line(repr(found))[:80]}, but must be like {ours}")


def _optimizer_state(found: dict[Any, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The moments of each parameter; learning rate and weight decay are those of the model."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, moments in found.items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise VideomemError(f"optimizer: {one_line(repr(number))[:80]} is not the number of a parameter")
        names = ("momentum_buffer",) if isinstance(optimizer, torch.optim.SGD) else ("exp_avg", "exp_avg_sq")
        like: dict[str, Tensor] = dict.fromkeys(names, parameters[number])
        if isinstance(optimizer, torch.optim.AdamW):
            like["step"] = torch.zeros(())
        _check_form(moments, like, f"optimizer.{number}")
    return {"state": found, "param_groups": optimizer.state_dict()["param_groups"]}
