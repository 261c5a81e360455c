"""The smallest difference that a comparison can see: before a run from what is planned, after it from what was found.

Input: numbers of clips, sources, draws and arms, or a standard error. Output: points of accuracy.
"""

from typing import Any

import numpy as np
from scipy.special import nctdtrinc, stdtrit

POINTS = 100  # accuracies are shares; differences are told in percentage points
POWER = 0.8
# Of fewer draws nothing is claimed: of 13 equal arms whose differences vary by 4 points between draws, some one would
# be called different in 10 % of comparisons with 4 draws, in 30 % with 2 and in 85 % with one (docs/statistics.md).
FEWEST_DRAWS = 5
DISCORDANCE, REPEATED, DRAW_SD, WITHIN_SOURCE = 0.25, 0.5, 3.0, 0.05  # assumed before a run, see `power_before`


def power_before(num_clips: int, num_groups: float, num_draws: int, *, num_arms: int = 1) -> dict[str, Any]:
    """The smallest difference that a comparison is going to see with 80 % power, before anything is trained.

    Assumed: the difference of two arms varies by 3 points (sd) from draw to draw, the arms disagree on 25 % of the
    clips, half of that is the same in every draw, and differences on clips of one source correlate by 0.05.

    Args:
        num_clips (`int`): Test clips.
        num_groups (`float`): Sources of the test clips; where they are uneven, their effective number.
        num_draws (`int`): Draws of labelled clips; one tells nothing of the luck of the draw, which is then left out.
        num_arms (`int`, *optional*, defaults to 1): Arms that are corrected for (Bonferroni's share of 5 %).

    Returns:
        `dict`: `points`, and `sentence` to print.
    """
    effective = num_clips / (1 + max(num_clips / num_groups - 1, 0) * WITHIN_SOURCE)
    by_groups = DISCORDANCE / effective * POINTS**2
    if num_draws == 1:
        variance, df = by_groups, max(num_groups - 1, 1)
    else:
        by_draws, by_groups = DRAW_SD**2 / num_draws, by_groups * REPEATED
        variance = by_draws + by_groups
        df = variance**2 / (by_draws**2 / (num_draws - 1) + by_groups**2 / max(num_groups - 1, 1))
    points = detectable(float(np.sqrt(variance)), df, at_once=num_arms)
    draws = "1 draw (the luck of the draw is left out)" if num_draws == 1 else f"{num_draws} draws"
    arms = "" if num_arms == 1 else f" and {num_arms} treatments that are corrected for"
    few = (
        f" Of fewer than {FEWEST_DRAWS} draws no difference is claimed: plan more." if num_draws < FEWEST_DRAWS else ""
    )
    if points >= POINTS:
        return {
            "points": points,
            "sentence": f"Before the run: with {num_clips:,} test clips, {draws}{arms} no difference of any size is "
            f"likely to be seen (80 % power): plan more draws.{few}",
        }
    sentence = (
        f"Before the run: with {num_clips:,} test clips of {num_groups:,.0f} effective sources, {draws}{arms}, "
        f"differences under {points:.1f} points are likely to be missed (80 % power; assumed: the difference varies "
        f"by {DRAW_SD:g} points between draws, the arms disagree on {DISCORDANCE:.0%} of the clips).{few}"
    )
    return {"points": points, "sentence": sentence}


def detectable(se: float, df: float, *, at_once: int = 1) -> float:
    """Smallest difference (in the unit of `se`) that a two-sided 5 % t test finds with 80 % power.

    The chance of a significant result on the wrong side is left out (below 1e-4 here).

    Args:
        se (`float`): Standard error of the difference.
        df (`float`): Its degrees of freedom.
        at_once (`int`, *optional*, defaults to 1): Tests that share the 5 %.
    """
    return se * float(nctdtrinc(df, 1 - POWER, stdtrit(df, 1 - 0.025 / at_once)))  # noncentral t


def detectable_from_clips(num_clips: float, discordance: float) -> float:
    """Smallest difference in points that a two-sided 5 % test finds with 80 % power, from the clips alone.

    Args:
        num_clips (`float`): Clips (or effective source groups, if clips of a group agree).
        discordance (`float`): Share of clips on which the arms disagree; at least 3 / n is assumed, as none seen in n
            clips does not mean that there are none (rule of three).
    """
    return detectable(float(np.sqrt(max(discordance, 3 / num_clips) / num_clips)) * POINTS, np.inf)


def detectable_from_draws(num_draws: int, sd: float) -> float:
    """Smallest difference (in the unit of `sd`) that a paired t test over draws finds with 80 % power, two-sided 5 %.

    With an sd of 3 points of the difference, 5 draws see 5.0 points, 10 see 3.0.
    """
    return detectable(sd / float(np.sqrt(num_draws)), num_draws - 1)
