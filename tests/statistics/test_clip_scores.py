"""Order scores of single clips: recovery of planted effects, limits, and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videomem.errors import VideomemError
from videomem.statistics.clip_scores import ClipScores, clip_scores


def drawn_values(effects: np.ndarray, tests: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Values in {-1, 0, 1}, whose mean is the effect of their clip, and the clip of each value."""
    clips = np.repeat(np.arange(len(effects)), tests)
    change = rng.random(len(clips)) < np.maximum(np.abs(effects[clips]), 0.2)
    up = rng.random(len(clips)) < (1 + effects[clips] / np.maximum(np.abs(effects[clips]), 0.2)) / 2
    return change * np.where(up, 1.0, -1.0), clips


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most_tests", [4, 10])
def test_scores_are_closer_to_planted_effects_than_raw_means(seed: int, most_tests: int) -> None:
    rng = np.random.default_rng(seed)
    effects = np.where(rng.random(300) < 0.3, rng.uniform(0.3, 0.9, 300), 0.0)
    values, clips = drawn_values(effects, rng.integers(1, most_tests + 1, 300), rng)
    found = clip_scores(values, clips, clips)
    error, raw_error = ((found.scores - effects) ** 2).mean(), ((found.raw - effects) ** 2).mean()
    assert error < 0.85 * raw_error
    assert abs(found.between - effects.var()) < 0.03


def test_standard_errors_cover_planted_effects() -> None:
    rng, covered = np.random.default_rng(11), []
    for _ in range(40):
        effects = np.clip(rng.normal(0.1, 0.1, 150), -0.5, 0.5)
        clips = np.repeat(np.arange(150), 6)
        found = clip_scores(np.clip(rng.normal(effects[clips], 0.15), -1, 1), clips, clips // 2)
        covered.append(np.abs(found.scores - effects) <= 1.96 * found.standard_errors)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_equal_numbers_of_tests_give_the_james_stein_weight() -> None:
    """B = 1 - sigma^2 / MSB, from mean squares computed by hand."""
    values = [0.0, 0.2, 0.4, 0.6, 0.5, 0.9]
    found = clip_scores(values, [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])
    within = (0.02 + 0.02 + 0.08) / 3
    between = 2 * np.var([0.1, 0.5, 0.7], ddof=1)
    weight = 1 - within / between
    np.testing.assert_allclose(found.raw, [0.1, 0.5, 0.7])
    np.testing.assert_allclose(found.scores, 13 / 30 + weight * (np.array([0.1, 0.5, 0.7]) - 13 / 30))
    assert (found.within, found.between) == pytest.approx((within, (between - within) / 2))


def test_clips_that_do_not_differ_have_the_mean_and_its_error_by_groups() -> None:
    """V_G = sum_g E_g^2 / (1 - n_g / N) / N^2, computed by hand."""
    found = clip_scores(
        [1.0, -1.0, 1.0, -0.6, -1.0, 0.6, 1.0, -1.0], [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 0, 1, 1, 2, 2]
    )
    assert found.between == 0 and found.mean == pytest.approx(0)
    np.testing.assert_allclose(found.scores, 0, atol=1e-12)
    np.testing.assert_allclose(found.standard_errors**2, (0.4**2 / 0.5 + 0.4**2 / 0.75) / 64)


def test_more_tests_shrink_less() -> None:
    values = np.array([1.0, 1.0, 0.0, 1.0, *[1.0, 1.0, 0.0, 1.0] * 4, *[0.0, 0.0, 0.1, 0.0, -0.1] * 4])
    clips = np.repeat([0, 1, 2], [4, 16, 20])
    found = clip_scores(values, clips, clips)
    assert found.raw[0] == found.raw[1]
    assert found.mean < found.scores[0] < found.scores[1] < found.raw[1]
    assert found.standard_errors[0] > found.standard_errors[1]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_constant_values_give_constant_scores_without_error(value: float) -> None:
    found = clip_scores([value] * 6, [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(found.scores, value)
    np.testing.assert_allclose(found.standard_errors, 0, atol=1e-9)


def test_clips_that_agree_with_themselves_are_not_shrunk() -> None:
    found = clip_scores([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1], [0, 0, 1, 1])
    assert found.scores.tolist() == [1.0, 0.0]


def test_a_clip_tested_once_is_no_more_than_the_mean() -> None:
    """One test of each clip cannot separate clips from chance."""
    found = clip_scores([1.0, 0.0, 0.0, -1.0], [4, 1, 2, 3], [0, 0, 1, 1])
    assert found.clips.tolist() == [1, 2, 3, 4] and found.tests.tolist() == [1] * 4
    assert found.raw.tolist() == [0, 0, -1, 1] and found.scores.tolist() == [0.0] * 4
    assert np.isnan(found.between) and np.isnan(found.within)
    np.testing.assert_allclose(found.standard_errors, np.std([1, 0, 0, -1], ddof=1))


def test_a_single_clip_is_its_own_mean() -> None:
    found = clip_scores([1.0, 0.0], [7, 7], [3, 3])
    assert (found.scores.tolist(), found.between) == ([0.5], 0.0)
    assert np.isfinite(clip_scores([1.0], [7], [3]).standard_errors).all()


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_scores_do_not_depend_on_the_order_of_rows(data: st.DataObject) -> None:
    clips = np.array(data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=30)))
    size = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=len(clips), max_size=len(clips))
    values, order = np.array(data.draw(size)), np.array(data.draw(st.permutations(range(len(clips)))))

    def numbers(found: ClipScores) -> np.ndarray:
        return np.stack([found.clips, found.groups, found.tests, found.raw, found.scores, found.standard_errors**2])

    one, other = clip_scores(values, clips, clips // 2), clip_scores(values[order], clips[order], clips[order] // 2)
    np.testing.assert_allclose(numbers(one), numbers(other), atol=1e-9)


def test_a_clip_in_two_groups_is_refused() -> None:
    with pytest.raises(VideomemError, match=r"clip 5 is in more than one group; give each clip the id of one group"):
        clip_scores([0.0, 1.0, 0.0], [5, 5, 6], [0, 1, 0])
