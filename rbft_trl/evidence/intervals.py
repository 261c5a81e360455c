"""Intervals and tests of means over draws and source groups, shares of a gap, exact McNemar.

Input: one figure per draw and test clip. Output: estimates. docs/statistics.md has their measured error rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtr, stdtr, stdtrit  # what scipy.stats calls, without its checks

REPLICATES = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and the degrees of freedom that this error is known with."""

    mean: float
    se: float
    df: float

    def interval(self, *, at_once: int = 1) -> list[float]:
        """95 % interval; with `at_once` k, so wide that k such intervals all hold with 95 % (Bonferroni)."""
        half = float(stdtrit(self.df, 1 - 0.025 / at_once)) * self.se
        return [self.mean - half, self.mean + half]

    @property
    def p(self) -> float:
        """Two-sided p of a mean of 0."""
        return float(2 * stdtr(self.df, -abs(self.mean) / self.se))


def estimate(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """Mean of all values, with an error that covers both the luck of the draws and that of the test clips.

    All draws share one test set, so draws and sources of clips are crossed: a figure varies with the draw (A), with
    the source (B), and with both (AB), and the variance of the grand mean is A/D + B/G + AB/(DG). The three are
    estimated by sums of squares, as in a two-way analysis of variance with random effects; a negative one counts as 0.
    Where sources are uneven, their sums of squares are those of CR2 (Bell and McCaffrey, 2002), and have one degree
    of freedom less than there are [`effective_sources`]. The degrees of freedom of the whole are Satterthwaite's
    (1946), so five draws get the wide tails of five draws, and ten sources those of ten. With one draw only B can be
    estimated. At least the variance is assumed that three discordant clips of N would give: none seen does not mean
    that there are none (rule of three).

    Args:
        values (`np.ndarray` float64 `[D, N]`): One figure per draw and clip.
        groups (`np.ndarray` int64 `[N]`): Index of each clip's source, 0 to G - 1. A single source says nothing of
            others, then the clips count as sources.
    """
    if groups.max() == 0:
        groups = np.arange(values.shape[1])
    return _from_sums(_sums(values, groups), np.bincount(groups))


def effective_sources(sizes: Sequence[int]) -> float:
    """How many sources of one size say as much as these, (sum n)² / sum n² (Kish, 1965): G where all have one size,
    3.8 where one of 20 holds half of the clips.

    Args:
        sizes (`list[int]`): Clips per source.
    """
    return float(np.sum(sizes) ** 2 / np.square(sizes).sum())


def _from_sums(sums: np.ndarray, sizes: np.ndarray) -> Estimate:
    """[`estimate`] from sums per draw and source `[D, G]`, and the number of clips per source `[G]`."""
    num_draws, num_groups, num_clips = len(sums), effective_sources(sizes), int(sizes.sum())
    mean = float(sums.sum() / (num_draws * num_clips))
    cells = (sums - mean * sizes) / (num_draws * num_clips)
    of_draws, of_groups = cells.sum(1), cells.sum(0)
    ddf, gdf = max(num_draws - 1, 1), max(num_groups - 1, 1)  # below 1 a t distribution has no use
    left = np.maximum(1 - sizes / num_clips, 1 / num_clips)  # a source pulls the mean towards itself by its share
    by_group = (np.square(of_groups) / left).sum()
    if num_draws == 1:
        variance, df = by_group, float(gdf)
    else:
        by_draw = np.square(of_draws).sum() * num_draws / ddf
        rest = cells - of_draws[:, None] * sizes / num_clips - of_groups / num_draws
        by_both = (np.square(rest) / left).sum() * num_draws / ddf
        variance = by_both + max(by_draw - by_both, 0) + max(by_group - by_both, 0)
        spread = by_draw**2 / ddf + by_group**2 / gdf + by_both**2 / (ddf * gdf)
        df = variance**2 / spread if spread else float(gdf)
    return Estimate(mean, float(np.sqrt(max(variance, 3 / num_clips**2))), float(df))


def _sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(groups, weights=row) for row in values])


def share_of_gap(gain: np.ndarray, gap: np.ndarray, groups: np.ndarray, *, at_once: int = 1) -> dict[str, Any] | None:
    """Which share of `gap` is `gain`, with a 95 % interval after Fieller (1954): every share θ that the test of
    mean(gain - θ · gap) = 0 does not reject. None where the gap's own interval touches 0: a share of what may be
    nothing has no bounds.

    Args:
        gain (`np.ndarray` float64 `[D, N]`): Difference of an arm to the baseline, per draw and clip.
        gap (`np.ndarray` float64 `[D, N]`): Difference of the oracle to the same baseline.
        groups (`np.ndarray` int64 `[N]`): Index of each clip's source.
        at_once (`int`, *optional*, defaults to 1): Shares that all hold with 95 %, as in [`Estimate.interval`].
    """
    if groups.max() == 0:
        groups = np.arange(gain.shape[1])
    gains, gaps, sizes = _sums(gain, groups), _sums(gap, groups), np.bincount(groups)
    if _from_sums(gaps, sizes).interval(at_once=at_once)[0] <= 0:
        return None
    share = float(gain.mean() / gap.mean())

    def excess(theta: float) -> float:
        """Above 0 where the share `theta` is rejected."""
        found = _from_sums(gains - theta * gaps, sizes)
        return abs(found.mean) / found.se - float(stdtrit(found.df, 1 - 0.025 / at_once))

    bounds = []
    for side in (-1, 1):
        step = 0.05
        while excess(share + side * step) < 0 and step < 1e4:
            step *= 1.5
        bounds.append(float(brentq(excess, share, share + side * step)) if step < 1e4 else None)
    return None if None in bounds else {"share": share, "interval": bounds}


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: are the clips that only one arm has right split evenly? 1 if there are none."""
    total = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), total, 0.5))) if total else 1.0


def percentiles(values: np.ndarray, groups: np.ndarray) -> list[float]:
    """95 % percentile interval of [`bootstrap`]."""
    return np.percentile(bootstrap(values, groups), [2.5, 97.5]).tolist()


def bootstrap(values: np.ndarray, groups: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """Crossed bootstrap of a mean: every replicate draws the draws anew and the groups of test clips anew, because
    all draws share one test set. With one draw only the groups vary.

    It stands beside [`estimate`] and decides nothing: its tails are too thin for few draws or sources, which matters
    most where many arms are corrected for (docs/statistics.md). The mean of D draws that are drawn from D draws
    varies by (D-1)/D too little, so their deviations are widened by sqrt(D/(D-1)).

    Args:
        values (`np.ndarray` float64 `[D, N]`): One figure per draw and clip.
        groups (`np.ndarray` int64 `[N]`): Index of each clip's source, 0 to G - 1.

    Returns:
        `np.ndarray` float64 `[replicates]`.
    """
    num_draws, sizes = len(values), np.bincount(groups)
    sums = _sums(values, groups)
    if num_draws > 1:
        sums = sums.mean(0) + (sums - sums.mean(0)) * np.sqrt(num_draws / (num_draws - 1))
    draw_counts, group_counts = _counts(num_draws, len(sizes), replicates, seed)
    return ((draw_counts @ sums) * group_counts).sum(1) / (group_counts @ sizes)


@lru_cache(maxsize=2)  # every pair of a comparison has the same draws and groups
def _counts(num_draws: int, num_groups: int, replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    draws, groups = (rng.multinomial(k, np.full(k, 1 / k), replicates) for k in (num_draws, num_groups))
    return draws / num_draws, groups
