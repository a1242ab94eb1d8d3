"""`python killed_fits.py WORKSPACE OUT NUM`: kill trainings at random moments, and print how many checkpoints are left
and how many of these are broken. Each training is a fork of this process, so that torch is imported once."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import zipfile
from pathlib import Path

import torch
from conftest import fit_arguments

from videomem.cli import train  # noqa: F401 - imported before the forks
from videomem.cli.main import main
from videomem.training.checkpoint import read_checkpoint


def killed_fit(workspace: Path, run_dir: Path, delay_s: float) -> Path:
    """Start a training, kill it some time after its first checkpoint, and return the path of the checkpoint."""
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(["fit", *fit_arguments(workspace, run_dir, epochs=100_000)]))
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delay_s)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return checkpoint


def is_broken(path: Path) -> bool:
    try:
        read_checkpoint(path)
        return zipfile.ZipFile(path).testzip() is not None
    except Exception:  # noqa: BLE001 - whatever a broken file raises
        return True


if __name__ == "__main__":
    torch.set_num_threads(1)
    workspace, out, delays_s = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(0)
    found = [killed_fit(workspace, out / str(n), delays_s.uniform(0, 1.5)) for n in range(int(sys.argv[3]))]
    print(sum(path.exists() for path in found), sum(map(is_broken, found)))
