"""`videomem export`: write a checkpoint as a folder that `videomem.load` reads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videomem.cli.options import add_shared, at_least, moved_data, parser, refuse_unused, tracking_of
from videomem.cli.terminal import say
from videomem.errors import VideomemError
from videomem.experiments.order_test.result import from_json
from videomem.experiments.shuffle.shuffle_result import chance, measure_checkpoint
from videomem.features.hub import HubModel, check_upload, upload
from videomem.inference.exported_folder import write_model_card
from videomem.inference.graph_export import GRAPH_FILES, export_graphs, refuse_impossible, summary
from videomem.inference.model import Classifier, load, model_of
from videomem.inference.model_card import snippets
from videomem.tracking import track_export
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.utils.atomic import atomic_folder
from videomem.utils.folders import is_empty_or_absent


def main(command: str, arguments: Sequence[str]) -> int:
    """Evaluate the model if its data is available, and write the folder with its model card."""
    options = _parser(command)
    given = options.parse_args(arguments)
    if given.no_evaluation:
        refuse_unused(options, given, ("permutations", "catalog", "store"), "with --no-evaluation; leave it out")
    if given.push_to_hub is None:
        refuse_unused(options, given, ("private", "revision"), "without --push-to-hub; leave it out")
    repository = None if given.push_to_hub is None else check_upload(given.push_to_hub, given.revision)
    if not is_empty_or_absent(given.out):
        raise VideomemError(f"{given.out}: not empty; choose a new folder for --out")
    tracking, checkpoint = tracking_of(given), read_checkpoint(given.checkpoint, given.trust)
    model = model_of(checkpoint)
    graphs = (given.onnx, given.torch_export, given.preprocess)
    refuse_impossible(*graphs, backbone=None if given.without_backbone else model.backbone)
    if given.order is not None:
        model.evidence["order_test"] = order_evidence(model, given.order)
    if not given.no_evaluation:
        model.evidence["evaluation"] = evaluate(checkpoint, given.permutations, moved_data(given))
    with atomic_folder(given.out) as unfinished:
        model.save_pretrained(unfinished, not given.without_backbone)
        examples, lines, failure = _export_graphs(unfinished, *graphs)
        write_model_card(unfinished, examples, "." if repository is None else str(repository), given.license)
    say(_evaluated(model.evidence.get("evaluation")))
    say(f'exported to {given.out}; load it with videomem.load("{given.out}")', *lines)
    if failure is not None:
        raise VideomemError(failure.replace(str(unfinished), str(given.out)))
    found = model.evidence.get("evaluation", {})
    metrics = {name: value for name, value in found.items() if isinstance(value, float)} or None
    track_export(given.out, checkpoint, tracking, metrics)
    if repository is not None:
        _push(given.out, repository, given.private)
    return 0


def _push(folder: Path, repository: HubModel, private: bool) -> None:
    try:
        pushed = upload(folder, repository, private, GRAPH_FILES)
    except VideomemError as error:
        raise VideomemError(f"{folder} is complete, but was not uploaded: {error}") from error
    say(f'uploaded to {repository}; pin this version with videomem.load("{pushed}")')


def _export_graphs(folder: Path, onnx: bool, torch_export: bool, preprocess: bool) -> tuple[str, list[str], str | None]:
    """Writes the graphs that are asked for; returns code examples, lines about them, and the reason of a failure.

    Without its graphs the folder is complete, so it is kept.
    """
    if not onnx and not torch_export:
        return "", [], None
    try:
        report = export_graphs(load(folder), folder, onnx, torch_export, preprocess)
    except VideomemError as error:
        return "", [], str(error)
    return snippets(report), summary(report), None


def _parser(command: str) -> argparse.ArgumentParser:
    options = parser(command, __doc__)
    options.add_argument("checkpoint", type=Path, help="checkpoint of `videomem fit`")
    options.add_argument("--out", type=Path, required=True, help="new folder, which `videomem.load` reads")
    options.add_argument("--without-backbone", action="store_true", help="do not include the weights of the backbone")
    options.add_argument("--onnx", action="store_true", help="also write ONNX graphs for clips and for single frames, "
                         "and check their outputs")  # fmt: skip
    options.add_argument("--torch-export", action="store_true", help="also write these graphs with torch.export (.pt2)")
    options.add_argument("--preprocess", action="store_true", help="include resizing and cropping in the graphs, so "
                         "that they take uint8 frames of any size")  # fmt: skip
    options.add_argument("--order", type=Path, default=None, help="`order.json` of an order test, for the model card")
    options.add_argument("--no-evaluation", action="store_true", help="write a model card without accuracies")
    options.add_argument("--permutations", type=at_least(1), default=20, help="shuffles of each test clip")
    options.add_argument("--license", default=None, help="license for the model card, such as apache-2.0")
    options.add_argument("--push-to-hub", metavar="OWNER/NAME", default=None, help="also upload the folder to this "
                         "repository on the Hugging Face Hub, which is made if it does not exist")  # fmt: skip
    options.add_argument("--private", action="store_true", help="make the repository private")
    options.add_argument("--revision", metavar="BRANCH", default=None, help="branch to upload to (default: main)")
    add_shared(options, "--catalog", "--store", "--wandb", "--wandb-project", "--trust")
    return options


def evaluate(checkpoint: Checkpoint, num_permutations: int, moved: dict[str, str]) -> dict[str, Any]:
    """Returns the accuracies on ordered, shuffled and reversed test clips, or the reason why there are none."""
    try:
        data = checkpoint.data_module(**moved)
        found = measure_checkpoint(checkpoint, data, num_permutations, 0, 0).summary
    except VideomemError as error:
        say(f"videomem: not evaluated: {error}", to_stderr=True)  # It may have paths, which a model card must not.
        return {"reason": "its test clips were not available at the time of export"}
    clips = [data.clips[row] for row in data.rows(data.test_split)]
    return {
        "split": data.test_split,
        "num_clips": len(clips),
        "num_groups": len({clip.group for clip in clips}),
        **{"accuracy" if name == "ordered" else name: value for name, value in found.accuracy.items()},
        "chance": chance(data),
        "flip_rate": found.flip_rate,
        "max_logit_change": found.max_logit_change,
        "num_permutations": num_permutations,
    }


def order_evidence(model: Classifier, path: Path) -> dict[str, Any]:
    """Returns the result of an order test on the same classes for the head of the model.

    Raises:
        VideomemError: If the result is unreadable, has other classes, or lacks the head.
    """
    try:
        result = from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "not text")
        raise VideomemError(f"--order {path}: {reason}; name `order.json` of an order test") from error
    if sorted(result.data.class_names) != sorted(model.class_names):
        raise VideomemError(f"--order {path}: a test on other classes ({', '.join(result.data.class_names)[:80]})")
    label = model.head.label
    found = next((one for one in result.heads if label in (one.label, one.name)), None)
    if found is None:
        raise VideomemError(f"--order {path}: has no {label}; it has {', '.join(one.label for one in result.heads)}")
    value = found.value_of_order
    return {
        "label": found.label,
        "value": value.value,
        "low": value.low,
        "high": value.high,
        "verdict": "order-blind" if found.verdict is None else found.verdict.kind,
        "data_verdict": result.verdict.sentence,
        "plan_sha256": result.plan_sha256,
    }


def _evaluated(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not evaluated, and the model card says so"
    if "reason" in found:
        return "the model card has no accuracy; pass the location of the data with --catalog and --store"
    return (
        f"{found['num_clips']} clips of split {found['split']}: accuracy {found['accuracy']:.3f} ordered, "
        f"{found['shuffled']:.3f} shuffled, {found['reversed']:.3f} reversed"
    )
