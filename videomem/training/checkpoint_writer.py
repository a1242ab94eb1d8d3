"""Write checkpoints atomically."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from videomem.utils.atomic import write_atomic


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
