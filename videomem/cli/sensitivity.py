"""`videomem sensitivity`: measure how much a network for whole clips relies on frame order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from videomem.cli.options import (
    add_out,
    add_shared,
    at_least,
    parser,
    print_failures,
    refuse_time_limit,
    tracking_of,
    usable_device,
)
from videomem.cli.terminal import console, say
from videomem.errors import VideomemError, one_line
from videomem.experiments import permutations
from videomem.experiments.frame_order_predictions import OrderMeasures
from videomem.experiments.model_sensitivity.clip_predictions import (
    ClipPredictions,
    PredictionSettings,
    evaluation_mode,
    predict_clip,
    with_shuffle,
)
from videomem.experiments.model_sensitivity.order_sensitivity import check_groups, summarize
from videomem.experiments.model_sensitivity.sensitivity_result import (
    SCHEMA_VERSION,
    FailedClip,
    OrderSensitivity,
    SensitivityResult,
)
from videomem.experiments.model_sensitivity.video_networks import VideoPreset, load_video_network, match_labels
from videomem.experiments.permutations import Perturbation
from videomem.experiments.tables import Column, csv_text, flat
from videomem.experiments.tables import Table as ResultTable
from videomem.features.extraction import decode_each
from videomem.features.failures import Failure, FailureTable
from videomem.features.folder import store_folder
from videomem.tracking import Run, Tracking, finishing, log_report, log_result, start_run
from videomem.utils.atomic import locked_folder, write_atomic
from videomem.utils.progress import tracked
from videomem.utils.sharing import shared_text
from videomem.video.catalog import Clip, data_name, read_catalog
from videomem.video.sampling import Uniform


def main(command: str, arguments: Sequence[str]) -> int:
    """Evaluate a network on perturbed clips, and write `sensitivity.json` and tables."""
    options = _parser(command)
    given = options.parse_args(arguments)
    refuse_time_limit(options, given)
    device = usable_device(given.device)
    tracking = tracking_of(given)
    with locked_folder(given.out):
        config = {
            name: getattr(given, name) for name in ("model", "weights", "split", "frames", "permutations", "seed")
        }
        group = Tracking(group=data_name(given.catalog))
        with finishing(
            start_run(tracking, given.out, group, name=given.out.name, job_type="sensitivity", config=config)
        ) as run:
            result, failures = _measure(given, device)
            _track(run, result, given.out)
    _print(result, failures, given.out)
    return 1 if failures else 0


def _measure(given: Any, device: str) -> tuple[SensitivityResult, list[Failure]]:
    """Evaluates the network, writes the results, and returns them and the failures."""
    classes, clips = _classes_and_clips(given.catalog, given.split)
    network, transform, categories = load_video_network(given.model, given.weights, classes, given.frames, given.seed)
    places = match_labels([clip.label for clip in clips], categories)
    if given.weights == "random":
        warning = f"videomem: {given.model} has random weights (seed {given.seed}) and was never trained"
        say(warning, to_stderr=True)
    perturbations = with_shuffle(permutations.suite(given.frames) if given.suite else ())
    settings = PredictionSettings(given.permutations, given.batch_size, given.seed, device, len(categories))
    preset = VideoPreset(transform, Uniform(given.frames))
    with (
        evaluation_mode(network.to(device)),
        closing(decode_each(clips, preset.read, "auto", given.workers, given.time_limit)) as answers,
    ):
        labels = [places[clip.label] for clip in clips]
        predictions, failures = _predict_all(network, clips, labels, perturbations, settings, answers)
    FailureTable(store_folder(given.out)).rewrite(failures)
    if not predictions:
        raise VideomemError(f"{given.catalog}: no clip of {given.split} decodes ({failures[0].message})")
    read = [clips[place] for place in predictions]
    labels, groups = [places[clip.label] for clip in read], [clip.group for clip in read]
    result = SensitivityResult(
        **vars(summarize(list(predictions.values()), labels, groups, perturbations, settings, categories)),
        schema_version=SCHEMA_VERSION,
        model=given.model,
        weights=given.weights,
        catalog=given.catalog,
        split=given.split,
        num_frames=given.frames,
        failures=tuple(FailedClip(failure.path, shared_text(failure.message, [failure.path])) for failure in failures),
    )
    _write(result, given.out)
    clips_text = csv_text(clips_table(read, list(predictions.values()), perturbations))
    write_atomic(given.out / "sensitivity_clips.csv", clips_text.encode("utf-8", "surrogateescape"))
    return result, failures


def _parser(command: str) -> Any:
    options = parser(command, __doc__)
    options.add_argument("--model", required=True, help="video network of torchvision, such as r3d_18 or mvit_v2_s")
    options.add_argument(
        "--weights",
        required=True,
        help="weights of torchvision, such as KINETICS400_V1; random; or the file of a state_dict whose classes "
        "are those of the catalog in sorted order",
    )
    options.add_argument("--catalog", required=True, help="catalog of the clips")
    options.add_argument("--split", default="test", help="split to evaluate")
    options.add_argument("--frames", type=at_least(2), default=16, help="number of frames of each clip, spread evenly")
    options.add_argument(
        "--permutations", type=at_least(1), default=20, help="frame permutations of each random perturbation"
    )
    options.add_argument(
        "--no-suite", dest="suite", action="store_false", help="measure shuffling only, in about a tenth of the time"
    )
    options.add_argument("--batch-size", type=at_least(1), default=8, help="clips per batch")
    add_shared(options, "--seed", "--workers", "--time-limit", "--device", "--wandb", "--wandb-project")
    add_out(options, command)
    return options


def _classes_and_clips(path: str, split: str) -> tuple[Sequence[str], Sequence[Clip]]:
    """Returns the classes of a catalog and the clips of a split, of which there must be enough groups."""
    catalog = read_catalog(path)
    if not (clips := catalog.split(split)):
        raise VideomemError(f"--split {split}: {path} has no such split; it has {', '.join(catalog.splits)}")
    check_groups([clip.group for clip in clips])
    return catalog.classes, clips


def _predict_all(
    network: nn.Module,
    clips: Sequence[Clip],
    labels: Sequence[int],
    perturbations: Sequence[Perturbation],
    settings: PredictionSettings,
    answers: Iterator[Any],
) -> tuple[dict[int, list[ClipPredictions]], list[Failure]]:
    """Returns the predictions by index of the clip, and the failures. Few decoded clips are in memory at a time."""
    predictions, failures = {}, []
    for place, answer in enumerate(tracked(answers, "predicting clips", len(clips), console(to_stderr=True))):
        if isinstance(answer, Failure):
            failures.append(answer)
            continue
        try:
            predictions[place] = predict_clip(network, answer.frames, labels[place], place, perturbations, settings)
        # What networks raise for shapes that they do not support.
        except (RuntimeError, ValueError, AssertionError) as error:
            raise VideomemError(
                f"the network fails on {clips[place]} ({one_line(error)}); try --frames 16, a smaller --batch-size"
            ) from error
    return predictions, failures


def clips_table(
    clips: Sequence[Clip], predictions: Sequence[Sequence[ClipPredictions]], perturbations: Sequence[Perturbation]
) -> ResultTable:
    """Returns the data of all estimates: a row per clip and perturbation, with 1 or 0 for each frame order."""
    names = ("path", "start_s", "end_s", "label", "group", "perturbation", "correct", "flip_rate", "max_logit_change",
             *OrderMeasures._fields)  # fmt: skip
    rows = [
        (*clip.location, clip.label, clip.group, perturbation.label,
         " ".join(f"{right:.0f}" for right in one.correct_K), one.flip_rate, one.max_logit_change, *one.measures)
        for clip, of_clip in zip(clips, predictions, strict=True)
        for perturbation, one in zip(perturbations, of_clip, strict=True)
    ]  # fmt: skip
    return ResultTable("sensitivity_clips", tuple(map(Column, names)), tuple(rows))


def _track(run: Run, result: OrderSensitivity, out: Path) -> None:
    """Logs the table and the main numbers, and the files without paths of clips as an artifact."""
    numbers = {"accuracy": result.accuracy.value, "shuffled": result.shuffled.accuracy.value,
               "reliance": result.reliance.value, "flip_rate": result.shuffled.flip_rate}  # fmt: skip
    log_result(
        run, "sensitivity", [("conditions", *flat(_table(result)))], {}, numbers | {"sentence": result.sentence()}
    )
    log_report(run, "sensitivity", out, ("sensitivity.json", "sensitivity.csv"))


def _table(result: OrderSensitivity) -> ResultTable:
    rows = result.table()
    return ResultTable("sensitivity", tuple(map(Column, rows[0])), tuple(tuple(row.values()) for row in rows))


def _write(result: OrderSensitivity, out: Path) -> None:
    write_atomic(out / "sensitivity.csv", csv_text(_table(result)).encode())
    write_atomic(out / "sensitivity.json", result.to_json().encode())


def _print(result: OrderSensitivity, failures: Sequence[Failure], out: Path) -> None:
    table = Table(title="accuracy under each perturbation; lost accuracy with 95 % interval")
    table.add_column("frames", no_wrap=True)
    for name in ("accuracy", "lost", "interval", "flips", "tau", "adj."):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.conditions:
        lost = row.reliance
        change = ("", "") if lost is None else (f"{lost.value:.3f}", f"{lost.low:.2f} to {lost.high:.2f}")
        tau = "" if row.kendall_tau is None else f"{row.kendall_tau:.2f}"
        table.add_row(
            row.label, f"{row.accuracy.value:.3f}", *change, f"{row.flip_rate:.2f}", tau, f"{row.adjacency:.2f}"
        )
    console().print(table)
    say(result.sentence())
    say(f"{out / 'sensitivity.json'}, {out / 'sensitivity.csv'}")
    print_failures(failures, out / "failures.csv")
