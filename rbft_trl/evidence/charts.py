"""Coordinates of the charts of a report: learning curves, accuracy against shots and against what an arm cost.

Input: arms and rungs of comparison.json. Output: points as text, for SVG in report.html.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rbft_trl.evidence.table import short

LEFT, RIGHT, TOP, BOTTOM = 36, 314, 6, 126  # the drawing area of a chart in report.html
UNTRAINED = LEFT + 14  # where arms without a cost stand
BUDGETS = {"presentations": "clips shown", "flops": "FLOPs (estimate)"}


def curve_views(arm: str, draws: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Training loss and validation accuracy of an arm as charts, a line per draw; none if it was not trained."""
    charts, steps = [], [entry["step"] for draw in draws for entry in draw.get("curves") or []]
    for key, title in (("loss", "training loss"), ("eval_accuracy", "validation accuracy")):
        series = [
            [(e["step"], e[key]) for e in draw.get("curves") or [] if key in e and math.isfinite(e[key])]
            for draw in draws
        ]
        if any(series):
            highest = 1.0 if key == "eval_accuracy" else None
            made = chart(series, last=max(steps), highest=highest, mark=draws[0].get("stage1_steps"))
            charts.append(made | {"caption": f"{arm}: {title}"})
    return charts


def chart(
    series: Sequence[Sequence[tuple[float, float]]], *, last: int, highest: float | None, mark: int | None
) -> dict[str, Any]:
    """Coordinates of a chart from step 0 to `last` and from 0 upwards; a line of a single point is drawn as a dot."""
    top, last = highest or max(1e-9, *(y for line in series for _, y in line)), max(last, 1)

    def place(x: float, y: float) -> tuple[str, str]:
        across = LEFT + x / last * (RIGHT - LEFT)
        return f"{across:.1f}", f"{BOTTOM - y / top * (BOTTOM - TOP):.1f}"

    return {
        "lines": [" ".join(",".join(place(*point)) for point in line) for line in series if len(line) > 1],
        "dots": [place(*line[0]) for line in series if len(line) == 1],
        "mark": place(mark, 0)[0] if mark is not None else None,
        "last": f"{last:g}",
        "top": f"{top:.3g}",
    }


def ladder_views(rungs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy against labelled clips per class, a chart per arm with its intervals; direct SFT is the dashed line.

    Args:
        rungs (`list[dict]`): With `shots` and `arms`, each with a `summary`. Shots stand side by side at equal
            distances (2, 4, 8, 16 are doublings). No chart with fewer than two rungs.
    """
    rungs = [rung for rung in rungs if rung.get("shots")]
    if len(rungs) < 2:
        return []
    bounds = [v for rung in rungs for e in rung["arms"].values() for v in e["summary"]["accuracy_interval"]]
    height = _height(min(bounds), max(bounds))
    across = [LEFT + 16 + i * (RIGHT - LEFT - 32) / (len(rungs) - 1) for i in range(len(rungs))]
    ticks = [(f"{x:.1f}", f"{rung['shots']}") for x, rung in zip(across, rungs, strict=True)]
    axis = {"bottom": f"{100 * min(bounds):.0f} %", "top": f"{100 * max(bounds):.0f} %", "ticks": ticks}

    def points(arm: str) -> list[tuple[float, dict[str, Any]]]:
        return [(x, r["arms"][arm]["summary"]) for x, r in zip(across, rungs, strict=True) if arm in r["arms"]]

    def line(arm: str) -> str:
        return " ".join(f"{x:.1f},{height(s['accuracy']['mean']):.1f}" for x, s in points(arm))

    arms = {arm: None for rung in rungs for arm in rung["arms"]}
    return [
        axis
        | {
            "caption": arm,
            "line": line(arm),
            "reference": line("direct") if "direct" in arms and arm != "direct" else "",
            "spans": [_span(x, summary, height) for x, summary in points(arm)],
        }
        for arm in arms
    ]


def budget_views(arms: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy against clips shown and against FLOPs, a numbered point per arm; arms that were not trained stand at
    the left edge. No chart of a cost that no two arms differ in."""
    bounds = [value for entry in arms.values() for value in entry["summary"]["accuracy_interval"]]
    height, made = _height(min(bounds), max(bounds)), []
    for key, title in BUDGETS.items():
        costs = [entry["summary"]["costs"][key] for entry in arms.values()]
        known = sorted({math.log10(cost) for cost in costs if cost})
        if len(set(costs)) < 2 or not known:
            continue
        spread = known[-1] - known[0]
        low, spread = (known[0], spread) if spread else (known[0] - 0.5, 1.0)  # a single cost stands in the middle
        left = UNTRAINED + 24

        def place(cost: float | None, *, low: float = low, spread: float = spread, left: float = left) -> float:
            return left + (math.log10(cost) - low) / spread * (RIGHT - 12 - left) if cost else UNTRAINED

        spans = [
            _span(place(cost), entry["summary"], height) | {"number": number}
            for number, (entry, cost) in enumerate(zip(arms.values(), costs, strict=True), start=1)
        ]
        ticks = [(f"{place(10**value):.1f}", short(10**value)) for value in dict.fromkeys((known[0], known[-1]))]
        ticks += [(f"{UNTRAINED}", "none")] if None in costs else []
        made.append(
            {"caption": f"accuracy against {title}", "bottom": f"{100 * min(bounds):.0f} %", "spans": spans}
            | {"top": f"{100 * max(bounds):.0f} %", "ticks": ticks, "line": "", "reference": ""}
        )
    return made


def _height(low: float, high: float) -> Callable[[float], float]:
    spread = (high - low) or 1.0
    return lambda share: BOTTOM - 4 - (share - low) / spread * (BOTTOM - TOP - 8)


def _span(x: float, summary: dict[str, Any], height: Callable[[float], float]) -> dict[str, Any]:
    """A mean with its interval at a place."""
    low, high = summary["accuracy_interval"]
    y = {"y": height(summary["accuracy"]["mean"]), "low": height(low), "high": height(high)}
    return {"x": f"{x:.1f}", "number": ""} | {key: f"{value:.1f}" for key, value in y.items()}
