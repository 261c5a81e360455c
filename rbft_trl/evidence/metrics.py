"""The one metrics file: pure functions on predictions, and the picture of the confusion matrix.

Input: rows of predictions.jsonl and the class names. Output: the content of metrics.json, confusion.png.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

Prediction = dict[str, Any]
INVALID = "invalid"
CURVE_POINTS = 100
CELL_NUMBERS_UP_TO = 25  # classes; above, numbers in the cells of the picture cannot be read


def compute_metrics(
    predictions: list[Prediction], names: list[str], *, ids: Sequence[str] | None = None
) -> dict[str, Any]:
    """Everything that metrics.json holds. Every row counts: one without a valid prediction is wrong, and as the model
    said nothing about it, its scores are taken as uniform and it is the first to be rejected.

    Args:
        predictions (`list[dict]`): Rows with `id, label, prediction, scores, logprobs, generated, generated_label,
            seconds`; `scores` and `logprobs` are empty for a clip that could not be read.
        names (`list[str]`): Every class of the card, in its order.
        ids (`Sequence[str]`, *optional*): The ids that must be there, each once.

    Returns:
        `dict`: shares between 0 and 1; `seconds_per_clip` is a median; figures that need generated text are None
        without it; macro-F1 is over all `names`, also those without a test clip (their F1 is 0).
    """
    _check(predictions, names, ids)
    gold = np.array([names.index(p["label"]) for p in predictions])
    said = np.array([_index(p["prediction"], names) for p in predictions])
    logprobs = np.array([_logprobs(p, names) for p in predictions])
    coverage, risk, aurc = risk_coverage(np.where(said < len(names), logprobs.max(1), -np.inf), gold == said)
    return {
        **index_metrics(gold, said, names),
        **_generated(predictions, names),
        "brier": brier(logprobs, gold),
        "nll": float(-logprobs[np.arange(len(gold)), gold].mean()),
        "risk_coverage": [list(pair) for pair in zip(coverage, risk, strict=True)],
        "aurc": aurc,
        "top_k": {str(k): top_k(logprobs, gold, said, k) for k in (2, 3)},
        "seconds_per_clip": float(np.median([p["seconds"] for p in predictions])),
    }


def index_metrics(gold: np.ndarray, said: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The part of metrics.json that needs no scores.

    Args:
        gold (`np.ndarray` int64 `[N]`): Class indices.
        said (`np.ndarray` int64 `[N]`): Predicted class indices; `len(names)` where there is no valid prediction.
        names (`list[str]`): Every class.
    """
    matrix = confusion_matrix(gold, said, labels=range(len(names) + 1))[:-1]
    right, total = int((gold == said).sum()), len(gold)
    return {
        "n": total,
        "accuracy": right / total,
        "accuracy_interval": wilson_interval(right, total),
        **per_class(gold, said, names),
        "confusion": {"labels": list(names), "matrix": matrix.tolist()},
        "invalid_rate": float((said == len(names)).mean()),
        "chance": 1 / len(names),
        "majority": max(Counter(gold.tolist()).values()) / total,
    }


def harmonic_mean(base: float, novel: float) -> float:
    """H = 2BN / (B + N) of the accuracies on base and on novel classes; 0 if both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def wilson_interval(right: int, total: int) -> list[float]:
    """95 % Wilson interval of a share (Wilson 1927): honest near 0 and 1, where the usual formula is not."""
    interval = binomtest(right, total).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def per_class(gold: np.ndarray, said: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """`macro_f1` and `per_class` from class indices int64 `[N]`; an index of `len(names)` is an invalid prediction."""
    figures = precision_recall_fscore_support(gold, said, labels=range(len(names)), zero_division=0)
    rows = zip(names, *figures, strict=True)
    table = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in rows
    }
    return {"macro_f1": float(np.mean(figures[2])), "per_class": table}


def brier(logprobs: np.ndarray, gold: np.ndarray) -> float:
    """Brier score over classes (Brier 1950): mean of the summed squared distance to the one-hot gold; 0 to 2.

    Args:
        logprobs (`np.ndarray` float64 `[N, C]`): Normalised log-probabilities.
        gold (`np.ndarray` int64 `[N]`): Class indices.
    """
    return float(np.square(np.exp(logprobs) - np.eye(logprobs.shape[1])[gold]).sum(1).mean())


def top_k(logprobs: np.ndarray, gold: np.ndarray, said: np.ndarray, k: int) -> float:
    """Share of clips whose gold class is among the `k` best; an invalid prediction is never right."""
    best = np.argsort(-logprobs, axis=1, kind="stable")[:, :k]
    return float(((best == gold[:, None]).any(1) & (said < logprobs.shape[1])).mean())


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[list[float], list[float], float]:
    """Share of errors among the most confident clips, and its mean over all coverages (AURC).

    Clips of equal confidence come in no order: their errors are spread evenly, so the order of the file is no matter.

    Args:
        confidence (`np.ndarray` float `[N]`): Largest log-probability; `-inf` is rejected first.
        right (`np.ndarray` bool `[N]`): Whether the prediction is right.

    Returns:
        `tuple`: coverages and risks (at most 100 points, the last one at coverage 1), and the AURC over all N.
    """
    total = len(right)
    values, group = np.unique(-confidence, return_inverse=True)
    ends = np.cumsum(np.bincount(group, minlength=len(values)))
    errors = np.cumsum(np.bincount(group, weights=~right, minlength=len(values)))
    kept = np.arange(1, total + 1)
    risk = np.interp(kept, [0, *ends], [0, *errors]) / kept
    shown = np.unique(np.linspace(1, total, min(total, CURVE_POINTS)).round().astype(int))
    return (shown / total).tolist(), risk[shown - 1].tolist(), float(risk.mean())


def save_confusion_picture(metrics: dict[str, Any], path: str | Path) -> None:
    """Draws the confusion matrix of metrics.json, shares of each gold class in colour, counts in the cells."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = [*metrics["confusion"]["labels"], INVALID]
    matrix = np.array(metrics["confusion"]["matrix"])
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = float(np.clip(0.45 * len(labels) + 2, 4, 14))
    with plt.rc_context({"text.parse_math": False}):  # a class may be called "$5 or $10"
        figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        short = [label if len(label) <= 24 else label[:23] + "…" for label in labels]
        size = float(np.clip(300 / len(labels), 3, 9))
        axes.set_xticks(range(len(short)), short, rotation=60, ha="right", rotation_mode="anchor", fontsize=size)
        axes.set_yticks(range(len(short) - 1), short[:-1], fontsize=size)
        axes.set(xlabel="predicted", ylabel="gold", title=f"accuracy {metrics['accuracy']:.3f}, n = {metrics['n']}")
        for (i, j), count in np.ndenumerate(matrix) if len(labels) <= CELL_NUMBERS_UP_TO + 1 else ():
            shade = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(count), ha="center", va="center", fontsize=size, color=shade)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        plt.close(figure)


def _check(predictions: list[Prediction], names: Sequence[str], ids: Sequence[str] | None) -> None:
    assert predictions and names, "no predictions or no class names"
    seen = Counter(p["id"] for p in predictions)
    assert len(seen) == len(predictions), f"ids twice: {[i for i, count in seen.items() if count > 1][:3]}"
    if ids is not None:
        assert set(seen) == set(ids), f"ids that differ: {sorted(set(seen) ^ set(ids))[:3]}"
    for p in predictions:
        assert p["label"] in names, f"gold label {p['label']!r} of {p['id']!r} is not in {names}"


def _index(name: str | None, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)


def _logprobs(row: Prediction, names: Sequence[str]) -> np.ndarray:
    """Normalised log-probabilities `[C]`; from `logprobs` where they are, as a score may have been rounded to 0."""
    if not row["scores"]:
        return np.full(len(names), -np.log(len(names)))
    assert set(row["scores"]) == set(names), f"scores of {row['id']!r} do not name every class once"
    if row.get("logprobs"):
        values = log_softmax([row["logprobs"][name] for name in names])
    else:
        values = np.log(np.maximum([row["scores"][name] for name in names], np.finfo(float).tiny))
    assert np.isfinite(values).all(), f"scores of {row['id']!r} are not finite"
    return values


def _generated(predictions: list[Prediction], names: Sequence[str]) -> dict[str, float | None]:
    """Figures of the greedy answers; a row without one is invalid where other rows have one."""
    if all(p.get("generated") is None for p in predictions):
        return {"generated_accuracy": None, "generated_invalid_rate": None}
    right = [p.get("generated_label") == p["label"] for p in predictions]
    invalid = [p.get("generated_label") not in names for p in predictions]
    return {"generated_accuracy": float(np.mean(right)), "generated_invalid_rate": float(np.mean(invalid))}
