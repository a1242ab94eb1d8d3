"""The measurements and figures of the tour."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from conftest import CONFIGS, ROOT

from videomem.cli import tour as command
from videomem.cli.main import main
from videomem.experiments.memory_horizon import tour
from videomem.experiments.memory_horizon.recall_measurement import measure_recall
from videomem.experiments.memory_horizon.recall_training import RecallRecipe
from videomem.experiments.memory_horizon.tour import SECTIONS, memoryless, pulses, recall_plan
from videomem.features.backbone import BackboneSettings


def test_without_memory_videos_and_their_reversals_are_told_apart_by_chance_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tour, "NUM_BATCHES", 20)
    found = memoryless(BackboneSettings(weights="random"), ("none", "gru"), num_train=8, num_test=3)
    assert found["none"].accuracy == 0.5 and found["none"].logit_change == 0
    assert found["gru"].logit_change > 0.01
    in_order, backwards, shuffled = found["none"].right_KT
    assert in_order[-1] == pytest.approx(backwards[-1], abs=1e-6) == pytest.approx(shuffled[-1], abs=1e-6)


def test_a_pulse_in_a_leaky_unit_has_the_time_constant_of_its_alpha() -> None:
    for pulse in pulses():
        assert pulse.tau == pytest.approx(pulse.expected, rel=1e-4)


def test_every_section_names_heads_that_there_are_and_stands_in_the_document() -> None:
    text = (ROOT / "docs/memory.md").read_text()
    for name, section in SECTIONS.items():
        assert f"videomem tour {name}\n" in text and f"(memory/{name}.png)" in text
        assert (ROOT / f"docs/memory/{name}.png").is_file()
        assert all((CONFIGS / "head" / f"{head}.yaml").is_file() for head in section.memories)


def test_recall_sections_draw_their_figures_and_share_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny(names: tuple[str, ...]) -> object:
        plan = recall_plan(names)
        return replace(
            plan,
            recipe=RecallRecipe(2, batch_size=4, max_delay=4, hidden_dim=8),
            delays=(1, 2, 4, 8),
            num_test=4,
            num_measured=2,
        )

    monkeypatch.setattr(command, "recall_plan", tiny)
    monkeypatch.setattr(command, "measure_recall", partial(measure_recall, num_drawings=10))
    assert main(["tour", "gates", "residual", "retention", "--processes", "1", "--out", str(tmp_path)]) == 0
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in ("gates", "residual", "retention"))
    # gates: leaky and gated; residual adds rnn; retention adds gru and lstm: each on two tasks with two seeds.
    assert len(list((tmp_path / "trainings").iterdir())) == 5 * 2 * 2
    assert "memory horizon" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gates", "nowhere"], "SECTION is 'nowhere', but must be one of memoryless, sums"),
        (
            ["leaky", "memoryless", "--processes", "2"],
            "--processes has no effect on leaky and memoryless; leave it out",
        ),
        (["leaky", "--weights", "imagenet"], "--weights has no effect on leaky, which uses no backbone; leave it out"),
    ],
)
def test_what_is_not_possible_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tour", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
