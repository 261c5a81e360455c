"""Calibration: the fitted temperature is the true one, and a threshold keeps the precision that it promises."""

import numpy as np
import pytest
from scipy.special import softmax

from rbft_trl.errors import UserError
from rbft_trl.evidence.calibration import calibrate, fit_temperature, threshold_for

NAMES = ["a", "b", "c"]


def drawn(temperature: float, clips: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities that are `temperature` times too sure, and labels drawn from the true ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (clips, 3))
    gold = np.array([rng.choice(3, p=p) for p in softmax(logits, axis=1)])
    return logits * temperature, gold


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_true_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.07)


def rows(temperature: float, clips: int = 4000) -> list[dict]:
    logprobs, gold = drawn(temperature, clips)
    return [
        {"logprobs": dict(zip(NAMES, row, strict=True)), "label": NAMES[i]}
        for row, i in zip(logprobs.tolist(), gold, strict=True)
    ]


def test_calibration_mends_the_scores_and_keeps_the_order() -> None:
    found = calibrate([*rows(3.0), {"logprobs": {}, "label": "a"}], NAMES)
    assert found["n"] == 4000 and found["after"]["brier"] < found["before"]["brier"]
    assert found["after"]["nll"] < found["before"]["nll"]
    assert found["confidence"] == sorted(found["confidence"], reverse=True)
    assert np.mean(found["right"]) == pytest.approx(np.mean(found["confidence"]), abs=0.02)


def test_a_threshold_keeps_its_precision() -> None:
    found = calibrate(rows(1.0), NAMES)
    threshold, above, right = threshold_for(0.9, found)
    kept = [right for right, sure in zip(found["right"], found["confidence"], strict=True) if sure >= threshold]
    assert np.mean(kept) >= 0.9 and (len(kept), sum(kept)) == (above, right)
    lower = threshold_for(0.8, found)
    assert lower[0] < threshold and lower[1] > above


def test_equal_confidences_are_cut_together() -> None:
    found = {"confidence": [0.9] * 10 + [0.6] * 20, "right": [True] * 20 + [False] * 10}
    assert threshold_for(0.9, found) == (0.9, 10, 10)


def test_a_precision_of_a_few_clips_is_not_taken() -> None:
    found = {"confidence": [0.99, 0.98] + [0.5] * 38, "right": [True] * 2 + [False, True] * 19}
    with pytest.raises(UserError, match=r"is reached at no threshold .* with 10 clips or more is 0\.525"):
        threshold_for(0.9, found)


def test_what_cannot_be_reached_is_told() -> None:
    with pytest.raises(UserError, match=r"a precision of 0\.9 is reached at no .* with 10 clips or more is 0\.500"):
        threshold_for(0.9, {"confidence": [0.9, 0.8], "right": [False, True]})
    with pytest.raises(UserError, match=r"3 validation clips are too few to calibrate on"):
        calibrate(rows(1.0, 3), NAMES)
