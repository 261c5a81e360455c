"""Base-to-novel: one figure of the accuracy on classes that were trained on and on classes that were not.

Input: predictions on both, per draw. Output: their harmonic mean with an interval.
"""

from typing import Any

import numpy as np

from rbft_trl.evidence.figures import BOTH, CLIPS_ONLY
from rbft_trl.evidence.intervals import estimate
from rbft_trl.evidence.metrics import harmonic_mean
from rbft_trl.evidence.outcomes import Outcomes, Prediction, from_predictions


def base_to_novel(base: list[list[Prediction]], novel: list[list[Prediction]]) -> dict[str, Any]:
    """[`harmonic`] from rows of predictions.jsonl, one list per draw, on base and on novel classes."""
    first, second = (
        from_predictions(draws, sorted({p["label"] for draw in draws for p in draw})) for draws in (base, novel)
    )
    return harmonic(first, second)


def harmonic(base: Outcomes, novel: Outcomes) -> dict[str, Any]:
    """Harmonic mean of the mean accuracies on base and novel classes, with a 95 % interval over draws and sources.

    The draws are shared, the clips are not. H = 2BN / (B + N) is linear where it matters: to first order its error is
    that of B · 2N²/(B+N)² + N · 2B²/(B+N)² (delta method), a mean over the clips of both sides.

    Returns:
        `dict`: `base`, `novel` and `harmonic_mean` (shares), `interval`, and `covers`.
    """
    b, n = float(base.right.mean()), float(novel.right.mean())
    mean, total = harmonic_mean(b, n), base.right.shape[1] + novel.right.shape[1]
    parts = []
    for outcomes, own, other in ((base, b, n), (novel, n, b)):
        weight = 2 * other**2 / (b + n) ** 2 if b + n else 0.0
        parts.append((outcomes.right - own) * weight * total / outcomes.right.shape[1] + mean)
    groups = np.concatenate([base.groups, novel.groups + base.groups.max() + 1])
    low, high = np.clip(estimate(np.concatenate(parts, axis=1), groups).interval(), 0, 1)
    covers = BOTH if len(base.said) > 1 else CLIPS_ONLY
    figures = {"base": b, "novel": n, "harmonic_mean": mean}
    return figures | {"interval": [float(low), float(high)], "covers": covers}
