"""What a difference is against: a reference that surely beats direct SFT takes its place; other steps are said."""

from typing import Any

import numpy as np
import pytest

from rbft_trl.evidence.conclusion import conclude, stronger_rival
from rbft_trl.evidence.stats import summarise
from tests.test_conclusion import SAME, content, is_one_sentence, oracle, pair

NAMES = ["a", "b"]
STEPS = {"direct": 40, "rbft": 40, "direct_short": 20, "oracle": 40, "shuffled": 40}
ROLES = {"direct_short": "reference", "probe": "reference", "oracle": "oracle", "shuffled": "control"}


def comparison(right: dict[str, int], *, draws: int = 5) -> dict[str, Any]:
    """Arms that are right on so many of 100 clips of 50 sources, other clips in each draw."""
    rng, arms = np.random.default_rng(0), {}
    for arm, count in right.items():
        said = np.ones((draws, 100), int)
        for row in said:
            row[rng.permutation(100)[: count + rng.integers(-1, 2)]] = 0
        cells = [{"draw": i, "said": row.tolist(), "steps": STEPS.get(arm)} for i, row in enumerate(said)]
        gold = {"confusion": {"labels": NAMES}, "chance": 0.5, "majority": 1.0, "n": 100}
        arms[arm] = {"role": ROLES.get(arm), "draws": [cell | {"metrics": gold} for cell in cells]}
    clips = {
        "ids": [f"c{i:03}" for i in range(100)],
        "labels": ["a"] * 100,
        "groups": [str(i // 2) for i in range(100)],
    }
    return {"arms": arms, "clips": clips}


def test_a_gain_on_a_weak_rival_is_no_gain() -> None:
    found = summarise(comparison({"direct": 50, "rbft": 70, "direct_short": 70, "oracle": 90}), names=NAMES)
    to_direct = {pair["arm"]: pair["difference"] for pair in found["pairs"] if pair["baseline"] == "direct"}
    assert to_direct["rbft"] > 15 and found["pairs"][0]["p_corrected"] < 0.01, "it is better than the weak one"
    assert found["verdict"]["better"] == [] and found["verdict"]["oracle"] == "sees"
    assert found["rival"]["arm"] == "direct_short"
    assert [(p["arm"], p["baseline"]) for p in found["rival"]["pairs"]] == [
        ("rbft", "direct_short"), ("oracle", "direct_short"),
    ]  # fmt: skip
    said = found["sentence"]
    assert said.startswith(
        "Step-matched direct SFT is not the strongest rival here, the arm direct_short is better by"
    )
    assert (
        ", so arms are compared with direct_short: no difference between RB-FT and direct_short, with 2 times its"
        in said
    )
    assert is_one_sentence(said)


def test_a_gain_on_the_stronger_rival_is_told_as_one() -> None:
    found = summarise(comparison({"direct": 40, "rbft": 80, "probe": 60, "oracle": 90, "shuffled": 60}), names=NAMES)
    assert found["rival"]["arm"] == "probe" and found["verdict"]["better"] == ["rbft"]
    assert "so arms are compared with probe: RB-FT is better than probe by" in found["sentence"]
    assert "step-matched" not in found["sentence"].removeprefix("Step-matched direct SFT is not")
    share = found["rival"]["pairs"][0]["share"]["share"]
    assert share == pytest.approx(20 / 30, abs=0.1), "of what the oracle gains on the same rival"


@pytest.mark.parametrize("short", [30, 51])
def test_a_rival_that_is_not_surely_stronger_changes_nothing(short: int) -> None:
    arms = {"direct": 50, "rbft": 70, "oracle": 90}
    alone = summarise(comparison(arms), names=NAMES)
    beside = summarise(comparison(arms | {"direct_short": short}), names=NAMES)
    assert "rival" not in beside and beside["sentence"] == alone["sentence"]


def test_a_treatment_that_is_better_is_no_rival() -> None:
    pairs = summarise(comparison({"direct": 50, "rbft": 70, "oracle": 90}), names=NAMES)["pairs"]
    assert stronger_rival(pairs) is None


def test_other_steps_of_the_controls_are_said() -> None:
    half = [oracle(9.1, steps_ratio=0.5), content(SAME) | {"steps_ratio": 2.0}]
    said = conclude([pair("rbft", SAME, steps_ratio=1.0), *half])
    assert "oracle rationales gain 9.1 points, 95 % interval 7.1 to 11.1, with 0.5 times the optimiser steps;" in said
    assert "RB-FT against shuffled +0.6 points, 95 % interval -1.4 to 2.6, with 2 times the optimiser steps)" in said
    assert is_one_sentence(said)
