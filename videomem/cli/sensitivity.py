"""`videomem sensitivity`: measure how much a network for whole clips relies on frame order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import nn

from videomem.cli.options import (
    above_zero,
    add_out,
    add_shared,
    at_least,
    parser,
    print_failures,
    refuse_time_limit,
    tracking_of,
    usable_device,
)
from videomem.cli.terminal import console, say, table
from videomem.errors import VideomemError, one_line
from videomem.experiments import permutations
from videomem.experiments.frame_order_predictions import OrderMeasures
from videomem.experiments.model_sensitivity.clip_predictions import (
    ClipPredictions,
    Model,
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
from videomem.experiments.model_sensitivity.video_model import VideoModel, is_function, load_function, match_labels
from videomem.experiments.model_sensitivity.video_networks import load_video_network, video_networks
from videomem.experiments.model_sensitivity.video_transformers import load_video_transformer
from videomem.experiments.model_sensitivity.views import ViewReader, Views
from videomem.experiments.permutations import Perturbation
from videomem.experiments.tables import Column, Table, csv_text, flat
from videomem.features.clip_decoding import decode_each
from videomem.features.failures import Failure, FailureTable
from videomem.features.folder import store_folder
from videomem.features.hub import PREFIX
from videomem.tracking import Run, Tracking, finishing, log_report, log_result, start_run
from videomem.utils.atomic import locked_folder, write_atomic
from videomem.utils.progress import tracked
from videomem.utils.sharing import shared_text
from videomem.video.catalog import Catalog, Clip, data_name
from videomem.video.catalog_files import read_catalog


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
    """Evaluates the model, writes the results, and returns them and the failures."""
    catalog, clips = _catalog_and_clips(given.catalog, given.split)
    model = _load_model(given, catalog.classes)
    class_names = _class_names(given, model)
    places = match_labels(catalog.classes, class_names)
    views = _views(given, model)
    average = None if views.num_views == 1 else given.average or model.average
    if model.weights == "random":
        warning = f"videomem: {given.model} has random weights (seed {given.seed}) and was never trained"
        say(warning, to_stderr=True)
    perturbations = with_shuffle(permutations.suite(model.num_frames) if given.suite else ())
    settings = PredictionSettings(given.permutations, given.batch_size, given.seed, device, len(class_names), average)
    network = model.network.to(device) if isinstance(model.network, nn.Module) else model.network
    reader = ViewReader(model.prepare, views)
    with (
        evaluation_mode(network),
        closing(decode_each(clips, reader.read, "auto", given.workers, given.time_limit)) as answers,
    ):
        labels = [places[clip.label] for clip in clips]
        predictions, failures = _predict_all(network, given.model, clips, labels, perturbations, settings, answers)
    FailureTable(store_folder(given.out)).rewrite(failures)
    if not predictions:
        raise VideomemError(f"{given.catalog}: no clip of {given.split} decodes ({failures[0].message})")
    read, found = [clips[place] for place in predictions], list(predictions.values())
    labels, groups = [places[clip.label] for clip in read], [clip.group for clip in read]
    result = SensitivityResult(
        **vars(summarize(found, labels, groups, perturbations, settings, class_names)),
        schema_version=SCHEMA_VERSION,
        model=model.name,
        weights=model.weights,
        catalog=given.catalog,
        split=given.split,
        num_frames=model.num_frames,
        temporal_views=views.num_clips,
        spatial_views=views.num_crops,
        fps=views.fps,
        average=average,
        failures=tuple(FailedClip(failure.path, shared_text(failure.message, [failure.path])) for failure in failures),
    )
    _write(result, clips_table(read, found, perturbations), given.out)
    return result, failures


def _load_model(given: Any, classes: Sequence[str]) -> VideoModel:
    """Loads a function of the user, a model of transformers, or a network of torchvision, by the form of its name."""
    name = given.model
    if is_function(name):
        if not given.trust:
            raise VideomemError(f"--model {name}: runs the code of that module; pass --trust to allow it")
        if given.weights is not None:
            raise VideomemError(f"--weights has no effect with --model {name}, which loads its own; leave it out")
        return load_function(name, given.frames or 16)
    if given.trust:
        raise VideomemError(f"--trust has no effect with --model {name}, which runs no code of yours; leave it out")
    if name.startswith(PREFIX) or (Path(name).is_dir() and name not in video_networks()):
        return load_video_transformer(name, given.weights, given.frames, given.seed)
    return load_video_network(name, given.weights or "kinetics400", classes, given.frames, given.seed)


def _class_names(given: Any, model: VideoModel) -> list[str]:
    """Returns the names of the outputs, of `--class-names` or of the model."""
    if given.class_names is None:
        if model.class_names is None:
            raise VideomemError(f"--model {model.name}: has no class_names; name its outputs with --class-names FILE")
        return list(model.class_names)
    try:
        names = [line.strip() for line in given.class_names.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "not text")
        raise VideomemError(
            f"--class-names {given.class_names}: {reason}; name a file with a class per line"
        ) from error
    return names


def _views(given: Any, model: VideoModel) -> Views:
    if given.crops > model.most_crops:
        raise VideomemError(f"--crops {given.crops}: the preprocessing of {model.name} does not crop; leave it out")
    if given.average is not None and given.clips * given.crops == 1:
        raise VideomemError("--average has no effect on a single view; leave it out, or add --clips or --crops")
    return Views(model.num_frames, given.clips, given.crops, given.fps)


def _parser(command: str) -> Any:
    options = parser(command, __doc__)
    options.add_argument(
        "--model",
        required=True,
        help="video network of torchvision, such as r3d_18 or mvit_v2_s; folder of a video classifier of transformers, "
        "or hf://OWNER/NAME[@REVISION]; or package.module:function of your own, which returns the model",
    )
    options.add_argument(
        "--weights",
        default=None,
        help="random; for torchvision also kinetics400 (default there), a name such as KINETICS400_V1, or the file of "
        "a state_dict whose classes are those of the catalog in sorted order",
    )
    options.add_argument("--class-names", type=Path, default=None, help="file with the names of the model's outputs, "
                         "one per line (default: those of the model)")  # fmt: skip
    options.add_argument("--trust", action="store_true", help="allow --model to run your own code")
    options.add_argument("--catalog", required=True, help="catalog of the clips")
    options.add_argument("--split", default="test", help="split to evaluate")
    options.add_argument("--frames", type=at_least(2), default=None, help="number of frames that the model takes at a "
                         "time (default: 16, or what a model of transformers takes)")  # fmt: skip
    options.add_argument("--clips", type=at_least(1), default=1, help="clips at different times of each video, whose "
                         "predictions are averaged")  # fmt: skip
    options.add_argument("--crops", type=int, choices=(1, 3), default=1, help="crops of each clip: the center, or "
                         "three along the longer side")  # fmt: skip
    options.add_argument("--fps", type=above_zero, default=None, help="frames per second of each clip (default: frames "
                         "spread evenly over the video)")  # fmt: skip
    options.add_argument("--average", choices=("probabilities", "logits"), default=None, help="what is averaged over "
                         "clips and crops (default: as in the publication of the model)")  # fmt: skip
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


def _catalog_and_clips(path: str, split: str) -> tuple[Catalog, Sequence[Clip]]:
    """Returns a catalog and the clips of a split, of which there must be enough groups."""
    catalog = read_catalog(path)
    if not (clips := catalog.split(split)):
        raise VideomemError(f"--split {split}: {path} has no such split; it has {', '.join(catalog.splits)}")
    check_groups([clip.group for clip in clips])
    return catalog, clips


def _predict_all(
    network: Model,
    name: str,
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
        except VideomemError:
            raise
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise VideomemError(
                f"--model {name}: fails on {clips[place]} ({reason}); try another --frames or a smaller --batch-size"
            ) from error
    return predictions, failures


def clips_table(
    clips: Sequence[Clip], predictions: Sequence[Sequence[ClipPredictions]], perturbations: Sequence[Perturbation]
) -> Table:
    """Returns the data of all estimates: a row per clip and perturbation, with 1 or 0 for each frame order."""
    names = ("path", "start_s", "end_s", "label", "group", "perturbation", "correct", "flip_rate", "max_logit_change",
             *OrderMeasures._fields)  # fmt: skip
    rows = [
        (*clip.location, clip.label, clip.group, perturbation.label,
         " ".join(f"{right:.0f}" for right in one.correct_K), one.flip_rate, one.max_logit_change, *one.measures)
        for clip, of_clip in zip(clips, predictions, strict=True)
        for perturbation, one in zip(perturbations, of_clip, strict=True)
    ]  # fmt: skip
    return Table("sensitivity_clips", tuple(map(Column, names)), tuple(rows))


def _track(run: Run, result: OrderSensitivity, out: Path) -> None:
    """Logs the table and the main numbers, and the files without paths of clips as an artifact."""
    numbers = {"accuracy": result.accuracy.value, "shuffled": result.shuffled.accuracy.value,
               "reliance": result.reliance.value, "flip_rate": result.shuffled.flip_rate}  # fmt: skip
    log_result(
        run, "sensitivity", [("conditions", *flat(_table(result)))], {}, numbers | {"sentence": result.sentence()}
    )
    log_report(run, "sensitivity", out, ("sensitivity.json", "sensitivity.csv"))


def _table(result: OrderSensitivity) -> Table:
    rows = result.table()
    return Table("sensitivity", tuple(map(Column, rows[0])), tuple(tuple(row.values()) for row in rows))


def _write(result: OrderSensitivity, of_clips: Table, out: Path) -> None:
    write_atomic(out / "sensitivity.csv", csv_text(_table(result)).encode())
    write_atomic(out / "sensitivity.json", result.to_json().encode())
    write_atomic(out / "sensitivity_clips.csv", csv_text(of_clips).encode("utf-8", "surrogateescape"))


def _print(result: SensitivityResult, failures: Sequence[Failure], out: Path) -> None:
    columns = ("frames", "accuracy", "lost", "interval", "flips", "tau", "adj.")
    rows = []
    for row in result.conditions:
        lost = row.reliance
        change = ("", "") if lost is None else (f"{lost.value:.3f}", f"{lost.low:.2f} to {lost.high:.2f}")
        tau = "" if row.kendall_tau is None else f"{row.kendall_tau:.2f}"
        numbers = f"{row.accuracy.value:.3f}", *change, f"{row.flip_rate:.2f}", tau, f"{row.adjacency:.2f}"
        rows.append((row.label, *numbers))
    console().print(table("accuracy under each perturbation; lost accuracy with 95 % interval", columns, rows))
    if result.average is not None:
        clips, crops = result.temporal_views, result.spatial_views
        say(f"{result.average} are averaged over {clips * crops} views of each video ({clips} clips x {crops} crops)")
    say(result.sentence())
    say(f"{out / 'sensitivity.json'}, {out / 'sensitivity.csv'}")
    print_failures(failures, out / "failures.csv")
