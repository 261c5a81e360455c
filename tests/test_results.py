"""The small file of a comparison: all statistics come out of it as they came out of the predictions."""

from pathlib import Path
from typing import Any

import pytest

from rbft_trl.errors import UserError
from rbft_trl.evidence.report import build_report
from rbft_trl.evidence.results import merge_results, read_results, write_results
from rbft_trl.evidence.stats import summarise
from tests.test_stats import NAMES, comparison  # noqa: F401


def test_the_statistics_come_back(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    rung = {"shots": 4} | comparison | summarise(comparison, names=NAMES)
    write_results(tmp_path / "r.jsonl", comparison | {"rungs": [rung, rung | {"shots": 8}]}, names=NAMES)
    for file in tmp_path.glob("*.jsonl"):
        if file.name != "r.jsonl":
            file.unlink()
    got = read_results(tmp_path / "r.jsonl")
    assert got["shots"] == [4, 8] and [r["shots"] for r in got["rungs"]] == [4, 8] and got["task"] == "t"
    for key in ("pairs", "table", "sentence", "verdict"):
        assert got["rungs"][0][key] == got["rungs"][1][key] == got[key] == rung[key]
    for arm, entry in rung["arms"].items():
        assert got["arms"][arm]["summary"] == entry["summary"]
        for one, other in zip(got["arms"][arm]["draws"], entry["draws"], strict=True):
            keys = set(other["metrics"]) - {"risk_coverage"}
            assert {key: one["metrics"][key] for key in keys} == {key: other["metrics"][key] for key in keys}
    assert got["rungs"][0]["elsewhere"] == rung["elsewhere"]
    build_report(got, tmp_path / "report.html", strips=[], note="Note.")


def test_it_is_small_and_holds_no_path(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    write_results(tmp_path / "r.jsonl", comparison, names=NAMES)
    text = (tmp_path / "r.jsonl").read_text()
    assert str(tmp_path) not in text and len(text.splitlines()) == 1 + 4 * 2
    assert max(map(len, text.splitlines()[1:])) < 1500  # 250 clips, 2 characters each, and the figures
    assert read_results(tmp_path / "r.jsonl")["pairs"] == summarise(comparison, names=NAMES)["pairs"]


def test_roles_of_a_file_that_knows_controls_alone(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    write_results(tmp_path / "r.jsonl", comparison, names=NAMES)
    text = (tmp_path / "r.jsonl").read_text().replace('"role":null', '"control":false')
    text = text.replace('"role":"control"', '"control":true').replace('"shuffled"', '"true_1x_lm"')
    (tmp_path / "old.jsonl").write_text(text)
    assert '"role"' not in text
    got = read_results(tmp_path / "old.jsonl")
    assert {arm: entry["role"] for arm, entry in got["arms"].items()} == {
        "direct": None,
        "rbft": None,
        "true_1x_lm": "oracle",
        "probe": None,
    }
    assert "no oracle arm" not in got["sentence"] and "no oracle arm" in read_results(tmp_path / "r.jsonl")["sentence"]


@pytest.mark.parametrize("text", ['{"format":7}\n', '{"a":1}\n', "", "[1]\n"])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"r\.jsonl"):
        read_results(tmp_path / "r.jsonl")


def test_draws_of_two_files_are_one_comparison(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    arms = comparison["arms"]
    for i in range(2):
        some = {arm: entry | {"draws": entry["draws"][i : i + 1]} for arm, entry in arms.items()}
        write_results(tmp_path / f"{i}.jsonl", comparison | {"arms": some}, names=NAMES)
    write_results(tmp_path / "whole.jsonl", comparison, names=NAMES)
    merge_results(tmp_path / "both.jsonl", [tmp_path / "0.jsonl", tmp_path / "1.jsonl"])
    assert read_results(tmp_path / "both.jsonl")["pairs"] == read_results(tmp_path / "whole.jsonl")["pairs"]
    merge_results(tmp_path / "again.jsonl", [tmp_path / "both.jsonl", tmp_path / "1.jsonl"])
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "both.jsonl").read_text()
    merged = {arm: entry | {"draws": entry["draws"][arm == "rbft" :]} for arm, entry in arms.items()}
    write_results(tmp_path / "uneven.jsonl", comparison | {"arms": merged}, names=NAMES)
    assert "RB-FT lacks draw 0, so each pair" in read_results(tmp_path / "uneven.jsonl")["sentence"]
    other = (tmp_path / "1.jsonl").read_text().replace('"task":"t"', '"task":"u"')
    (tmp_path / "other.jsonl").write_text(other)
    with pytest.raises(UserError, match=r"other\.jsonl' has another 'task'"):
        merge_results(tmp_path / "no.jsonl", [tmp_path / "0.jsonl", tmp_path / "other.jsonl"])


def test_cells_of_other_settings_are_not_merged(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    arms = comparison["arms"]
    known = {"": "0"} | dict.fromkeys(arms, "1")
    for name, settings in (("a", known), ("b", known | {"rbft": "2"}), ("c", {"": "9"}), ("old", {})):
        write_results(tmp_path / f"{name}.jsonl", comparison | {"settings": settings}, names=NAMES)
    files = {name: tmp_path / f"{name}.jsonl" for name in ("a", "b", "c", "old")}
    merge_results(tmp_path / "both.jsonl", [files["a"], files["a"]])
    assert read_results(tmp_path / "both.jsonl")["settings"] == known
    with pytest.raises(UserError, match=r"arm 'rbft' was set otherwise in '.*b\.jsonl'"):
        merge_results(tmp_path / "no.jsonl", [files["a"], files["b"]])
    with pytest.raises(UserError, match=r"base, card, evaluation or trials were set otherwise in '.*c\.jsonl'"):
        merge_results(tmp_path / "no.jsonl", [files["a"], files["c"]])
    assert not (tmp_path / "no.jsonl").exists()
    with pytest.warns(UserWarning, match=r"old\.jsonl' does not say with which settings"):
        merge_results(tmp_path / "unknown.jsonl", [files["a"], files["old"]])
    assert read_results(tmp_path / "unknown.jsonl")["settings"] == {}
