"""Clips to look at: the right ones, each once, and their place in the report."""

import random
from typing import Any

import numpy as np

from rbft_trl.evidence.mistakes import choose
from rbft_trl.evidence.report import mistake_view

NAMES = ["a", "b", "c"]


def prediction(number: int, gold: str, said: str, score: float) -> dict[str, Any]:
    rest = (1 - score) / 2
    return {"id": f"{number:03}", "label": gold, "prediction": said,
            "scores": {name: score if name == said else rest for name in NAMES}}  # fmt: skip


def test_the_most_confident_mistakes_come_first() -> None:
    rows = [prediction(i, "a", "b", 0.5 + i / 100) for i in range(30)] + [prediction(40, "a", "a", 0.99)]
    rows += [prediction(50 + i, "c", "b", 0.45) for i in range(5)] + [prediction(60, "b", "b", 0.36)]
    random.Random(0).shuffle(rows)
    chosen = choose(rows)
    assert [row["id"] for row in chosen[:8]] == [f"{i:03}" for i in range(29, 21, -1)]
    assert [row["id"] for row in chosen[8:12]] == ["021", "020", "050", "051"]
    assert chosen[8]["why"] == "one of 30 clips of a taken for b" and chosen[10]["why"].startswith("one of 5")
    assert chosen[12]["id"] == "060" and chosen[12]["why"] == "abstained at 80% coverage"
    assert len({row["id"] for row in chosen}) == len(chosen) == 16
    assert chosen[0]["scores"][0] == ("b", 0.79) and len(chosen[0]["scores"]) == 3


def test_few_or_no_mistakes_are_no_problem() -> None:
    unread = prediction(0, "a", "b", 0.9) | {"prediction": None, "scores": {}, "error": "cut off"}
    sure, bad = choose([unread, prediction(1, "a", "a", 0.9)])
    assert sure["id"] == "001" and sure["why"].startswith("abstained")
    assert bad["id"] == "000" and bad["why"] == "cut off" and bad["scores"] == []
    assert mistake_view(bad | {"frames": None, "text": "", "concludes": None})["png"] is None


def test_agreement_of_text_and_decision_is_told() -> None:
    clip = {"id": "1", "label": "a", "prediction": "b", "why": "w", "text": "t", "scores": [("b", 0.5)],
            "frames": np.zeros((2, 28, 28, 3), np.uint8)}  # fmt: skip
    assert mistake_view(clip | {"concludes": "b"})["agrees"] and not mistake_view(clip | {"concludes": None})["agrees"]
    assert not mistake_view(clip | {"concludes": "b", "text": ""})["agrees"], "a class name alone is no rationale"
