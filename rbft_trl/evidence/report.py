"""The report of a comparison: one self-contained HTML file without scripts or remote loads, everything escaped.

Input: the content of comparison.json and a few clips' frames. Output: report.html.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rbft_trl.evidence.metrics import INVALID
from rbft_trl.evidence.page import encode_strip, write_page
from rbft_trl.evidence.table import cost, percent, signed_points

MATRIX_UP_TO = 30  # classes; larger matrices are told as their most frequent confusions
LEFT, RIGHT, TOP, BOTTOM = 36, 314, 6, 126  # the drawing area of a chart in report.html
MORE = {
    "invalid %": "invalid_rate",
    "accuracy of greedy answers %": "generated_accuracy",
    "Brier score": "brier",
    "log-likelihood (neg.)": "nll",
    "risk–coverage": "aurc",
    "s per clip": "seconds_per_clip",
}


def build_report(
    comparison: dict[str, Any],
    out: str | Path,
    *,
    strips: Sequence[dict[str, Any]],
    note: str,
    mistakes: Sequence[dict[str, Any]] = (),
) -> None:
    """Writes the report.

    Args:
        comparison (`dict`): Content of comparison.json, with `pairs`, `sentence` and a `summary` per arm.
        out (`Path`): The HTML file.
        strips (`list[dict]`): Rationales to show: `id, label, text, verdict, frames` (uint8 `[T, H, W, 3]` RGB) and,
            if known, `reason` and `shown`.
        mistakes (`list[dict]`, *optional*): Test clips to look at: `id, label, prediction, why, scores` (the best, as
            pairs), `text` (what the model writes about the clip), `concludes` (the label of its last line, or None)
            and `frames`.
        note (`str`): What holds whatever the figures say; stands below the sentence.
    """
    write_page("report.html", out, view(comparison, strips=strips, mistakes=mistakes, note=note))


def view(
    comparison: dict[str, Any],
    *,
    strips: Sequence[dict[str, Any]],
    note: str,
    mistakes: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """What the template shows, as text and coordinates."""
    arms, pairs = comparison["arms"], comparison.get("pairs", [])
    draws = max(len(entry["draws"]) for entry in arms.values())
    first = next(iter(arms.values()))["draws"][0]["metrics"]
    counted = f"{first['n']:,} test clips, {draws} draw{'s' if draws > 1 else ''} of labelled clips"
    return {
        "task": comparison["task"],
        "created": comparison["created"],
        "counts": counted,
        "sentence": comparison["sentence"].removesuffix(note).rstrip(),
        "note": note,
        "arms": [arm_view(name, entry) for name, entry in arms.items()],
        "chance": _number(100 * first["chance"]),
        "levels": f"Chance {100 * first['chance']:.1f} %, majority class {100 * first['majority']:.1f} %.",
        "pairs": [pair_view(pair) for pair in pairs],
        "covers": pairs[0]["covers"] if pairs else "",
        "curves": [chart for name, entry in arms.items() for chart in curve_views(name, entry["draws"])],
        "more_titles": list(MORE),
        "kept": [(name, rows) for name, entry in arms.items() if (rows := kept_view(entry["draws"]))],
        "classes": sorted({clip[key] for clip in mistakes for key in ("label", "prediction") if clip[key]}),
        "mistakes": [mistake_view(clip) for clip in mistakes],
        "strips": [strip_view(strip) for strip in strips],
    }


def arm_view(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """One row of the table of arms, its confusion matrix over all draws, and the further figures."""
    summary, draws = entry["summary"], entry["draws"]
    low, high = (100 * value for value in summary["accuracy_interval"])
    labels = draws[0]["metrics"]["confusion"]["labels"]
    matrix = np.sum([draw["metrics"]["confusion"]["matrix"] for draw in draws], axis=0)
    small = len(labels) <= MATRIX_UP_TO
    return {
        "name": name,
        "description": entry.get("description", ""),
        "accuracy": percent(summary["accuracy"]),
        "macro_f1": percent(summary["macro_f1"]),
        "mean": _number(100 * summary["accuracy"]["mean"]),
        "low": _number(low),
        "high": _number(high),
        "width": _number(high - low),
        **{key: cost(summary["costs"], key) for key in ("steps", "presentations", "seconds")},
        "columns": [*labels, INVALID],
        "matrix": shaded(labels, matrix) if small else [],
        "confused": [] if small else most_confused(labels, matrix),
        "more": [_mean_figure([draw["metrics"].get(key) for draw in draws], title) for title, key in MORE.items()],
    }


def shaded(labels: Sequence[str], matrix: np.ndarray) -> list[tuple[str, list[tuple[int, int]]]]:
    """Per gold label, `(count, shade)` per column; the shade is the opacity, 0 to 65 %, by share of the row."""
    shades = (65 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)).round().astype(int)
    rows = zip(labels, matrix.tolist(), shades.tolist(), strict=True)
    return [(label, list(zip(counts, shade, strict=True))) for label, counts, shade in rows]


def most_confused(labels: Sequence[str], matrix: np.ndarray, *, most: int = 20) -> list[tuple[str, str, int]]:
    """The most frequent pairs (gold, predicted, clips) off the diagonal."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    columns = [*labels, INVALID]
    best = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [divmod(int(place), len(columns)) for place in best]
    return [(labels[i], columns[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]


def pair_view(pair: dict[str, Any]) -> dict[str, str]:
    """One row of the table of differences."""
    low, high = (signed_points(value) for value in pair["interval"])
    p_values = [draw["mcnemar_p"] for draw in pair["per_draw"]]
    return {
        "arm": pair["arm"],
        "baseline": pair["baseline"],
        "difference": signed_points(pair["difference"]),
        "low": low,
        "high": high,
        "p": _p_value(pair["p"]),
        "mcnemar": ", ".join(map(_p_value, p_values[:10])) + (" …" if len(p_values) > 10 else ""),
        "detectable": f"{pair['smallest_detectable']['points']:.1f}",
    }


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


def kept_view(draws: Sequence[dict[str, Any]]) -> list[tuple[str, int, int, str, float]]:
    """Kept rationales per class over all draws: name, kept, written, share in % and length of the bar."""
    counted = [draw["kept"] for draw in draws if draw.get("kept")]
    rows = []
    for name in counted[0] if counted else ():
        kept, total = (sum(shares[name][key] for shares in counted) for key in ("kept", "total"))
        share = f"{100 * kept / total:.0f} %" if total else "–"
        rows.append((name, kept, total, share, round(100 * kept / total, 1) if total else 0.0))
    return rows


def strip_view(strip: dict[str, Any]) -> dict[str, Any]:
    """One rationale with its frames as a PNG."""
    verdict, reason = strip["verdict"], strip.get("reason")
    return {
        "id": strip["id"],
        "label": strip["label"],
        "text": strip["text"],
        "verdict": f"{verdict}: {reason}" if reason else verdict,
        "css": verdict if verdict in ("kept", "dropped", "unlabelled") else "",
        "shown": bool(strip.get("shown")),
        "png": encode_strip(strip["frames"]),
    }


def mistake_view(clip: dict[str, Any]) -> dict[str, Any]:
    """One test clip to look at; `agrees` says whether what the model writes ends in what it decides."""
    return {
        **{key: clip[key] for key in ("id", "label", "prediction", "why", "text")},
        "scores": [(name, f"{100 * score:.0f} %") for name, score in clip["scores"]],
        "agrees": clip["concludes"] == clip["prediction"],
        "concludes": clip["concludes"],
        "png": None if clip["frames"] is None else encode_strip(clip["frames"], columns=4),
    }


def _mean_figure(values: Sequence[float | None], title: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = sum(known) / len(known)
    return f"{100 * mean:.1f}" if title.endswith("%") else f"{mean:.3f}"


def _p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _number(value: float) -> str:
    return f"{value:.1f}"
