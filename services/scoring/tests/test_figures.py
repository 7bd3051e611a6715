import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.domain.figures import Interval, mean, net_promoter_score, share, t95


def test_nothing_has_no_value() -> None:
    nothing = Interval(None, None, None, 0)
    assert (share(0, 0), mean(0, 0, 0), net_promoter_score(0, 0, 0)) == (nothing,) * 3


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Wilson's interval, worked by hand for 0 of 10 and from Agresti and Coull 1998 for 15 of 20.
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (15, 20, 0.5313, 0.8881)],
)
def test_share_has_wilsons_interval(hits: int, n: int, low: float, high: float) -> None:
    found = share(hits, n)
    assert found.value == hits / n
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize(
    ("degrees", "point"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (20, 2.086), (1000, 1.962)],
)
def test_students_point_is_the_tables(degrees: int, point: float) -> None:
    assert t95(degrees) == pytest.approx(point, abs=5e-3)


def test_mean_of_waits_is_never_below_zero() -> None:
    waits = [0.0, 1.0, 40.0]
    found = mean(sum(waits), sum(wait**2 for wait in waits), 3)
    half = 4.303 * statistics.stdev(waits) / 3**0.5
    assert found.value == pytest.approx(41 / 3)
    assert found.low == 0.0
    assert found.high == pytest.approx(41 / 3 + half, abs=0.01)
    assert mean(7.0, 49.0, 1) == Interval(7.0, None, None, 1)


@pytest.mark.parametrize(
    ("promoters", "detractors", "n", "value", "low", "high"),
    [
        (2, 0, 2, 100.0, -24.4, 100.0),
        # 0.75 and 1.75 of 4: -25 +- 73.5, and the value itself
        (0, 1, 1, -100.0, -100.0, 48.5),
        # 6.75 and 2.75 of 13: 30.8 +- 196 * sqrt((9.5 / 13 - 0.3077 ** 2) / 13)
        (6, 2, 10, 40.0, -12.6, 74.1),
        (600, 200, 1000, 40.0, 34.9, 44.8),
    ],
)
def test_nps_has_the_adjusted_wald_interval(
    promoters: int, detractors: int, n: int, value: float, low: float, high: float
) -> None:
    found = net_promoter_score(promoters, detractors, n)
    assert found.value == value
    assert found.low == pytest.approx(low, abs=0.1)
    assert found.high == pytest.approx(high, abs=0.1)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_intervals_hold_their_value_and_keep_to_the_scale(
    promoters: int, detractors: int, passives: int
) -> None:
    n = promoters + detractors + passives
    if n == 0:
        return
    score, part = net_promoter_score(promoters, detractors, n), share(promoters, n)
    assert score.low is not None
    assert score.high is not None
    assert score.value is not None
    assert -100 <= score.low <= score.value <= score.high <= 100
    assert score.low < score.high
    assert part.low is not None
    assert part.high is not None
    assert part.value is not None
    assert 0 <= part.low <= part.value <= part.high <= 1
