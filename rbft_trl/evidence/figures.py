"""The figures of a pair as a sentence has them: its interval and what that rests on, its share, what it could not see.

Input: pairs of rbft_trl.evidence.stats. Output: text.
"""

from collections.abc import Sequence
from typing import Any

from rbft_trl.evidence.power import FEWEST_DRAWS
from rbft_trl.evidence.table import FEWEST_GROUPS, p_value, signed_points

Pair = dict[str, Any]
MOST = 100.0  # points that two accuracies can differ by
BOTH, CLIPS_ONLY = "clips and draws", "clips only"


def enough(pair: Pair) -> bool:
    """Whether there are enough draws, and sources of test clips, to claim anything."""
    return pair["num_draws"] >= FEWEST_DRAWS and enough_sources(pair)


def enough_sources(pair: Pair) -> bool:
    """Whether the test clips are of enough sources."""
    return round(pair["effective_groups"]) >= FEWEST_GROUPS  # rounded: ten of nearly one size are ten


def figures_of(pair: Pair, *, beside: Pair | None = None, family: bool = True) -> str:
    """The interval, for all arms of the family at once where it has several, and what it rests on: clips and draws,
    unless they are those of a difference `beside` it, of which that is said already."""
    many = family and pair["family_size"] > 1
    low, high = (signed_points(value, sign=False) for value in pair["simultaneous" if many else "interval"])
    text = f"95 % interval {low} to {high}"
    if many:
        text += f" for all {pair['family_size']} at once, corrected p {_equals(pair['p_corrected'])}"
    if not enough_sources(pair):
        worth = round(pair["effective_groups"])
        uneven = f", worth {worth} of equal size," if worth < pair["num_groups"] else ""
        few = (
            "1 source of test clips is too little"
            if pair["num_groups"] == 1
            else (f"{pair['num_groups']} sources of test clips{uneven} are too few")
        )
        text += f", which {few} to trust"
    if beside and beside["draws"] == pair["draws"]:
        return text
    draws = f"{pair['num_draws']} draws" if pair["num_draws"] > 1 else "1 draw"
    if 1 < pair["num_draws"] < FEWEST_DRAWS:
        draws += ", which are few: the interval may be too narrow"
    only = "" if pair["covers"] == BOTH else ", so the interval covers the clips only and not the luck of the draw"
    return f"{text}, {pair['n']:,} clips, {draws}{only}"


def share_of(pair: Pair) -> str:
    """The gain as a share of what true rationales gain."""
    if not pair.get("share"):
        return ""
    low, high = (f"{100 * bound:.0f}" for bound in pair["share"]["interval"])
    at_once = f" for all {pair['family_size']} at once" if pair["family_size"] > 1 else ""
    if (num_draws := pair["share"]["num_draws"]) < pair["num_draws"]:
        at_once += f", on the {num_draws} draws that the oracle has too" if num_draws > 1 else ", on one draw"
    return f", {100 * pair['share']['share']:.0f} % of the oracle gap (95 % interval {low} to {high} %{at_once})"


def invisible_of(pair: Pair) -> str:
    """What could not be seen; two accuracies differ by 100 points at most. With too few sources or draws nothing."""
    if not enough_sources(pair):
        return f"of fewer than {FEWEST_GROUPS} sources of test clips no difference of any size is claimed"
    if not enough(pair):
        return f"of fewer than {FEWEST_DRAWS} draws no difference of any size is claimed"
    if (points := pair["smallest_detectable"]["points"]) >= MOST:
        return "no difference of any size could have been seen here (80 % power): more draws are needed"
    return f"differences under {signed_points(points, sign=False)} points were invisible here (80 % power)"


def size_of(pair: Pair) -> str:
    """The difference in points, without its sign."""
    return signed_points(abs(pair["difference"]), sign=False)


def _equals(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p_value(p)}"


def covered(pairs: Sequence[Pair]) -> str:
    """What intervals and p-values are of: with one draw of an arm they know nothing of other draws."""
    kinds = {pair["covers"] for pair in pairs}
    return f"{BOTH} (where an arm has one draw, {CLIPS_ONLY})" if len(kinds) > 1 else next(iter(kinds), "")
