"""The complete order test: it follows the plan, and the verdict follows the data."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIGS, data_arguments
from helpers.order_clips import SHORT, SMALL, drawn, planned

from videomem import order_test
from videomem.cli.config_options import read_data_module
from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments.clips import Clips, clips_of_data
from videomem.experiments.order_test import training
from videomem.experiments.order_test.data import run_splits
from videomem.experiments.order_test.forecast import forecast
from videomem.experiments.order_test.jobs import TrainingJob
from videomem.experiments.order_test.methods import methods_paragraph
from videomem.experiments.order_test.plan import PAIRS, PRIMARY, OrderPlan, letters
from videomem.experiments.order_test.report import examples_of
from videomem.experiments.order_test.result import OrderTestResult, from_json
from videomem.experiments.order_test.run import OrderTest, freeze, run_order_test
from videomem.experiments.order_test.training import new_classifier, run_jobs
from videomem.heads import LastReadout
from videomem.statistics.planning import Assumptions
from videomem.statistics.results import ChiralPair, ChiralPairs


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clips, OrderPlan, Path, OrderTest]:
    """A small complete test with every option enabled."""
    clips = drawn(ragged=True)
    protocol = replace(SMALL, sizes=(0.5,), sensitivity=("last", "equal_parameters"), memories=("none", "leaky", "gru"))
    plan, cache = planned(clips, protocol), tmp_path_factory.mktemp("jobs")
    return clips, plan, cache, run_order_test(clips, plan, cache, command="videomem order")


def test_jobs_with_a_result_in_the_cache_are_not_trained_again(
    tested: tuple[Clips, OrderPlan, Path, OrderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, plan, cache, before = tested
    monkeypatch.setattr(training, "train_job", lambda *_: pytest.fail("trained again"))
    after = run_order_test(clips, plan, cache, command="videomem order", num_trained_before=0).result
    assert replace(after, seconds=before.result.seconds) == before.result
    wider = replace(plan, settings=replace(plan.settings, margin=0.3))
    result = run_order_test(clips, wider, cache).result
    assert result.margin == 0.3 and result.num_trained_before == result.num_trainings
    assert "had been made for other plans" in methods_paragraph(result)


# The analysis.


def test_the_parts_of_reliance_add_up(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    for one in tested[3].result.memories:
        assert all(0 <= accuracy.low <= accuracy.high <= 1 for accuracy in one.accuracies.values())
        accuracy = {letters(pair): estimate.value for pair, estimate in one.accuracies.items()}
        assert one.value_of_order.value == pytest.approx(accuracy["OO"] - accuracy["FS"])
        assert one.reliance.value == pytest.approx(accuracy["OO"] - accuracy["OS"])
        shuffle = next(perturbation for perturbation in one.suite if perturbation.label == "shuffle")
        assert shuffle.reliance == one.reliance
        if one.is_control:
            continue
        assert one.augmentation is not None and one.shift is not None and one.practical_gain is not None
        assert one.augmentation.value == pytest.approx(accuracy["SS"] - accuracy["FS"])
        assert one.reliance.value == pytest.approx(accuracy["OO"] - accuracy["SS"] + one.shift.value)
        assert one.practical_gain.value <= one.value_of_order.value + 1e-12
        retrained = {
            perturbation.label: perturbation.retrained
            for perturbation in one.suite
            if perturbation.retrained is not None
        }
        assert retrained.keys() == {"shuffle", "windows of 4", "blocks of 4"}
        assert retrained["windows of 4"].value == pytest.approx(accuracy["OO"] - accuracy["WW"])
        assert [point.fraction for point in one.sizes] == [0.5, 1.0]
        assert one.sizes[1].value_of_order.value == pytest.approx(one.value_of_order.value)
        assert one.sizes[0].num_clips < one.sizes[1].num_clips
        assert one.sensitivity.keys() == {"last", "equal_parameters"}
        assert np.sum(one.confusion_ordered) == np.sum(one.confusion_shuffled) == len(tested[3].scores.labels)


def test_the_other_readout_is_another_training(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    scores = tested[3].scores
    assert not np.array_equal(
        scores.predicted("gru", "ordered", "ordered"), scores.predicted("gru", "ordered", "ordered", analysis="last")
    )
    clips, plan = tested[:2]
    split = run_splits(clips, plan.settings)[0]
    job = TrainingJob("gru", plan.memories["gru"], "ordered", 0, "last")
    for readout in (
        "videomem.heads.MeanReadout",
        "videomem.heads.readout.MeanReadout",
    ):  # As the command line gives it.
        classifier = new_classifier(job, clips, split, plan.settings, replace(SHORT, readout=readout), 0)
        assert isinstance(classifier.head.readout, LastReadout)


def test_without_a_mean_readout_nothing_is_a_control(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(
        clips,
        replace(SMALL, memories=("none",), training_conditions=PRIMARY),
        replace(SHORT, readout="videomem.heads.LastReadout"),
    )
    result = run_order_test(clips, plan, tmp_path).result
    assert not result.memories[0].is_control and result.noise_floor is None and result.controls is None


def test_the_reliance_of_a_control_is_exactly_zero(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    result = tested[3].result
    none = result.memories[0]
    assert none.is_control and none.verdict is None and none.reliance.value == 0 and none.max_logit_change == 0
    assert (
        none.accuracies["ordered/ordered"].value
        == none.accuracies["ordered/reversed"].value
        == none.accuracies["ordered/shuffled"].value
    )
    assert none.confusion_ordered == none.confusion_shuffled
    assert result.noise_floor == none.value_of_order and none.value_of_order.se > 0  # Trained again, with another seed.
    assert result.memories[2].max_logit_change > 0
    controls = result.controls
    assert controls is not None and controls.oracle_frame >= controls.best_frame
    assert (
        controls.oracle_frame >= controls.random_frame and controls.average == none.accuracies["ordered/ordered"].value
    )


def test_the_result_has_the_plan(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    clips, plan, _, (result, _) = tested
    assert result.plan_sha256 == plan.sha256 and result.plan == json.loads(plan.as_json())
    assert result.num_trainings == 2 * (2 + 2 * (6 + 6)) and result.num_trained_before == 0
    assert result.data.num_test_clips == 18 and result.data.num_test_groups == 12 and result.data.num_straddling == 0
    assert result.data.num_clips == len(clips) and result.data.num_groups == 24 and result.data.num_frames == "4 to 6"
    assert result.seeds == (0, 1) and result.seconds_training > 0 and result.versions["torch"] == version("torch")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OrderTestResult]:
    """The same protocol on data whose class depends on frame order, and on data whose class does not."""
    protocol = replace(SMALL, memories=("gru",), training_conditions=PRIMARY, runs=6, folds=6)
    recipe = replace(SHORT, epochs=10)
    cache = tmp_path_factory.mktemp("learned")
    kinds = {"planted": drawn(30, trend=3.0, look=0.0), "null": drawn(30, trend=0.0, look=0.6)}
    return {
        name: run_order_test(clips, planned(clips, protocol, recipe), cache).result for name, clips in kinds.items()
    }


def test_order_matters_if_the_class_depends_on_it(learned: dict[str, OrderTestResult]) -> None:
    result = learned["planted"]
    assert result.verdict.kind == "matters" and "gru" in result.verdict.sentence
    assert result.memories[0].value_of_order.value > 0.2
    assert result.memories[0].reliance_test is not None and result.memories[0].reliance_test.p < 0.01


def test_order_does_not_matter_if_the_class_does_not_depend_on_it(learned: dict[str, OrderTestResult]) -> None:
    result = learned["null"]
    assert 0.6 < result.memories[0].accuracies["ordered/ordered"].value < 0.95  # At 1 the test would be vacuous.
    assert result.verdict.kind in ("undetermined", "does not matter", "negligible")
    assert abs(result.memories[0].value_of_order.value) < 0.1


def test_few_groups_get_no_verdict(tmp_path: Path) -> None:
    clips = drawn(groups=8)
    result = run_order_test(
        clips, planned(clips, replace(SMALL, memories=("gru",), training_conditions=PRIMARY)), tmp_path
    ).result
    assert result.verdict.kind == "no verdict" and "20 groups" in result.verdict.remedy


def test_a_fixed_split_is_labelled_conditional(tmp_path: Path) -> None:
    clips = drawn()
    names = tuple("test" if group % 4 == 0 else "train" for group in clips.groups.tolist())
    protocol = replace(SMALL, split="fixed", memories=("gru",), training_conditions=PRIMARY)
    fixed = replace(clips, splits=names)
    result = run_order_test(fixed, planned(fixed, protocol), tmp_path).result
    assert "conditional on this training set" in methods_paragraph(result)
    assert result.verdict.sentence.endswith("conditional on this training set") and result.data.split == "fixed"
    assert result.memories[0].value_of_order.overlap == 0


def test_validation_keeps_the_best_epoch_of_each_training_condition(tmp_path: Path) -> None:
    clips = drawn(trend=4.0)
    protocol = replace(
        SMALL,
        selection="validation",
        memories=("gru",),
        training_conditions=("ordered", "fixed_permutation", "reshuffled", "common_permutation"),
        runs=1,
    )
    training_results = run_jobs(planned(clips, protocol, replace(SHORT, epochs=9)), clips, tmp_path)
    assert {job.condition for job in training_results} == {
        "ordered",
        "fixed_permutation",
        "reshuffled",
        "common_permutation",
    }
    assert all(1 <= training_result.epochs <= 9 for training_result in training_results.values())
    assert any(training_result.epochs < 9 for training_result in training_results.values())


def test_arrays_are_tested_from_python(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(5, 3)) for _ in range(40)]
    labels, groups = ["ab"[n % 2] for n in range(40)], [str(n // 2) for n in range(40)]
    arguments = {
        "settings": replace(SMALL, memories=("leaky",), training_conditions=PRIMARY),
        "recipe": SHORT,
        "cache": tmp_path,
    }
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
    for other in (replace(SMALL, margin=0.03), replace(SMALL, runs=3), replace(SMALL, memories=("gru",))):
        assert planned(clips, other).sha256 != plan.sha256
        with pytest.raises(VideomemError, match="another plan is frozen here"):
            freeze(planned(clips, other), tmp_path, 0)
    assert planned(drawn(seed=1)).sha256 != plan.sha256


def test_a_forecast_is_more_precise_for_more_groups() -> None:
    few, many = drawn(12), drawn(48)
    small, large = (forecast(planned(clips), clips, Assumptions()) for clips in (few, many))
    assert large.se < small.se and large.detectable < small.detectable
    assert large.num_groups == 24 or large.num_groups == 48
    assert small.num_jobs == 2 * (2 + 6) and small.seconds_training > 0


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
        ({"memories": ()}, r"order\.memories is empty"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        replace(SMALL, **change)  # type: ignore[arg-type]


# The command.


def order_arguments(workspace: Path, out: Path) -> list[str]:
    protocol = {"runs": 1, "folds": 2, "num_permutations": 2, "hidden_dim": 4, "projection_dim": 4}
    return [
        *(*data_arguments(workspace), "--config", str(CONFIGS / "order.yaml"), "--trainer.max_epochs", "1"),
        *(part for name, value in protocol.items() for part in (f"--order.{name}", str(value))),
        *("--out", str(out), "--processes", "1", "--devices", "cpu"),
    ]


def test_the_command_writes_all_results(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["order", *order_arguments(workspace, tmp_path / "order")]) == 0
    result = from_json((tmp_path / "order" / "order.json").read_text())
    assert [one.name for one in result.memories] == ["none", "leaky", "rnn", "gated", "gru", "lstm"]
    assert result.command.startswith("videomem order --config") and result.data.feature_dim == 2304
    assert set(result.memories[1].accuracies) == set(PAIRS)
    for name in ("plan.json", "report.html", "methods.txt", "figures/accuracies.png", "tables/suite.csv"):
        assert (tmp_path / "order" / name).stat().st_size > 100
    assert result.verdict.sentence in " ".join(capsys.readouterr().out.split())
    assert result.plan_sha256 in (tmp_path / "order" / "report.html").read_text()
    assert "principal components" in (tmp_path / "order" / "methods.txt").read_text()


def test_video_strips_show_the_tested_frame_orders(workspace: Path, tmp_path: Path) -> None:
    data = read_data_module(data_arguments(workspace))
    clips = clips_of_data(data)
    plan = planned(
        clips, replace(SMALL, memories=("gru",), training_conditions=PRIMARY, runs=1, folds=2), replace(SHORT, epochs=1)
    )
    result, scores = run_order_test(clips, plan, tmp_path)
    pairs = ChiralPairs((ChiralPair("move_right", "move_left", 0.5, 0.01),), 10, 10, 0.01)
    result = replace(result, memories=(replace(result.memories[0], chiral=pairs),))
    (example,) = examples_of(data, scores, result)
    ordered, shuffled, backwards = (strip.frames_THWC for strip in example.strips)
    assert np.array_equal(ordered[::-1], backwards) and not np.array_equal(ordered, shuffled)
    assert sorted(frame.tobytes() for frame in shuffled) == sorted(frame.tobytes() for frame in ordered)
    assert [set(strip.predictions) for strip in example.strips] == [{"gru"}] * 3


def test_plan_prints_a_forecast_and_trains_nothing(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["order", *order_arguments(workspace, tmp_path / "order"), "--plan"]) == 0
    out = capsys.readouterr().out
    assert "32 training jobs" in out and "points are detected with power 0.8" in out and "steps: few" in out
    assert not (tmp_path / "order").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--order.memories", "[gruu]"], "'gruu' is not a head"),
        (["--order.training_conditions", "[ordered, sideways]"], "order.training_conditions"),
        (["--order.training_conditions", "[ordered]"], "order.training_conditions lacks fixed_permutation"),
        (["--order.windows", "8"], "order.windows is 8, but clips have 8 frames"),
        (["--order.margin", "2"], "order.margin is 2"),
        (["--processes", "0"], "--processes is 0"),
        (["--processes", "0", "--plan"], "--processes is 0"),
        (["--devices", "nowhere"], "--device nowhere"),
        (["--config", str(CONFIGS / "head" / "gru.yaml")], "memory"),
        (["--data.source", "video", "--data.reversed_pairs", "false"], "the order test reads stored features"),
        (["--assume.accuracy", "3", "--plan"], "accuracy is 3"),
    ],
)
def test_bad_arguments_are_one_line(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["order", *order_arguments(workspace, tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
