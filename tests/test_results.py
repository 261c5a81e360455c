"""The small file of a comparison: all statistics come out of it as they came out of the predictions."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft_trl.data.jsonl import write_json, write_jsonl
from rbft_trl.errors import UserError
from rbft_trl.evidence.outcomes import read_predictions
from rbft_trl.evidence.report import build_report
from rbft_trl.evidence.results import merge_results, read_results, write_results
from rbft_trl.evidence.stats import summarise
from tests.test_stats import NAMES, comparison, two_draws  # noqa: F401


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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A place for copies, and the lines of a file of two rungs."""
    folder = tmp_path_factory.mktemp("written")
    made = two_draws(folder)
    write_results(folder / "r.jsonl", made | {"rungs": [{"shots": shots} | made for shots in (4, 8)]}, names=NAMES)
    return folder / "copy.jsonl", (folder / "r.jsonl").read_text().splitlines(keepends=True)


@given(data=st.data())
def test_a_file_that_was_cut_or_edited_gives_no_table(written: tuple[Path, list[str]], data: st.DataObject) -> None:
    path, lines = written
    at = data.draw(st.integers(0, len(lines) - 1))
    line = lines[at]
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.characters(codec="utf-8"))
    changes = {
        "lost": [],
        "twice": [line, line],
        "cut": [line[:place]],
        "edited": [line[:place] + other + line[place + 1 :]],
        "longer": [line[:place] + other + line[place:]],
    }
    changed = [*lines[:at], *changes[data.draw(st.sampled_from(sorted(changes)))], *lines[at + 1 :]]
    text = "".join(changed)
    path.write_bytes(text.encode())
    try:
        same = read_results(path)
    except UserError as error:
        assert str(path) in str(error)
    else:  # a blank where JSON allows one, or the same letter
        path.write_text("".join(lines))
        assert same["rungs"] == read_results(path)["rungs"]


@pytest.mark.parametrize("text", ['{"format":1}\n', '{"format":2}\n', '{"a":1}\n', "", "[1]\n"])
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
    write_results(tmp_path / "other.jsonl", comparison | {"task": "u"}, names=NAMES)
    with pytest.raises(UserError, match=r"other\.jsonl' has another 'task'"):
        merge_results(tmp_path / "no.jsonl", [tmp_path / "0.jsonl", tmp_path / "other.jsonl"])


def test_how_many_labels_there_were_to_draw_from_is_kept(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    for name, of in (("new", {"labels": [6, 6]}), ("other", {"labels": [7, 9]}), ("old", {})):
        rung = {"shots": 4} | of | comparison
        write_results(tmp_path / f"{name}.jsonl", comparison | {"rungs": [rung]}, names=NAMES)
    for files in (["new"], ["old", "new"], ["new", "old"]):
        merge_results(tmp_path / "merged.jsonl", [tmp_path / f"{name}.jsonl" for name in files])
        assert "each draw took 4 of 6 labelled clips per class" in read_results(tmp_path / "merged.jsonl")["sentence"]
    assert "each draw took" not in read_results(tmp_path / "old.jsonl")["sentence"]
    with pytest.raises(UserError, match="has another 'labels'"):
        merge_results(tmp_path / "merged.jsonl", [tmp_path / "new.jsonl", tmp_path / "other.jsonl"])


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


def test_an_arm_has_one_role_in_all_files(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    for name, role in (("a", "control"), ("b", "reference")):
        arms = comparison["arms"] | {"shuffled": comparison["arms"]["shuffled"] | {"role": role}}
        write_results(tmp_path / f"{name}.jsonl", comparison | {"arms": arms}, names=NAMES)
    with pytest.raises(UserError, match=r"arm 'shuffled' has the role 'reference' in '.*b\.jsonl' and 'control' in"):
        merge_results(tmp_path / "no.jsonl", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_arms_that_share_no_draw_are_no_pair(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    drawn = {"rbft": slice(0, 1), "shuffled": slice(1, 2)}
    arms = {
        arm: entry | {"draws": entry["draws"][drawn.get(arm, slice(2))]} for arm, entry in comparison["arms"].items()
    }
    found = summarise({"arms": arms}, names=NAMES)
    assert not [pair for pair in found["pairs"] if pair["baseline"] == "shuffled"]
    assert "RB-FT and shuffled share no draw, so it is not known" in found["sentence"]


def test_arms_that_were_left_out_are_kept_with_the_reason(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    """Else a table would say nothing of an arm that could not be trained."""
    rung = {"shots": 4, "left_out": {"rbft_blind": "draw 0: no rationale"}} | comparison
    write_results(tmp_path / "r.jsonl", comparison | {"rungs": [rung]}, names=NAMES)
    write_results(tmp_path / "old.jsonl", comparison | {"rungs": [{"shots": 4} | comparison]}, names=NAMES)
    merge_results(tmp_path / "both.jsonl", [tmp_path / "old.jsonl", tmp_path / "r.jsonl"])
    for name in ("r", "both"):
        got = read_results(tmp_path / f"{name}.jsonl")
        assert got["rungs"][0]["left_out"] == {"rbft_blind": "draw 0: no rationale"}
    assert "left_out" not in read_results(tmp_path / "old.jsonl")["rungs"][0]


def test_some_arms_are_read_as_if_no_other_had_been_run(comparison: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    rung = {"shots": 4, "left_out": {"rbft_blind": "draw 0: no rationale"}} | comparison
    write_results(tmp_path / "r.jsonl", comparison | {"rungs": [rung]}, names=NAMES)
    some = ["direct", "rbft"]
    alone = comparison | {"arms": {arm: comparison["arms"][arm] for arm in some}}
    got = read_results(tmp_path / "r.jsonl", some)
    assert list(got["arms"]) == some and "left_out" not in got["rungs"][0]
    told = [summarise(arms, names=NAMES)["sentence"] for arms in (alone, comparison)]
    assert got["sentence"] == told[0] != told[1]
    assert read_results(tmp_path / "r.jsonl", [*some, "rbft_blind"])["rungs"][0]["left_out"]


@pytest.mark.parametrize(
    "change",
    [
        {"predictions": "a" * 10},
        {"predictions": "ba" * 5},  # as many right ones
        {"confusion": {}},
        {"confusion": None},
        {"confusion": {"labels": ["a", "b"], "matrix": None}},
    ],
)
def test_predictions_that_were_edited_are_not_believed(change: dict[str, Any], tmp_path: Path) -> None:
    made = {"predictions": "ab" * 5, "confusion": {"labels": ["a", "b"], "matrix": [[5, 0, 0], [5, 0, 0]]}}

    def write(predictions: str, confusion: Any) -> None:
        gold = "ab" * 5 if predictions == "ba" * 5 else "a" * 10
        rows = [
            {"id": f"c{i}", "label": g, "prediction": p, "group": "g"}
            for i, (g, p) in enumerate(zip(gold, predictions, strict=True))
        ]
        write_jsonl(tmp_path / "predictions.jsonl", rows)
        write_json(tmp_path / "metrics.json", {"n": 10, "accuracy": 0.5, "confusion": confusion})

    write("ab" * 5, {"labels": ["a", "b"], "matrix": [[5, 5, 0], [0, 0, 0]]})
    assert len(read_predictions(tmp_path)) == 10
    write(**(made | change))
    with pytest.raises(
        UserError, match=r"the confusion matrix in metrics\.json there tell of different answers; delete"
    ):
        read_predictions(tmp_path)
