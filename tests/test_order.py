"""The order test: splits, arms and cells; what is planned is what is done, and the verdict follows the data."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, data_arguments
from hypothesis import given, settings
from hypothesis import strategies as st

from videomem import order_test
from videomem.cli import main
from videomem.commands.extract import read_data_module
from videomem.errors import VideomemError
from videomem.heads import LastReadout
from videomem.order import running
from videomem.order.arms import ArmData, check_sizes, common_order, feature_statistics, training_order
from videomem.order.card import OrderCard, card_from_json
from videomem.order.cells import Cell, Outcome, cell_key, new_classifier, read_outcome, train_cell, write_outcome
from videomem.order.clips import Clips, clips_of_arrays, clips_of_data
from videomem.order.forecast import forecast
from videomem.order.memories import build_head, read_memories, with_parameters_of_largest
from videomem.order.plan import ARMS, OrderPlan, OrderSettings, Recipe
from videomem.order.projection import projected
from videomem.order.protocol import OrderTest, freeze, make_plan, run_order_test
from videomem.order.running import cells_of, run_cells
from videomem.order.splits import run_splits, training_share
from videomem.report.examples import examples_of
from videomem.report.methods import methods_paragraph
from videomem.statistics.planning import Assumptions
from videomem.statistics.results import ChiralPair, ChiralPairs

SMALL = OrderSettings(memories=("none", "gru"), runs=2, folds=4, num_permutations=3, hidden_dim=8, projection_dim=4)
SHORT = Recipe(epochs=2, batch_size=16, learning_rate=1e-2, dropout=0.1)


def drawn(groups: int = 24, per_group: int = 3, frames: int = 6, trend: float = 2.0, look: float = 0.3, seed: int = 0,
          ragged: bool = False) -> Clips:  # fmt: skip
    """Clips whose class is told by a trend over time and, less, by their looks."""
    rng = np.random.default_rng(seed)
    features, labels, names = [], [], []
    for group in range(groups):
        for number in range(per_group):
            sign = 1 if (group + number) % 2 else -1
            length = frames - (group % 3 if ragged else 0)
            x_TD = rng.normal(0, 1, (length, 5)) + rng.normal(0, 0.2, 5)
            x_TD[:, 0] += sign * trend * np.linspace(-1, 1, length)
            x_TD[:, 1] += sign * look
            features.append(x_TD.astype(np.float32))
            labels.append("up" if sign > 0 else "down")
            names.append(f"g{group}")
    return clips_of_arrays(features, labels, names, name="drawn")


def planned(clips: Clips, protocol: OrderSettings = SMALL, recipe: Recipe = SHORT) -> OrderPlan:
    return make_plan(clips, protocol, recipe)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clips, OrderPlan, Path, OrderTest]:
    """A small whole test with every option on."""
    clips = drawn(ragged=True)
    protocol = replace(SMALL, sizes=(0.5,), sensitivity=("last", "equal_parameters"), memories=("none", "leaky", "gru"))
    plan, cache = planned(clips, protocol), tmp_path_factory.mktemp("cells")
    return clips, plan, cache, run_order_test(clips, plan, cache, command="videomem order")


# Splits.


@given(groups=st.integers(8, 30), per_group=st.integers(1, 4), folds=st.integers(2, 4), runs=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_groups_are_in_one_part_of_a_run_and_tested_equally_often(
    groups: int, per_group: int, folds: int, runs: int
) -> None:
    clips = drawn(groups, per_group)
    splits = run_splits(clips, replace(SMALL, folds=folds, runs=runs, selection="validation" if folds > 2 else "last"))
    for split in splits:
        parts = [set(clips.groups[rows].tolist()) for rows in (split.train, split.val, split.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(split.train) + len(split.val) + len(split.test) == len(clips)
    times = np.bincount(np.concatenate([split.test for split in splits]), minlength=len(clips))
    assert times.max() - times.min() <= 1


def test_a_fixed_split_is_the_catalogs_and_says_so() -> None:
    clips = drawn()
    names = tuple("test" if group % 4 == 0 else "train" for group in clips.groups.tolist())
    fixed = replace(SMALL, split="fixed")
    split = run_splits(replace(clips, splits=names), fixed)[1]
    assert set(np.array(names)[split.test]) == {"test"} and set(np.array(names)[split.train]) == {"train"}
    with pytest.raises(VideomemError, match="no clip in split 'train'"):
        run_splits(clips, fixed)


@given(share=st.floats(0.01, 0.9), more=st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_a_larger_share_of_training_holds_the_smaller_and_every_class(share: float, more: float) -> None:
    clips = drawn()
    train = run_splits(clips, SMALL)[0].train
    small, large = (set(training_share(clips, train, size, 3).tolist()) for size in sorted((share, more)))
    assert small <= large <= set(train.tolist())
    assert set(clips.labels[list(small)]) == {0, 1}


def test_folds_are_as_many_as_the_rarest_class_allows() -> None:
    clips = drawn(groups=6, per_group=1)
    assert planned(clips, replace(SMALL, folds=10)).settings.folds == 3
    alone = replace(clips, labels=np.array([0, 1, 1, 1, 1, 1]))
    with pytest.raises(VideomemError, match="clips of one group only"):
        planned(alone)


# Arms.


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_shows_every_frame_once_and_the_same_order_for_the_same_seed(arm: str) -> None:
    clips = drawn(ragged=True)
    for row in (0, 4, 8):
        order = training_order(arm, clips, row, SMALL, 5, 2)
        assert sorted(order.tolist()) == list(range(clips.lengths[row]))
        assert np.array_equal(order, training_order(arm, clips, row, SMALL, 5, 2))


def test_arms_are_what_they_are_called() -> None:
    clips, protocol = drawn(frames=12, ragged=True), replace(SMALL, windows=4, blocks=4)
    show = partial(training_order, clips=clips, settings=protocol, seed=1)
    rows = range(len(clips))
    assert all(np.array_equal(show("O", row=row, epoch=0), np.arange(clips.lengths[row])) for row in rows)
    assert all(np.array_equal(show("F", row=row, epoch=0), show("F", row=row, epoch=9)) for row in rows)
    assert not all(np.array_equal(show("S", row=row, epoch=0), show("S", row=row, epoch=1)) for row in rows)
    assert len({show("F", row=row, epoch=0).tobytes() for row in rows}) > len(clips) // 2
    common = {int(clips.lengths[row]): show("C", row=row, epoch=0) for row in rows}
    for row in rows:
        length = int(clips.lengths[row])
        assert np.array_equal(show("C", row=row, epoch=3), common[length])
        assert np.array_equal(common[12][common[12] < length], common[length])  # Shorter clips leave frames out.
        assert np.array_equal(show("W", row=row, epoch=0) // 4, np.arange(length) // 4)
        blocks = show("B", row=row, epoch=0)
        assert np.all((np.diff(blocks) == 1) | (blocks[1:] % 4 == 0))
    assert np.array_equal(common_order(12, 12, 1)[0], common[12])


def test_a_clips_permutation_is_its_own_wherever_it_stands() -> None:
    clips = drawn()
    turned = replace(clips, features=lambda row: clips.features(len(clips) - 1 - row), ids=clips.ids[::-1])
    assert np.array_equal(
        training_order("F", clips, 0, SMALL, 0, 0), training_order("F", turned, len(clips) - 1, SMALL, 0, 0)
    )


def test_what_an_arm_trains_on_is_what_it_says(tmp_path: Path) -> None:
    clips = drawn()
    split = run_splits(clips, SMALL)[0]
    for batch in ArmData(clips, split, "F", SMALL, 0, 16).train_dataloader():
        for x_TD, row, label in zip(batch.x, batch.clip.tolist(), batch.labels.tolist(), strict=True):
            order = training_order("F", clips, row, SMALL, 0, 0)
            assert torch.equal(x_TD, clips.features(row)[torch.from_numpy(order)])
            assert row in split.train and clips.labels[row] == label


def test_windows_as_long_as_the_clip_are_refused() -> None:
    with pytest.raises(VideomemError, match=r"order\.windows is 6, but clips have 6 frames"):
        check_sizes(drawn(), replace(SMALL, windows=6))
    check_sizes(drawn(), replace(SMALL, windows=6, arms=("O", "F")))


# Cells and their cache.


def test_a_cell_is_named_by_every_cause_and_by_nothing_else() -> None:
    clips = drawn()
    split, plan = run_splits(clips, SMALL)[0], planned(clips)
    cell = cells_of(plan, clips)[0]
    base = cell_key(cell, clips, split, SMALL, SHORT)
    other_label = replace(clips, labels=1 - clips.labels)
    other_clip = replace(clips, ids=("0" * 32, *clips.ids[1:]))
    changed = [
        cell_key(replace(cell, arm="F"), clips, split, SMALL, SHORT),
        cell_key(replace(cell, run=1), clips, split, SMALL, SHORT),
        cell_key(replace(cell, memory={**cell.memory, "init_args": {"hidden_dim": 9}}), clips, split, SMALL, SHORT),
        cell_key(replace(cell, analysis="last"), clips, split, SMALL, SHORT),
        cell_key(cell, other_label, split, SMALL, SHORT),
        cell_key(cell, other_clip, split, SMALL, SHORT),
        cell_key(cell, clips, replace(split, train=split.train[1:]), SMALL, SHORT),
        cell_key(cell, clips, split, replace(SMALL, num_permutations=4), SHORT),
        cell_key(cell, clips, split, replace(SMALL, projection="learned"), SHORT),
        cell_key(cell, clips, split, replace(SMALL, selection="validation"), SHORT),
        cell_key(cell, clips, split, SMALL, replace(SHORT, epochs=3)),
        cell_key(cell, clips, split, SMALL, replace(SHORT, dropout=0.3)),
    ]
    assert len({base, *changed}) == 1 + len(changed)
    assert base == cell_key(cell, clips, split, replace(SMALL, margin=0.1, runs=7, memories=("gru",)), SHORT)


def test_outcomes_come_back_as_they_were_and_damage_is_one_line(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips)
    outcome = train_cell(cells_of(plan, clips)[0], clips, run_splits(clips, SMALL)[0], SMALL, SHORT)
    write_outcome(tmp_path / "a.npz", outcome)
    again = read_outcome(tmp_path / "a.npz")
    assert again.predicted.keys() == outcome.predicted.keys()
    assert all(np.array_equal(again.predicted[name], value) for name, value in outcome.predicted.items())
    assert again.frame_right is not None and np.array_equal(again.frame_right, outcome.frame_right)  # type: ignore[arg-type]
    assert replace(again, predicted={}, frame_right=None) == replace(outcome, predicted={}, frame_right=None)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    with pytest.raises(VideomemError, match="a damaged cell"):
        read_outcome(tmp_path / "a.npz")


def test_the_same_seed_gives_the_same_answers_and_another_seed_others() -> None:
    clips = drawn()
    split, plan = run_splits(clips, SMALL)[0], planned(clips)
    cell = next(cell for cell in cells_of(plan, clips) if cell.name == "gru" and cell.arm == "S")
    one, two = (train_cell(cell, clips, split, SMALL, SHORT) for _ in range(2))
    other = train_cell(cell, clips, split, replace(SMALL, seed=1), SHORT)
    assert np.array_equal(one.predicted["shuffle"], two.predicted["shuffle"])
    assert not np.array_equal(one.predicted["shuffle"], other.predicted["shuffle"])


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


def test_an_interrupted_test_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = drawn()
    plan = planned(clips, replace(SMALL, arms=("O", "F"), memories=("gru",)))
    trained: list[Cell] = []

    def until_interrupted(cell: Cell, *rest: object) -> Outcome:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(cell)
        return train_cell(cell, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "train_cell", until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cells(plan, clips, tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(running, "train_cell", train_cell)
    resumed = run_cells(plan, clips, tmp_path, tell=lambda done, total: told.append((done, total)))
    whole = run_cells(plan, clips, tmp_path / "other")
    assert told == [(2, 4), (3, 4), (4, 4)]
    assert all(np.array_equal(resumed[cell].predicted["shuffle"], whole[cell].predicted["shuffle"]) for cell in whole)


@pytest.mark.slow
def test_two_processes_give_the_answers_of_one(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips, replace(SMALL, memories=("gru",)))
    one, two = run_cells(plan, clips, tmp_path / "one"), run_cells(plan, clips, tmp_path / "two", num_processes=2)
    assert len(one) == 12 and one.keys() == two.keys()
    for cell, outcome in one.items():
        assert all(np.array_equal(two[cell].predicted[name], value) for name, value in outcome.predicted.items())


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_answers_of_the_cpu(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips, replace(SMALL, memories=("gru",), arms=("O", "F")), replace(SHORT, dropout=0.0))
    cpu, gpu = (run_cells(plan, clips, tmp_path / name, devices=[name]) for name in ("cpu", "cuda:0"))
    same = [np.mean(gpu[cell].predicted["ordered"] == outcome.predicted["ordered"]) for cell, outcome in cpu.items()]
    assert min(same) > 0.9


def test_a_training_that_diverges_is_one_line(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(
        clips, replace(SMALL, memories=("leaky",)), replace(SHORT, learning_rate=1e30, gradient_clip_val=None)
    )
    with pytest.raises(VideomemError, match=r"leaky, arm O, run 0: logits are not finite.*learning_rate"):
        run_cells(plan, clips, tmp_path)


# Memories.


def test_memories_have_one_state_size_and_the_same_start() -> None:
    memories = read_memories(("gru", str(CONFIGS / "head" / "lstm.yaml")), 7)
    assert list(memories) == ["gru", "lstm"]
    assert {memory["init_args"]["hidden_dim"] for memory in memories.values()} == {7}
    heads = []
    for memory in memories.values():
        torch.manual_seed(0)
        heads.append(build_head(memory, 5, 2, 1, 4))
    weights = [head.projection.weight for head in heads]
    assert weights[0].shape == (4, 5) and torch.equal(*weights)


@pytest.mark.parametrize("name", ["gruu", "nowhere.yaml"])
def test_an_unknown_memory_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(VideomemError, match=r"is no head; there are .*gru"):
        read_memories((name,), 8)


def test_a_head_file_that_names_another_packages_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("model: {memory: {class_path: this.Zen}}")
    with pytest.raises(VideomemError, match=r"names this\.Zen, which is no memory"):
        read_memories((str(tmp_path / "evil.yaml"),), 8)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "gru.yaml"
    other.write_text((CONFIGS / "head" / "rnn.yaml").read_text())
    with pytest.raises(VideomemError, match=r"has the name 'gru' of another"):
        read_memories(("gru", str(other)), 8)


def test_equal_parameters_are_nearly_equal() -> None:
    memories = read_memories(("none", "leaky", "gated", "lstm"), 16)
    resized = with_parameters_of_largest(memories, lambda memory: build_head(memory, 20, 3, 1, 16))
    counts = [sum(p.numel() for p in build_head(memory, 20, 3, 1, 16).parameters()) for memory in resized.values()]
    assert max(counts) < 1.02 * min(counts)
    assert resized["lstm"] == memories["lstm"]


# The analysis.


def test_the_parts_of_reliance_add_up(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    for one in tested[3].card.memories:
        cell = {name: estimate.value for name, estimate in one.cells.items()}
        assert one.value_of_order.value == pytest.approx(cell["OO"] - cell["FS"])
        assert one.reliance.value == pytest.approx(cell["OO"] - cell["OS"])
        shuffle = next(rung for rung in one.ladder if rung.label == "shuffle")
        assert shuffle.reliance == one.reliance
        if one.is_control:
            continue
        assert one.augmentation is not None and one.shift is not None and one.practical_gain is not None
        assert one.augmentation.value == pytest.approx(cell["SS"] - cell["FS"])
        assert one.reliance.value == pytest.approx(cell["OO"] - cell["SS"] + one.shift.value)
        assert one.practical_gain.value <= one.value_of_order.value + 1e-12
        retrained = {rung.label: rung.retrained for rung in one.ladder if rung.retrained is not None}
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


def test_a_projection_is_not_taken_from_other_clips() -> None:
    train = np.arange(40)
    for seed in range(20):  # Clips that are gone may leave their id to others.
        clips = drawn(seed=seed)
        assert np.array_equal(projected(clips, train, 3).labels, clips.labels)
        assert projected(clips, train, 3).ids == clips.ids
        mean, _ = feature_statistics(clips, train)
        assert torch.allclose(mean, torch.cat([clips.features(row) for row in train.tolist()]).mean(0), atol=1e-5)
        del clips


def test_the_projection_is_the_principal_components_of_training_frames_alone() -> None:
    clips = drawn()
    train = np.arange(30)
    shown = projected(clips, train, 3)
    frames = torch.cat([clips.features(row) for row in train.tolist()]).double()
    mean, std = frames.mean(0), frames.std(0, correction=0)
    axes = torch.linalg.svd((frames - mean) / std).Vh[:3]
    expected = ((clips.features(50).double() - mean) / std) @ axes.T
    assert torch.allclose(shown.features(50).double().abs(), expected.abs(), atol=1e-3)


def test_a_control_relies_on_nothing_to_the_bit(tested: tuple[Clips, OrderPlan, Path, OrderTest]) -> None:
    card = tested[3].card
    none = card.memories[0]
    assert none.is_control and none.verdict is None and none.reliance.value == 0 and none.max_logit_change == 0
    assert none.cells["OO"].value == none.cells["OR"].value == none.cells["OS"].value
    assert none.confusion_ordered == none.confusion_shuffled
    assert card.noise_floor == none.value_of_order and none.value_of_order.se > 0  # Trained anew, with another seed.
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
    for name in ("plan.json", "report.html", "methods.txt", "figures/arms.png", "tables/ladder.csv"):
        assert (tmp_path / "order" / name).stat().st_size > 100
    assert card.verdict.sentence in " ".join(capsys.readouterr().out.split())
    assert card.plan_sha256 in (tmp_path / "order" / "report.html").read_text()
    assert "principal components" in (tmp_path / "order" / "methods.txt").read_text()


def test_film_strips_show_the_frames_in_the_orders_that_were_judged(workspace: Path, tmp_path: Path) -> None:
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
    assert "32 trainings" in out and "points are found with power 0.8" in out and "steps: few" in out
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
