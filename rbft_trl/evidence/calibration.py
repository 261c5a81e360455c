"""How sure a score is: a temperature fitted on validation clips, and the threshold for a wanted precision.

Input: predictions of validation clips. Output: calibration.json beside the checkpoint; rbft_trl/predict.py reads it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from rbft_trl.errors import UserError
from rbft_trl.evidence.metrics import brier, risk_coverage

CALIBRATION_FILE = "calibration.json"
FEWEST_CLIPS = 30
FEWEST_ABOVE = 10  # a precision of fewer clips says little


def fit_temperature(logprobs: np.ndarray, gold: np.ndarray) -> float:
    """The temperature that makes the gold labels likeliest (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logprobs (`np.ndarray` float64 `[N, C]`): Scores of the labels.
        gold (`np.ndarray` int64 `[N]`): Class indices.

    Returns:
        `float`: between 0.05 and 20; above 1 if the model is too sure.
    """

    def loss(log_temperature: float) -> float:
        return -log_softmax(logprobs / np.exp(log_temperature), axis=1)[np.arange(len(gold)), gold].mean()

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def calibrate(predictions: Sequence[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Temperature, Brier score, log-likelihood and risk-coverage before and after, and how sure each clip was.

    Args:
        predictions (`Sequence[dict]`): Rows of predictions.jsonl of validation clips; unreadable ones are left out.
        names (`list[str]`): Every class, in the order of the card.

    Raises:
        UserError: if there are too few clips to fit anything.
    """
    rows = [row for row in predictions if row["logprobs"]]
    if len(rows) < FEWEST_CLIPS:
        raise UserError(f"{len(rows)} validation clips are too few to calibrate on; use at least {FEWEST_CLIPS}")
    logprobs = np.array([[row["logprobs"][name] for name in names] for row in rows])
    gold = np.array([names.index(row["label"]) for row in rows])
    temperature = fit_temperature(logprobs, gold)
    figures = {}
    for when, scale in (("before", 1.0), ("after", temperature)):
        scaled = log_softmax(logprobs / scale, axis=1)
        coverage, risk, aurc = risk_coverage(scaled.max(1), scaled.argmax(1) == gold)
        figures[when] = {
            "brier": brier(scaled, gold),
            "nll": float(-scaled[np.arange(len(gold)), gold].mean()),
            "aurc": aurc,
            "risk_coverage": [list(pair) for pair in zip(coverage, risk, strict=True)],
        }
    sure = np.exp(log_softmax(logprobs / temperature, axis=1)).max(1)
    right = logprobs.argmax(1) == gold
    order = np.argsort(-sure, kind="stable")
    return {
        "temperature": temperature,
        "n": len(rows),
        **figures,
        "confidence": [float(sure[i]) for i in order],
        "right": [bool(right[i]) for i in order],
    }


def threshold_for(precision: float, calibration: dict[str, Any]) -> tuple[float, int, int]:
    """The lowest confidence above which the validation clips were right as often as wanted.

    Returns:
        `tuple`: the threshold, the clips above it, and how many of them were right; at least 10 clips must be above.

    Raises:
        UserError: if no threshold reaches it; says the best that is reached.
    """
    right, confidence = np.array(calibration["right"]), np.array(calibration["confidence"])
    reached = np.cumsum(right) / np.arange(1, len(right) + 1)
    # A threshold takes all clips of equal confidence: only the last of them is a place to cut.
    last = np.append(confidence[1:] < confidence[:-1], True)
    enough = np.arange(1, len(right) + 1) >= min(FEWEST_ABOVE, len(right))
    fits = np.flatnonzero((reached >= precision) & last & enough)
    if not len(fits):
        best = reached[last & enough].max()
        raise UserError(
            f"a precision of {precision:g} is reached at no threshold on the {len(right)} validation clips; the best "
            f"with {FEWEST_ABOVE} clips or more is {best:.3f}, so ask for less"
        )
    above = int(fits[-1]) + 1
    return float(confidence[above - 1]), above, int(right[:above].sum())
