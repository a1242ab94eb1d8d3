"""Order in real videos: five folds of EgoGestAR (a finger drawing left, right, up, down), every head, two backbones.

    python benchmarks/egogestar.py --root FOLDER --squeezenet WEIGHTS.pth --out runs/egogestar

FOLDER holds testvideo_<class>_<serial>.mp4 (github.com/varunj/EgoGestAR); WEIGHTS a state_dict of torchvision's
squeezenet1_0 trained on ImageNet. Clips of one serial number are mostly one scene, so the folds are of serial numbers.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch
from rich.console import Console

from videomem.checkpoint import read_checkpoint
from videomem.cli import main
from videomem.commands.shuffle import measure_checkpoint, results_table
from videomem.commands.train import run
from videomem.evaluation.shuffle import as_csv, summarize
from videomem.plain import config_folder
from videomem.video.catalog import Catalog, Clip, write_catalog

FOLDS = 5


def write_folds(root: Path, out: Path) -> list[Path]:
    """A catalog per fold: serial numbers of one remainder modulo the number of folds are its test split."""
    paths = []
    for fold in range(FOLDS):
        clips = []
        for path in sorted(root.glob("testvideo_*_*.mp4")):
            match = re.fullmatch(r"testvideo_([a-z]+)_(\d+)", path.stem)
            assert match is not None, path
            split = "test" if int(match[2]) % FOLDS == fold else "train"
            clips.append(Clip(str(path), match[1], split, match[2]))
        paths.append(out / f"fold{fold}.csv")
        write_catalog(Catalog(tuple(clips)), paths[-1])
    return paths


def evaluate(backbone: dict[str, object], catalogs: list[Path], heads: list[str], seeds: int, out: Path) -> None:
    """Train and evaluate every head on every fold, and print the means over folds and seeds."""
    rows = []
    for catalog in catalogs:
        data = ["--config", str(config_folder() / "base.yaml"), "--data.catalog", str(catalog)]
        data += ["--data.store", str(out / "features"), "--data.backbone", json.dumps(backbone)]
        if main(["extract", *data]):
            raise SystemExit(1)
        for head in heads:
            for seed in range(seeds):
                run_dir = out / "heads" / f"{backbone['name']}-{catalog.stem}-{head}-seed{seed}"
                arguments = [*data, "--config", str(config_folder() / "head" / f"{head}.yaml")]
                arguments += ["--config", str(config_folder() / "quiet.yaml"), "--seed_everything", str(seed)]
                cli = run("fit", [*arguments, "--run_dir", str(run_dir), "--data.storage", "ram"])
                assert cli is not None
                checkpoint = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")
                rows += measure_checkpoint(checkpoint, cli.datamodule, 20, 1, 0)
    (out / f"{backbone['name']}.csv").write_text(as_csv(rows))
    table = results_table(summarize(rows))
    table.title = (
        f"{backbone['name']} {backbone['layer']}, weights {Path(str(backbone['weights'])).name}: {table.title}"
    )
    Console(width=100).print(table)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", type=Path, required=True)
    options.add_argument("--squeezenet", type=Path, help="weights; without them only AlexNet with random ones is run")
    options.add_argument("--out", type=Path, default=Path("runs/egogestar"))
    options.add_argument("--heads", nargs="+", default=["none", "leaky", "rnn", "gated", "gru", "lstm"])
    options.add_argument("--seeds", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(2)
    folds = write_folds(given.root, given.out.absolute())
    nets: list[dict[str, object]] = [{"name": "alexnet", "layer": "fc6", "weights": "random"}]
    if given.squeezenet:
        weights = str(given.squeezenet.absolute())
        nets.append({"name": "squeezenet1_0", "layer": "features.12", "weights": weights, "grid": 3})
    for net in nets:
        evaluate(net, folds, given.heads, given.seeds, given.out.absolute())
    print(f"every measurement is in {given.out}; commit and machine: `git rev-parse HEAD`, `lscpu`")
