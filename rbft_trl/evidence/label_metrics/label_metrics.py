"""A metric module for `evaluate.load(<this folder>)`: no Hub, the same figures as metrics.json.

Input: predicted and gold class names (and scores). Output: the dictionary of `rbft_trl.evidence.metrics`.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from rbft_trl.evidence.metrics import compute_metrics

DESCRIPTION = "Accuracy with its Wilson interval, macro-F1, confusion matrix, Brier score, risk-coverage, top-k."
INPUTS = """
Args:
    predictions (`list[str]`): Predicted class names; any other text (such as "") is an invalid answer, hence wrong.
    references (`list[str]`): Gold class names.
    names (`list[str]`): Every class, in the order of `scores`.
    scores (`list[list[float]]`, *optional*): Probability per class; without them Brier score, log-likelihood,
        risk-coverage and top-k are left out.
"""
FROM_SCORES = ("brier", "nll", "risk_coverage", "aurc", "top_k")
NOT_GIVEN = ("generated_accuracy", "generated_invalid_rate", "seconds_per_clip")


class LabelMetrics(evaluate.Metric):
    """Hands lists of names to `compute_metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        names: Sequence[str],
        scores: Sequence[Sequence[float]] | None = None,
    ) -> dict[str, Any]:
        given = scores if scores is not None else [()] * len(references)
        rows = [
            {
                "id": i,
                "label": gold,
                "prediction": said,
                "scores": dict(zip(names, row, strict=bool(row))),
                "seconds": 0,
            }
            for i, (said, gold, row) in enumerate(zip(predictions, references, given, strict=True))
        ]
        left_out = NOT_GIVEN if scores is not None else NOT_GIVEN + FROM_SCORES
        return {key: value for key, value in compute_metrics(rows, list(names)).items() if key not in left_out}
