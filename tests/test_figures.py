"""The pictures of the toy domains show the numbers of the tables."""

from pathlib import Path

import pytest
from PIL import Image

from rbft_trl.evidence.results import read_results
from toy import evidence, figures
from toy.ladder import differences


def ladder() -> dict:
    shares = {"direct": 0.5, "direct_lm": 0.4, "rbft": 0.3, "true_1x_tower": 0.5, "true_16x_tower": 0.6}
    shares |= {"labels_4x_lm": 0.7}
    clips = {"ids": list(range(100)), "labels": ["a"] * 100, "groups": [i // 2 for i in range(100)]}

    def cell(draw: int, share: float) -> dict:
        metrics = {"confusion": {"labels": ["a", "b"]}}
        return {"draw": draw, "said": [int(i >= 100 * share + draw) for i in range(100)], "metrics": metrics}

    arms = {name: {"draws": [cell(draw, share) for draw in range(2)]} for name, share in shares.items()}
    return {"arms": arms, "rungs": [{"clips": clips}], "shots": [8]}


def test_a_point_of_the_ladder_is_the_difference_of_its_table(tmp_path: Path) -> None:
    found, pairs = figures.ladder_points(ladder()), differences(ladder())
    assert set(found) == {("true", "tower"), ("labels", "lm")} and set(found["true", "tower"]) == {1, 16}
    pair = pairs["true_16x_tower"]["direct_lm"]
    assert found["true", "tower"][16] == (pair["difference"], *pair["interval"])
    assert pair["difference"] == pytest.approx(20)
    figures.draw_ladder(ladder(), tmp_path / "ladder.png")
    assert Image.open(tmp_path / "ladder.png").size[0] > 800


def test_arms_with_few_draws_show_their_draws(tmp_path: Path) -> None:
    comparison = read_results(evidence.RESULTS / "arms_far.jsonl")
    found = figures.arm_points(comparison)
    assert "rbft" in found and not {"direct", "majority", "zero_shot", "probe"} & set(found)
    for pair in (pair for pair in comparison["pairs"] if pair["arm"] in found and pair["baseline"] == "direct"):
        middle, others = found[pair["arm"]]
        assert min(others) <= middle <= max(others) and middle == pair["difference"]
        few = pair["num_draws"] < 3
        assert len(others) == (pair["num_draws"] if few else 2) and (few or others == list(pair["interval"]))
    figures.draw_arms({"far": comparison, "near": comparison}, tmp_path / "arms.png")
    assert Image.open(tmp_path / "arms.png").size[0] > 500
