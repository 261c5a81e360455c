"""The report of a comparison: one self-contained HTML file without scripts or remote loads, everything escaped.

Input: the content of comparison.json and a few clips' frames. Output: report.html.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rbft_trl.evidence.charts import budget_views, curve_views, ladder_views
from rbft_trl.evidence.figures import covered
from rbft_trl.evidence.metrics import INVALID, wilson_interval
from rbft_trl.evidence.page import encode_strip, write_page
from rbft_trl.evidence.power import POINTS
from rbft_trl.evidence.stats import COSTS
from rbft_trl.evidence.table import (
    bounds_of,
    card_rows,
    cost,
    draws_of,
    frame_rows,
    left_out_rows,
    p_value,
    percent,
    share,
    signed_points,
    text_of_left_out,
    too_few,
)
from rbft_trl.evidence.verify import VERDICTS

MATRIX_UP_TO = 30  # classes; larger matrices are told as their most frequent confusions
CURVES_OPEN_UP_TO = 8  # charts; more stand behind a click
FAMILIES = {
    "treatments": "Could be taken as an answer",
    "controls": "Help to read the answer",
    "references": "Train on no rationale, or not at all",
    "rival": "Against the reference that beats direct SFT",
    "content": "Does it matter what a rationale says of its own clip?",
}
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
    agreement: dict[str, dict[str, int]] | None = None,
) -> None:
    """Writes the report.

    Args:
        comparison (`dict`): Content of comparison.json, with `pairs`, `sentence` and a `summary` per arm, and the same
            per rung in `rungs`.
        out (`Path`): The HTML file.
        strips (`list[dict]`): Rationales to show: `id, label, text, verdict, frames` (uint8 `[T, H, W, 3]` RGB) and,
            if known, `reason` and `shown`.
        mistakes (`list[dict]`, *optional*): Test clips to look at: `id, label, prediction, why, scores` (the best, as
            pairs), `text` (what the model writes about the clip), `concludes` (the label of its last line, or None)
            and `frames`.
        agreement (`dict`, *optional*): By arm, on how many test clips (`n`) what the model writes ends in its decision
            (`same`), in another label (`other`) or in none (`none`).
        note (`str`): What holds whatever the figures say; stands below the sentence.
    """
    shown = view(comparison, strips=strips, mistakes=mistakes, agreement=agreement or {}, note=note)
    write_page("report.html", out, shown)


def view(
    comparison: dict[str, Any],
    *,
    strips: Sequence[dict[str, Any]],
    mistakes: Sequence[dict[str, Any]],
    agreement: dict[str, dict[str, int]],
    note: str,
) -> dict[str, Any]:
    """What the template shows, as text and coordinates."""
    arms, pairs = comparison["arms"], comparison.get("pairs", [])
    rungs = comparison.get("rungs") or [comparison]
    first = next(iter(arms.values()))["draws"][0]["metrics"]
    counts = [len(entry["draws"]) for entry in arms.values()]
    counted = f"{first['n']:,} test clips, {draws_of(counts)} of labelled clips"
    return {
        "task": comparison["task"],
        "created": comparison["created"],
        "counts": "; ".join([counted, *too_few(pairs)]),
        "uneven": len({*counts}) > 1,
        "sentence": comparison["sentence"].removesuffix(note).rstrip(),
        "note": note,
        "left_out": left_out_rows(comparison, rungs),
        "arms": [arm_view(name, entry) for name, entry in arms.items()],
        "budgets": budget_views(arms),
        "ladder": ladder_views(rungs),
        "rungs": [rung["shots"] for rung in rungs] if len(rungs) > 1 else [],
        "steps": ladder_rows(rungs) if len(rungs) > 1 else [],
        "chance": _number(100 * first["chance"]),
        "levels": f"Chance {100 * first['chance']:.1f} %, majority class {100 * first['majority']:.1f} %.",
        "pairs": [pair_view(pair) for pair in pairs],
        "covers": covered(pairs),
        "families": [f for f in FAMILIES.items() if f[0] in {pair["family"] for pair in pairs}],
        "by_class": class_rows(arms),
        "frames": frame_rows(arms),
        "elsewhere": [card_view(card, found) for card, found in rungs[-1].get("elsewhere", {}).items()],
        "agreement": [agreement_view(arm, counts) for arm, counts in agreement.items() if counts["n"]],
        "curves": (curves := [chart for name, entry in arms.items() for chart in curve_views(name, entry["draws"])]),
        "curves_open": len(curves) <= CURVES_OPEN_UP_TO,
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
        "draws": draws_of([len(draws)]),
        "accuracy": percent(summary["accuracy"]),
        "macro_f1": percent(summary["macro_f1"]),
        "mean": _number(100 * summary["accuracy"]["mean"]),
        "low": _number(low),
        "high": _number(high),
        "width": _number(high - low),
        "costs": [cost(summary["costs"], key) for key in COSTS],
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
    p_values = [draw["mcnemar_p"] for draw in pair["per_draw"]]
    many = pair["family_size"] > 1
    return {
        "arm": pair["arm"],
        "baseline": pair["baseline"],
        "family": pair["family"],
        "difference": signed_points(pair["difference"]),
        "interval": bounds_of(pair["interval"]),
        "simultaneous": bounds_of(pair["simultaneous"]) if many else "–",
        "p": p_value(pair["p_corrected"]),
        "share": share(pair),
        "share_interval": bounds_of([100 * b for b in pair["share"]["interval"]], digits=0)
        if pair.get("share")
        else "",
        "bootstrap": bounds_of(pair["bootstrap_interval"]),
        "mcnemar": ", ".join(map(p_value, p_values[:10])) + (" …" if len(p_values) > 10 else ""),
        "detectable": _points(pair["smallest_detectable"]["points"]),
    }


def ladder_rows(rungs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Per arm the accuracy at each rung."""
    arms = {arm: None for rung in rungs for arm in rung["arms"]}
    return [
        (arm, [percent(r["arms"][arm]["summary"]["accuracy"]) if arm in r["arms"] else "–" for r in rungs])
        for arm in arms
    ]


def class_rows(arms: dict[str, dict[str, Any]]) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """Per class: name, test clips, and per arm the accuracy on them in % (mean over draws) with a shade."""
    first = next(iter(arms.values()))["draws"][0]["metrics"]["per_class"]
    rows = []
    for name, figures in first.items():
        means = [
            float(np.mean([draw["metrics"]["per_class"][name]["recall"] for draw in entry["draws"]]))
            for entry in arms.values()
        ]
        shown = [(f"{100 * mean:.0f}" if figures["support"] else "–", round(65 * mean)) for mean in means]
        rows.append((name, figures["support"], shown))
    return rows


def card_view(card: str, found: dict[str, Any]) -> dict[str, Any]:
    """The arms on another card: accuracy, difference to direct SFT, and the harmonic mean if its classes are new."""
    lost = text_of_left_out(found.get("left_out", {}))
    return {"card": Path(card).stem, "novel": found["novel"], "rows": card_rows(found), "left_out": lost}


def agreement_view(arm: str, counts: dict[str, int]) -> dict[str, Any]:
    """How often what a model writes ends in what it decides, with a Wilson interval."""
    low, high = wilson_interval(counts["same"], counts["n"])
    figures = {key: f"{100 * counts[key] / counts['n']:.0f} %" for key in ("same", "other", "none", "bare")}
    return figures | {"arm": arm, "n": f"{counts['n']:,}", "interval": f"{100 * low:.0f} to {100 * high:.0f} %"}


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
        "css": verdict if verdict in VERDICTS else "",
        "shown": bool(strip.get("shown")),
        "png": encode_strip(strip["frames"]),
    }


def mistake_view(clip: dict[str, Any]) -> dict[str, Any]:
    """One test clip to look at; `agrees` says whether its rationale, if there is one, ends in what it decides."""
    return {
        **{key: clip[key] for key in ("id", "label", "prediction", "why", "text")},
        "scores": [(name, f"{100 * score:.0f} %") for name, score in clip["scores"]],
        "agrees": bool(clip["text"]) and clip["concludes"] == clip["prediction"],
        "concludes": clip["concludes"],
        "png": None if clip["frames"] is None else encode_strip(clip["frames"], columns=4),
    }


def _mean_figure(values: Sequence[float | None], title: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = sum(known) / len(known)
    return f"{100 * mean:.1f}" if title.endswith("%") else f"{mean:.3f}"


def _points(size: float) -> str:
    return f"{size:.1f}" if size < POINTS else "no size"


def _number(value: float) -> str:
    return f"{value:.1f}"
