"""Statistics against known answers, simulated data and SciPy; the sentence in every case that the figures can be."""

import itertools
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from rbft_trl.data.jsonl import write_jsonl
from rbft_trl.evidence.conclusion import conclude
from rbft_trl.evidence.stats import (
    bootstrap,
    compare_arms,
    detectable_from_clips,
    detectable_from_draws,
    mcnemar,
    mean_sd,
    summarise,
    two_sided_p,
)


def draw(right: np.ndarray, *, group_size: int = 1) -> list[dict[str, Any]]:
    """Predictions of a two-class task from right or wrong, bool `[N]`."""
    known = {"label": "a", "scores": {"a": 0.6, "b": 0.4}, "logprobs": {}, "seconds": 0.1}
    return [
        known | {"id": f"{i:05d}", "group": f"g{i // group_size}", "prediction": "a" if ok else "b"}
        for i, ok in enumerate(right)
    ]


def arms(gain: int, noise: int, *, num_draws: int = 2, n: int = 100) -> tuple[list[Any], list[Any]]:
    """Two arms per draw: the first alone is right on `gain` clips, and each alone on `noise` others."""
    first, second = np.zeros(n, bool), np.zeros(n, bool)
    first[: gain + noise], second[gain + noise : gain + 2 * noise] = True, True
    return [draw(first)] * num_draws, [draw(second)] * num_draws


def test_mean_and_sd() -> None:
    assert mean_sd([1.0, 2.0, 3.0, 6.0]) == {"mean": 3.0, "sd": pytest.approx(np.sqrt(14 / 3)), "count": 4}
    assert mean_sd([1.0])["sd"] is None


def test_figures_of_a_pair_by_hand() -> None:
    pair = compare_arms(*arms(20, 10), arm="rbft", baseline="direct")
    assert pair["difference"] == pytest.approx(20.0)
    assert (pair["n"], pair["num_groups"], pair["num_draws"]) == (100, 100, 2)
    assert pair["per_draw"][0]["only_arm"] == 30 and pair["per_draw"][0]["only_baseline"] == 10
    assert pair["per_draw"][0]["mcnemar_p"] == pytest.approx(mcnemar(30, 10)) == pytest.approx(0.00222, abs=2e-5)
    assert pair["discordance"] == pytest.approx(0.4)
    half = 1.96 * np.sqrt((0.4 - 0.2**2) / 100) * 100  # the draws are equal, so only the clips vary
    assert np.allclose(pair["interval"], [20 - half, 20 + half], atol=1.2)
    assert pair["p"] < 0.01 and pair["covers"] == "clips and draws"
    swapped = compare_arms(*arms(20, 10)[::-1], arm="direct", baseline="rbft")
    assert np.allclose(swapped["interval"], [-high for high in pair["interval"][::-1]])
    assert swapped["p"] == pair["p"]


def test_one_draw_says_that_it_covers_clips_only() -> None:
    pair = compare_arms(*arms(20, 10, num_draws=1), arm="rbft", baseline="direct")
    assert pair["covers"] == "clips only"
    assert pair["over_draws"]["sd"] is None and pair["smallest_detectable"]["draws"] is None
    assert "covers the clips only" in conclude([pair])


def test_clips_of_one_source_count_as_one() -> None:
    right = np.random.default_rng(0).random(250) < 0.6
    alone = bootstrap(right[None].astype(float), np.arange(250))
    copied = bootstrap(np.repeat(right, 4)[None].astype(float), np.repeat(np.arange(250), 4))
    assert np.std(copied) == pytest.approx(np.std(alone), rel=1e-6)
    wrong = bootstrap(np.repeat(right, 4)[None].astype(float), np.arange(1000))
    assert np.std(wrong) == pytest.approx(np.std(alone) / 2, rel=0.1)


def test_bootstrap_sd_is_the_known_one() -> None:
    clips = np.random.default_rng(1).normal(0, 1, 400)
    assert np.std(bootstrap(clips[None], np.arange(400))) == pytest.approx(np.std(clips) / 20, rel=0.05)
    effects = np.array([-4.0, -1.0, 0.0, 2.0, 3.0])
    only_draws = np.repeat(effects[:, None], 50, axis=1)
    assert np.std(bootstrap(only_draws, np.arange(50))) == pytest.approx(np.std(effects, ddof=1) / 5**0.5, rel=0.05)


@pytest.mark.parametrize(("num_draws", "sd"), [(1, 0.0), (3, 3.0), (5, 1.0)])
def test_intervals_hold_the_truth(num_draws: int, sd: float) -> None:
    rng, held, runs = np.random.default_rng(2), 0, 150
    groups = np.repeat(np.arange(100), 4)
    for _ in range(runs):
        source = rng.normal(0, 0.05, 100)[groups]
        chance = 0.03 + rng.normal(0, sd / 100, num_draws)[:, None] + source
        gain = (rng.random((num_draws, 400)) < 0.125 + chance / 2).astype(float)
        gain -= rng.random((num_draws, 400)) < 0.125 - chance / 2
        low, high = np.percentile(bootstrap(gain, groups, replicates=500), [2.5, 97.5])
        held += low <= 0.03 <= high
    assert held / runs >= 0.90


def test_no_difference_is_rarely_called_one() -> None:
    rng, found = np.random.default_rng(3), 0
    for _ in range(100):
        first, second = (rng.random((3, 200)) < 0.5 for _ in range(2))
        gain = first.astype(float) - second
        found += two_sided_p(bootstrap(gain, np.arange(200), replicates=500)) < 0.05
    assert found <= 10


def test_bootstrap_is_fast_enough() -> None:
    rng = np.random.default_rng(4)
    started = time.perf_counter()
    bootstrap(rng.random((5, 1000)), np.arange(1000), replicates=2000)
    assert time.perf_counter() - started < 2


def test_p_is_never_zero_and_at_most_one() -> None:
    assert two_sided_p(np.ones(999)) == pytest.approx(0.002)
    assert two_sided_p(np.zeros(10)) == 1.0


def test_mcnemar_known_values() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(25, 12) < 0.05 < mcnemar(26, 13)  # a net gain of 13 is significant with at most 12 losses


def test_smallest_detectable_difference() -> None:
    for clips, points in [(120, 12.8), (192, 10.1), (256, 8.8), (1000, 4.4)]:
        assert detectable_from_clips(clips, 0.25) == pytest.approx(points, abs=0.06)
    assert detectable_from_clips(1000, 0.0) > 0
    assert detectable_from_draws(5, 3.0) == pytest.approx(5.0, abs=0.06)
    assert detectable_from_draws(10, 3.0) == pytest.approx(3.0, abs=0.06)
    assert detectable_from_draws(2, 0.0) == 0.0 < detectable_from_draws(2, 1.0) < 20
    rng, effect = np.random.default_rng(5), detectable_from_draws(5, 3.0)
    power = (ttest_1samp(rng.normal(effect, 3.0, (4000, 5)), 0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.03)


def test_unaligned_arms_are_our_own_error() -> None:
    first, second = arms(20, 10)
    other_gold = [[p | {"label": "b"} for p in rows] for rows in second]
    for broken in (second[:1], [rows[::-1] for rows in second], [rows[:-1] for rows in second], other_gold):
        with pytest.raises(AssertionError):
            compare_arms(first, broken, arm="a", baseline="b")
    with pytest.raises(AssertionError):
        compare_arms([first[0][:1] * 2], [first[0][:1] * 2], arm="a", baseline="b")


BETTER, WORSE, SAME = (20, 10), (-20, 30), (2, 20)


def pair(arm: str, baseline: str, gain: int, noise: int, *, num_draws: int = 5) -> dict[str, Any]:
    return compare_arms(*arms(gain, noise, num_draws=num_draws), arm=arm, baseline=baseline)


def sentence(main: tuple[int, int], oracle: tuple[int, int], shuffled: tuple[int, int]) -> str:
    controls = [pair("oracle", "direct", *oracle), pair("rbft", "shuffled", *shuffled)]
    return conclude([pair("rbft", "direct", *main), *controls], note="Synthetic clips.")


@pytest.mark.parametrize(("main", "oracle", "shuffled"), itertools.product((BETTER, WORSE, SAME), repeat=3))
def test_the_sentence_follows_the_figures(main: Any, oracle: Any, shuffled: Any) -> None:
    said = sentence(main, oracle, shuffled)
    assert ("RB-FT is better than step-matched direct SFT by 20.0 points" in said) == (main == BETTER)
    assert ("RB-FT is worse than step-matched direct SFT by 20.0 points" in said) == (main == WORSE)
    assert ("No difference" in said and "points could have been missed here (80 % power)" in said) == (main == SAME)
    assert ("the comparison can see: oracle rationales gain 20.0" in said) == (oracle == BETTER)
    assert ("even true rationales do not clearly help here" in said) == (oracle != BETTER)
    assert ("cannot tell whether rationales are the cause" in said) == (oracle != BETTER and main != SAME)
    assert ("its own clip matters: RB-FT against shuffled rationales +20.0" in said) == (shuffled == BETTER)
    assert ("shuffled rationales do better" in said) == (shuffled == WORSE)
    assert ("matters cannot be shown" in said) == (shuffled == SAME)
    assert "100 clips, 5 draws" in said and said.endswith(". Synthetic clips.") and said.count(". ") == 1


def test_a_sure_but_small_oracle_gap_cannot_tell_either() -> None:
    oracle = pair("oracle", "direct", *BETTER) | {"difference": 2.9, "interval": [0.4, 5.0]}
    assert "even true rationales do not clearly help" in conclude([pair("rbft", "direct", *SAME), oracle])
    assert "can see" in conclude([pair("rbft", "direct", *SAME), oracle | {"difference": 3.0}])


def test_an_interval_that_touches_zero_shows_nothing() -> None:
    touching = pair("rbft", "direct", *BETTER) | {"interval": [0.0, 9.0]}
    assert conclude([touching]).startswith("No difference")
    tiny = touching | {"interval": [0.04, 9.0], "difference": 0.04}
    assert "better" in conclude([tiny]) and "by 0.04 points (95 % interval 0.04 to 9.0" in conclude([tiny])


def test_missing_arms_are_named() -> None:
    said = conclude([pair("rbft", "direct", *BETTER)])
    assert "no oracle arm was run" in said and "no shuffled arm was run" in said
    assert conclude([]) == "Nothing is compared: the arms rbft and direct are not both there."


def test_summarise_reads_the_files_and_fills_the_comparison(tmp_path: Path) -> None:
    (first, second), entries = arms(20, 10), {}
    for arm, rows in (("direct", second), ("rbft", first), ("shuffled", second)):
        files = [tmp_path / f"{arm}{i}.jsonl" for i in range(2)]
        for file, predictions in zip(files, rows, strict=True):
            write_jsonl(file, predictions[::-1] if arm == "rbft" else predictions)
        cost = {"steps": 30, "presentations": 240, "seconds": 9.0, "metrics": {"n": 100, "chance": 0.5, "majority": 1}}
        entries[arm] = {
            "description": arm,
            "draws": [{"draw": i, "predictions": str(f)} | cost for i, f in enumerate(files)],
        }
    got = summarise({"arms": entries, "note": "Note."}, names=["a", "b"])
    assert [(p["arm"], p["baseline"]) for p in got["pairs"]] == [
        ("rbft", "direct"), ("shuffled", "direct"), ("rbft", "shuffled"),
    ]  # fmt: skip
    assert got["pairs"][0]["difference"] == pytest.approx(20.0)
    summary = got["arms"]["rbft"]["summary"]
    assert summary["accuracy"] == {"mean": pytest.approx(0.3), "sd": pytest.approx(0.0), "count": 2}
    assert summary["accuracy_interval"][0] < 0.3 < summary["accuracy_interval"][1]
    assert got["arms"]["rbft"]["draws"] == entries["rbft"]["draws"]
    lines = got["table"].splitlines()
    assert re.fullmatch(r"rbft +30\.0 ± 0\.0 +2\d\.\d-3\d\.\d +23\.1 ± 0\.0 +30 +240 +9", lines[2])
    assert lines[-1] == "100 test clips, 2 draws; chance 50.0 %, majority class 100.0 %"
    assert got["sentence"].endswith("Note.")
