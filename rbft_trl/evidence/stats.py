"""Statistics of a comparison: every arm against step-matched direct SFT, corrected for their number; what arms cost.

Input: the cells of comparison.json. Output: its `summary`, `pairs`, `elsewhere`, `table` and `sentence`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rbft_trl.errors import UserError
from rbft_trl.evidence.conclusion import conclude, stronger_rival, told_oracle, verdict
from rbft_trl.evidence.figures import BOTH, CLIPS_ONLY
from rbft_trl.evidence.intervals import (
    Estimate,
    effective_sources,
    estimate,
    mcnemar,
    percentiles,
    share_of_gap,
)
from rbft_trl.evidence.novel import harmonic
from rbft_trl.evidence.outcomes import Outcomes, read_outcomes, shared_draws
from rbft_trl.evidence.power import POINTS, detectable, detectable_from_clips, detectable_from_draws
from rbft_trl.evidence.table import text_table

Pair = dict[str, Any]
COSTS = ("steps", "presentations", "tokens", "flops", "seconds")
TREATMENTS, REFERENCES, CONTROLS = "treatments", "references", "controls"
CONTENT, RIVAL = "content", "rival"  # of other pairs than with direct SFT
FAMILIES = {"candidate": TREATMENTS, "reference": REFERENCES, "control": CONTROLS, "oracle": CONTROLS}  # by role
BASELINE = "direct"
NOT_ASKED = "not evaluated there (only label scores can be asked for on another card)"
NOT_ALL = "not all of its draws were evaluated there"


def summarise(comparison: dict[str, Any], *, names: Sequence[str]) -> dict[str, Any]:
    """What compare.py adds to a rung of comparison.json once all cells are there.

    Args:
        comparison (`dict`): With `arms`: name → `draws` (cells), `role` (str, *optional*) and more; `note`; `shots`
            and `labels` as [`conclude`] takes them; and `clips`, where the cells hold class indices instead of files
            (rbft_trl/evidence/results.py).
        names (`list[str]`): Every class of the card.

    Returns:
        `dict`: `arms` with a `summary` each, `pairs` (every arm against `direct`, and `rbft` against `shuffled`),
        `verdict`, `table` (text), `sentence` and, where cells were evaluated on other cards, `elsewhere`.
    """
    entries = comparison["arms"]
    seen = {a: read_outcomes(entry["draws"], names, clips=comparison.get("clips")) for a, entry in entries.items()}
    arms = {arm: entry | {"summary": summarise_arm(seen[arm], entry["draws"])} for arm, entry in entries.items()}
    roles = {arm: role_of(entry) for arm, entry in entries.items()}
    pairs = [pair | {"steps_ratio": _steps_ratio(arms, pair)} for pair in compare_all(seen, roles)]
    elsewhere = other_cards(entries, seen, names)
    made = {"arms": arms, "pairs": pairs, "verdict": verdict(pairs), "table": text_table(arms, pairs)}
    of = {"shots": comparison.get("shots", 0), "labels": comparison.get("labels")}
    made |= {"sentence": conclude(pairs, note=comparison.get("note", ""), **of)}
    return made | ({"elsewhere": elsewhere} if elsewhere else {})


def role_of(entry: dict[str, Any]) -> str:
    """What an arm is for, as its file says: a user could take it as an answer (candidate), or it helps to read that
    answer (oracle, control, reference). What trains nothing is no candidate."""
    trained = any(draw.get("steps") for draw in entry["draws"])
    return entry.get("role") or ("candidate" if trained else "reference")


def compare_all(seen: dict[str, Outcomes], roles: dict[str, str], *, resample: bool = True) -> list[Pair]:
    """Every arm against `direct`, the treatments against a reference that surely beats it, and `rbft` against
    `shuffled`; p-values are corrected within each family, and a gain is told as a share of what [`told_oracle`] gains,
    where that is sure to be above 0.

    Args:
        seen (`dict`): Outcomes by arm.
        roles (`dict`): Role by arm, see [`role_of`]; arms are corrected with those of their family (`FAMILIES`).
        resample (`bool`, *optional*, defaults to `True`): Also give the bootstrap's intervals, which decide nothing.
    """
    pairs = []
    if BASELINE in seen:
        for name in (TREATMENTS, REFERENCES, CONTROLS):
            arms = [arm for arm in seen if arm != BASELINE and FAMILIES[roles[arm]] == name]
            settings = {"baseline": BASELINE, "at_once": len(arms), "resample": resample}
            found = [compare_arms(seen[arm], seen[BASELINE], arm=arm, **settings) for arm in arms]
            pairs += [pair | {"family": name, "role": roles[pair["arm"]]} for pair in _corrected(found)]
        if oracle := told_oracle(pairs):
            for pair in pairs:
                if pair["family"] == TREATMENTS:
                    three = seen[pair["arm"]], seen[oracle["arm"]], seen[BASELINE]
                    pair["share"] = _share(*three, at_once=pair["family_size"])
    if rival := stronger_rival(pairs):
        other, arms = seen[rival["arm"]], [pair["arm"] for pair in pairs if pair["family"] == TREATMENTS]
        arms = [arm for arm in arms if shared_draws(seen[arm], other)]
        settings = {"baseline": rival["arm"], "at_once": len(arms), "resample": resample}
        found = [compare_arms(seen[arm], other, arm=arm, **settings) for arm in arms]
        pairs += [pair | {"family": RIVAL} for pair in _corrected(found)]
    if {"rbft", "shuffled"} <= set(seen) and shared_draws(seen["rbft"], seen["shuffled"]):
        content = compare_arms(seen["rbft"], seen["shuffled"], arm="rbft", baseline="shuffled", resample=resample)
        pairs += [pair | {"family": CONTENT} for pair in _corrected([content])]
    return pairs


def compare_arms(
    first: Outcomes, second: Outcomes, *, arm: str, baseline: str, at_once: int = 1, resample: bool = True
) -> Pair:
    """Paired comparison of two arms: accuracy of `arm` minus accuracy of `baseline`, in points.

    Args:
        first (`Outcomes`): Of `arm`.
        second (`Outcomes`): Of `baseline`; same clips. The draws that both have are compared.
        arm (`str`): Name, kept in the result.
        baseline (`str`): Name, kept in the result.
        at_once (`int`, *optional*, defaults to 1): Size of the family, for `simultaneous` and what is detectable.
        resample (`bool`, *optional*, defaults to `True`): Give `bootstrap_interval`; else it is None.

    Returns:
        `dict`: `difference` (points), `interval` (95 %, this pair alone), `simultaneous` (95 % for the family at
        once), `bootstrap_interval` (percentiles, beside them), `p`, `se`, `df`, `n`, `num_groups`,
        `effective_groups` (see [`effective_sources`]), `num_draws`, `draws` (their numbers), `lacks` (by arm, the
        draws that only the other has), `covers` ("clips and draws", or "clips only" with one draw), `per_draw` (with
        exact McNemar p), `over_draws` (mean and sd of the difference), `discordance` and `smallest_detectable`
        (points, 80 % power: by formula from the clips, from the draws, and `points` from the error that was found and
        the size of the family).

    Raises:
        UserError: if the arms have no draw in common.
    """
    assert first.keys == second.keys, f"{arm} and {baseline} saw other clips"
    if not (draws := shared_draws(first, second)):
        raise UserError(
            f"'{arm}' has the draws {list(first.draws)} and '{baseline}' {list(second.draws)}: none in common, so "
            "they cannot be compared; run the same draws of both"
        )
    lacks = {name: [d for d in other.draws if d not in own.draws] for name, own, other in (
        (arm, first, second), (baseline, second, first)
    )}  # fmt: skip
    first, second = first.on(draws), second.on(draws)
    right, other = first.right, second.right
    gain = (right.astype(float) - other) * POINTS
    found = _in_points(estimate(gain / POINTS, first.groups))
    per_draw = [_one_draw(a, b) for a, b in zip(right, other, strict=True)]
    over_draws = mean_sd([draw["difference"] for draw in per_draw])
    discordance = float((right != other).mean())
    smallest = {
        "clips": detectable_from_clips(gain.shape[1], float(np.square(gain.mean(0) / POINTS).mean())),
        "draws": detectable_from_draws(len(gain), over_draws["sd"]) if len(gain) > 1 else None,
        "points": detectable(found.se, found.df, at_once=at_once),
    }
    return {
        "arm": arm,
        "baseline": baseline,
        "difference": found.mean,
        "interval": _possible(found.interval()),
        "simultaneous": _possible(found.interval(at_once=at_once)),
        "bootstrap_interval": percentiles(gain, first.groups) if resample else None,
        "p": found.p,
        "se": found.se,
        "df": found.df,
        "n": gain.shape[1],
        "num_groups": int(first.groups.max()) + 1,
        "effective_groups": effective_sources(np.bincount(first.groups)),
        "num_draws": len(gain),
        "draws": draws,
        "lacks": lacks,
        "covers": BOTH if len(gain) > 1 else CLIPS_ONLY,
        "per_draw": per_draw,
        "over_draws": over_draws,
        "discordance": discordance,
        "smallest_detectable": smallest,
    }


def summarise_arm(seen: Outcomes, draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of an arm in the table: `accuracy` and `macro_f1` as mean ± sd over draws (shares), `accuracy_interval`
    (95 %), `covers`, `costs` (mean per draw, None where nothing was trained) and, where it was asked for,
    `shuffled_frames`: accuracy when the frames of a clip are shown in a random order."""
    low, high = np.clip(estimate(seen.right.astype(float), seen.groups).interval(), 0, 1)
    summary = {"accuracy": mean_sd(seen.right.mean(1).tolist()), "macro_f1": mean_sd(seen.macro_f1())}
    summary |= {"accuracy_interval": [float(low), float(high)], "covers": BOTH if len(seen.said) > 1 else CLIPS_ONLY}
    summary["costs"] = {key: _mean([draw.get(key) for draw in draws if draw.get("steps")]) for key in COSTS}
    pairs = [(d["shuffled_accuracy"], a) for d, a in zip(draws, seen.right.mean(1), strict=True) if _shuffled(d)]
    if pairs:
        figures = {"accuracy": mean_sd([s for s, _ in pairs]), "loss": mean_sd([float(a - s) for s, a in pairs])}
        summary["shuffled_frames"] = figures
    return summary


def other_cards(
    entries: dict[str, dict[str, Any]], seen: dict[str, Outcomes], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Every card that an arm was evaluated on in all its draws, beside the task's own: domain shift, or novel classes.

    Args:
        entries (`dict`): Arms; a cell's `elsewhere` holds `predictions` (or `said`) and `metrics` by card.
        seen (`dict`): Outcomes of the arms on the task.
        names (`list[str]`): Classes of the task. A card that shares none of them is base-to-novel.

    Returns:
        `dict`: card → `names`, `novel` (bool), `arms` (name → summary, with `base_to_novel` where it is), `pairs` and
            `left_out` (name → why).
    """
    cards = {card: None for entry in entries.values() for draw in entry["draws"] for card in draw.get("elsewhere", {})}
    found = {}
    for card in cards:
        cells = {
            arm: [{"draw": draw["draw"]} | draw["elsewhere"][card] for draw in entry["draws"]]
            for arm, entry in entries.items()
            if _all_have(entry, card)
        }
        if not cells:
            continue
        labels = next(iter(cells.values()))[0]["metrics"]["confusion"]["labels"]
        novel = not set(labels) & set(names)
        there = {arm: read_outcomes(draws, labels, clips=draws[0].get("clips")) for arm, draws in cells.items()}
        arms = {arm: {"summary": summarise_arm(outcomes, cells[arm])} for arm, outcomes in there.items()}
        for arm in arms if novel else ():
            arms[arm]["base_to_novel"] = harmonic(seen[arm], there[arm])
        pairs = compare_all(there, {arm: role_of(entries[arm]) for arm in there})
        lost = {
            arm: NOT_ALL if any(card in draw.get("elsewhere", {}) for draw in entry["draws"]) else NOT_ASKED
            for arm, entry in entries.items()
            if arm not in cells
        }
        found[card] = {"names": list(labels), "novel": novel, "arms": arms, "pairs": pairs, "left_out": lost}
    return found


def mean_sd(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1); the sd of one value is None, not 0."""
    assert len(values), "no values"
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": sd, "count": len(values)}


def _corrected(pairs: list[Pair]) -> list[Pair]:
    """Bonferroni, as `simultaneous` is: it excludes 0 where the corrected p is below 0.05, and only there. Holm's p
    would find a little more, but has no intervals of its own."""
    size = len(pairs)
    return [pair | {"p_corrected": min(1.0, size * pair["p"]), "family_size": size} for pair in pairs]


def _steps_ratio(arms: dict[str, dict[str, Any]], pair: Pair) -> float | None:
    """Optimiser steps of an arm / those of its baseline; None where one of them was not trained."""
    own, other = (arms[pair[name]]["summary"]["costs"]["steps"] for name in ("arm", "baseline"))
    return own / other if own and other else None


def _share(arm: Outcomes, oracle: Outcomes, direct: Outcomes, *, at_once: int) -> dict[str, Any] | None:
    """Share of the oracle gap on the draws that all three have; None without one."""
    if not (draws := shared_draws(direct, arm, oracle)):
        return None
    base = direct.on(draws).right.astype(float)
    gain, gap = arm.on(draws).right - base, oracle.on(draws).right - base
    found = share_of_gap(gain, gap, direct.groups, at_once=at_once)
    return found and found | {"num_draws": len(draws)}


def _possible(interval: list[float]) -> list[float]:
    """Two accuracies differ by 100 points at most, whatever a t interval of one degree of freedom says."""
    return np.clip(interval, -POINTS, POINTS).tolist()


def _in_points(found: Estimate) -> Estimate:
    return Estimate(found.mean * POINTS, found.se * POINTS, found.df)


def _one_draw(right: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    first, second = int((right & ~other).sum()), int((other & ~right).sum())
    difference = (first - second) / len(right) * POINTS
    return {"difference": difference, "only_arm": first, "only_baseline": second, "mcnemar_p": mcnemar(first, second)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _shuffled(draw: dict[str, Any]) -> bool:
    return draw.get("shuffled_accuracy") is not None


def _all_have(entry: dict[str, Any], card: str) -> bool:
    return all(card in draw.get("elsewhere", {}) for draw in entry["draws"])
