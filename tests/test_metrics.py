"""Metrics against hand-computed answers, scikit-learn and SciPy, and the metric module loaded offline."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, top_k_accuracy_score

from rbft_trl.evidence import label_metrics
from rbft_trl.evidence.metrics import compute_metrics, risk_coverage, save_confusion_picture, wilson_interval

NAMES = ["a", "b", "c"]


def prediction(clip: str, gold: str, scores: list[float] | None, **more: Any) -> dict[str, Any]:
    by_name = dict(zip(NAMES, scores, strict=True)) if scores else {}
    said = max(by_name, key=by_name.__getitem__) if by_name else None
    logprobs = {name: math.log(p) - 7.0 for name, p in by_name.items()}  # unnormalised, as a scorer gives them
    error = None if scores else "clip unreadable"
    known = {"id": clip, "video": f"{clip}.mp4", "group": clip, "label": gold, "prediction": said, "scores": by_name}
    return (
        known | {"logprobs": logprobs, "generated": None, "generated_label": None, "error": error, "seconds": 1} | more
    )


ROWS = [
    prediction("1", "a", [0.7, 0.2, 0.1], seconds=2.0),
    prediction("2", "a", [0.1, 0.6, 0.3], seconds=4.0),
    prediction("3", "b", [0.2, 0.5, 0.3], seconds=3.0),
    prediction("4", "b", None, seconds=9.0),
]


def test_figures_computed_by_hand() -> None:
    got = compute_metrics(ROWS, NAMES)
    assert got["n"] == 4
    assert got["accuracy"] == 0.5
    assert got["confusion"] == {"labels": NAMES, "matrix": [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]}
    assert got["per_class"]["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert got["per_class"]["b"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert got["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert got["macro_f1"] == pytest.approx((2 / 3 + 0.5 + 0) / 3)
    assert got["invalid_rate"] == 0.25
    assert got["brier"] == pytest.approx((0.14 + 1.26 + 0.38 + 2 / 3) / 4)
    assert got["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.1) + math.log(0.5) + math.log(1 / 3)) / 4)
    assert np.allclose(got["risk_coverage"], [[0.25, 0], [0.5, 0.5], [0.75, 1 / 3], [1, 0.5]])
    assert got["aurc"] == pytest.approx((0 + 0.5 + 1 / 3 + 0.5) / 4)
    assert got["top_k"] == {"2": 0.5, "3": 0.75}
    assert (got["chance"], got["majority"], got["seconds_per_clip"]) == (pytest.approx(1 / 3), 0.5, 3.5)
    assert got["generated_accuracy"] is None and got["generated_invalid_rate"] is None


def test_generated_answers_are_counted_over_all_rows() -> None:
    rows = [r | {"generated": "x", "generated_label": r["label"]} for r in ROWS[:2]]
    rows += [ROWS[2] | {"generated": "a or b", "generated_label": None}, ROWS[3]]
    got = compute_metrics(rows, NAMES)
    assert (got["generated_accuracy"], got["generated_invalid_rate"]) == (0.5, 0.5)


def test_wilson_interval_of_the_published_figure_and_of_scipy() -> None:
    assert np.allclose(wilson_interval(162, 196), [0.767, 0.873], atol=5e-4)
    for right, total in [(0, 1), (1, 1), (0, 196), (196, 196), (3, 7)]:
        z, p = 1.959963984540054, right / total
        centre, spread = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
        by_hand = [(centre - spread) / (1 + z * z / total), (centre + spread) / (1 + z * z / total)]
        assert np.allclose(wilson_interval(right, total), by_hand, atol=1e-9)
        scipy_says = binomtest(right, total).proportion_ci(method="wilson")
        assert wilson_interval(right, total) == [scipy_says.low, scipy_says.high]


def test_agrees_with_scikit_learn_on_random_predictions() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 200)
    gold = rng.integers(0, 3, 200)
    rows = [prediction(str(i), NAMES[g], list(s)) for i, (g, s) in enumerate(zip(gold, scores, strict=True))]
    got, said = compute_metrics(rows, NAMES), scores.argmax(1)
    assert got["accuracy"] == pytest.approx(accuracy_score(gold, said))
    assert got["macro_f1"] == pytest.approx(f1_score(gold, said, average="macro"))
    assert got["nll"] == pytest.approx(log_loss(gold, scores))
    assert got["brier"] == pytest.approx(brier_score_loss(gold, scores, scale_by_half=False))
    assert got["top_k"]["2"] == pytest.approx(top_k_accuracy_score(gold, scores, k=2))
    assert len(got["risk_coverage"]) == 100
    assert got["risk_coverage"][-1] == [1.0, pytest.approx(1 - got["accuracy"])]


def test_order_of_rows_is_no_matter_also_with_ties() -> None:
    rows = [prediction(str(i), "a", [0.6, 0.3, 0.1] if i % 3 else [0.3, 0.6, 0.1]) for i in range(30)]
    shuffled = random.Random(1).sample(rows, len(rows))
    ours, theirs = compute_metrics(rows, NAMES), compute_metrics(shuffled, NAMES)
    assert ours["risk_coverage"] == theirs["risk_coverage"] and ours["aurc"] == theirs["aurc"]
    assert ours["confusion"] == theirs["confusion"] and ours["nll"] == pytest.approx(theirs["nll"])
    _, risk, aurc = risk_coverage(np.zeros(4), np.array([False, True, True, True]))
    assert np.allclose(risk, 0.25) and aurc == pytest.approx(0.25)


def test_a_score_that_was_rounded_to_zero_has_a_finite_likelihood() -> None:
    row = ROWS[0] | {"scores": {"a": 1.0, "b": 0.0, "c": 0.0}, "logprobs": {"a": 0.0, "b": -900.0, "c": -950.0}}
    assert compute_metrics([row | {"label": "b"}], NAMES)["nll"] == pytest.approx(900.0)
    assert compute_metrics([row | {"label": "b", "logprobs": {}}], NAMES)["nll"] > 700


def test_every_clip_unreadable_is_all_wrong() -> None:
    got = compute_metrics([ROWS[3]], NAMES)
    assert (got["accuracy"], got["invalid_rate"], got["top_k"]["3"]) == (0.0, 1.0, 0.0)


def test_an_invalid_prediction_is_rejected_first_whatever_its_scores() -> None:
    sure = prediction("9", "a", [0.98, 0.01, 0.01]) | {"prediction": None}
    got = compute_metrics([ROWS[0], sure], NAMES)
    assert got["risk_coverage"] == [[0.5, 0.0], [1.0, 0.5]]


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        ([], None),
        ([ROWS[0], ROWS[0]], None),
        (ROWS, ["1", "2", "3", "4", "5"]),
        (ROWS, ["1", "2", "3"]),
        ([ROWS[0] | {"label": "other"}], None),
        ([ROWS[0] | {"scores": {"a": 1.0}}], None),
        ([ROWS[0] | {"logprobs": {"a": math.nan, "b": 0.0, "c": 0.0}}], None),
    ],
)
def test_broken_predictions_are_our_own_error(rows: list[dict[str, Any]], ids: list[str] | None) -> None:
    with pytest.raises(AssertionError):
        compute_metrics(rows, NAMES, ids=ids)


def test_confusion_picture_of_odd_names(tmp_path: Path) -> None:
    names = ["$5 or $10", "<b>", "a" * 80]
    rows = [prediction("1", "a", None) | {"label": names[0], "prediction": names[2]}]
    save_confusion_picture(compute_metrics(rows, names), tmp_path / "new" / "confusion.png")
    with Image.open(tmp_path / "new" / "confusion.png") as picture:
        assert min(picture.size) > 300 and len(picture.convert("L").getcolors()) > 10


def test_metric_module_loads_offline_and_gives_the_same_figures(tmp_path: Path) -> None:
    folder = Path(next(iter(label_metrics.__path__)))
    code = (
        "import evaluate, json, sys\n"
        "metric = evaluate.load(sys.argv[1])\n"
        "given = dict(predictions=['a', 'b', 'b', ''], references=['a', 'a', 'b', 'b'], names=['a', 'b', 'c'])\n"
        "scores = [[.7, .2, .1], [.1, .6, .3], [.2, .5, .3], []]\n"
        "print(json.dumps([metric.compute(**given, scores=scores), metric.compute(**given)]))\n"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(folder.parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | offline, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with_scores, without = json.loads(done.stdout.splitlines()[-1])
    expected = compute_metrics(ROWS, NAMES)
    assert with_scores.keys() == expected.keys() - {"generated_accuracy", "generated_invalid_rate", "seconds_per_clip"}
    for key in ("accuracy", "macro_f1", "brier", "nll", "aurc", "invalid_rate"):
        assert with_scores[key] == pytest.approx(expected[key])
    assert without["accuracy"] == 0.5 and "brier" not in without
