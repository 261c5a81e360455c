"""Metrics of open answers (number, time, range of time, ordered list), in the buckets that stand in for classes.

Input: rows of predictions.jsonl and the card's type of answer. Output: the content of metrics.json.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rbft_trl.data.answers import AnswerType, ends, spelled
from rbft_trl.data.task import TaskCard
from rbft_trl.evidence.metrics import wilson_interval

Prediction = dict[str, Any]
BUCKETS = 4


def buckets_of(labels: Sequence[str], answer: AnswerType) -> list[str]:
    """Per label the name of its bucket: how many items, or a quarter of the numbers, times or lengths of these labels.

    Equal values share a bucket, so few distinct values make few buckets.
    """
    if answer.type == "list":
        return [f"{len(label.split(', '))} items" for label in labels]
    values = np.array([_size(label, answer) for label in labels])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BUCKETS + 1), method="inverted_cdf"))
    if len(edges) <= BUCKETS:  # few distinct values: each is a bucket
        return [spelled(value) for value in values]
    place = np.clip(np.searchsorted(edges, values, side="left"), 1, len(edges) - 1)
    return [f"{'from' if i == 1 else 'above'} {spelled(edges[i - 1])} to {spelled(edges[i])}" for i in place]


def bucket_order(names: Sequence[str]) -> list[str]:
    """Each bucket once, by its first number."""
    return sorted(
        set(names), key=lambda name: (float(name.removeprefix("from ").removeprefix("above ").split()[0]), name)
    )


def grouped(card: TaskCard, labels: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What counts are told by: the classes, or for open answers the buckets of `labels`.

    Returns:
        `tuple`: the names in their order, and label → name.
    """
    if not card.is_open:
        return card.names, {name: name for name in card.names}
    buckets = buckets_of(labels, card.answer)
    return bucket_order(buckets), dict(zip(labels, buckets, strict=True))


def open_metrics(
    predictions: list[Prediction], answer: AnswerType, *, ids: Sequence[str] | None = None
) -> dict[str, Any]:
    """Everything that metrics.json holds of open answers. Every row counts: one without a value is wrong.

    Args:
        predictions (`list[dict]`): Rows with `id, label, prediction, seconds`, and `reason` if the clip was read;
            label and prediction as `AnswerType.read` spells them, prediction None where nothing could be read.
        answer (`AnswerType`): The card's.
        ids (`Sequence[str]`, *optional*): The ids that must be there, each once.

    Returns:
        `dict`: shares between 0 and 1. `mean_absolute_error` (numbers and times) is over the answers that could be
        read, `mean_iou` (ranges) over all, with 0 for the others; a figure that the type has not is left out.
        `constant` is the share that the best single answer of the gold ones would get right: what knowing nothing of
        the clip can reach.
    """
    assert predictions, "no predictions"
    seen = Counter(p["id"] for p in predictions)
    assert len(seen) == len(predictions) and (ids is None or set(seen) == set(ids)), "every id exactly once"
    gold = [p["label"] for p in predictions]
    said = [p["prediction"] for p in predictions]
    right = np.array([s is not None and answer.objection(s, g) is None for s, g in zip(said, gold, strict=True)])
    figures = {
        "n": len(gold),
        "answer": answer.to_dict(),
        "accuracy": float(right.mean()),
        "accuracy_interval": wilson_interval(int(right.sum()), len(gold)),
        "per_bucket": _per_bucket(buckets_of(gold, answer), right),
        "invalid_rate": float(np.mean([value is None for value in said])),
        "reasons": dict(
            Counter(
                p.get("reason") or "unreadable_clip" for p, ok in zip(predictions, right, strict=True) if not ok
            ).most_common()
        ),
        "constant": max(float(np.mean([answer.objection(one, g) is None for g in gold])) for one in sorted(set(gold))),
        "seconds_per_clip": float(np.median([p["seconds"] for p in predictions])),
    }
    pairs = [(s, g) for s, g in zip(said, gold, strict=True) if s is not None]
    far = [answer.distance(s, g) for s, g in pairs]
    if answer.type == "time_range":
        figures["mean_iou"] = sum(1 - d for d in far) / len(gold)
    elif answer.type != "list":
        figures["mean_absolute_error"] = float(np.mean(far)) if far else None
    return figures


def _size(label: str, answer: AnswerType) -> float:
    if answer.type == "time_range":
        start, end = ends(label)
        return float(spelled(end - start))
    return float(label)


def _per_bucket(names: list[str], right: np.ndarray) -> dict[str, dict[str, Any]]:
    chosen = np.array(names)
    return {
        name: {"accuracy": float(right[chosen == name].mean()), "support": int((chosen == name).sum())}
        for name in bucket_order(names)
    }
