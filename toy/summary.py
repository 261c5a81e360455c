"""Every arm beside every other: one line per arm, a column per domain or per number of shots, as RESULTS.md has it.

Input: rungs of comparisons (`read_results`). Output: Markdown.
"""

from typing import Any

from rbft_trl.evidence.stats import BASELINE
from rbft_trl.evidence.table import percent
from toy.figures import ENOUGH


def side_by_side(columns: dict[str, dict[str, Any]]) -> str:
    """Accuracy in % (mean and sd over draws), the difference to direct SFT in points with the 95 % interval of that
    pair alone (not corrected for the number of arms), and the draws in square brackets. Fewer than `ENOUGH` draws have
    no interval, which would be of the clips alone or wider than anything: the differences of the draws stand there.

    Args:
        columns (`dict`): Rung of a comparison, with `arms` and `pairs`, by what it is called.
    """
    arms = dict.fromkeys(arm for rung in columns.values() for arm in rung["arms"])
    lines = [["arm", *columns], ["---"] * (1 + len(columns))]
    lines += [[arm, *(_cell(rung, arm) for rung in columns.values())] for arm in arms]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(rung: dict[str, Any], arm: str) -> str:
    if arm not in rung["arms"]:
        return "left out" if arm in rung.get("left_out", {}) else ""
    entry = rung["arms"][arm]
    told = percent(entry["summary"]["accuracy"])
    pairs = [pair for pair in rung["pairs"] if (pair["arm"], pair["baseline"]) == (arm, BASELINE)]
    for pair in pairs:
        few = ", ".join(f"{draw['difference']:+.1f}" for draw in pair["per_draw"])
        sure = "{:+.1f}; {:.1f} to {:.1f}".format(pair["difference"], *pair["interval"])
        told += f" ({few if pair['num_draws'] < ENOUGH else sure})"
    return f"{told} [{len(entry['draws'])}]"
