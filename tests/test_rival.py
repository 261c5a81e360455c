"""What a difference is against: a reference that surely beats direct SFT is told of; other steps are said."""

from typing import Any

import numpy as np
import pytest

from rbft_trl.evidence.conclusion import conclude, stronger_rival, verdict
from rbft_trl.evidence.stats import summarise
from tests.test_conclusion import SAME, WORSE, content, is_one_sentence, oracle, pair

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


def test_a_gain_on_weak_direct_sft_is_told_with_what_does_better() -> None:
    found = summarise(comparison({"direct": 50, "rbft": 70, "direct_short": 70, "oracle": 90}), names=NAMES)
    assert found["verdict"]["better"] == ["rbft"] and found["verdict"]["oracle"] == "sees"
    assert found["verdict"]["rival"] == {"arm": "direct_short", "beaten_by": []}
    assert [(p["arm"], p["baseline"], p["family"]) for p in found["pairs"]][-1] == ("rbft", "direct_short", "rival")
    said = found["sentence"]
    assert said.startswith("RB-FT is better than step-matched direct SFT by ") and is_one_sentence(said)
    assert (
        "; the reference direct_short too, with 0.5 times the optimiser steps of direct SFT, is better than direct SFT"
        in said
    )
    assert ", and that RB-FT is better than that one cannot be shown (" in said


def test_a_gain_on_what_does_better_is_told_as_one() -> None:
    found = summarise(comparison({"direct": 40, "rbft": 80, "probe": 60, "oracle": 90, "shuffled": 60}), names=NAMES)
    assert found["verdict"]["better"] == ["rbft"]
    assert found["verdict"]["rival"] == {"arm": "probe", "beaten_by": ["rbft"]}
    assert "; the reference probe too is better than direct SFT by" in found["sentence"]
    assert ", and RB-FT is better than that one (+" in found["sentence"]


def test_without_a_gain_the_better_reference_is_told_and_nothing_of_true_rationales_changes() -> None:
    """A test against the reference would say "cannot help" where true rationales surely gain on direct SFT."""
    found = summarise(comparison({"direct": 50, "rbft": 50, "probe": 62, "oracle": 62}), names=NAMES)
    assert found["verdict"]["oracle"] == "sees" and found["verdict"]["better"] == []
    assert "; the reference probe is better than direct SFT by" in found["sentence"]
    assert "the comparison can see: oracle rationales gain" in found["sentence"]
    assert "cannot help" not in found["sentence"] and "worse" not in found["sentence"]


def test_a_reference_on_other_draws_takes_none_from_the_others() -> None:
    made = comparison({"direct": 50, "rbft": 60, "oracle": 62, "probe": 95}, draws=10)
    made["arms"]["probe"]["draws"] = made["arms"]["probe"]["draws"][:5]
    made["arms"]["star"] = {"role": None, "draws": made["arms"]["rbft"]["draws"][5:]}
    found = summarise(made, names=NAMES)
    assert found["verdict"]["oracle"] == "sees" and "RB-FT" in found["sentence"].partition(" points")[0]
    assert {pair["arm"] for pair in found["pairs"] if pair["family"] == "rival"} == {"rbft"}, "star shares no draw"
    assert "100 clips, 5 draws" in found["sentence"]
    alone = summarise(made | {"arms": {a: e for a, e in made["arms"].items() if a != "probe"}}, names=NAMES)
    assert found["sentence"].startswith(alone["sentence"].partition(";")[0])


def test_the_best_of_few_draws_is_not_what_could_not_be_seen() -> None:
    """Two draws have wide intervals and luck: nothing of the comparison is told by them."""
    pairs = [pair("star", 2.1, size=2, num_draws=2, smallest_detectable={"points": 652.3})]
    pairs.append(pair("rbft", SAME, size=2, num_draws=9))
    said = conclude(pairs)
    assert said.startswith("None of 2 arms can be shown to be better than step-matched direct SFT (RB-FT: +0.6")
    assert "; differences under 2.9 points were invisible here" in said and "no difference of any size" not in said


@pytest.mark.parametrize("short", [30, 51])
def test_a_rival_that_is_not_surely_stronger_changes_nothing(short: int) -> None:
    arms = {"direct": 50, "rbft": 70, "oracle": 90}
    alone = summarise(comparison(arms), names=NAMES)
    beside = summarise(comparison(arms | {"direct_short": short}), names=NAMES)
    assert beside["verdict"]["rival"] is None and beside["sentence"] == alone["sentence"]


def test_a_treatment_that_is_better_is_no_rival() -> None:
    pairs = summarise(comparison({"direct": 50, "rbft": 70, "oracle": 90}), names=NAMES)["pairs"]
    assert stronger_rival(pairs) is None


def test_other_steps_of_the_controls_are_said() -> None:
    half = [oracle(9.1, steps_ratio=0.5), content(SAME) | {"steps_ratio": 2.0}]
    said = conclude([pair("rbft", SAME, steps_ratio=1.0), *half])
    assert (
        "oracle rationales gain 9.1 points, 95 % interval 7.1 to 11.1, with 0.5 times the optimiser steps of direct"
        in said
    )
    assert (
        "RB-FT against shuffled +0.6 points, 95 % interval -1.4 to 2.6, with 2 times the optimiser steps of shuffled)"
        in said
    )
    assert is_one_sentence(said)


@pytest.mark.parametrize("num_draws", [1, 4])
def test_of_few_draws_nothing_is_claimed(num_draws: int) -> None:
    """One draw beside ten of other arms called the negative control's `definition` the best of 13 arms, and true texts
    of `oracle_guideline` a gain."""
    few: dict[str, Any] = {"num_draws": num_draws, "covers": "clips only" if num_draws == 1 else "clips and draws"}
    star, true = pair("star", 9.0, size=2, **few), oracle(9.1, **few)
    probe = pair("probe", 9.0, family="references", **few)
    found = verdict([star, pair("rbft", SAME, size=2), true, probe, content(WORSE) | few])
    assert found == {"better": [], "worse": [], "oracle": "unsure", "content": 0, "rival": None}
    said = conclude([star, true, probe])
    assert said.startswith("No difference between star and") and "; of fewer than 5 draws no difference of" in said
    assert "whether true rationales help cannot be told here (+9.1 points" in said
    assert conclude([star, pair("rbft", SAME, size=2)]).startswith("None of 2 arms can be shown to be better")
    longer = conclude([pair("rbft", SAME), oracle(9.1, arm="oracle_guideline", **few), oracle(1.4)])
    assert "; even true rationales do not clearly help here (+1.4 points" in longer, "of the oracle on most draws"
