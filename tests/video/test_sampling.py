import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomem.errors import VideomemError
from videomem.video.sampling import FixedRate, Uniform, fixed_rate_indices, uniform_indices

counts = st.integers(1, 2000)


@given(num_available=counts, num_frames=st.integers(1, 200))
def test_uniform_is_its_own_time_reversal(num_available: int, num_frames: int) -> None:
    indices = uniform_indices(num_available, num_frames)
    time_reversed = num_available - 1 - indices[::-1]
    differing = np.flatnonzero(indices != time_reversed)
    if num_frames % 2 and num_available % 2 == 0:  # There is no middle frame.
        assert differing.tolist() in ([], [num_frames // 2])
    else:
        assert differing.size == 0


@given(num_available=counts, num_frames=st.integers(2, 200))
def test_uniform_is_ascending_and_reaches_both_ends(num_available: int, num_frames: int) -> None:
    indices = uniform_indices(num_available, num_frames)
    assert len(indices) == num_frames
    assert indices[0] == 0 and indices[-1] == num_available - 1
    assert (np.diff(indices) >= 0).all()


@given(num_frames=st.integers(1, 300))
def test_uniform_over_as_many_frames_is_all_of_them(num_frames: int) -> None:
    assert uniform_indices(num_frames, num_frames).tolist() == list(range(num_frames))


@given(num_available=counts, rate=st.sampled_from([10, 24, 25, 30]), wanted=st.floats(0.5, 60), most=st.integers(1, 99))
def test_fixed_rate_shows_the_frame_on_screen(num_available: int, rate: int, wanted: float, most: int) -> None:
    times_s = np.arange(num_available) / rate
    indices = fixed_rate_indices(times_s, wanted, most)
    assert 1 <= len(indices) <= most
    for sample, index in enumerate(indices):
        at = sample / wanted + 1e-5
        assert times_s[index] <= at
        assert index == num_available - 1 or times_s[index + 1] > at - 2e-5


def test_fixed_rate_follows_a_varying_rate() -> None:
    times_s = np.array([0, 0.1, 0.2, 0.3, 1.3, 2.3])
    assert fixed_rate_indices(times_s, 1.0, 10).tolist() == [0, 3, 4]


@pytest.mark.parametrize("make", [lambda: Uniform(1), lambda: FixedRate(max_frames=1)])
def test_one_frame_has_no_order(make: object) -> None:
    with pytest.raises(VideomemError, match="needs at least 2 frames"):
        make()  # type: ignore[operator]
