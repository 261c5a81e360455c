"""Pairs of arms, families that are corrected together, costs, other cards: from cells to comparison.json."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbft_trl.data.jsonl import write_jsonl
from rbft_trl.errors import UserError
from rbft_trl.evidence.conclusion import conclude
from rbft_trl.evidence.intervals import mcnemar
from rbft_trl.evidence.metrics import compute_metrics
from rbft_trl.evidence.novel import harmonic
from rbft_trl.evidence.outcomes import Outcomes, from_predictions, read_outcomes
from rbft_trl.evidence.stats import compare_all, compare_arms, mean_sd, role_of, summarise
from rbft_trl.evidence.table import short, text_of_cards, text_of_left_out

NAMES = ["a", "b"]


def draw(right: np.ndarray, *, group_size: int = 1) -> list[dict[str, Any]]:
    """Predictions of a two-class task from right or wrong, bool `[N]`."""
    known = {"label": "a", "scores": {"a": 0.6, "b": 0.4}, "logprobs": {}, "seconds": 0.1}
    return [
        known | {"id": f"{i:05d}", "group": f"g{i // group_size}", "prediction": "a" if ok else "b"}
        for i, ok in enumerate(right)
    ]


def rows_of(gain: int, noise: int, *, num_draws: int = 2, n: int = 100) -> tuple[list[Any], list[Any]]:
    """Two arms per draw: the first alone is right on `gain` clips, and each alone on `noise` others."""
    first, second = np.zeros(n, bool), np.zeros(n, bool)
    first[: gain + noise], second[gain + noise : gain + 2 * noise] = True, True
    return [draw(first)] * num_draws, [draw(second)] * num_draws


def outcomes(gain: int, noise: int, **settings: int) -> tuple[Outcomes, Outcomes]:
    first, second = rows_of(gain, noise, **settings)
    return from_predictions(first, NAMES), from_predictions(second, NAMES)


def test_mean_and_sd() -> None:
    assert mean_sd([1.0, 2.0, 3.0, 6.0]) == {"mean": 3.0, "sd": pytest.approx(np.sqrt(14 / 3)), "count": 4}
    assert mean_sd([1.0])["sd"] is None


def test_figures_of_a_pair_by_hand() -> None:
    pair = compare_arms(*outcomes(20, 10), arm="rbft", baseline="direct")
    assert pair["difference"] == pytest.approx(20.0)
    assert (pair["n"], pair["num_groups"], pair["num_draws"]) == (100, 100, 2)
    assert pair["effective_groups"] == 100.0
    assert pair["per_draw"][0]["only_arm"] == 30 and pair["per_draw"][0]["only_baseline"] == 10
    assert pair["per_draw"][0]["mcnemar_p"] == pytest.approx(mcnemar(30, 10)) == pytest.approx(0.00222, abs=2e-5)
    assert pair["discordance"] == pytest.approx(0.4)
    half = 1.984 * np.sqrt((0.4 - 0.2**2) / 99) * 100  # the draws are equal, so only the clips vary
    assert pair["interval"] == pytest.approx([20 - half, 20 + half], abs=0.01)
    assert pair["simultaneous"] == pair["interval"]
    assert pair["bootstrap_interval"] == pytest.approx(pair["interval"], abs=1.2)
    assert pair["p"] < 0.01 and pair["covers"] == "clips and draws"
    assert pair["smallest_detectable"]["points"] == pytest.approx(2.8 * half / 1.984, rel=0.02)
    swapped = compare_arms(*outcomes(20, 10)[::-1], arm="direct", baseline="rbft")
    assert np.allclose(swapped["interval"], [-high for high in pair["interval"][::-1]])
    assert swapped["p"] == pytest.approx(pair["p"])


def test_one_draw_covers_the_clips_only() -> None:
    pair = compare_arms(*outcomes(20, 10, num_draws=1), arm="rbft", baseline="direct")
    assert pair["covers"] == "clips only"
    assert pair["over_draws"]["sd"] is None and pair["smallest_detectable"]["draws"] is None


def test_no_interval_leaves_what_is_possible() -> None:
    """Two draws that say the opposite leave one degree of freedom: a t interval of hundreds of points."""
    all_right, all_wrong = draw(np.ones(100, bool)), draw(np.zeros(100, bool))
    first, second = from_predictions([all_right, all_wrong], NAMES), from_predictions([all_wrong, all_right], NAMES)
    pair = compare_arms(first, second, arm="x", baseline="direct")
    assert pair["interval"] == pair["simultaneous"] == [-100.0, 100.0]
    assert pair["smallest_detectable"]["points"] > 100


def test_a_larger_family_gets_wider_intervals_and_needs_larger_differences() -> None:
    alone, many = (compare_arms(*outcomes(20, 10), arm="x", baseline="direct", at_once=k) for k in (1, 15))
    assert many["interval"] == alone["interval"] and many["p"] == alone["p"]
    assert many["simultaneous"][0] < many["interval"][0] and many["simultaneous"][1] > many["interval"][1]
    assert many["smallest_detectable"]["points"] > alone["smallest_detectable"]["points"]


def test_unaligned_arms_are_our_own_error() -> None:
    first, second = rows_of(20, 10)
    other_gold = [[p | {"label": "b"} for p in rows] for rows in second]
    seen = from_predictions(first, NAMES)
    for broken in ([rows[:-1] for rows in second], other_gold):
        with pytest.raises(AssertionError):
            compare_arms(seen, from_predictions(broken, NAMES), arm="a", baseline="b")
    for broken in ([first[0][:1] * 2], [first[0], first[0][:-1]], [], [[p | {"label": "c"} for p in first[0]]]):
        with pytest.raises(AssertionError):
            from_predictions(broken, NAMES)


def test_the_order_of_a_file_is_no_matter() -> None:
    first, _ = rows_of(20, 10)
    one, other = from_predictions(first, NAMES), from_predictions([first[0][::-1], first[1]], NAMES)
    assert (one.said == other.said).all() and one.keys == other.keys
    inline = {"ids": [k[0] for k in one.keys], "labels": ["a"] * 100, "groups": [k[2] for k in one.keys]}
    again = read_outcomes([{"draw": i, "said": said.tolist()} for i, said in enumerate(one.said)], NAMES, clips=inline)
    assert (again.right == one.right).all() and (again.groups == one.groups).all()


def test_pairs_are_of_one_draw() -> None:
    """Two merged results may hold other draws of two arms; the second draw of one is not the second of the other."""
    rng = np.random.default_rng(0)
    made = [[draw(rng.random(100) < level) for level in levels] for levels in ((0.5, 0.8, 0.2), (0.4, 0.7, 0.1))]
    first = from_predictions(made[0], NAMES, numbers=[0, 1, 2])
    second = from_predictions([made[1][2], made[1][1]], NAMES, numbers=[2, 1])
    found = compare_arms(first, second, arm="star", baseline="direct")
    wanted = compare_arms(first.on([1, 2]), second.on([1, 2]), arm="star", baseline="direct")
    assert found["draws"] == [1, 2] and found["lacks"] == {"star": [], "direct": [0]}
    assert wanted["lacks"] == {"star": [], "direct": []} and found["difference"] == wanted["difference"]
    assert found["per_draw"] == wanted["per_draw"]
    seen = {"rbft": first, "direct": second, "oracle": first.on([0, 1])}
    share = compare_all(seen, {"rbft": "candidate", "oracle": "oracle"})[0]["share"]
    assert share is None or share["share"] == 1.0, "on draw 1, the only one of all three"
    with pytest.raises(UserError, match=r"'star' has the draws \[0\] and 'direct' \[2, 1\]: none in common"):
        compare_arms(first.on([0]), second, arm="star", baseline="direct")


def test_roles() -> None:
    trained, untrained = {"draws": [{"steps": 3}]}, {"draws": [{"steps": None}]}
    assert role_of(trained) == role_of(trained | {"role": None}) == "candidate"
    assert role_of(untrained) == role_of({"draws": [{}]}) == "reference"
    for role in ("oracle", "control", "reference"):
        assert role_of(trained | {"role": role}) == role


def test_each_family_is_corrected_for_its_own_size() -> None:
    gains = {"rbft": 8, "star": 4, "captions": 0, "oracle": 30, "shuffled": 2, "probe": -9}
    seen = {arm: outcomes(gain, 15)[0] for arm, gain in gains.items()} | {"direct": outcomes(0, 15)[1]}
    families = dict.fromkeys(("rbft", "star", "captions"), "candidate") | {"probe": "reference"}
    pairs = compare_all(seen, families | {"oracle": "oracle", "shuffled": "control"})
    found = {(p["arm"], p["baseline"]): p for p in pairs}
    assert len(found) == 7 and ("rbft", "shuffled") in found
    treatments = [found[arm, "direct"] for arm in ("rbft", "star", "captions")]
    assert [p["p_corrected"] for p in treatments] == [min(1.0, 3 * p["p"]) for p in treatments]
    assert {p["family_size"] for p in treatments} == {3}
    for arm, size in (("oracle", 2), ("shuffled", 2), ("probe", 1)):
        assert found[arm, "direct"]["family_size"] == size
    assert found["rbft", "shuffled"]["p_corrected"] == found["rbft", "shuffled"]["p"]
    assert found["rbft", "direct"]["share"]["share"] == pytest.approx(8 / 30)
    assert "share" not in found["probe", "direct"] and "share" not in found["oracle", "direct"]


def test_shares_are_of_the_oracle_arm_that_is_told_of_and_wide_enough_for_all() -> None:
    gains = {"rbft": 15, "star": 4, "oracle": 0, "oracle_guideline": 30}
    seen = {arm: outcomes(gain, 15, num_draws=5)[0] for arm, gain in gains.items()}
    seen |= {"direct": outcomes(0, 15, num_draws=5)[1]}
    families = {arm: "oracle" if arm.startswith("oracle") else "candidate" for arm in gains}
    pairs = compare_all(seen, families)
    (rbft,) = (pair for pair in pairs if pair["arm"] == "rbft")
    assert "the true rationales of oracle_guideline gain 30.0 points" in conclude(pairs)
    assert rbft["share"]["share"] == pytest.approx(0.5)
    alone = compare_all({arm: of for arm, of in seen.items() if arm != "star"}, families)[0]["share"]["interval"]
    assert rbft["share"]["interval"][0] < alone[0] < alone[1] < rbft["share"]["interval"][1]


def test_a_claim_and_the_interval_beside_it_agree() -> None:
    """With Holm's p-values the smallest of three could be claimed with an interval that held 0."""
    rng, names, disagreed = np.random.default_rng(0), ("x", "y", "z"), 0
    for _ in range(60):
        right = {arm: rng.random((5, 200)) < 0.5 + gain for arm, gain in zip(names, rng.random(3) / 8, strict=True)}
        right["direct"] = rng.random((5, 200)) < 0.5
        seen = {arm: from_predictions([draw(of) for of in found], NAMES) for arm, found in right.items()}
        pairs = compare_all(seen, dict.fromkeys(names, "candidate"), resample=False)
        assert all((p["p_corrected"] < 0.05) == (p["simultaneous"][0] > 0 or p["simultaneous"][1] < 0) for p in pairs)
        disagreed += any(0.05 / 3 <= p["p"] < 0.05 / 2 for p in pairs)
    assert disagreed >= 3, "cases in which the two corrections can differ"


def cell(file: Path, predictions: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    write_jsonl(file, predictions)
    metrics = compute_metrics(predictions, sorted(predictions[0]["scores"]))
    return {"predictions": str(file), "metrics": metrics} | more


@pytest.fixture
def comparison(tmp_path: Path) -> dict[str, Any]:
    """Two draws, with files of their own."""
    return two_draws(tmp_path)


def two_draws(tmp_path: Path) -> dict[str, Any]:
    """Three trained arms and a probe, two draws; each was evaluated on another domain and on novel classes."""
    made = {}
    for arm, gain in (("direct", 0), ("rbft", 20), ("shuffled", 0), ("probe", 5)):
        draws = []
        for i in range(2):
            rows = rows_of(20, 10)[arm != "rbft"][i]
            novel = [p | {"label": "c", "prediction": "d", "scores": {"c": 0.5, "d": 0.5}} for p in rows]
            novel = [p | {"prediction": "c"} if j < 40 + gain else p for j, p in enumerate(novel)]
            other = {"there.yaml": cell(tmp_path / f"{arm}{i}there.jsonl", rows[:50])}
            other["novel.yaml"] = cell(tmp_path / f"{arm}{i}novel.jsonl", novel)
            cost = {"steps": 30, "presentations": 240, "tokens": 1.5e6, "flops": 2e13, "seconds": 9.0}
            more = cost if arm != "probe" else dict.fromkeys(cost)
            more = more | {"draw": i, "shuffled_accuracy": 0.05 if arm == "rbft" else None}
            draws.append(
                cell(tmp_path / f"{arm}{i}.jsonl", rows, **more) | ({"elsewhere": other} if arm != "probe" else {})
            )
        made[arm] = {"description": arm, "role": "control" if arm == "shuffled" else None, "draws": draws}
    return {"arms": made, "note": "Note.", "task": "t", "created": "now", "settings": {"": "0"}}


def test_summarise_reads_the_files_and_fills_the_comparison(comparison: dict[str, Any]) -> None:
    got = summarise(comparison, names=NAMES)
    assert [(p["arm"], p["baseline"]) for p in got["pairs"]] == [
        ("rbft", "direct"), ("probe", "direct"), ("shuffled", "direct"), ("rbft", "shuffled"),
    ]  # fmt: skip
    assert got["pairs"][0]["difference"] == pytest.approx(20.0)
    summary = got["arms"]["rbft"]["summary"]
    assert summary["accuracy"] == {"mean": pytest.approx(0.3), "sd": pytest.approx(0.0), "count": 2}
    assert summary["accuracy_interval"][0] < 0.3 < summary["accuracy_interval"][1]
    assert summary["costs"] == {"steps": 30, "presentations": 240, "tokens": 1.5e6, "flops": 2e13, "seconds": 9}
    assert set(got["arms"]["probe"]["summary"]["costs"].values()) == {None}
    assert summary["shuffled_frames"]["loss"]["mean"] == pytest.approx(0.25)
    assert "shuffled_frames" not in got["arms"]["direct"]["summary"]
    assert got["arms"]["rbft"]["draws"] == comparison["arms"]["rbft"]["draws"]
    assert got["pairs"][0]["steps_ratio"] == 1.0 and got["pairs"][1]["steps_ratio"] is None
    for drawn in comparison["arms"]["rbft"]["draws"]:
        drawn["steps"] = 73
    assert "direct SFT, with 2.4 times its optimiser steps, can" in summarise(comparison, names=NAMES)["sentence"]
    assert got["verdict"]["better"] == [] and got["sentence"].endswith("Note."), "two draws are too few"
    lines = got["table"].splitlines()
    wanted = r"rbft +30\.0 ± 0\.0 +20\.\d-39\.\d +23\.1 ± 0\.0 +\+20\.0 +0\.00\d +30 +240 +1\.5 M +20 T +9"
    assert re.fullmatch(wanted, lines[2]) and "of gap" not in lines[0]
    assert re.fullmatch(r"probe +10\.0.* \+0\.0 +1\.000 +- +- +- +- +-", lines[4])
    assert lines[-2] == "100 test clips, 2 draws; chance 50.0 %, majority class 100.0 %"
    assert lines[-1] == "fewer than 5 draws of an arm are too few: do not trust its intervals and p"


def test_a_table_tells_the_draws_of_an_arm_where_arms_differ(comparison: dict[str, Any]) -> None:
    """Else rows of two draws would stand above "10 draws"; and too few sources are told below it."""
    assert "draws" not in summarise(comparison, names=NAMES)["table"].splitlines()[0]
    comparison["arms"]["probe"]["draws"].pop()
    lines = summarise(comparison, names=NAMES)["table"].splitlines()
    assert lines[0].split()[:3] == ["arm", "draws", "accuracy"]
    assert [line.split()[1] for line in lines[1:5]] == [*"2221"] and "100 test clips, 1 to 2 draws;" in lines[-2]
    for entry in comparison["arms"].values():
        for drawn in entry["draws"]:
            path = Path(drawn["predictions"])
            path.write_text(re.sub(r'"group": "[^"]*"', '"group": "one"', path.read_text()))
    *_, last = summarise(comparison, names=NAMES)["table"].splitlines()
    assert last == "test clips of 1 source are too few: do not trust intervals and p"


def test_other_cards_are_domain_shift_or_novel_classes(comparison: dict[str, Any]) -> None:
    got = summarise(comparison, names=NAMES)["elsewhere"]
    assert list(got) == ["there.yaml", "novel.yaml"]
    assert not got["there.yaml"]["novel"] and set(got["there.yaml"]["arms"]) == {"direct", "rbft", "shuffled"}
    assert got["there.yaml"]["arms"]["rbft"]["summary"]["accuracy"]["mean"] == pytest.approx(0.6)
    assert [(p["arm"], p["n"]) for p in got["there.yaml"]["pairs"]] == [("rbft", 50), ("shuffled", 50), ("rbft", 50)]
    assert got["novel.yaml"]["novel"] and got["novel.yaml"]["names"] == ["c", "d"]
    figures = got["novel.yaml"]["arms"]["rbft"]["base_to_novel"]
    assert (figures["base"], figures["novel"]) == (pytest.approx(0.3), pytest.approx(0.6))
    assert figures["harmonic_mean"] == pytest.approx(0.4) and 0.3 < figures["interval"][0] < 0.4
    why = "not evaluated there (only label scores can be asked for on another card)"
    there, novel = text_of_cards(got).split("\n\n")
    assert re.search(r"on there.yaml, other clips.*\n.*\ndirect +[\d. ±]+ to [\d.]+ +– +–\nrbft .* \+40\.0 ", there)
    assert re.search(r"\nrbft +60\.0 ± 0\.0 .* 40\.0 +3\d\.\d to 4\d\.\d\n.*\nleft out: probe - ", novel)
    assert [found["left_out"] for found in got.values()] == [{"probe": why}] * 2
    del comparison["arms"]["shuffled"]["draws"][1]["elsewhere"]["there.yaml"]
    got = summarise(comparison, names=NAMES)["elsewhere"]
    assert got["there.yaml"]["left_out"] == {"shuffled": "not all of its draws were evaluated there", "probe": why}
    assert text_of_left_out(got["novel.yaml"]["left_out"] | {"heads": why}) == [f"probe, heads - {why}"]


def test_the_harmonic_mean_covers_the_draws() -> None:
    rng = np.random.default_rng(0)
    made = [
        from_predictions([draw(rng.random(400) < level + 0.05 * i) for i in range(4)], NAMES) for level in (0.5, 0.3)
    ]
    alone = [from_predictions([draw(m.right[1])], NAMES) for m in made]
    both, one = harmonic(*made), harmonic(*alone)
    assert both["interval"][1] - both["interval"][0] > 1.5 * (one["interval"][1] - one["interval"][0])
    assert both["covers"] == "clips and draws" and one["covers"] == "clips only"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999_999, "1 M"),
        (12_345, "12,345"),
        (1_234_000, "1.23 M"),
        (999.6e6, "1 G"),
        (4.56e13, "45.6 T"),
        (2e18, "2 E"),
    ],
)
def test_short_figures(value: float, text: str) -> None:
    assert short(value) == text
