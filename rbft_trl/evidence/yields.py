"""What the cycles of Video-STaR yield: per clip, was it answered rightly, only with the label shown, or not at all?

Input: rows of rationales.jsonl that were checked. Output: counts per class and route, and a picture of all cycles.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rbft_trl.data.task import TaskCard
from rbft_trl.evidence.answers import grouped

ROUTES = ("generated", "rationalised", "dropped")
Sample = dict[str, Any]


def yields_of(samples: Sequence[Sample], card: TaskCard) -> dict[str, Any]:
    """Counts of labelled clips by route; every clip is in exactly one.

    Args:
        samples (`Sequence[dict]`): All rows of a cycle.
        card (`TaskCard`): Names the classes; open answers are counted in buckets.

    Returns:
        `dict`: `clips`, `generated` (a kept rationale without the label), `rationalised` (kept only with it),
        `dropped`, `per_class` with the same three counts, and `reasons`: route → why samples were dropped there.
    """
    labels, route, reasons = {}, {}, {"generated": Counter(), "rationalised": Counter()}
    for sample in samples:
        if sample["label"] is None:
            continue
        labels[sample["id"]] = sample["label"]
        way = "rationalised" if sample.get("shown") else "generated"
        if sample["verdict"] == "kept":
            route[sample["id"]] = min(way, route.get(sample["id"], way), key=ROUTES.index)
        else:
            reasons[way][sample["reason"]] += 1
    names, group = grouped(card, list(labels.values()))
    counts = {name: dict.fromkeys(ROUTES, 0) for name in names}
    for clip, label in labels.items():
        counts[group[label]][route.get(clip, "dropped")] += 1
    totals = {way: sum(own[way] for own in counts.values()) for way in ROUTES}
    told = {way: dict(sorted(count.items())) for way, count in reasons.items()}
    return {"clips": len(labels), **totals, "per_class": counts, "reasons": told}


def share(yields: dict[str, Any]) -> float:
    """The yield: clips that were answered rightly without the label."""
    return yields["generated"] / yields["clips"]


def totals_of(cycles: Sequence[dict[str, Any]]) -> list[dict[str, int]]:
    """What a comparison keeps of each cycle: how many clips took which route."""
    return [{key: cycle[key] for key in ("cycle", "clips", *ROUTES)} for cycle in cycles]


def table_of(cycles: Sequence[dict[str, Any]]) -> str:
    """One line per cycle and class."""
    width = max([8, *(len(name) for cycle in cycles for name in cycle["per_class"])])
    lines = [f"{'cycle':5}  {'class':{width}}  {'clips':>6}" + "".join(f"{way:>14}" for way in ROUTES)]
    for cycle in cycles:
        rows = {**cycle["per_class"], "all": {way: cycle[way] for way in ROUTES}}
        for name, own in rows.items():
            total = sum(own.values())
            told = "".join(f"{own[way]:>6} {own[way] / total:>6.1%} " if total else f"{0:>14}" for way in ROUTES)
            lines.append(f"{cycle['cycle']:<5}  {name:{width}}  {total:>6}{told}")
    return "\n".join(lines)


def save_yields_picture(cycles: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Bars per cycle, split by route, and a line of the yield per class."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    at = [cycle["cycle"] for cycle in cycles]
    with plt.rc_context({"text.parse_math": False}):  # a class may be called "$5 or $10"
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        below = [0.0] * len(cycles)
        for way, colour in zip(ROUTES, ("#2b6cb0", "#90cdf4", "#cbd5e0"), strict=True):
            parts = [cycle[way] / cycle["clips"] for cycle in cycles]
            left.bar(at, parts, bottom=below, color=colour, label=way, width=0.6)
            below = [a + b for a, b in zip(below, parts, strict=True)]
        left.set(xlabel="cycle", ylabel="share of the labelled clips", ylim=(0, 1), xticks=at)
        left.legend(loc="lower right")
        for name in cycles[0]["per_class"]:
            own = [cycle["per_class"][name] for cycle in cycles]
            right.plot(at, [c["generated"] / max(1, sum(c.values())) for c in own], marker="o", label=name)
        right.set(xlabel="cycle", ylabel="right without the label", ylim=(0, 1), xticks=at)
        if len(cycles[0]["per_class"]) <= 12:
            right.legend(fontsize=7)
        figure.savefig(path, dpi=120, metadata={"Software": None})
        plt.close(figure)
