"""The order test on real videos: EgoGestAR, a finger drawing left, right, up or down.

    python benchmarks/egogestar.py --root FOLDER --squeezenet WEIGHTS.pth --out runs/egogestar

FOLDER holds testvideo_<class>_<serial>.mp4 (github.com/varunj/EgoGestAR); WEIGHTS a state_dict of torchvision's
squeezenet1_0 trained on ImageNet; without them, AlexNet with random weights. Clips of one serial number are
mostly one scene, so groups are serial numbers. Nothing was tuned: the settings are those of `configs/base.yaml` and
`configs/order.yaml`.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from commands import configs, forecast, order_test, run, squeezenet
from rich.console import Console

from videomem.experiments.order_test.order_tables import table
from videomem.experiments.tables import show
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import write_catalog


def write_groups(root: Path, path: Path) -> None:
    """A catalog whose groups are serial numbers; the order test draws its own splits."""
    clips = []
    for file in sorted(root.glob("testvideo_*_*.mp4")):
        match = re.fullmatch(r"testvideo_([a-z]+)_(\d+)", file.stem)
        assert match is not None, file
        clips.append(Clip(str(file), match[1], "train", match[2]))
    write_catalog(Catalog(tuple(clips)), path)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", type=Path, required=True)
    options.add_argument("--squeezenet", type=Path, help="weights; default: AlexNet with random weights")
    options.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the network")
    options.add_argument("--out", type=Path, default=Path("runs/egogestar"))
    given, further = options.parse_known_args()
    out = given.out.absolute()
    net: dict[str, object] = {"name": "alexnet", "layer": "fc6", "weights": "random"}
    if given.squeezenet:
        net = squeezenet(given.squeezenet)
    net["precision"] = given.precision
    write_groups(given.root, out / "catalog.csv")
    data = ["--data.catalog", str(out / "catalog.csv"), "--data.store", str(out / "features")]
    data += ["--data.features.backbone", json.dumps(net)]
    run("extract", *configs("base"), *data)
    arguments = [*configs("base", "order"), *data]
    forecast(arguments, further)
    result = order_test(arguments, further, out / f"order-{net['name']}")
    console = Console(width=160)
    for shown in (table(result, name) for name in ("accuracies", "contrasts", "suite")):
        console.print(shown.name, style="bold")
        for row in shown.rows:
            console.print("  ".join(show(value, column.kind) for value, column in zip(row, shown.columns, strict=True)))
    print(f"{result.seconds:.0f} s in total; training jobs {result.seconds_training:.0f} s on one process each")
