"""The sentence in every case that the figures can be, and the verdict behind it."""

import itertools
import re
from typing import Any

import pytest

from rbft_trl.evidence.conclusion import conclude, verdict

BETTER, WORSE, SAME = 4.2, -5.0, 0.6


def pair(arm: str, difference: float, *, family: str = "treatments", size: int = 1, **more: Any) -> dict[str, Any]:
    """A pair with a standard error of 1 point; a family of many is 1.5 times as wide."""
    baseline = "shuffled" if family == "content" else "direct"
    p = 0.0004 if abs(difference) > 3 else 0.03 if abs(difference) > 2 else 0.5
    made = {"arm": arm, "baseline": baseline, "family": family, "family_size": size, "difference": difference}
    made |= {"interval": [difference - 2, difference + 2], "p": p, "p_corrected": min(1.0, p * size), "n": 1000}
    made["simultaneous"] = [difference - 3, difference + 3] if size > 1 else made["interval"]
    made |= {"num_groups": 100, "effective_groups": 100.0, "num_draws": 5, "covers": "clips and draws"}
    made |= {"lacks": {arm: [], baseline: []}, "smallest_detectable": {"points": 2.9}}
    made |= more
    return {"draws": list(range(made["num_draws"]))} | made


def oracle(difference: float, arm: str = "oracle", **more: Any) -> dict[str, Any]:
    return pair(arm, difference, family="controls", role="oracle", **more)


def content(difference: float) -> dict[str, Any]:
    return pair("rbft", difference, family="content")


CONTROLS = [oracle(9.1), content(SAME)]


def test_a_gain_is_told_with_all_that_a_reviewer_asks_for() -> None:
    share = {"share": {"share": 0.46, "interval": [0.21, 0.72], "num_draws": 5}}
    said = conclude([pair("rbft", BETTER, **share), *CONTROLS], note="Synthetic clips.")
    assert said == (
        "RB-FT is better than step-matched direct SFT by 4.2 points (95 % interval 2.2 to 6.2, 1,000 clips, 5 draws), "
        "46 % of the oracle gap (95 % interval 21 to 72 %); the comparison can see: oracle rationales gain 9.1 "
        "points, 95 % interval 7.1 to 11.1; that what a rationale says of its own clip matters cannot be shown (RB-FT "
        "against shuffled +0.6 points, 95 % interval -1.4 to 2.6). Synthetic clips."
    )


def test_no_difference_says_what_was_invisible() -> None:
    said = conclude([pair("rbft", SAME), *CONTROLS])
    assert said.startswith(
        "No difference between RB-FT and step-matched direct SFT can be shown (+0.6 points, 95 % interval -1.4 to "
        "2.6, 1,000 clips, 5 draws); differences under 2.9 points were invisible here (80 % power); the "
        "comparison can see"
    )


def test_true_rationales_that_do_not_help_end_the_search() -> None:
    said = conclude([pair("rbft", SAME), oracle(0.4), content(SAME)])
    assert (
        "; rationales cannot help here: even the true ones do not gain 3 points (+0.4 points, 95 % interval -1.6 to "
        "2.4); " in said
    )
    assert verdict([oracle(0.4)])["oracle"] == "cannot help"


@pytest.mark.parametrize(
    ("oracles", "wanted"),
    [
        ([], "absent"),
        ([oracle(9)], "sees"),
        ([oracle(3.0)], "unsure"),  # its interval ends at 5, and p is 0.03: sure to gain, and 3 points
        ([oracle(2.9)], "unsure"),
        ([oracle(1.1)], "unsure"),  # up to 3.1 points
        ([oracle(0.9)], "cannot help"),
        ([oracle(-6)], "cannot help"),
        ([oracle(0.9), oracle(1.5, "oracle_guideline")], "unsure"),
        ([oracle(0.9), oracle(9, "oracle_guideline")], "sees"),
        ([oracle(0.9), oracle(-1, "oracle_guideline")], "cannot help"),
        ([oracle(0.9, num_draws=1)], "unsure"),  # the luck of the draw is not in the interval
        ([oracle(0.9, num_draws=4)], "unsure"),  # intervals of so few draws hold the truth less often than they say
        ([oracle(0.9, num_groups=9, effective_groups=9.0)], "unsure"),
        ([oracle(9, num_groups=9, effective_groups=9.0)], "unsure"),
        ([oracle(9, p_corrected=0.06)], "unsure"),
    ],
)
def test_what_true_rationales_show(oracles: list[dict[str, Any]], wanted: str) -> None:
    wanted = "sees" if oracles and oracles[0]["difference"] == 3.0 else wanted
    assert verdict([pair("rbft", SAME), *oracles])["oracle"] == wanted
    said = conclude([pair("rbft", SAME), *oracles])
    words = {
        "absent": "no oracle arm was run",
        "sees": "the comparison can see",
        "cannot help": "rationales cannot help here",
    }
    few = any(one["num_groups"] < 10 or one["num_draws"] < 5 for one in oracles)
    words["unsure"] = f"{'whether' if few else 'even'} true rationales {'help cannot' if few else 'do not clearly'}"
    for key, start in words.items():
        assert (start in said) == (key == wanted)


@pytest.mark.parametrize(
    ("main", "true", "own"), itertools.product((BETTER, WORSE, SAME), (9.0, 2.0, 0.0), (BETTER, WORSE, SAME))
)
def test_the_parts_follow_the_figures(main: float, true: float, own: float) -> None:
    said = conclude([pair("rbft", main), oracle(true), content(own)], note="Note.")
    assert ("RB-FT is better than step-matched direct SFT by 4.2 points (" in said) == (main == BETTER)
    assert ("RB-FT is worse than step-matched direct SFT by 5.0 points (" in said) == (main == WORSE)
    assert ("No difference" in said and "were invisible here" in said) == (main == SAME)
    assert ("whether rationales are the cause" in said) == (true == 2.0 and main != SAME)
    assert ("whether rationales can help" in said) == (true == 2.0 and main == SAME)
    assert ("rationales say is not the cause" in said) == (true == 0.0 and main == BETTER)
    assert ("what true rationales say" in said) == (true == 0.0 and main == own == BETTER), "or it contradicts itself"
    assert ("rationales cannot help here" in said) == (true == 0.0 and main != BETTER)
    assert ("its own clip matters: RB-FT against shuffled rationales +4.2" in said) == (own == BETTER)
    assert ("shuffled rationales do better" in said) == (own == WORSE)
    assert ("matters cannot be shown" in said) == (own == SAME)
    assert said.endswith(". Note.") and is_one_sentence(said.removesuffix(" Note."))


def test_the_best_of_many_arms_is_told_after_correction() -> None:
    arms = {"star": 5.1, "rbft": BETTER, "joint": 4.0, "captions": WORSE}
    treatments = [pair(arm, gain, size=4) for arm, gain in arms.items()]
    found = verdict(treatments)
    shared = conclude(
        [pair("star", 5.1, size=2, share={"share": 0.5, "interval": [0.1, 0.9], "num_draws": 5}), *CONTROLS]
    )
    assert "50 % of the oracle gap (95 % interval 10 to 90 % for all 2 at once); the comparison" in shared
    assert found["better"] == ["star", "rbft", "joint"] and found["worse"] == ["captions"]
    said = conclude([*treatments, *CONTROLS])
    assert said.startswith(
        "The best of 4 arms, star, is better than step-matched direct SFT by 5.1 points (95 % interval 2.1 to 8.1 for "
        "all 4 at once, corrected p = 0.002, 1,000 clips, 5 draws); also better after correction: joint; RB-FT itself "
        "is better too (+4.2 points, 95 % interval 1.2 to 7.2 for all 4 at once, corrected p = 0.002); the comparison"
    )
    assert is_one_sentence(said)


def test_a_larger_difference_that_is_not_sure_is_said() -> None:
    unsure = pair("joint", 6.0, size=2, p_corrected=0.2)
    said = conclude([unsure, pair("star", 5.0, size=2)])
    assert said.startswith(
        "Of 2 arms, star (the larger difference of joint is not sure) is better than step-matched direct SFT by 5.0 "
    )


def test_what_an_oracle_arm_is_said_to_gain_is_corrected_as_the_claim_is() -> None:
    controls = [
        oracle(2.9, size=2, p_corrected=0.06),
        pair("shuffled", 0.0, family="controls", role="control", size=2),
    ]
    said = conclude([pair("rbft", SAME), *controls])
    assert "help here (+2.9 points, 95 % interval -0.1 to 5.9 for all 2 at once, corrected p = 0.060)" in said
    assert "see: oracle rationales gain 9.1 points, 95 % interval 6.1 to 12.1 for all 2 at once" in conclude(
        [pair("rbft", SAME), oracle(9.1, size=2), controls[1]]
    )


def test_none_of_many_arms() -> None:
    treatments = [pair(arm, gain, size=3) for arm, gain in {"rbft": WORSE, "star": 2.4, "joint": -4}.items()]
    assert verdict(treatments)["better"] == [], "0.03 is not enough for three arms"
    said = conclude([*treatments, *CONTROLS])
    assert said.startswith(
        "None of 3 arms can be shown to be better than step-matched direct SFT (the best is star: +2.4 points, 95 % "
        "interval -0.6 to 5.4 for all 3 at once, corrected p = 0.090, 1,000 clips, 5 draws); differences under 2.9 "
        "points were invisible here (80 % power); worse after correction: joint; RB-FT itself is worse (-5.0 points, "
    )
    assert is_one_sentence(said)
    half = [pair("rbft", WORSE, size=2, steps_ratio=0.5), pair("star", 0.9, size=2)]
    assert "; RB-FT itself, with 0.5 times the optimiser steps of direct SFT, is worse (" in conclude(half)
    assert "RB-FT itself cannot be told from direct SFT (+0.6" in conclude(
        [pair("rbft", SAME, size=2), pair("star", 0.9, size=2)]
    )
    assert "RB-FT itself" not in conclude([pair("rbft", SAME, size=2), pair("star", 0.5, size=2)])
    assert "shuffled" not in conclude([pair("star", SAME), oracle(9)]), "without RB-FT there is nothing to shuffle"


@pytest.mark.parametrize("main", [BETTER, WORSE, SAME])
def test_only_arms_of_as_many_steps_are_called_step_matched(main: float) -> None:
    for ratio in (None, 0.96, 1.0, 1.04):
        said = conclude([pair("star", main, steps_ratio=ratio), *CONTROLS])
        assert "step-matched" in said and "optimiser steps" not in said
    said = conclude([pair("star", main, steps_ratio=2.43), *CONTROLS])
    assert "direct SFT, with 2.4 times its optimiser steps, " in said and "step-matched" not in said
    assert is_one_sentence(said)


def test_other_steps_are_said_of_many_arms() -> None:
    best = [pair("star", 5.1, size=3, steps_ratio=2.4), pair("joint", 4.0, size=3, steps_ratio=0.5)]
    said = conclude([*best, pair("rbft", BETTER, size=3, steps_ratio=1.0), *CONTROLS])
    assert "star, is better than direct SFT, with 2.4 times its optimiser steps, by 5.1 points (" in said
    assert (
        "also better after correction: joint, with 0.5 times the optimiser steps of direct SFT; RB-FT itself is better"
        in said
    )
    none = [pair("star", 1.1, size=2, steps_ratio=2.4), pair("rbft", SAME, size=2, steps_ratio=1.0)]
    assert conclude(none).startswith(
        "None of 2 arms can be shown to be better than direct SFT (the best is star, with 2.4 times the "
        "optimiser steps of direct SFT: +1.1 points"
    )
    matched = [pair("rbft", SAME, size=2, steps_ratio=1.0), pair("star", -0.1, size=2, steps_ratio=2.4)]
    said = conclude(matched)
    assert "better than direct SFT (the best is RB-FT: +0.6" in said and "step-matched" not in said


def test_few_draws_and_few_sources_are_said() -> None:
    one = conclude([pair("rbft", BETTER, num_draws=1, covers="clips only")])
    assert "1,000 clips, 1 draw, so the interval covers the clips only and not the luck of the draw)" in one
    assert one.startswith("No difference") and "; of fewer than 5 draws no difference of any size is claimed; " in one
    assert "4 draws, which are few: the interval may be too narrow)" in conclude([pair("rbft", BETTER, num_draws=4)])
    few = conclude([pair("rbft", BETTER, num_groups=9, effective_groups=9.0)])
    assert few.startswith("No difference") and "which 9 sources of test clips are too few to trust" in few
    assert "of fewer than 10 sources of test clips no difference of any size is claimed" in few
    assert "invisible" not in few and "clearly" not in few
    little = {"num_groups": 1, "effective_groups": 1.0}
    both = conclude([pair("rbft", BETTER, **little), oracle(30.0, **little)])
    assert (
        "whether true rationales help cannot be told here (+30.0" in both
        and "which 1 source of test clips is too little" in both
    )
    uneven = conclude([pair("rbft", BETTER, num_groups=20, effective_groups=3.8)])
    assert "which 20 sources of test clips, worth 4 of equal size, are too few to trust" in uneven
    assert uneven.startswith("No difference") and is_one_sentence(uneven.partition(";")[0] + ".")
    assert conclude([pair("rbft", BETTER, num_groups=10, effective_groups=9.99)]).startswith("RB-FT is better")


def test_draws_that_an_arm_lacks_are_said() -> None:
    said = conclude([pair("rbft", SAME, lacks={"rbft": [4, 2], "direct": [7]}), *CONTROLS])
    assert said.endswith("; RB-FT lacks draw 2, 4 and direct lacks draw 7, so each pair is compared on the draws that "
                         "both have.") and is_one_sentence(said)  # fmt: skip
    assert "lacks" not in conclude([pair("rbft", SAME), *CONTROLS])
    many = [pair(arm, SAME, size=3, lacks={arm: [1], "direct": []}) for arm in ("star", "joint", "captions")]
    assert "; star and joint lack draw 1, so" in conclude(many[:2])
    assert "; star and 2 other arms lack draw 1, so" in conclude(many)


def test_missing_arms_are_named() -> None:
    said = conclude([pair("rbft", BETTER)])
    assert "no oracle arm was run" in said and "the arm shuffled was not run" in said
    assert conclude([]).startswith("Nothing is compared: no arm") and conclude([oracle(9)]).startswith(
        "Nothing is compared"
    )


def test_small_figures_are_not_zero() -> None:
    tiny = pair("rbft", 0.04, p_corrected=0.01, interval=[0.03, 0.05])
    assert "by 0.04 points (95 % interval 0.03 to 0.1," in conclude([tiny | {"interval": [0.03, 0.06]}])
    assert "corrected p < 0.001" in conclude([pair("a", 5.0, size=2, p_corrected=0.0002), pair("b", 0.0, size=2)])


def is_one_sentence(text: str) -> bool:
    """One full stop, at the end; no doubled blank, comma or bracket that is not closed."""
    stops = re.findall(r"\.(?!\d)", text)
    level = 0
    for letter in text:
        level += (letter == "(") - (letter == ")")
        if level not in (0, 1):
            return False
    return len(stops) == 1 and text.endswith(".") and level == 0 and not re.search(r"  |,,|\(\)| ,| ;|None", text[1:])


def test_where_nothing_could_be_seen_no_size_is_told() -> None:
    said = conclude([pair("rbft", SAME, smallest_detectable={"points": 652.3})])
    assert "no difference of any size could have been seen here (80 % power): more draws are needed" in said
    assert "652" not in said


def test_draws_that_are_seeds_alone_are_called_so() -> None:
    pairs = [pair("rbft", SAME), *CONTROLS]
    said = conclude(pairs, shots=None)
    assert said == conclude(pairs, shots=24, labels=(24, 24)) == conclude(pairs, shots=None, labels=(3, 24))
    assert "; every draw had all labels and a seed of its own, so which clips were labelled is not varied." in said
    assert is_one_sentence(said) and "every draw" not in conclude(pairs)
    assert "every draw" not in conclude([pair("rbft", SAME, num_draws=1)], shots=None)


def test_draws_that_share_their_labels_say_so() -> None:
    """Ten draws of 16 from 24 clips share most of them: the intervals know nothing of clips that nobody labelled."""
    pairs = [pair("rbft", SAME, num_draws=10), *CONTROLS]
    said = conclude(pairs, shots=16, labels=(24, 24))
    assert "; each draw took 16 of 24 labelled clips per class, so the interval is of draws from these clips, " in said
    assert is_one_sentence(said) and "took 16 of 24 to 57 labelled" in conclude(pairs, shots=16, labels=(24, 57))
    assert "each draw took" not in conclude(pairs, shots=16, labels=(2000, 2000))  # share too little to matter
    assert "each draw took" not in conclude([pair("rbft", SAME, num_draws=1)], shots=16, labels=(24, 24))


def test_parts_of_other_draws_than_the_main_one_say_of_which() -> None:
    """An oracle that was run once says less than ten draws do."""
    main = pair("rbft", SAME, num_draws=10)
    said = conclude([main, oracle(9.1, num_draws=6), content(SAME) | {"draws": main["draws"]}])
    assert "gain 9.1 points, 95 % interval 7.1 to 11.1, 1,000 clips, 6 draws; " in said
    assert said.count("10 draws") == 1
    one = conclude([main, oracle(9.1, num_draws=1, covers="clips only")])
    assert "; whether true rationales help cannot be told here (+9.1 points, " in one and "1 draw, so the" in one
    few = conclude([main, oracle(9.1, num_draws=2)])
    assert "2 draws, which are few" in few and is_one_sentence(few)
    share = {"share": {"share": 0.46, "interval": [0.21, 0.72], "num_draws": 1}}
    assert "(95 % interval 21 to 72 %, on one draw)" in conclude(
        [main | {"difference": BETTER, "p_corrected": 0.001} | share]
    )
