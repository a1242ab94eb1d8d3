"""The complete order test: it follows the plan, and the verdict follows the data."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIGS, data_arguments, logged_by, read_data_module
from helpers.order_clips import SHORT, SMALL, drawn, planned, run_with_gru, with_fixed_split
from helpers.recomputed import check_recomputed

from videomem import order_test
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments.clips import clips_of_data
from videomem.experiments.order_test import training
from videomem.experiments.order_test.forecast import forecast, forecast_text
from videomem.experiments.order_test.jobs import TrainingJob, is_order_blind
from videomem.experiments.order_test.methods import methods_paragraph
from videomem.experiments.order_test.plan import MIN_ATTAINABLE, PAIRS, PRIMARY, Recipe, letters
from videomem.experiments.order_test.report import examples_of, render, top_clips_of
from videomem.experiments.order_test.result import OrderTestResult, from_json
from videomem.experiments.order_test.run import OrderTest, freeze, run_order_test
from videomem.experiments.order_test.run_splits import run_splits
from videomem.experiments.order_test.scores import Scores, metric_of
from videomem.experiments.order_test.training import run_jobs, untrained
from videomem.heads import AttentionReadout, LastReadout, MeanReadout
from videomem.statistics.clip_scores import ClipScores
from videomem.statistics.planning import Assumptions
from videomem.statistics.results import ChiralPair, ChiralPairs
from videomem.utils.checked_json import dump_checked


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training_results")


@pytest.fixture(scope="module")
def tested(cache: Path) -> OrderTest:
    """A small complete test with every option enabled."""
    clips = drawn(ragged=True)
    further = {"sizes": (0.5,), "sensitivity": ("equal_parameters",)}
    plan = planned(clips, heads=("none", "leaky", "gru"), **further)
    return run_order_test(clips, plan, cache, command="videomem order")


def test_jobs_with_a_result_in_the_cache_are_not_trained_again(
    tested: OrderTest, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, plan = tested.scores.clips, tested.scores.plan
    monkeypatch.setattr(training, "train_jobs", lambda *_: pytest.fail("trained again"))
    after = run_order_test(clips, plan, cache, command="videomem order", num_trained_before=0).result
    assert replace(after, seconds=tested.result.seconds) == tested.result
    wider = replace(plan, settings=replace(plan.settings, margin=0.3))
    result = run_order_test(clips, wider, cache).result
    assert result.margin == 0.3 and result.num_trained_before == result.num_trainings
    assert "had been made for other plans" in methods_paragraph(result)


# The analysis.


def _balanced(scores: Scores, name: str) -> float:
    right = scores.right(name, "ordered/ordered")
    return float(np.mean([right[scores.labels == label].mean() for label in np.unique(scores.labels)]))


def test_the_parts_of_reliance_add_up(tested: OrderTest) -> None:
    for one in tested.result.heads:
        assert all(0 <= accuracy.low <= accuracy.high <= 1 for accuracy in one.accuracies.values())
        accuracy = {letters(pair): estimate.value for pair, estimate in one.accuracies.items()}
        assert one.value_of_order.value == pytest.approx(accuracy["OO"] - accuracy["FS"])
        shuffle = next(effect for effect in one.suite if effect.label == "shuffle")
        assert shuffle.reliance == one.reliance
        assert one.balanced_accuracy.value == pytest.approx(_balanced(tested.scores, one.name))
        if one.is_order_blind:
            continue
        assert one.augmentation is not None and one.shift is not None and one.practical_gain is not None
        assert one.augmentation.value == pytest.approx(accuracy["SS"] - accuracy["FS"])
        assert one.reliance is not None and one.reliance.value == pytest.approx(accuracy["OO"] - accuracy["OS"])
        assert one.reliance.value == pytest.approx(accuracy["OO"] - accuracy["SS"] + one.shift.value)
        assert one.rotated is not None and one.rotated.value == pytest.approx(accuracy["TT"] - accuracy["FS"])
        assert one.value_of_order.comparisons == 2 and len(one.losses) == SHORT.epochs
        assert one.normalized is None or 0 <= one.normalized <= 1
        retrained = {effect.label: effect.retrained for effect in one.suite if effect.retrained is not None}
        assert retrained.keys() == {"shuffle", "windows of 4", "blocks of 4"}
        assert retrained["windows of 4"].value == pytest.approx(accuracy["OO"] - accuracy["WW"])
        assert [point.fraction for point in one.sizes] == [0.5, 1.0]
        assert one.sizes[1].value_of_order.value == pytest.approx(one.value_of_order.value)
        assert one.sizes[0].num_clips < one.sizes[1].num_clips
        assert one.sensitivity.keys() == {"equal_parameters"}
        assert np.sum(one.confusion_ordered) == np.sum(one.confusion_shuffled) == len(tested.scores.labels)


def test_the_best_learner_is_chosen_on_other_groups_than_it_is_tested_on(tested: OrderTest) -> None:
    scores = tested.scores
    for part in range(2):
        here = scores.runs == part
        others = ~np.isin(scores.groups, scores.groups[here])
        right = {("good elsewhere", ""): np.where(others, 1.0, 0.0), ("good here", ""): np.where(others, 0.0, 1.0)}
        values, chosen = scores.best(right)
        assert chosen[part] == ("good elsewhere", "") and (values[here] == 0).all()


def test_a_head_file_may_name_a_readout(tested: OrderTest) -> None:
    scores = tested.scores
    plan = planned(scores.clips, heads=("gru", "gru_last", "attention"))
    for name, readout in (("gru", MeanReadout), ("gru_last", LastReadout), ("attention", AttentionReadout)):
        job = TrainingJob(name, plan.heads[name], "ordered", 0)
        classifier, _ = untrained(job, scores.splits[0], scores.clips, plan.settings, SHORT)
        assert type(classifier.head.readout) is readout
        assert is_order_blind(plan.heads[name]) == (name == "attention")


def test_imbalanced_classes_are_weighted_equally() -> None:
    clips = drawn()
    assert metric_of(clips, "auto") == "accuracy"
    rare = replace(clips, labels=np.where(np.arange(len(clips)) < 6, clips.labels, 0))
    assert metric_of(rare, "auto") == "balanced" and metric_of(rare, "accuracy") == "accuracy"


def test_a_margin_may_be_a_share_of_what_is_attainable(tested: OrderTest, cache: Path) -> None:
    scores = tested.scores
    assert scores.margin == scores.plan.settings.margin == tested.result.margin
    relative = replace(scores.plan.settings, margin=0.1, margin_of="attainable")
    learners = {**scores.ordered_learners(), **scores.order_blind_learners()}
    best = max(float(right.mean()) for right in learners.values())
    assert best > scores.baseline == pytest.approx(max(0.5, scores.majority))
    plan = replace(scores.plan, settings=relative)
    again = run_order_test(scores.clips, plan, cache)
    assert "10.0 % of what the best head gains" in methods_paragraph(again.result)
    again = again.scores
    assert again.margin == pytest.approx(0.1 * (best - scores.baseline))
    assert relative.negligible(0.0) == relative.negligible(-0.3) == 0.1 * MIN_ATTAINABLE


def test_clips_that_are_static_leave_nothing_to_order(tmp_path: Path) -> None:
    clips = drawn()
    static = replace(clips, features=lambda row: clips.features(row)[:1].expand(clips.lengths[row], -1))
    result = run_with_gru(static, tmp_path, heads=("gru", "none")).result
    assert result.verdict.kind == "nothing to order" and result.checks[0].name == "static clips"


def test_a_task_that_is_not_learned_has_no_sentence_about_order(tmp_path: Path) -> None:
    clips = drawn(trend=0.0, look=0.0)
    protocol = {"heads": ("gru", "none"), "runs": 6, "folds": 6}
    result = run_with_gru(clips, tmp_path, replace(SHORT, epochs=1), **protocol).result
    assert result.verdict.kind == "not learned" and "trainer.max_epochs" in result.verdict.remedy
    assert result.heads[0].verdict is not None and result.heads[0].verdict.kind == "not learned"


def test_without_a_mean_readout_nothing_is_order_blind(tmp_path: Path) -> None:
    recipe = replace(SHORT, readout="videomem.heads.LastReadout")
    result = run_with_gru(drawn(), tmp_path, recipe, heads=("none",)).result
    assert not result.heads[0].is_order_blind and result.noise_floor is None and result.controls is None


def test_the_reliance_of_an_order_blind_head_has_no_interval_where_it_is_zero_by_construction(
    tested: OrderTest,
) -> None:
    result = tested.result
    none = result.heads[0]
    assert none.is_order_blind and none.verdict is None and none.reliance is None and none.max_logit_change == 0
    assert {one.name for one in none.suite if one.reliance is not None} == {"frozen", "subsample"}
    assert all(one.reliance is not None for one in result.heads[2].suite)
    assert len({none.accuracies[f"ordered/{test}"].value for test in ("ordered", "reversed", "shuffled")}) == 1
    assert none.confusion_ordered == none.confusion_shuffled
    assert result.noise_floor == none.value_of_order and none.value_of_order.se > 0  # Trained again, with another seed.
    assert result.heads[2].max_logit_change > 0
    controls = result.controls
    assert controls is not None and controls.oracle_frame >= max(controls.best_frame, controls.random_frame)
    assert controls.average == none.accuracies["ordered/ordered"].value


def test_the_result_has_the_plan(tested: OrderTest) -> None:
    result, scores = tested
    clips, plan = scores.clips, scores.plan
    assert result.plan_sha256 == plan.sha256 and result.plan == json.loads(plan.as_json())
    assert result.num_trainings == 2 * (2 + 2 * (7 + 4)) and result.num_trained_before == 0
    assert result.data.num_test_clips == 18 and result.data.num_test_groups == 12 and result.data.num_straddling == 0
    assert result.data.num_clips == len(clips) and result.data.num_groups == 24 and result.data.num_frames == "4 to 6"
    assert result.seeds == (0, 1) and result.seconds_training > 0 and result.versions["torch"] == version("torch")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OrderTestResult]:
    """The same protocol on data whose class depends on frame order, and on data whose class does not."""
    kinds = {"planted": drawn(30, trend=5.0, look=0.0), "null": drawn(30, trend=0.0, look=0.6)}
    recipe, cache = replace(SHORT, epochs=20), tmp_path_factory.mktemp("learned")
    protocols = {"planted": {"heads": ("gru", "none", "attention"), "training_conditions": (*PRIMARY, "rotated")},
                 "null": {"heads": ("gru", "none")}}  # fmt: skip
    return {
        name: run_with_gru(clips, cache, recipe, runs=6, folds=6, **protocols[name]).result
        for name, clips in kinds.items()
    }


def test_order_matters_if_the_class_depends_on_it(learned: dict[str, OrderTestResult]) -> None:
    result = learned["planted"]
    assert result.verdict.kind == "matters" and "gru" in result.verdict.sentence
    assert result.heads[0].value_of_order.value > 0.2
    assert result.information is not None and result.information.gain.low > 0
    assert result.information.rotated is not None
    assert result.information.ordered == "gru" and result.information.rotated.low > 0
    assert sum(result.information.chosen.values()) == 2 * 6
    assert result.heads[0].reliance_test is not None and result.heads[0].reliance_test.p < 0.01


def test_order_does_not_matter_if_the_class_does_not_depend_on_it(learned: dict[str, OrderTestResult]) -> None:
    result = learned["null"]
    assert 0.6 < result.heads[0].accuracies["ordered/ordered"].value < 0.95  # At 1 the test would be vacuous.
    assert result.verdict.kind in ("undetermined", "does not matter", "negligible")
    assert abs(result.heads[0].value_of_order.value) < 0.1


def test_few_groups_get_no_verdict(tmp_path: Path) -> None:
    result = run_with_gru(drawn(groups=8), tmp_path).result
    assert result.verdict.kind == "no verdict" and "20 groups" in (result.heads[0].verdict or result.verdict).remedy
    assert "an ordered and an order-blind head are needed" in result.verdict.sentence


def test_a_fixed_split_is_labeled_conditional(tmp_path: Path) -> None:
    result = run_with_gru(with_fixed_split(drawn()), tmp_path, split="fixed", heads=("gru", "none")).result
    assert "conditional on this training set" in methods_paragraph(result)
    assert result.verdict.sentence.endswith("conditional on this training set") and result.data.split == "fixed"
    assert result.heads[0].value_of_order.overlap == 0


def test_validation_keeps_the_best_epoch_of_each_training_condition(tmp_path: Path) -> None:
    clips = drawn(trend=4.0)
    conditions = ("ordered", "fixed_permutation", "reshuffled", "common_permutation")
    protocol = {"heads": ("gru",), "training_conditions": conditions, "runs": 1}
    plan = planned(clips, replace(SHORT, epochs=9), selection="validation", **protocol)
    training_results = run_jobs(plan, clips, tmp_path)
    assert {job.condition for job in training_results} == set(conditions)
    epochs = [training_result.epochs for training_result in training_results.values()]
    assert min(epochs) >= 1 and max(epochs) <= 9 and min(epochs) < 9


def test_arrays_are_tested_from_python(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(5, 3)) for _ in range(40)]
    labels, groups = ["ab"[n % 2] for n in range(40)], [str(n // 2) for n in range(40)]
    protocol = replace(SMALL, heads=("leaky",), training_conditions=PRIMARY)
    arguments = {"settings": protocol, "recipe": SHORT, "cache": tmp_path}
    result = order_test(features, labels, groups, **arguments)  # type: ignore[arg-type]
    assert result.data.num_test_groups == 10 or result.data.num_test_groups == 20
    for bad, match in (
        (([*features[:-1], features[0][:, :2]], labels, groups), r"clip 39 have shape \(5, 2\)"),
        ((features, labels[:-1], groups), "39 labels for 40 arrays"),
        (([*features[:-1], np.full((5, 3), np.nan)], labels, groups), "not finite"),
        (([], [], []), "no features"),
    ):
        with pytest.raises(VideomemError, match=match):
            order_test(*bad, **arguments)  # type: ignore[arg-type]


# The plan.


def test_a_plan_is_frozen_and_another_refused(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips)
    assert freeze(plan, tmp_path, 3) == freeze(planned(clips), tmp_path, 9) == 3
    assert (tmp_path / "plan.json").read_text() == plan.as_json()
    for other in ({"margin": 0.03}, {"runs": 3}, {"heads": ("gru",)}):
        assert planned(clips, **other).sha256 != plan.sha256
        with pytest.raises(VideomemError, match="another plan is frozen here"):
            freeze(planned(clips, **other), tmp_path, 0)
    assert planned(drawn(seed=1)).sha256 != plan.sha256


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"trained_before": 3', '"trained_before": 4'),
        lambda text: dump_checked({"kind": "frozen plan", "plan": "0" * 64}, {"trained_before": 3}),
        lambda text: dump_checked(json.loads(text)["identity"], {"trained_before": "three"}),
        lambda text: dump_checked(json.loads(text)["identity"], [3]),
        lambda text: '{"trained_before": 3}',
        lambda text: "",
    ],
)
def test_what_is_frozen_beside_a_plan_is_compared_with_it(tmp_path: Path, change: Callable[[str], str]) -> None:
    plan, frozen = planned(drawn()), tmp_path / "frozen.json"
    freeze(plan, tmp_path, 3)
    frozen.write_text(change(frozen.read_text()))
    with pytest.raises(VideomemError, match=f"^{frozen}: .*; choose another --out$"):
        freeze(plan, tmp_path, 3)


def test_a_crash_between_the_two_files_of_a_plan_does_not_block_it(tmp_path: Path) -> None:
    plan = planned(drawn())
    freeze(plan, tmp_path, 3)
    (tmp_path / "frozen.json").unlink()
    assert freeze(plan, tmp_path, 0) == 0


def test_a_forecast_is_more_precise_for_more_groups() -> None:
    few, many = drawn(12), drawn(48)
    small, large = (forecast(planned(clips), clips, Assumptions()) for clips in (few, many))
    assert large.se < small.se and large.detectable < small.detectable
    assert large.num_groups == 24 or large.num_groups == 48
    assert small.num_jobs == 2 * (2 + 7) and small.seconds_training > 0


def test_training_has_enough_steps_unless_the_epochs_are_given() -> None:
    assert Recipe().for_clips(1600).epochs == 20  # 1000 steps
    assert Recipe().for_clips(176).epochs == 84  # 6 steps in each, 504
    assert Recipe(epochs=3).for_clips(176).epochs == 3
    clips = drawn(12)
    plan, (split, *_) = planned(clips, Recipe()), run_splits(clips, SMALL)
    assert plan.recipe == Recipe().for_clips(len(split.train)) and plan.recipe.epochs >= 500 / len(split.train)


def test_a_forecast_says_that_too_few_groups_or_runs_allow_no_verdict() -> None:
    few, many = drawn(12), drawn(24)
    plan = planned(few, runs=2)
    expected = forecast(plan, few, Assumptions())
    text = forecast_text(plan, expected, 1)
    lacks = f"at least 20 groups (now {expected.num_groups}) and 6 runs (now 2)"
    assert f"verdict    none is possible with this plan: a verdict needs {lacks}" in text and expected.num_groups <= 12
    assert "groups with these runs" not in text and "runs with these groups" not in text
    enough = planned(many, runs=6)
    assert "verdict" not in forecast_text(enough, forecast(enough, many, Assumptions()), 1)


def test_a_forecast_says_if_each_clip_is_a_group_of_its_own() -> None:
    clips = drawn(12)
    alone = replace(clips, groups=np.arange(len(clips.groups)))
    grouped, ungrouped = (
        forecast_text(plan, forecast(plan, one, Assumptions()), 1) for one in (clips, alone) for plan in [planned(one)]
    )
    assert "each clip is a group of its own" in ungrouped and "each clip is a group" not in grouped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 0}, r"order\.runs is 0"),
        ({"folds": 1}, r"order\.folds is 1"),
        ({"margin": 2.0}, r"order\.margin is 2\.0.*0\.02 is 2 points"),
        ({"margin": 0.0}, r"order\.margin is 0\.0"),
        ({"training_conditions": ("ordered", "reshuffled")}, r"order\.training_conditions lacks fixed_permutation"),
        (
            {"training_conditions": ("ordered", "fixed_permutation", "sideways")},
            r"order\.training_conditions has 'sideways', but must be among ordered, fixed_permutation",
        ),
        ({"sensitivity": ("first",)}, r"order\.sensitivity has 'first'"),
        ({"selection": "validation", "folds": 2}, r"order\.folds is 2.*needs 3"),
        (
            {"training_conditions": ("ordered", "fixed_permutation", "fixed_permutation")},
            r"order\.training_conditions has duplicates",
        ),
        ({"sizes": (1.5,)}, r"order\.sizes has 1\.5"),
        ({"heads": ()}, r"order\.heads is empty"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        replace(SMALL, **change)  # type: ignore[arg-type]


# The command.


def order_arguments(workspace: Path) -> list[str]:
    protocol = {"runs": 1, "folds": 2, "num_permutations": 2, "hidden_dim": 4, "projection_dim": 4}
    return [
        *(*data_arguments(workspace), "--config", str(CONFIGS / "order.yaml"), "--trainer.max_epochs", "1"),
        *(part for name, value in protocol.items() for part in (f"--order.{name}", str(value))),
        *("--processes", "1", "--devices", "cpu"),
    ]


def test_the_command_writes_all_results(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--out", str(tmp_path / "order"), "--training-results", str(tmp_path / "results")]
    heads = ["none", "attention", "leaky", "gru"]  # Two of them are order-blind.
    assert main(["order", *order_arguments(workspace), *folders, "--order.heads", json.dumps(heads)]) == 0
    assert len(list((tmp_path / "results").glob("*.npz"))) == 2 * 2 + 2 * 4
    result = from_json((tmp_path / "order" / "order.json").read_text())
    assert [one.name for one in result.heads] == heads
    assert result.command.startswith("videomem order --config") and result.data.feature_dim == 2304
    measured = {"ordered", "fixed_permutation", "reshuffled", "rotated"}
    assert set(result.heads[3].accuracies) == {pair for pair in PAIRS if pair.split("/")[0] in measured}
    for name in (
        "plan.json",
        "report.html",
        "methods.txt",
        "figures/accuracies.png",
        "tables/suite.csv",
        "tables/clip_scores.csv",
    ):
        assert (tmp_path / "order" / name).stat().st_size > 100
    # Results are shared, and only the tables of clips have to name files; the arguments above are absolute paths.
    # W&B's own logs stay on the machine.
    files = [path for path in (tmp_path / "order").rglob("*") if path.is_file() and "wandb" not in path.parts]
    shared = [path for path in files if path.name not in ("clip_scores.csv", "tested_clips.csv")]
    assert not [path for path in shared if str(tmp_path.parent).encode() in path.read_bytes()]
    assert result.data.catalog == "videos/catalog.csv" and "--data.catalog videos/catalog.csv" in result.command
    said = capsys.readouterr()
    assert result.verdict.sentence in " ".join(said.out.split())
    assert re.match(r"videomem: training \d+ epochs, \d+ steps: few; raise trainer.max_epochs", said.err)
    tested_clips = list(csv.DictReader((tmp_path / "order" / "tables" / "tested_clips.csv").open()))
    for one in result.heads:
        rows = [row for row in tested_clips if row["head"] == one.label]
        assert {(row["run"], row["group"]) for row in rows} == {(row["run"], row["group"]) for row in tested_clips}
        for pair, accuracy in one.accuracies.items():
            assert accuracy.value == pytest.approx(np.mean([float(row[letters(pair)]) for row in rows]))
    assert result.plan_sha256 in (tmp_path / "order" / "report.html").read_text()
    assert "principal components" in (tmp_path / "order" / "methods.txt").read_text()
    catalog = workspace / "videos" / "catalog.csv"
    check_recomputed(tmp_path / "order", "--training-results", tmp_path / "results", "--catalog", catalog)


def test_an_interrupted_test_keeps_its_run_with_each_finished_training_and_a_disabled_logger_makes_none(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "order"
    arguments = [
        "order",
        *order_arguments(workspace),
        "--out",
        str(out),
        "--training-results",
        str(tmp_path / "results"),
    ]
    arguments += ["--order.heads", '["none", "gru"]', "--config", str(tmp_path / "tracking.yaml")]
    settings = {"project": "ours", "entity": "team", "tags": ["night"], "mode": "offline"}
    for changes in ({}, {"mode": "disabled"}):
        logger = {"class_path": "videomem.tracking.WandbLogger", "init_args": settings | changes}
        (tmp_path / "tracking.yaml").write_text(json.dumps({"trainer": {"logger": [logger]}}))
        with monkeypatch.context() as patch:
            patch.setattr("videomem.cli.order.write_results", interrupted)
            assert main(arguments) == 130
        assert "Traceback" not in capsys.readouterr().err
        records = logged_by(out)  # Of the first call: there is one run only.
        (run,) = [record["run"] for record in records if record["type"] == "run"]
        assert (run["project"], run["entity"], run["tags"]) == ("ours", "team", ["night"])
        assert sum(record["type"] == "history" for record in records) == 2 + 4
        assert [record["exit"]["exit_code"] for record in records if record["type"] == "exit"] == [1]


def test_video_strips_show_the_tested_frame_orders(workspace: Path, tmp_path: Path) -> None:
    data = read_data_module(data_arguments(workspace))
    clips = clips_of_data(data)
    result, scores = run_with_gru(clips, tmp_path, replace(SHORT, epochs=1), runs=1, folds=2)
    pairs = ChiralPairs((ChiralPair("move_right", "move_left", 0.5, 0.01),), 10, 10, 0.01)
    result = replace(result, heads=(replace(result.heads[0], chiral=pairs),))
    (example,) = examples_of(data, scores, result)
    ordered, shuffled, backwards = (strip.frames_THWC for strip in example.strips)
    assert np.array_equal(ordered[::-1], backwards) and not np.array_equal(ordered, shuffled)
    assert sorted(frame.tobytes() for frame in shuffled) == sorted(frame.tobytes() for frame in ordered)
    assert [set(strip.predictions) for strip in example.strips] == [{"gru"}] * 3

    def scored(between: float) -> ClipScores:
        rows = np.arange(8)
        return ClipScores(rows, rows, rows, rows / 10, rows / 10, rows / 100, 0.0, between, 0.1)

    top = top_clips_of(data, scored(0.2))
    assert [one.score for one in top] == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert str(data.clips[7]).endswith(top[0].name) and not Path(top[0].name).is_absolute()
    assert top[0].strip is not None
    assert len(top[0].strip.frames_THWC) == clips.lengths[7]
    assert not top_clips_of(data, scored(0.0))
    page = render(result, top_clips=[replace(one, label="<b>") for one in top])
    assert "<b><b>" not in page and page.count("+70.0 points, ± 7.0") == 1


def test_plan_prints_a_forecast_and_trains_nothing(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["order", *order_arguments(workspace), "--plan", "--assume.accuracy", "0.7"]) == 0
    out = capsys.readouterr().out
    assert "40 training jobs" in out and "points are detected with power 0.8" in out and "steps: few" in out
    assert "accuracy 0.7" in out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--order.heads", "[gruu]"], "'gruu' is not a head"),
        (["--order.training_conditions", "[ordered, sideways]"], "order.training_conditions"),
        (["--order.training_conditions", "[ordered]"], "order.training_conditions lacks fixed_permutation"),
        (
            ["--order.windows", "8", "--order.training_conditions", "[ordered, fixed_permutation, windows]"],
            "order.windows is 8, but clips have 8 frames",
        ),
        (["--order.margin", "2"], "order.margin is 2"),
        (["--processes", "0"], "--processes is 0"),
        (["--processes", "0", "--plan"], "--processes is 0"),
        (["--devices", "nowhere"], "--device nowhere"),
        (["--config", str(CONFIGS / "head" / "gru.yaml")], "memory"),
        (["--data.source", "video", "--data.reversed_pairs", "false"], "the order test reads stored features"),
        (["--assume.accuracy", "3", "--plan"], "accuracy is 3"),
        (
            ["--assume.accuracy", "0.7"],
            "--assume.accuracy is 0.7, but it has no effect on `videomem order`: only the forecast of --plan",
        ),
        (["--assume.run_sd=0.1"], "--assume.run_sd is 0.1, but it has no effect"),
        (["--plan", "--out", "x"], "--out is x, but it has no effect on `videomem order --plan`: "),
        (["--plan", "--training-results=x"], "--training-results is x, but it has no effect"),
        (["--wandb", "disabled", "--plan"], "--wandb is disabled, but it has no effect"),
    ],
)
def test_invalid_arguments_are_a_one_line_error(
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["order", *order_arguments(workspace), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
