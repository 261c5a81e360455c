"""Which clips to look at after an evaluation: confident mistakes, pairs that are mixed up, clips that are unsure.

Input: rows of predictions.jsonl. Output: the chosen rows, each with the reason why it was chosen.
"""

from collections import Counter
from typing import Any

Prediction = dict[str, Any]
CONFIDENT, PAIRS, PER_PAIR, UNSURE, UNREAD, SHOWN = 8, 3, 2, 4, 4, 3
COVERAGE = 0.8


def choose(predictions: list[Prediction]) -> list[dict[str, Any]]:
    """At most 22 clips, each once, in this order: the most confident mistakes, up to two further clips of each of the
    three most frequent confusions, the least sure of the clips that a threshold with 80 % coverage abstains from, and
    clips that could not be read.

    Args:
        predictions (`list[dict]`): Rows with `id, label, prediction, scores` and, for a clip that could not be read,
            `error` and no scores.

    Returns:
        `list[dict]`: `id, label, prediction, why` and `scores`, the best three as `(name, score)`.
    """
    valid = sorted((p for p in predictions if p["scores"]), key=lambda p: (-max(p["scores"].values()), p["id"]))
    wrong = [p for p in valid if p["prediction"] != p["label"]]
    chosen = [(p, "confident and wrong") for p in wrong[:CONFIDENT]]
    pairs = Counter((p["label"], p["prediction"]) for p in wrong)
    for (gold, said), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:PAIRS]:
        taken = {p["id"] for p, _ in chosen}
        further = [p for p in wrong if (p["label"], p["prediction"]) == (gold, said) and p["id"] not in taken]
        chosen += [(p, f"one of {count} clips of {gold} taken for {said}") for p in further[:PER_PAIR]]
    taken = {p["id"] for p, _ in chosen}
    least = valid[
        int(len(valid) * COVERAGE) :
    ]  # a threshold that labels 80 % of the clips leaves these without a label
    chosen += [(p, f"abstained at {COVERAGE:.0%} coverage") for p in reversed(least) if p["id"] not in taken][:UNSURE]
    chosen += [(p, p.get("error") or "it has no scores") for p in predictions if not p["scores"]][:UNREAD]
    kept = ("id", "label", "prediction")
    return [{key: p[key] for key in kept} | {"why": why, "scores": best(p)} for p, why in chosen]


def best(prediction: Prediction) -> list[tuple[str, float]]:
    """The best three labels with their scores."""
    return sorted(prediction["scores"].items(), key=lambda pair: -pair[1])[:SHOWN]
