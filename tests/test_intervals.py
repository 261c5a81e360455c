"""Intervals, tests and power against known answers, SciPy and statsmodels; the bootstrap that stands beside them."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t, ttest_1samp
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from rbft_trl.evidence.intervals import (
    bootstrap,
    effective_sources,
    estimate,
    mcnemar,
    percentiles,
    share_of_gap,
)
from rbft_trl.evidence.metrics import wilson_interval
from rbft_trl.evidence.power import detectable, detectable_from_clips, detectable_from_draws, power_before


def test_one_draw_is_a_t_test_over_clips() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, (1, 40))
    found, known = estimate(values, np.arange(40)), ttest_1samp(values[0], 0)
    assert found.interval() == pytest.approx(list(known.confidence_interval(0.95)))
    assert found.p == pytest.approx(known.pvalue) and found.df == 39


def test_draws_alone_are_a_t_test_over_draws() -> None:
    effects = np.array([-4.0, -1.0, 0.0, 2.0, 9.0])
    found, known = estimate(np.repeat(effects[:, None], 50, axis=1), np.arange(50)), ttest_1samp(effects, 0)
    assert found.interval() == pytest.approx(list(known.confidence_interval(0.95)))
    assert found.p == pytest.approx(known.pvalue) and found.df == pytest.approx(4)


def test_uneven_sources_count_as_fewer() -> None:
    assert effective_sources([7] * 20) == 20 and effective_sources([19, *[1] * 19]) == pytest.approx(3.8)
    sources = np.repeat(np.arange(20), [190, *[10] * 19])
    assert estimate(np.random.default_rng(0).normal(0, 1, (1, 380)), sources).df == pytest.approx(2.8)
    effects = np.array([-4.0, -1.0, 0.0, 2.0, 9.0])
    found, known = estimate(np.repeat(effects[:, None], 380, axis=1), sources), ttest_1samp(effects, 0)
    assert found.interval() == pytest.approx(list(known.confidence_interval(0.95))), "draws do not depend on sources"
    lonely = estimate(np.random.default_rng(0).normal(0, 1, (3, 380)), np.arange(380) // 379)
    assert np.isfinite(lonely.interval(at_once=15)).all()


def test_equal_draws_are_one_draw() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, (1, 40))
    once, thrice = estimate(values, np.arange(40)), estimate(np.repeat(values, 3, axis=0), np.arange(40))
    assert thrice.se == pytest.approx(once.se) and thrice.df == pytest.approx(once.df)


def test_both_are_a_two_way_analysis_of_variance() -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(0, 1, (6, 1)) + rng.normal(0, 1, 12) + rng.normal(0, 1, (6, 12))
    rows = [{"draw": d, "source": g, "y": y} for (d, g), y in np.ndenumerate(table)]
    squares = anova_lm(ols("y ~ C(draw) + C(source)", pd.DataFrame(rows)).fit())["mean_sq"]
    found = estimate(np.repeat(table, 3, axis=1), np.repeat(np.arange(12), 3))
    variance = (squares["C(draw)"] + squares["C(source)"] - squares["Residual"]) / table.size
    assert found.mean == pytest.approx(table.mean()) and found.se == pytest.approx(np.sqrt(variance))
    spread = squares["C(draw)"] ** 2 / 5 + squares["C(source)"] ** 2 / 11 + squares["Residual"] ** 2 / 55
    assert found.df == pytest.approx((variance * table.size) ** 2 / spread)
    assert found.interval()[1] - found.mean == pytest.approx(t.ppf(0.975, found.df) * found.se)
    wider = found.interval(at_once=15)
    assert wider[1] - found.mean == pytest.approx(t.ppf(1 - 0.025 / 15, found.df) * found.se)


def test_clips_of_one_source_count_as_one() -> None:
    right = (np.random.default_rng(0).random((1, 250)) < 0.6).astype(float)
    alone = estimate(right, np.arange(250))
    copied = estimate(np.repeat(right, 4, axis=1), np.repeat(np.arange(250), 4))
    assert copied.se == pytest.approx(alone.se) and copied.df == alone.df == 249
    assert estimate(np.repeat(right, 4, axis=1), np.arange(1000)).se == pytest.approx(alone.se / 2, rel=0.01)
    assert estimate(right, np.zeros(250, int)).se == pytest.approx(alone.se)  # one source: nothing else to go by


def test_no_discordant_clip_is_not_no_difference() -> None:
    found = estimate(np.zeros((5, 300)), np.arange(300))
    assert found.mean == 0 and found.p == 1 and found.interval()[1] == pytest.approx(1.96 * np.sqrt(3) / 300, rel=0.01)
    assert 0 < estimate(np.ones((5, 300)), np.arange(300)).p < 1e-6


@pytest.mark.parametrize("at_once", [1, 15])
def test_share_of_a_gap_is_fiellers(at_once: int) -> None:
    rng = np.random.default_rng(2)
    gap = rng.normal(1, 2, 200)
    gain = 0.4 * gap + rng.normal(0, 1, 200)
    found = share_of_gap(gain[None], gap[None], np.arange(200), at_once=at_once)
    (xx, xy), (_, yy) = np.cov(gain, gap) / 200 * t.ppf(1 - 0.025 / at_once, 199) ** 2
    x, y = gain.mean(), gap.mean()
    root = np.sqrt((x * y - xy) ** 2 - (x**2 - xx) * (y**2 - yy))
    assert found["share"] == pytest.approx(x / y)
    assert found["interval"] == pytest.approx([(x * y - xy - root) / (y**2 - yy), (x * y - xy + root) / (y**2 - yy)])


def test_a_share_of_what_may_be_nothing_has_no_bounds() -> None:
    rng = np.random.default_rng(3)
    gap = rng.normal(0, 1, (5, 200))
    gap += 0.01 - gap.mean()
    assert estimate(gap, np.arange(200)).interval()[0] < 0
    assert share_of_gap(gap / 2, gap, np.arange(200)) is None
    some = gap + 1.3 * (estimate(gap, np.arange(200)).interval()[1] - gap.mean())  # sure alone, but not among fifteen
    assert share_of_gap(some / 2, some, np.arange(200))
    assert share_of_gap(some / 2, some, np.arange(200), at_once=15) is None
    assert share_of_gap(gap / 2, -gap - 5, np.arange(200)) is None  # true rationales hurt
    assert share_of_gap(gap, gap + 1, np.zeros(200, int)) is not None
    assert share_of_gap(gap + 1, gap + 1, np.arange(200))["interval"] == pytest.approx([1, 1], abs=0.03)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels_and_scipy(first: int, second: int) -> None:
    known = reference_mcnemar([[3, first], [second, 5]], exact=True).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(float(known))
    if first + second:
        assert mcnemar(first, second) == pytest.approx(binomtest(first, first + second).pvalue)


def test_mcnemar_known_values() -> None:
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(25, 12) < 0.05 < mcnemar(26, 13)  # a net gain of 13 is significant with at most 12 losses


@pytest.mark.parametrize(("right", "total"), [(0, 10), (3, 3), (162, 196), (250, 1000)])
def test_wilson_is_statsmodels(right: int, total: int) -> None:
    assert wilson_interval(right, total) == pytest.approx(list(proportion_confint(right, total, method="wilson")))


def test_bootstrap_sd_is_the_known_one() -> None:
    clips = np.random.default_rng(1).normal(0, 1, 400)
    assert np.std(bootstrap(clips[None], np.arange(400))) == pytest.approx(np.std(clips) / 20, rel=0.05)
    effects = np.array([-4.0, -1.0, 0.0, 2.0, 3.0])
    only_draws = np.repeat(effects[:, None], 50, axis=1)
    assert np.std(bootstrap(only_draws, np.arange(50))) == pytest.approx(np.std(effects, ddof=1) / 5**0.5, rel=0.05)


def test_bootstrap_and_estimate_agree_on_many_sources() -> None:
    values = np.random.default_rng(4).normal(0.2, 1, (1, 2000))
    assert percentiles(values, np.arange(2000)) == pytest.approx(
        estimate(values, np.arange(2000)).interval(), abs=0.004
    )


def test_bootstrap_is_fast_enough() -> None:
    rng = np.random.default_rng(4)
    started = time.process_time()
    bootstrap(rng.random((5, 1000)), np.arange(1000), replicates=2000)
    assert time.process_time() - started < 2


def test_smallest_detectable_difference() -> None:
    for clips, points in [(120, 12.8), (192, 10.1), (256, 8.8), (1000, 4.4)]:
        assert detectable_from_clips(clips, 0.25) == pytest.approx(points, abs=0.06)
    assert detectable_from_clips(1000, 0.0) > 0
    assert detectable_from_draws(5, 3.0) == pytest.approx(5.0, abs=0.06)
    assert detectable_from_draws(10, 3.0) == pytest.approx(3.0, abs=0.06)
    assert detectable_from_draws(2, 0.0) == 0.0


@pytest.mark.parametrize("num", [5, 10, 30, 1000])
@pytest.mark.parametrize("at_once", [1, 15])
def test_what_is_detectable_is_that_of_the_noncentral_t(num: int, at_once: int) -> None:
    known = TTestPower().solve_power(nobs=num, alpha=0.05 / at_once, power=0.8)
    assert detectable(1 / np.sqrt(num), num - 1, at_once=at_once) == pytest.approx(known, rel=1e-3)


def test_before_a_run_it_is_said_what_cannot_be_seen() -> None:
    plan = power_before(1000, 1000, 5)
    assert plan["points"] == pytest.approx(5.4, abs=0.1)
    assert (
        f"under {plan['points']:.1f} points" in plan["sentence"]
        and "1,000 test clips of 1,000 effective sources, 5 draws" in plan["sentence"]
    )
    assert power_before(1000, 1000, 10)["points"] < plan["points"] < power_before(1000, 20, 5)["points"]
    assert power_before(1000, 1000, 5, num_arms=15)["points"] > plan["points"]
    assert power_before(196, 196, 1)["points"] == pytest.approx(10.0, abs=0.1)
    assert "the luck of the draw is left out" in power_before(196, 196, 1)["sentence"]


def test_the_plan_fits_what_is_found_afterwards() -> None:
    """Differences that are made as the plan assumes are found in 80 % of simulated comparisons at its figure."""
    rng, points, found = np.random.default_rng(5), power_before(1000, 1000, 10)["points"] / 100, 0
    for _ in range(400):
        repeated = rng.choice([-1, 0, 1], 1000, p=[0.0625, 0.875, 0.0625])
        fresh = rng.choice([-1, 0, 1], (10, 1000), p=[0.0625, 0.875, 0.0625])
        noise = np.sqrt(max(0.03**2 - 0.125 / 1000, 0))
        values = points + repeated + fresh + rng.normal(0, noise, 10)[:, None]
        found += estimate(values, np.arange(1000)).p < 0.05
    assert found / 400 == pytest.approx(0.8, abs=0.06)
