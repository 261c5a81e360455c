"""Words for the figures of a comparison: the table of arms as text, and one sentence that the figures support.

Input: `pairs` and `summary` of rbft_trl.evidence.stats. Output: text.
"""

from typing import Any

Pair = dict[str, Any]
FEWEST_GROUPS = 10  # a bootstrap over fewer sources of clips is far too sure of itself
MIN_ORACLE_GAIN = 3.0  # points; below, no filter of rationales could win more than noise
BOTH, CLIPS_ONLY = "clips and draws", "clips only"


def text_table(arms: dict[str, dict[str, Any]]) -> str:
    """One line per arm: accuracy and macro-F1 in % (mean ± sd over draws), interval, and what the training cost."""
    header = ["arm", "accuracy %", "95 % interval", "macro-F1 %", "steps", "clips shown", "training s"]
    lines = [header]
    for arm, entry in arms.items():
        summary, draws = entry["summary"], entry["draws"]
        low, high = (f"{100 * value:.1f}" for value in summary["accuracy_interval"])
        effort = [draw_mean(draws, key) for key in ("steps", "presentations", "seconds")]
        figures = [percent(summary["accuracy"]), f"{low}-{high}", percent(summary["macro_f1"])]
        lines.append([arm, *figures, *effort])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    first = next(iter(arms.values()))["draws"]
    metrics, draws = first[0]["metrics"], f"{len(first)} draw" + ("s" if len(first) > 1 else "")
    levels = f"chance {100 * metrics['chance']:.1f} %, majority class {100 * metrics['majority']:.1f} %"
    return "\n".join([*table, f"{metrics['n']:,} test clips, {draws}; {levels}"])


def percent(figure: dict[str, Any]) -> str:
    """`mean ± sd` of a share, in percent; the mean alone with one draw."""
    sd = "" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}"
    return f"{100 * figure['mean']:.1f}{sd}"


def draw_mean(draws: list[dict[str, Any]], key: str) -> str:
    """Mean of a cost over the draws, or a dash if the arm was not trained."""
    values = [draw[key] for draw in draws if draw.get(key)]
    return f"{sum(values) / len(values):,.0f}" if values else "-"


def conclude(pairs: list[Pair], *, note: str = "", treatment: str = "rbft", control: str = "direct") -> str:
    """One sentence that the figures support whichever way they fall, then the caller's `note`.

    It tells the treatment's difference to step-matched direct SFT, whether this comparison could see a gain at all
    (`oracle` against `control`), and whether what a rationale says of its clip matters (`treatment` against
    `shuffled`). An arm that was not run is named as missing.

    Args:
        pairs (`list[dict]`): From [`compare_arms`]; more pairs than these may be there.
        note (`str`, *optional*): What holds whatever the figures say, e.g. that the clips are synthetic.
    """
    found = {(pair["arm"], pair["baseline"]): pair for pair in pairs}
    main = found.get((treatment, control))
    if main is None:
        sentence = f"Nothing is compared: the arms {treatment} and {control} are not both there."
    else:
        parts = [_main_part(main), _oracle_part(found.get(("oracle", control)), shown=_side(main) != 0)]
        sentence = "; ".join([*parts, _shuffled_part(found.get((treatment, "shuffled")))]) + "."
    return f"{sentence} {note}".strip()


def _main_part(pair: Pair) -> str:
    side, seen = _side(pair), _figures(pair)
    if side:
        word = "better" if side > 0 else "worse"
        size = signed_points(abs(pair["difference"]), sign=False)
        return f"RB-FT is {word} than step-matched direct SFT by {size} points ({seen})"
    limit = signed_points(pair["smallest_detectable"]["points"], sign=False)
    return (
        "No difference between RB-FT and step-matched direct SFT can be shown "
        f"({signed_points(pair['difference'])} points, {seen}), "
        f"and a difference under {limit} points could have been missed here (80 % power)"
    )


def _oracle_part(pair: Pair | None, *, shown: bool) -> str:
    if pair is None:
        return "no oracle arm was run, so it is not known whether this comparison can see a gain from rationales"
    gain = f"{signed_points(pair['difference'])} points, {_figures(pair, counts=False)}"
    if _side(pair) > 0 and pair["difference"] >= MIN_ORACLE_GAIN:
        return f"the comparison can see: oracle rationales gain {gain.removeprefix('+')}"
    cannot = "whether rationales are the cause" if shown else "whether rationales can help"
    return f"even true rationales do not clearly help here ({gain}), so this comparison cannot tell {cannot}"


def _shuffled_part(pair: Pair | None) -> str:
    if pair is None:
        return "no shuffled arm was run, so it is not known whether what a rationale says of its clip matters"
    gain = f"{signed_points(pair['difference'])} points, {_figures(pair, counts=False)}"
    if _side(pair) > 0:
        return f"what a rationale says of its own clip matters: RB-FT against shuffled rationales {gain}"
    if _side(pair) < 0:
        return f"shuffled rationales do better than a clip's own (RB-FT against shuffled {gain})"
    return f"that what a rationale says of its own clip matters cannot be shown (RB-FT against shuffled {gain})"


def _side(pair: Pair) -> int:
    """1 if the whole interval is above 0, -1 if it is below, 0 if it touches 0 or rests on too few sources."""
    low, high = pair["interval"]
    if pair.get("num_groups", FEWEST_GROUPS) < FEWEST_GROUPS:
        return 0
    return 1 if low > 0 else -1 if high < 0 else 0


def _figures(pair: Pair, *, counts: bool = True) -> str:
    low, high = (signed_points(value, sign=False) for value in pair["interval"])
    text = f"95 % interval {low} to {high}"
    if pair.get("num_groups", FEWEST_GROUPS) < FEWEST_GROUPS:
        text += f", which {pair['num_groups']} sources of test clips are too few to trust"
    if not counts:
        return text
    draws = f"{pair['num_draws']} draws" if pair["num_draws"] > 1 else "1 draw"
    only = "" if pair["covers"] == BOTH else ", so the interval covers the clips only and not the luck of the draw"
    return f"{text}, {pair['n']:,} clips, {draws}{only}"


def signed_points(value: float, *, sign: bool = True) -> str:
    """One decimal, two where one would round to 0; never "-0.0"."""
    digits = 1 if abs(value) >= 0.05 or value == 0 else 2
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"
