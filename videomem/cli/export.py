"""`videomem export`: turn a checkpoint into a folder that others can load."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videomem.cli.options import at_least, parser
from videomem.cli.shuffle import chance, measure_checkpoint
from videomem.errors import VideomemError
from videomem.experiments.order_test.result import from_json
from videomem.experiments.shuffle.measurements import summarize
from videomem.inference.exported_folder import write_card
from videomem.inference.graph_export import export_graphs, refuse_impossible, summary
from videomem.inference.graph_snippets import snippets
from videomem.inference.model import Classifier, load, model_of
from videomem.tracking import track_export
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.utils.folders import is_empty_or_absent


def main(command: str, arguments: Sequence[str]) -> int:
    """Measure the model where its data is at hand, and write the folder with its model card."""
    given = _parser(command).parse_args(arguments)
    if not is_empty_or_absent(given.out):
        raise VideomemError(f"{given.out}: is not empty; choose a new folder for --out")
    checkpoint = read_checkpoint(given.checkpoint, given.trust)
    model = model_of(checkpoint)
    graphs = (given.onnx, given.torch_export, given.preprocess)
    refuse_impossible(*graphs, has_backbone=model.backbone is not None and not given.without_backbone)
    if given.order is not None:
        model.evidence["order_test"] = order_evidence(model, given.order)
    if not given.no_evaluation:
        moved = {name: value for name in ("catalog", "store") if (value := getattr(given, name))}
        model.evidence["evaluation"] = evaluate(checkpoint, given.permutations, moved)
    model.save_pretrained(given.out, not given.without_backbone)
    print(_evaluated(model.evidence.get("evaluation")))
    print(f'exported to {given.out}; load it with videomem.load("{given.out}")')
    if given.onnx or given.torch_export:
        report = export_graphs(load(given.out), given.out, *graphs)
        write_card(given.out, snippets(report))
        print("\n".join(summary(report)))
    if given.wandb != "disabled":
        found = model.evidence.get("evaluation", {})
        metrics = {name: value for name, value in found.items() if isinstance(value, float)} or None
        track_export(given.out, checkpoint, given.wandb, metrics)
    return 0


def _parser(command: str) -> argparse.ArgumentParser:
    options = parser(command, __doc__)
    options.add_argument("checkpoint", type=Path, help="a checkpoint of `videomem fit`")
    options.add_argument("--out", type=Path, required=True, help="new folder; load it with `videomem.load(folder)`")
    options.add_argument("--without-backbone", action="store_true", help="leave the backbone's weights out")
    options.add_argument("--onnx", action="store_true", help="also as ONNX graphs of clips and of one step, checked")
    options.add_argument("--torch-export", action="store_true", help="the same as files of torch.export (.pt2)")
    options.add_argument(
        "--preprocess",
        action="store_true",
        help="let the graphs take uint8 frames of any size, and resize and crop there",
    )
    options.add_argument("--order", type=Path, default=None, help="`order.json` of an order test, for the model card")
    options.add_argument("--no-evaluation", action="store_true", help="leave accuracy and shuffling out of the card")
    options.add_argument("--permutations", type=at_least(1), default=20, help="shuffles of each test clip")
    options.add_argument("--catalog", default=None, help="where the catalog is now, if it moved since training")
    options.add_argument("--store", default=None, help="where the feature stores are now, if they moved")
    options.add_argument(
        "--wandb",
        choices=("offline", "online", "disabled"),
        default="disabled",
        help="mode of a W&B run that keeps the folder as an artifact of the checkpoint's group",
    )
    options.add_argument("--trust", action="store_true", help="let the checkpoint name classes of other packages")
    return options


def evaluate(checkpoint: Checkpoint, num_permutations: int, moved: dict[str, str]) -> dict[str, Any]:
    """What a checkpoint's test clips say, in order, shuffled and reversed; or the reason why they cannot be asked."""
    try:
        data = checkpoint.data_module(**moved)
        rows = measure_checkpoint(checkpoint, data, num_permutations, 0, 0)
    except VideomemError as error:
        print(f"videomem: not evaluated: {error}", file=sys.stderr)  # It may name paths, which a card must not.
        return {"reason": "its test clips were not at hand when it was exported"}
    (found,) = summarize(rows)
    clips = [data.clips[row] for row in data.rows(data.test_split)]
    return {
        "split": data.test_split,
        "num_clips": len(clips),
        "num_groups": len({clip.group for clip in clips}),
        "accuracy": found.accuracy["ordered"],
        "shuffled": found.accuracy["shuffled"],
        "reversed": found.accuracy["reversed"],
        "chance": chance(data),
        "flip_rate": found.flip_rate,
        "max_logit_change": found.max_logit_change,
        "num_permutations": num_permutations,
    }


def order_evidence(model: Classifier, path: Path) -> dict[str, Any]:
    """What an order test on the same classes found for a memory like this model's.

    Raises:
        VideomemError: If the card is unreadable, of other classes, or has no such memory.
    """
    try:
        card = from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VideomemError(f"--order {path}: {error.strerror}; name `order.json` of an order test") from error
    if sorted(card.data.class_names) != sorted(model.class_names):
        raise VideomemError(f"--order {path}: a test on other classes ({', '.join(card.data.class_names)[:80]})")
    label = model.head.memories[0].label
    found = next((one for one in card.memories if label in (one.label, one.name)), None)
    if found is None:
        raise VideomemError(f"--order {path}: has no {label}; it has {', '.join(one.label for one in card.memories)}")
    value = found.value_of_order
    return {
        "label": found.label,
        "value": value.value,
        "low": value.low,
        "high": value.high,
        "verdict": "control" if found.verdict is None else found.verdict.kind,
        "plan_sha256": card.plan_sha256,
    }


def _evaluated(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not evaluated, and the model card says so"
    if "reason" in found:
        return "the model card has no accuracy; give --catalog and --store where the data is now"
    return (
        f"{found['num_clips']} clips of split {found['split']}: accuracy {found['accuracy']:.3f} in order, "
        f"{found['shuffled']:.3f} shuffled, {found['reversed']:.3f} reversed"
    )
