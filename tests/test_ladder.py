"""The ladder of the toy domain: its arms pass the comparison's own checks, and its table says what was measured."""

from pathlib import Path

import pytest

from rbft_trl import compare
from rbft_trl.compare_config import CompareArguments
from rbft_trl.evidence.outcomes import Outcomes, read_outcomes
from rbft_trl.evidence.results import read_results
from rbft_trl.evidence.stats import compare_arms
from rbft_trl.evidence.table import p_value
from rbft_trl.recipe import parse_recipe
from tests.helpers import REPOSITORY
from toy import ladder
from toy.attribute_probe import attributes


def test_every_cell_is_an_arm_that_the_comparison_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    names = ladder.write_arms(tmp_path)
    assert len(names) == len(set(names)) == 1 + 2 + 5 * 3 * 2 + 2 + 2 * 2  # definitions: labelled clips alone
    words = ["--arms", f"[{', '.join(names)}]", "--arms_folder", str(tmp_path), "--trials", "null"]
    (args,) = parse_recipe(["recipes/toy/compare.yaml", *words], CompareArguments)
    arms = compare.check(args)
    assert arms["true_1x_lm"].role == arms["guideline_4x_tower"].role == "oracle"
    assert arms["shuffled_1x_lm"].role == "control" and arms["direct_lm"].role == "reference"
    assert arms["hinted_1x_lm"].role is None and arms["labels_4x_tower"].role == "control"
    assert arms["hinted_4x_lm"].step("stage1").settings["train_parts"] == ["llm"]
    settings = {"source": "<oracle_all/texts>", "pool": True, "times_labels": 16}
    assert arms["shuffled_16x_tower"].step("texts").settings == settings


def outcome(entry: dict, clips: dict) -> Outcomes:
    return read_outcomes(entry["draws"], ["a", "b"], clips=clips)


def test_the_table_tells_each_cell_with_its_interval_and_what_the_model_sees() -> None:
    """Each cell stands against direct SFT of the language model and of all parts."""
    shares = {"direct": 0.5, "direct_lm": 0.4, "true_16x_tower": 0.6, "true_16x_lm": 0.6}
    clips = {"ids": list(range(100)), "labels": ["a"] * 100, "groups": [i // 2 for i in range(100)]}
    confusion = {"labels": ["a", "b"]}

    def cell(draw: int, share: float) -> dict:
        said = [int(i >= 100 * share) for i in range(100)]
        return {"draw": draw, "said": said, "metrics": {"confusion": confusion}}

    arms = {
        name: {"draws": [cell(0, share), cell(1, share)], "summary": {"accuracy": {"mean": share, "sd": 0.02}}}
        for name, share in shares.items()
    }
    right = {"size": 0.9, "motion": 0.5, "all": 0.8}
    lines = [{"arm": "base", "draw": None, "right": right}]
    lines += [{"arm": "true_16x_tower", "draw": draw, "right": right | {"size": 0.9 + draw / 10}} for draw in (0, 1)]
    text = ladder.table({"arms": arms, "rungs": [{"clips": clips}]}, attributes(lines))
    assert "| the base |  |  |  |  |  |  | 90.0 | 50.0 | 80.0 |" in text
    assert "| none | 0 | tower | 50.0 ± 2.0 |  |  |  |  |  |  |" in text
    cell = next(line for line in text.splitlines() if line.startswith("| true | 16x | tower"))
    assert "| 60.0 ± 2.0 | +20.0 (" in cell and "| +10.0 (" in cell
    assert cell.endswith("| 95.0 ± 7.1 | 50.0 ± 0.0 | 80.0 ± 0.0 |")
    pairs = {
        rival: compare_arms(*(outcome(arms[name], clips) for name in ("true_16x_tower", rival)), arm="a", baseline="b")
        for rival in ("direct", "direct_lm")
    }
    assert pairs["direct"]["p"] > pairs["direct_lm"]["p"], "the less sure of the two is told, for two cells"
    assert f"| {p_value(2 * pairs['direct']['p'])} |" in cell
    assert len({line.count("|") for line in text.splitlines()}) == 1
    arms["true_16x_lm"]["draws"].pop()
    assert "| true | 16x | lm | 60.0 ± 2.0 (1 draw) |" in ladder.table({"arms": arms, "rungs": [{"clips": clips}]}, {})


def test_what_labels_give_beyond_texts_is_printed_from_the_results() -> None:
    found = read_results(REPOSITORY / "results/ladder_far.jsonl")
    told = ladder.labels_against_texts(found).splitlines()
    assert "labels_4x_tower against guideline_4x_tower: +7.8 (4.3 to 11.3), 4 draws" in told
    assert len(told) == 2 * 5 and not [line for line in told if "definition" in line]
