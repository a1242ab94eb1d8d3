"""The order test as a whole: what is planned is what is done, and the verdict follows the data."""

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
from videomem.experiments.order_test import execution as running
from videomem.experiments.order_test.examples import examples_of
from videomem.experiments.order_test.execution import run_cells
from videomem.experiments.order_test.folds import run_splits
from videomem.experiments.order_test.forecast import forecast
from videomem.experiments.order_test.jobs import Cell, new_classifier
from videomem.experiments.order_test.methods import methods_paragraph
from videomem.experiments.order_test.plan import OrderPlan
from videomem.experiments.order_test.result import OrderCard, card_from_json
from videomem.experiments.order_test.run import OrderTest, freeze, run_order_test
from videomem.heads import LastReadout
from videomem.statistics.planning import Assumptions
from videomem.statistics.results import ChiralPair, ChiralPairs


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clips, OrderPlan, Path, OrderTest]:
    """A small whole test with every option on."""
    clips = drawn(ragged=True)
    protocol = replace(SMALL, sizes=(0.5,), sensitivity=("last", "equal_parameters"), memories=("none", "leaky", "gru"))
    plan, cache = planned(clips, protocol), tmp_path_factory.mktemp("cells")
    return clips, plan, cache, run_order_test(clips, plan, cache, command="videomem order")


def test_what_the_cache_holds_is_not_trained_again(
    tested: tuple[Clips, OrderPlan, Path, OrderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, plan, cache, before = tested
    monkeypatch.setattr(running, "train_cell", lambda *_: pytest.fail("trained again"))
    after = run_order_test(clips, plan, cache, command="videomem order", num_trained_before=0).card
    assert replace(after, seconds=before.card.seconds) == before.card
    wider = replace(plan, settings=replace(plan.settings, margin=0.3))
    card = run_order_test(clips, wider, cache).card
    assert card.margin == 0.3 and card.num_trained_before == card.num_trainings
    assert "had been made for other plans" in methods_paragraph(card)


# The analysis.


def test_the_parts_of_reliance_add_up(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    for one in tested[3].card.memories:
        assert all(0 <= accuracy.low <= accuracy.high <= 1 for accuracy in one.cells.values())
        cell = {name: estimate.value for name, estimate in one.cells.items()}
        assert one.value_of_order.value == pytest.approx(cell["OO"] - cell["FS"])
        assert one.reliance.value == pytest.approx(cell["OO"] - cell["OS"])
        shuffle = next(perturbation for perturbation in one.suite if perturbation.label == "shuffle")
        assert shuffle.reliance == one.reliance
        if one.is_control:
            continue
        assert one.augmentation is not None and one.shift is not None and one.practical_gain is not None
        assert one.augmentation.value == pytest.approx(cell["SS"] - cell["FS"])
        assert one.reliance.value == pytest.approx(cell["OO"] - cell["SS"] + one.shift.value)
        assert one.practical_gain.value <= one.value_of_order.value + 1e-12
        retrained = {
            perturbation.label: perturbation.retrained
            for perturbation in one.suite
            if perturbation.retrained is not None
        }
        assert retrained.keys() == {"shuffle", "windows of 4", "blocks of 4"}
        assert retrained["windows of 4"].value == pytest.approx(cell["OO"] - cell["WW"])
        assert [point.fraction for point in one.sizes] == [0.5, 1.0]
        assert one.sizes[1].value_of_order.value == pytest.approx(one.value_of_order.value)
        assert one.sizes[0].num_clips < one.sizes[1].num_clips
        assert one.sensitivity.keys() == {"last", "equal_parameters"}
        assert np.sum(one.confusion_ordered) == np.sum(one.confusion_shuffled) == len(tested[3].scores.labels)


def test_the_other_readout_is_another_training(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    scores = tested[3].scores
    assert not np.array_equal(
        scores.predicted("gru", "O", "ordered"), scores.predicted("gru", "O", "ordered", analysis="last")
    )
    clips, plan = tested[:2]
    split = run_splits(clips, plan.settings)[0]
    cell = Cell("gru", plan.memories["gru"], "O", 0, "last")
    for readout in (
        "videomem.heads.MeanReadout",
        "videomem.heads.readout.MeanReadout",
    ):  # As the command line gives it.
        classifier = new_classifier(cell, clips, split, plan.settings, replace(SHORT, readout=readout), 0)
        assert isinstance(classifier.head.readout, LastReadout)


def test_without_a_mean_readout_nothing_is_a_control(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(
        clips, replace(SMALL, memories=("none",), arms=("O", "F")), replace(SHORT, readout="videomem.heads.LastReadout")
    )
    card = run_order_test(clips, plan, tmp_path).card
    assert not card.memories[0].is_control and card.noise_floor is None and card.controls is None


def test_a_control_relies_on_nothing_to_the_bit(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    card = tested[3].card
    none = card.memories[0]
    assert none.is_control and none.verdict is None and none.reliance.value == 0 and none.max_logit_change == 0
    assert none.cells["OO"].value == none.cells["OR"].value == none.cells["OS"].value
    assert none.confusion_ordered == none.confusion_shuffled
    assert card.noise_floor == none.value_of_order and none.value_of_order.se > 0  # Trained again, with another seed.
    assert card.memories[2].max_logit_change > 0
    controls = card.controls
    assert controls is not None and controls.oracle_frame >= controls.best_frame
    assert controls.oracle_frame >= controls.random_frame and controls.average == none.cells["OO"].value


def test_the_card_says_what_was_planned(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    clips, plan, _, (card, _, _) = tested
    assert card.plan_sha256 == plan.sha256 and card.plan == json.loads(plan.as_json())
    assert card.num_trainings == 2 * (2 + 2 * (6 + 6)) and card.num_trained_before == 0
    assert card.data.num_test_clips == 18 and card.data.num_test_groups == 12 and card.data.num_straddling == 0
    assert card.data.num_clips == len(clips) and card.data.num_groups == 24 and card.data.num_frames == "4 to 6"
    assert card.seeds == (0, 1) and card.seconds_training > 0 and card.versions["torch"] == version("torch")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OrderCard]:
    """The same protocol on data where order tells the class, and where looks alone do."""
    protocol = replace(SMALL, memories=("gru",), arms=("O", "F"), runs=6, folds=6)
    recipe = replace(SHORT, epochs=10)
    cache = tmp_path_factory.mktemp("learned")
    kinds = {"planted": drawn(30, trend=3.0, look=0.0), "null": drawn(30, trend=0.0, look=0.6)}
    return {name: run_order_test(clips, planned(clips, protocol, recipe), cache).card for name, clips in kinds.items()}


def test_order_that_tells_the_class_matters(learned: dict[str, OrderCard]) -> None:
    card = learned["planted"]
    assert card.verdict.kind == "matters" and "gru" in card.verdict.sentence
    assert card.memories[0].value_of_order.value > 0.2
    assert card.memories[0].reliance_test is not None and card.memories[0].reliance_test.p < 0.01


def test_looks_alone_do_not_make_order_matter(learned: dict[str, OrderCard]) -> None:
    card = learned["null"]
    assert 0.6 < card.memories[0].cells["OO"].value < 0.95  # At 1 the test would be vacuous.
    assert card.verdict.kind in ("undetermined", "does not matter", "negligible")
    assert abs(card.memories[0].value_of_order.value) < 0.1


def test_few_groups_get_no_verdict(tmp_path: Path) -> None:
    clips = drawn(groups=8)
    card = run_order_test(clips, planned(clips, replace(SMALL, memories=("gru",), arms=("O", "F"))), tmp_path).card
    assert card.verdict.kind == "no verdict" and "20 groups" in card.verdict.remedy


def test_a_fixed_split_is_labelled_conditional(tmp_path: Path) -> None:
    clips = drawn()
    names = tuple("test" if group % 4 == 0 else "train" for group in clips.groups.tolist())
    protocol = replace(SMALL, split="fixed", memories=("gru",), arms=("O", "F"))
    fixed = replace(clips, splits=names)
    card = run_order_test(fixed, planned(fixed, protocol), tmp_path).card
    assert "conditional on this training set" in methods_paragraph(card)
    assert card.verdict.sentence.endswith("conditional on this training set") and card.data.split == "fixed"
    assert card.memories[0].value_of_order.overlap == 0


def test_validation_keeps_the_best_epoch_of_each_arm(tmp_path: Path) -> None:
    clips = drawn(trend=4.0)
    protocol = replace(SMALL, selection="validation", memories=("gru",), arms=("O", "F", "S", "C"), runs=1)
    outcomes = run_cells(planned(clips, protocol, replace(SHORT, epochs=9)), clips, tmp_path)
    assert {cell.arm for cell in outcomes} == {"O", "F", "S", "C"}
    assert all(1 <= outcome.epochs <= 9 for outcome in outcomes.values())
    assert any(outcome.epochs < 9 for outcome in outcomes.values())


def test_arrays_are_tested_from_python(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(5, 3)) for _ in range(40)]
    labels, groups = ["ab"[n % 2] for n in range(40)], [str(n // 2) for n in range(40)]
    arguments = {"settings": replace(SMALL, memories=("leaky",), arms=("O", "F")), "recipe": SHORT, "cache": tmp_path}
    card = order_test(features, labels, groups, **arguments)  # type: ignore[arg-type]
    assert card.data.num_test_groups == 10 or card.data.num_test_groups == 20
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


def test_a_forecast_knows_more_from_more_groups_and_costs_more_for_more_runs() -> None:
    few, many = drawn(12), drawn(48)
    small, large = (forecast(planned(clips), clips, Assumptions()) for clips in (few, many))
    assert large.se < small.se and large.detectable < small.detectable
    assert large.num_groups == 24 or large.num_groups == 48
    assert small.num_cells == 2 * (2 + 6) and small.seconds_training > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 0}, r"order\.runs is 0"),
        ({"folds": 1}, r"order\.folds is 1"),
        ({"margin": 2.0}, r"order\.margin is 2\.0.*0\.02 is 2 points"),
        ({"margin": 0.0}, r"order\.margin is 0\.0"),
        ({"arms": ("O", "S")}, r"order\.arms lacks F"),
        ({"arms": ("O", "F", "X")}, r"order\.arms has 'X', but knows O, F"),
        ({"sensitivity": ("first",)}, r"order\.sensitivity has 'first'"),
        ({"selection": "validation", "folds": 2}, r"order\.folds is 2.*needs 3"),
        ({"arms": ("O", "F", "F")}, r"order\.arms names something twice"),
        ({"sizes": (1.5,)}, r"order\.sizes has 1\.5"),
        ({"memories": ()}, r"order\.memories is empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
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


def test_the_command_judges_and_writes_everything(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["order", *order_arguments(workspace, tmp_path / "order")]) == 0
    card = card_from_json((tmp_path / "order" / "order.json").read_text())
    assert [one.name for one in card.memories] == ["none", "leaky", "rnn", "gated", "gru", "lstm"]
    assert card.command.startswith("videomem order --config") and card.data.feature_dim == 2304
    assert set(card.memories[1].cells) == {"OO", "OS", "OR", "FS", "FO", "SS", "SO", "CC", "WW", "BB"}
    for name in ("plan.json", "report.html", "methods.txt", "figures/arms.png", "tables/suite.csv"):
        assert (tmp_path / "order" / name).stat().st_size > 100
    assert card.verdict.sentence in " ".join(capsys.readouterr().out.split())
    assert card.plan_sha256 in (tmp_path / "order" / "report.html").read_text()
    assert "principal components" in (tmp_path / "order" / "methods.txt").read_text()


def test_video_strips_show_the_frames_in_the_orders_that_were_judged(workspace: Path, tmp_path: Path) -> None:
    data = read_data_module(data_arguments(workspace))
    clips = clips_of_data(data)
    plan = planned(clips, replace(SMALL, memories=("gru",), arms=("O", "F"), runs=1, folds=2), replace(SHORT, epochs=1))
    card, scores, splits = run_order_test(clips, plan, tmp_path)
    pairs = ChiralPairs((ChiralPair("move_right", "move_left", 0.5, 0.01),), 10, 10, 0.01)
    card = replace(card, memories=(replace(card.memories[0], chiral=pairs),))
    (example,) = examples_of(data, clips, plan, splits[0], scores, card)
    ordered, shuffled, backwards = (strip.frames_THWC for strip in example.strips)
    assert np.array_equal(ordered[::-1], backwards) and not np.array_equal(ordered, shuffled)
    assert sorted(frame.tobytes() for frame in shuffled) == sorted(frame.tobytes() for frame in ordered)
    assert [set(strip.predictions) for strip in example.strips] == [{"gru"}] * 3


def test_a_plan_is_told_and_nothing_is_trained(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["order", *order_arguments(workspace, tmp_path / "order"), "--plan"]) == 0
    out = capsys.readouterr().out
    assert "32 training jobs" in out and "points are detected with power 0.8" in out and "steps: few" in out
    assert not (tmp_path / "order").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--order.memories", "[gruu]"], "'gruu' is no head"),
        (["--order.arms", "[O, X]"], "order.arms"),
        (["--order.arms", "[O]"], "order.arms lacks F"),
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
