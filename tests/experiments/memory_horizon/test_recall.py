"""The recall tasks, horizons, and `videomem memory`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import logged_by, summary_of
from helpers.recomputed import check_recomputed
from helpers.result_files import check_file
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments.memories import read_memories
from videomem.experiments.memory_horizon import recall_jobs as recall_run
from videomem.experiments.memory_horizon.horizon_figures import time_constant_figure
from videomem.experiments.memory_horizon.horizon_tables import lyapunov_text, time_text
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan, run_recall
from videomem.experiments.memory_horizon.recall_result import SCHEMA_VERSION, MemoryReach, RecallResult, reaches
from videomem.experiments.memory_horizon.recall_tasks import (
    CHANCE,
    LEAD,
    NUM_CUES,
    NUM_SYMBOLS,
    TASKS,
    FrameTable,
    RecallFrames,
    features_of,
    recall_frames,
    render_frames,
)
from videomem.experiments.memory_horizon.recall_training import (
    _HELD_OUT,
    _TEST,
    RecallRecipe,
    _Checkpoints,
    as_batch,
    recall,
    train_recall,
    unseen_sequences,
)
from videomem.experiments.tables import NOTHING
from videomem.features.backbone import BackboneSettings, extract_features, load_backbone
from videomem.features.clip_decoding import decode_frames
from videomem.features.settings import FeatureSettings
from videomem.heads import Head, LastReadout, Leaky, NoMemory
from videomem.statistics.horizons import chance_corrected, curve_over_seeds, horizon
from videomem.utils.checked_json import dump_checked
from videomem.utils.result_models import parse
from videomem.video.catalog import Clip
from videomem.video.sampling import Uniform
from videomem.video.synthetic import write_video

TABLE = FrameTable(np.zeros((2 * NUM_SYMBOLS * 5 + 5, 1, 1, 3), np.uint8), 5)


def easy_frames() -> RecallFrames:
    """Returns features that encode symbol, mark and query directly, with some noise per drawing."""
    rows = np.arange(len(TABLE.frames_NHWC)) // 5
    x = torch.zeros(len(rows), 2 * NUM_SYMBOLS + 1)
    x[torch.arange(len(rows)), torch.from_numpy(rows)] = 1
    x += 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return RecallFrames(TABLE, x, np.arange(3), np.arange(3, 5))


# The tasks.


@pytest.mark.parametrize("task", TASKS)
@given(delay=st.integers(1, 200), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_sequence_has_its_cues_its_distractors_and_its_query(task: str, delay: int, seed: int) -> None:
    found = TASKS[task](np.random.default_rng(seed), TABLE, np.array([1, 4]), delay, 6)
    assert found.rows_BT.shape == (6, LEAD + delay)
    kind, variant = found.rows_BT // 5, found.rows_BT % 5
    assert (kind[:, -1] == 2 * NUM_SYMBOLS).all() and (kind[:, :-1] < 2 * NUM_SYMBOLS).all()
    assert set(variant.ravel().tolist()) <= {1, 4}
    marked = kind[:, :-1] >= NUM_SYMBOLS
    assert (marked.sum(1) == (1 if task == "latch" else NUM_CUES)).all()
    last = np.array([np.flatnonzero(row)[-1] for row in marked])
    assert (last == LEAD - 1).all() and (found.rows_BT.shape[1] - 1 - last == delay).all()
    assert (kind[np.arange(6), last] - NUM_SYMBOLS == found.labels_B).all()


def test_knowing_only_which_cues_occurred_gives_chance_accuracy() -> None:
    found = TASKS["update"](np.random.default_rng(0), TABLE, np.arange(5), 3, 500)
    kind = found.rows_BT // 5
    for row, label in zip(kind, found.labels_B, strict=True):
        cues = row[(row >= NUM_SYMBOLS) & (row < 2 * NUM_SYMBOLS)] - NUM_SYMBOLS
        assert len(set(cues.tolist())) == NUM_CUES and label in cues
    assert float(chance_corrected(1 / NUM_CUES, CHANCE)) < 0.5


def test_features_composed_by_index_are_those_of_the_encoded_video(tmp_path: Path) -> None:
    table, backbone = render_frames(2), BackboneSettings(weights="random")
    rows = TASKS["update"](np.random.default_rng(0), table, np.arange(2), 9, 1).rows_BT[0]
    write_video(tmp_path / "sequence.mp4", table.frames_NHWC[rows])
    settings = FeatureSettings(backbone, Uniform(len(rows)))
    frames, _ = decode_frames(Clip(str(tmp_path / "sequence.mp4"), "", "", ""), settings)
    decoded = extract_features(load_backbone(backbone), frames)
    assert torch.equal(decoded, features_of(table, backbone)[rows])


def test_drawings_kept_for_testing_decide_nothing_about_the_projection() -> None:
    features = torch.randn(len(TABLE.frames_NHWC), 40, generator=torch.Generator().manual_seed(0))
    other = features.clone()
    kept = TABLE.variants_N >= 3
    other[kept] += 5
    one, two = (recall_frames(TABLE, x, 2, 8) for x in (features, other))
    assert torch.equal(one.x_ND[~kept], two.x_ND[~kept])
    assert not torch.equal(one.x_ND[kept], two.x_ND[kept])
    assert all(torch.equal(a, b) for a, b in zip(one.training_statistics(), two.training_statistics(), strict=True))


def test_without_memory_the_answer_follows_no_cue() -> None:
    torch.manual_seed(0)
    frames = easy_frames()
    head = Head(lambda dim: NoMemory(dim, 8), frames.x_ND.shape[1], NUM_SYMBOLS, readout=LastReadout).eval()
    accuracy, followed = recall(head, "latch", frames, (1, 30), 200)
    assert followed == [0, 0] and all(value < 0.3 for value in accuracy)


def test_a_sum_that_reads_marked_symbols_recalls_one_cue_and_not_the_latest_of_several() -> None:
    frames = easy_frames()
    head = Head(lambda dim: Leaky(dim, NUM_SYMBOLS, alpha=1.0), frames.x_ND.shape[1], NUM_SYMBOLS,
                readout=LastReadout).eval()  # fmt: skip
    memory = head.memories[0]
    assert isinstance(memory, Leaky)
    with torch.no_grad():
        memory.input.weight.zero_()
        memory.input.weight[:, NUM_SYMBOLS:-1] = torch.eye(NUM_SYMBOLS)
        memory.input.bias.zero_()
        head.classify.weight.copy_(torch.eye(NUM_SYMBOLS))
        head.classify.bias.zero_()
    latch, followed = recall(head, "latch", frames, (1, 8), 300)
    update, _ = recall(head, "update", frames, (1, 8), 300)
    assert min(latch) > 0.95 and min(followed) > 0.9
    assert max(update) < 0.45


def test_tested_sequences_are_the_same_for_every_head_and_of_drawings_never_trained_on() -> None:
    frames = easy_frames()
    one, two = (unseen_sequences("latch", frames, 5, 20) for _ in range(2))
    assert (one.rows_BT == two.rows_BT).all()
    assert set((one.rows_BT % 5).ravel().tolist()) <= {3, 4}
    assert as_batch(one, frames).x.shape == (20, LEAD + 5, frames.x_ND.shape[1])


# Horizons.


def test_a_horizon_is_where_the_curve_crosses_half_of_what_chance_leaves() -> None:
    delays = [1, 2, 4, 8, 16]
    accuracy = [CHANCE + (1 - CHANCE) * share for share in (1.0, 1.0, 0.75, 0.25, 0.0)]
    found = horizon(delays, accuracy, CHANCE)
    assert found.kind == "crossed" and found.frames == pytest.approx(np.sqrt(4 * 8)) and str(found) == "5.66"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=11))
@settings(max_examples=200, deadline=None)
def test_a_horizon_is_a_tested_delay_or_states_why_there_is_none(accuracy: list[float]) -> None:
    delays = [2**k for k in range(len(accuracy))]
    found = horizon(delays, accuracy, CHANCE)
    if found.kind == "crossed":
        assert found.frames is not None and delays[0] <= found.frames <= delays[-1]
    else:
        assert (str(found) == "not learned") == (found.frames is None)
    better = horizon(delays, np.minimum(np.array(accuracy) + 0.1, 1), CHANCE)
    assert (better.frames or 0) >= (found.frames or 0) - 1e-9


@pytest.mark.parametrize(
    ("accuracy", "text"),
    [([1, 0.9], ">= 512"), ([0.3, 0.9], ">= 512"), ([0.2, 0.2], "not learned")],  # The second falling fit is the mean.
)
def test_horizons_beyond_the_longest_delay_and_of_unlearned_tasks_are_marked(accuracy: list[float], text: str) -> None:
    assert str(horizon([1, 512], accuracy, CHANCE)) == text


def test_delays_of_a_horizon_are_ascending() -> None:
    with pytest.raises(VideomemError, match="positive and ascending"):
        horizon([1, 1], [1, 0], CHANCE)


def test_the_interval_of_an_accuracy_stays_within_what_an_accuracy_can_be() -> None:
    values = [[1.0, 0.9, 0.0], [0.8, 1.0, 0.1]]
    free, limited = curve_over_seeds([1, 2, 4], values), curve_over_seeds([1, 2, 4], values, limits=(0, 1))
    assert max(free.high) > 1 and min(free.low) < 0
    assert max(limited.high) == 1 and min(limited.low) == 0 and limited.value == free.value


def test_an_interval_over_seeds_is_students() -> None:
    values = np.random.default_rng(0).uniform(0.3, 0.9, (4, 3))
    curve = curve_over_seeds([1, 2, 4], values)
    for place in range(3):
        low, high = stats.t.interval(0.95, 3, values[:, place].mean(), stats.sem(values[:, place]))
        assert (curve.low[place], curve.high[place]) == pytest.approx((low, high))
    geometric = curve_over_seeds([1, 2, 4], values, log=True)
    assert geometric.value == pytest.approx(stats.gmean(values, axis=0))
    zeros = curve_over_seeds([1, 2], [[0.0, np.nan], [0.0, np.nan]], log=True)
    assert zeros.value[0] == zeros.low[0] == zeros.high[0] == 0 and np.isnan(zeros.value[1])
    alone = curve_over_seeds([1, 2, 4], values[:1])
    assert alone.low == alone.high == alone.value


# Training and the command.


def small_plan(**changes: object) -> RecallPlan:
    plan = RecallPlan(
        read_memories(["none", "mingru"], 24),
        ("latch", "update"),
        num_seeds=2,
        recipe=RecallRecipe(400, 100, 50, batch_size=32, max_delay=4, learning_rate=1e-2, hidden_dim=24),
        delays=(1, 2, 4, 8),
        num_test=64,
        num_measured=3,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryReach, ...]:
    return reaches(run_recall(small_plan(), easy_frames(), tmp_path_factory.mktemp("recall")), small_plan())


def test_a_gate_learns_to_recall_and_no_memory_does_not(found: tuple[MemoryReach, ...]) -> None:
    none, mingru = found
    assert all(result.horizon.kind == "not learned" for result in none.tasks.values())
    assert all(result.horizon.kind == "beyond" for result in mingru.tasks.values())
    assert mingru.tasks["latch"].followed.value[0] > 0.5 and max(none.tasks["latch"].followed.value) == 0


def test_gates_forget_at_the_cues(found: tuple[MemoryReach, ...]) -> None:
    gates_TH = np.array(found[1].gates)
    cues = np.array(found[1].cues)
    others = np.setdiff1d(np.arange(len(gates_TH) - 1), cues)
    assert gates_TH[cues].mean() < gates_TH[others].mean() - 0.1


def test_a_training_ends_when_the_task_is_learned_or_when_it_brings_nothing(found: tuple[MemoryReach, ...]) -> None:
    none, mingru = found
    for task in ("latch", "update"):
        assert none.tasks[task].converged == (True, True) and max(none.tasks[task].trained_steps) < 400
        assert all(steps.median is None for steps in none.tasks[task].steps_to_learn)
        learned = mingru.tasks[task].steps_to_learn
        assert [steps.delay for steps in learned] == [1, 2, 4] and all(
            (steps.median or 999) <= 400 for steps in learned
        )


def test_the_kept_weights_are_those_of_the_lowest_held_out_loss() -> None:
    frames, recipe = easy_frames(), RecallRecipe(
        max_steps=40, check_every=5, batch_size=8, max_delay=4, learning_rate=0.3, hidden_dim=8
    )  # fmt: skip
    classifier, curve = train_recall("latch", read_memories(["rnn"], 8)["rnn"], frames, recipe, (1, 4), 0)
    assert curve.steps == list(range(5, 45, 5)) and not curve.converged
    again = _Checkpoints("latch", frames, recipe, (1, 4))._measure(classifier)
    assert again[0] == pytest.approx(min(curve.loss)) and again[1] == curve.accuracy[int(np.argmin(curve.loss))]
    assert np.argmin(curve.loss) < len(curve.loss) - 1  # Otherwise this test would not distinguish the last weights.


def test_held_out_sequences_are_not_those_of_the_test() -> None:
    held_out, test = (unseen_sequences("latch", easy_frames(), 5, 20, kind) for kind in (_HELD_OUT, _TEST))
    assert (held_out.rows_BT != test.rows_BT).any(1).all()


def test_cached_training_results_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(memories=read_memories(["leaky"], 24), tasks=("latch",), num_seeds=1,
                      recipe=RecallRecipe(2, batch_size=4, max_delay=4, hidden_dim=24))  # fmt: skip
    first = run_recall(plan, easy_frames(), tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as patched:
        patched.setattr(recall_run, "train_and_measure", never)
        assert run_recall(plan, easy_frames(), tmp_path) == first
        with pytest.raises(AssertionError, match="trained again"):
            run_recall(replace(plan, num_test=65), easy_frames(), tmp_path)
    (cached,) = tmp_path.glob("*.json")
    whole = cached.read_text()
    for content, message in (
        ("{", "damaged"),
        (whole.replace(cached.stem, "0" * 32), "damaged"),
        (dump_checked({"kind": "recall training", "key": "0" * 32}, {}), "the file of another key"),
        (dump_checked({"kind": "recall training", "key": cached.stem}, {"memory": 3}), r"\.\w+"),
    ):
        cached.write_text(content)
        with pytest.raises(VideomemError, match=rf"^{cached}.*{message}.*; delete the file and run the command again$"):
            run_recall(plan, easy_frames(), tmp_path)


def test_the_command_writes_page_result_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory"
    arguments = ["memory", "--memories", "none", "leaky_sum", "gru", "--max-delay", "6", "--steps", "3", "--seeds", "2"]
    arguments += ["--drawings", "10", "--test", "8", "--hidden-dim", "8", "--processes", "1", "--out", str(out)]
    assert main([*arguments, "--wandb", "offline", "--wandb-project", "ours"]) == 0
    check_file(out / "memory.json", RecallResult, SCHEMA_VERSION)
    shown = repr(parse(RecallResult, (out / "memory.json").read_text(), SCHEMA_VERSION, "memory.json"))
    assert shown.startswith("RecallResult: Longest horizon on latch: ") and len(shown) < 300
    check_recomputed(out)
    result = json.loads((out / "memory.json").read_text())
    records, logged = logged_by(out), summary_of(out)
    assert logged["project"] == "ours" and logged["summary"]["trainings/finished"] == 3 * 2 * 2
    assert sum("trainings/finished" in json.dumps(one) for one in records if one["type"] == "history") == 3 * 2 * 2
    assert logged["summary"]["memory/report"]["_type"] == "html-file"
    assert "memory-memory" in [one["artifact"]["name"] for one in records if one["type"] == "artifact"]
    assert [one["name"] for one in result["memories"]] == ["none", "leaky_sum", "gru"]
    assert result["plan"]["delays"] == [1, 2, 4, 6, 12] and result["memories"][0]["lyapunov"] == "-Infinity"
    page = (out / "report.html").read_text()
    assert page.count("<svg") >= 4 and "never trained" in page
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert figures >= {"task", "recall", "learning", "gradient", "time_constants"}
    assert len((out / "tables/horizons.csv").read_text().splitlines()) == 4
    assert len((out / "tables/steps.csv").read_text().splitlines()) == 1 + 3 * 2
    printed = capsys.readouterr().out
    assert "memory horizon" in printed and "training steps to learn a delay" in printed and "> 3" in printed
    assert {tuple(of_task["converged"]) for one in result["memories"] for of_task in one["tasks"].values()} == {
        (False, False)
    }


def test_memories_of_one_label_are_told_apart_by_name(tmp_path: Path) -> None:
    plan = small_plan(
        num_seeds=1, recipe=RecallRecipe(1, batch_size=4, max_delay=4, hidden_dim=8), tasks=("latch",), num_test=4
    )
    gated = read_memories(["gated"], 8)["gated"]
    uncoupled = {**gated, "init_args": {**gated["init_args"], "coupled": False}}
    plan = replace(plan, memories={"gated": gated, "open": uncoupled, **read_memories(["none"], 8)})
    assert [one.label for one in reaches(run_recall(plan, easy_frames(), tmp_path), plan)] == ["gated", "open", "none"]


def test_times_are_read_as_frames_and_a_state_that_grows_has_none() -> None:
    times = [time_text(frames, 2000) for frames in (0, 5.656, 566.4, 1234.5, 2000)]
    assert times == [NOTHING, "5.66", "566", "1234", ">= 2000"]
    found = [lyapunov_text(exponent, 100) for exponent in (-np.inf, -0.1, -1e-6, 0.0, 0.001, 0.2)]
    assert found == [NOTHING, "10", ">= 100", ">= 100", ">= 100", "grows"]


def test_the_share_of_units_above_a_time_constant_falls_from_one_to_zero(found: tuple[MemoryReach, ...]) -> None:
    one = replace(found[1], tau=[1.0, 2.0, 2.0, 8.0])
    (line,) = [line for line in time_constant_figure([one], 16).axes[0].lines if line.get_drawstyle() == "steps-pre"]
    assert np.asarray(line.get_xdata()).tolist() == [1, 2, 2, 8, 8]
    assert np.asarray(line.get_ydata()).tolist() == [1, 0.75, 0.5, 0.25, 0]  # Each is the height to the left of its x.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memories", "nope"], "'nope' is not a head"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--learning-rate", "0"], "--learning-rate is 0.0"),
        (["--max-delay", "1"], "--max-delay is 1, but must be at least 2"),
        (["--tasks", "recite"], "invalid choice: 'recite'"),
        (["--drawings", "3"], "--drawings is 3, but must be at least 10"),
        (["--split", "val"], "--split has no effect without checkpoints"),
        (["some.ckpt", "--seeds", "2"], "--seeds has no effect on checkpoints"),
    ],
)
def test_invalid_input_is_a_one_line_error(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", "--out", str(tmp_path / "out"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
