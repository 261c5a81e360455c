"""Pictures of the committed results: the ladder, and every arm against direct SFT on every domain.

Input: comparisons of `read_results`. Output: PNG files, which README.md and RESULTS.md show (`make tables`).
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from rbft_trl.evidence.stats import BASELINE
from toy.ladder import PARTS, TIMES, differences, told

matplotlib.use("Agg")
import matplotlib.pyplot as plt

AGAINST = "direct_lm"  # the better direct SFT at the shots of the ladder (RESULTS.md)
COLOURS = {"true": "#2b6cb0", "guideline": "#2c7a7b", "shuffled": "#dd6b20", "blind": "#a0aec0", "hinted": "#718096"}
COLOUR = COLOURS["true"]
COLOURS |= {"definition": "#b83280", "labels": "#000000"}
ENOUGH = 3  # draws for an interval in a picture
Point = tuple[float, float, float]  # difference in points, and its 95 % interval


def ladder_points(comparison: dict[str, Any]) -> dict[tuple[str, str], dict[int, Point]]:
    """Difference to direct SFT of the language model by (text, LoRA on) and times the labels."""
    found: dict[tuple[str, str], dict[int, Point]] = {}
    for name, pairs in differences(comparison).items():
        text, times, parts = told(name)
        if times[:-1].isdigit():  # not rbft, which has the whole pool and other parts in stage 2
            found.setdefault((text, parts), {})[int(times[:-1])] = _point(pairs[AGAINST])
    return found


def arm_points(comparison: dict[str, Any]) -> dict[str, tuple[float, list[float]]]:
    """Difference to direct SFT by trained arm, in points, with its 95 % interval, or with the single draws where there
    are fewer than `ENOUGH`: an interval of two draws is wider than any picture."""
    trained = [arm for arm, entry in comparison["arms"].items() if any(draw.get("steps") for draw in entry["draws"])]
    pairs = [pair for pair in comparison["pairs"] if pair["baseline"] == BASELINE and pair["arm"] in trained]
    return {pair["arm"]: (pair["difference"], _others(pair)) for pair in pairs}


def _others(pair: dict[str, Any]) -> list[float]:
    few = pair["num_draws"] < ENOUGH
    return [draw["difference"] for draw in pair["per_draw"]] if few else list(pair["interval"])


def _point(pair: dict[str, Any]) -> Point:
    return pair["difference"], *pair["interval"]


def draw_ladder(comparison: dict[str, Any], path: Path) -> None:
    """One panel per choice of parts; the zero line is direct SFT of the language model."""
    points, shots = ladder_points(comparison), comparison["shots"][-1]
    figure, panels = plt.subplots(1, len(PARTS), figsize=(10, 4.6), sharey=True, layout="constrained")
    for axes, parts in zip(panels, PARTS, strict=True):
        lines = {text: found for (text, of), found in points.items() if of == parts}
        for number, (text, found) in enumerate(lines.items()):
            times = sorted(found)
            across = [TIMES.index(t) + 0.05 * (number - len(lines) / 2) for t in times]
            middle, low, high = np.array([found[t] for t in times]).T
            style = "--" if text == "labels" else "-"
            said = "more labels, no text" if text == "labels" else f"{text} texts"
            spans = [middle - low, high - middle]
            axes.errorbar(
                across, middle, spans, marker="o", ms=4, ls=style, color=COLOURS[text], capsize=2, label=said
            )
        axes.axhline(0, color="black", lw=0.8)
        where = "language model and tower" if parts == "tower" else "language model"
        axes.set(xticks=range(len(TIMES)), xticklabels=[f"{t * shots}" for t in TIMES], title=f"LoRA on the {where}")
        axes.set_xlabel("clips per class in stage 1")
    panels[0].set_ylabel(f"points against direct SFT on {shots} labels per class")
    panels[0].legend(fontsize=8, loc="upper left")
    _save(figure, path)


def draw_arms(comparisons: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel per domain, one row per trained arm: a dot with its interval, or a ring with its single draws."""
    points = {name: arm_points(comparison) for name, comparison in comparisons.items()}
    arms = list(dict.fromkeys(arm for found in points.values() for arm in found))
    size = (2 + 2.4 * len(points), 1.2 + 0.24 * len(arms))
    figure, panels = plt.subplots(1, len(points), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (name, found) in zip(panels[0], points.items(), strict=True):
        draws = {arm: len(entry["draws"]) for arm, entry in comparisons[name]["arms"].items()}
        for arm, (middle, others) in found.items():
            at, sure = arms.index(arm), draws[arm] >= ENOUGH
            axes.plot(others, [at] * len(others), "-" if sure else "|", color=COLOUR, lw=1.2, ms=7)
            axes.plot(middle, at, "o", ms=5, color=COLOUR, markerfacecolor=COLOUR if sure else "white")
        axes.axvline(0, color="black", lw=0.8)
        axes.set(title=name, xlabel="points against direct SFT")
    panels[0][0].set_yticks(range(len(arms)), arms, fontsize=8)
    panels[0][0].invert_yaxis()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
