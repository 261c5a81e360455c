"""The table of arms as text, and figures as people read them.

Input: `arms` and `pairs` of a comparison. Output: text.
"""

from collections.abc import Collection, Sequence
from typing import Any

from rbft_trl.evidence.power import FEWEST_DRAWS

Pair = dict[str, Any]
FEWEST_GROUPS = 10  # fewer (effective) sources of clips say too little of others: nothing is claimed
TITLES = {"rbft": "RB-FT"}
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def text_table(arms: dict[str, dict[str, Any]], pairs: list[Pair] = ()) -> str:
    """One line per arm: accuracy and macro-F1 in % (mean ± sd over draws), interval, difference to `direct` with its
    corrected p, share of the oracle gap, and what the training cost (mean per draw)."""
    found = {pair["arm"]: pair for pair in pairs if pair["baseline"] == "direct"}
    lines = [["arm", "draws", "accuracy %", "95 % interval", "macro-F1 %", "to direct", "corrected p", "of gap"]]
    lines[0] += ["steps", "clips shown", "tokens", "FLOPs", "training s"]
    counts = [len(entry["draws"]) for entry in arms.values()]
    for arm, entry in arms.items():
        summary, pair = entry["summary"], found.get(arm)
        low, high = (f"{100 * value:.1f}" for value in summary["accuracy_interval"])
        line = [arm, str(len(entry["draws"])), percent(summary["accuracy"]), f"{low}-{high}"]
        line += [percent(summary["macro_f1"])]
        line += [signed_points(pair["difference"]), p_value(pair["p_corrected"]), share(pair)] if pair else ["-"] * 3
        lines.append(line + [cost(summary["costs"], key) for key in summary["costs"]])
    kept = [i for i in range(len(lines[0])) if i < 5 or any(line[i] != "-" for line in lines[1:])]
    if len({*counts}) == 1:
        kept.remove(1)  # told once, below
    table = aligned([[line[i] for i in kept] for line in lines])
    metrics = next(iter(arms.values()))["draws"][0]["metrics"]
    levels = f"chance {100 * metrics['chance']:.1f} %, majority class {100 * metrics['majority']:.1f} %"
    return "\n".join([*table, f"{metrics['n']:,} test clips, {draws_of(counts)}; {levels}", *too_few(pairs)])


def aligned(lines: list[list[str]]) -> list[str]:
    """Columns of equal width, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]


def text_of_cards(cards: dict[str, dict[str, Any]]) -> str:
    """A small table for each other card that the arms were evaluated on (`elsewhere` of a comparison)."""
    told = ""
    for card, found in cards.items():
        head = ["arm", "accuracy %", "95 % interval", "to direct", "corrected p"]
        head += ["harmonic mean", "95 % interval"] if found["novel"] else []
        lines = aligned([head, *([arm, *cells] for arm, cells in card_rows(found))])
        lines += [f"left out: {line}" for line in text_of_left_out(found["left_out"])]
        what = "classes that were not trained on" if found["novel"] else "other clips of the same classes"
        told += "\n".join([f"\non {card}, {what}", *lines, ""])
    return told


def text_of_frames(arms: dict[str, dict[str, Any]]) -> str:
    """What each arm loses when the frames of a clip are shuffled, where that was asked for."""
    if not (rows := frame_rows(arms)):
        return ""
    lines = aligned([["arm", "accuracy %", "frames shuffled %", "loss"], *map(list, rows)])
    return "\n".join(["\ndoes it use time?", *lines, ""])


def frame_rows(arms: dict[str, dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Per arm: accuracy, accuracy with frames in a random order, and what that costs."""
    found = {arm: entry["summary"] for arm, entry in arms.items() if "shuffled_frames" in entry["summary"]}
    return [
        (arm, percent(s["accuracy"]), percent(s["shuffled_frames"]["accuracy"]), percent(s["shuffled_frames"]["loss"]))
        for arm, s in found.items()
    ]


def card_rows(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The arms on another card: accuracy, its interval, difference to direct SFT, corrected p, and where its classes
    are new the harmonic mean with its interval."""
    pairs = {pair["arm"]: pair for pair in found["pairs"] if pair["baseline"] == "direct"}
    rows = []
    for arm, entry in found["arms"].items():
        pair, both = pairs.get(arm), entry.get("base_to_novel")
        cells = [percent(entry["summary"]["accuracy"]), _percent_interval(entry["summary"]["accuracy_interval"])]
        cells += [signed_points(pair["difference"]), p_value(pair["p_corrected"])] if pair else ["–", "–"]
        cells += [f"{100 * both['harmonic_mean']:.1f}", _percent_interval(both["interval"])] if both else []
        rows.append((arm, cells))
    return rows


def _percent_interval(bounds: Sequence[float]) -> str:
    return bounds_of([100 * bound for bound in bounds], sign=False)


def bounds_of(interval: Sequence[float], *, digits: int | None = None, sign: bool = True) -> str:
    """`low to high`, in points as [`signed_points`] has them unless `digits` are given."""
    low, high = (f"{b:.{digits}f}" if digits is not None else signed_points(b, sign=sign) for b in interval)
    return f"{low} to {high}"


def too_few(pairs: list[Pair]) -> list[str]:
    """Lines that intervals and p-values rest on too few draws or sources, where they do."""
    few = any(pair["num_draws"] < FEWEST_DRAWS for pair in pairs)
    told = [f"fewer than {FEWEST_DRAWS} draws of an arm are too few: do not trust its intervals and p"] if few else []
    return told + _few_sources(pairs)


def _few_sources(pairs: list[Pair]) -> list[str]:
    fewest = min(pairs, key=lambda pair: pair["effective_groups"], default=None)
    if fewest is None or (worth := round(fewest["effective_groups"])) >= FEWEST_GROUPS:
        return []
    sources = fewest["num_groups"]
    told = f"test clips of {sources} source" + ("s" if sources > 1 else "")
    told += f", worth {worth} of equal size," if worth < sources else ""
    return [f"{told} are too few: do not trust intervals and p"]


def draws_of(counts: Collection[int]) -> str:
    """`"10 draws"`, or `"2 to 10 draws"` where arms differ."""
    fewest, most = min(counts), max(counts)
    return (f"{most} draw" if fewest == most else f"{fewest} to {most} draw") + ("s" if most > 1 else "")


def text_of_left_out(left_out: dict[str, str]) -> list[str]:
    """`["probe, heads - why"]`: arms that are left out of a table, those of one reason together."""
    return [
        f"{', '.join(arm for arm in left_out if left_out[arm] == why)} - {why}"
        for why in dict.fromkeys(left_out.values())
    ]


def text_of_rung(lost: dict[str, Any]) -> str:
    """Why there is nothing to compare at a number of shots."""
    return f"without arm '{lost['arm']}' there is nothing to compare: {lost['why']}"


def left_out_rows(comparison: dict[str, Any], rungs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What is left out and why: arms, at each number of shots where there are several, and whole numbers of shots."""
    found = []
    for rung in rungs:
        at = f", {rung['shots']} shots" if len(rungs) > 1 else ""
        found += [(f"{arm}{at}", why) for arm, why in rung.get("left_out", {}).items()]
    return found + [(f"{lost['shots']} shots", text_of_rung(lost)) for lost in comparison.get("rungs_left_out", [])]


def percent(figure: dict[str, Any]) -> str:
    """`mean ± sd` of a share, in percent; the mean alone with one draw."""
    sd = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}"
    return f"{100 * figure['mean']:.1f}{sd}"


def share(pair: Pair) -> str:
    """The share of the oracle gap in percent, or a dash where it has no bounds."""
    return f"{100 * pair['share']['share']:.0f} %" if pair.get("share") else "-"


def cost(costs: dict[str, float | None], key: str) -> str:
    """A cost of an arm, or a dash if nothing was trained."""
    value = costs[key]
    if value is None:
        return "-"
    return short(value) if key in ("tokens", "flops") else f"{value:,.0f}"


def short(value: float) -> str:
    """Three digits with a prefix from a million upwards: 12,345 · 1.23 M · 45.6 T."""
    for size, prefix in PREFIXES:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:,.0f}"


def signed_points(value: float, *, sign: bool = True) -> str:
    """One decimal, two where one would round to 0; never "-0.0"."""
    digits = 1 if abs(value) >= 0.05 or value == 0 else 2
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def p_value(p: float) -> str:
    """Three decimals, or that it is below them."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def title(arm: str) -> str:
    """What an arm is called in a sentence."""
    return TITLES.get(arm, arm)
