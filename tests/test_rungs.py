"""Where RB-FT cannot be trained, a draw or a number of shots is left out with the reason, and the others compared."""

import json
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbft_trl import compare
from rbft_trl.arms import read_arms
from rbft_trl.costs import Place
from rbft_trl.data.jsonl import read_jsonl, write_jsonl
from rbft_trl.errors import NothingKept, UserError
from rbft_trl.evidence.metrics import compute_metrics
from rbft_trl.evidence.results import read_results
from tests.helpers import REPOSITORY
from tests.test_report import predictions

NAMES = ["walk", "run"]
WHY = "draw {}, {} shots: class 'walk' has no kept rationale"


def all_of(shots: int, draws: int = 3) -> str:
    return "; ".join(WHY.format(draw, shots) for draw in range(draws))


class Run:
    """Stands in for `Cells`: nothing is trained, and a class has no rationale at the shots in `lost`, and none in the
    draws in `unlucky`."""

    lost: tuple[int, ...] = ()
    unlucky: tuple[int, ...] = ()
    data, base = SimpleNamespace(shots=16), None

    def __init__(self, args: Any, arms: dict[str, Any]) -> None:
        self.args, self.arms, self.out = args, arms, Path(args.output_dir)
        self.ran: list[tuple[int, int, str]] = []
        self.places: list[Place] = []
        Run.last = self

    def task(self, place: Place) -> SimpleNamespace:
        self.places.append(place)
        rows = [{"group": str(i // 2)} for i in range(60)]
        return SimpleNamespace(card=SimpleNamespace(name="toy", names=NAMES), of_split=lambda split: rows)

    def cell(self, name: str, place: Place) -> dict[str, Any]:
        self.ran.append((place.shots, place.draw, name))
        if (place.shots in self.lost or place.draw in self.unlucky) and name not in ("zero_shot", "probe"):
            raise NothingKept("class 'walk' has no kept rationale")
        said = predictions(NAMES, 0.5)
        file = self.out / f"{place.shots}_{place.draw}_{name}.jsonl"
        self.out.mkdir(exist_ok=True)
        write_jsonl(file, said)
        cell = {"draw": place.draw, "predictions": str(file), "metrics": compute_metrics(said, NAMES), "curves": []}
        cell |= {"rationales": None, "kept": None, "steps": 4, "presentations": 8, "seconds": 1.0, "checkpoint": "x"}
        return cell | {"validation_accuracy": 0.5}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*lost: int, words: tuple[str, ...] = (), unlucky: tuple[int, ...] = ()) -> dict[str, Any]:
        monkeypatch.setattr(Run, "lost", lost)
        monkeypatch.setattr(Run, "unlucky", unlucky)
        monkeypatch.setattr(compare, "Cells", Run)
        monkeypatch.setattr(compare, "check", lambda args: read_arms(args.arms, args.arms_folder))
        monkeypatch.setattr(compare, "check_data", lambda run: run.task(Place(0, None)))
        monkeypatch.setattr(compare, "labels_per_class", lambda run: [24, 24])
        monkeypatch.setattr(compare, "settings_of", lambda *_: {"": "0"})
        monkeypatch.setattr(compare, "mistake_strips", lambda *_: [])
        counts = {"n": 50, "same": 40, "other": 5, "none": 3, "bare": 2}
        monkeypatch.setattr(compare, "agreement", lambda *_: counts)
        argv = [
            str(REPOSITORY / "recipes/toy/compare.yaml"),
            "--arms",
            "[zero_shot, direct, rbft, probe]",
            "--shots",
            "[2, 4, 8]",
        ]
        argv += ["--trials", "null", "--output_dir", str(tmp_path / "out")]
        return compare.main([*argv, *(words or ("--seeds", "3"))])

    return run


@pytest.mark.parametrize(("lost", "kept"), [((4,), [2, 8]), ((2, 8), [4])])
def test_a_number_of_shots_is_left_out_and_the_others_go_on(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture, lost: tuple[int, ...], kept: list[int]
) -> None:
    comparison = start(*lost)
    told = [{"shots": shots, "arm": "rbft", "why": all_of(shots)} for shots in lost]
    assert comparison["shots"] == [rung["shots"] for rung in comparison["rungs"]] == kept
    assert comparison["rungs_left_out"] == told
    assert json.loads((tmp_path / "out/comparison.json").read_text())["rungs_left_out"] == told
    printed = capsys.readouterr().out
    for shots in lost:
        said = f"{shots} labelled clips per class are left out: without arm 'rbft' there is nothing to compare: "
        assert said + all_of(shots) in printed
        assert not [ran for ran in Run.last.ran if ran[0] == shots and ran[2] == "probe"], "nothing to compare it with"
    assert all(f"\n{shots} labelled clips per class\n" in printed for shots in kept)
    assert read_jsonl(tmp_path / "out/results.jsonl")[0]["left_out"] == told
    read = read_results(tmp_path / "out/results.jsonl")
    assert read["shots"] == kept and read["rungs_left_out"] == told
    report = unescape((tmp_path / "out/report.html").read_text())
    assert all(f"{shots} shots" in report and all_of(shots) in report for shots in lost)
    assert Run.last.places[-1] == Place(0, kept[-1]), "the report shows clips of what is compared"


def test_without_any_number_of_shots_nothing_is_written(start: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"without arm 'rbft' there is nothing to compare: {all_of(2)}"):
        start(2, 4, 8)
    assert not (tmp_path / "out/comparison.json").exists()


def test_a_draw_without_rationales_is_left_out_and_the_others_are_compared(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It once took all draws with it, those that were finished too."""
    comparison = start(unlucky=(0,))
    arms = comparison["arms"]
    assert {name: [cell["draw"] for cell in arms[name]["draws"]] for name in arms} == {
        "zero_shot": [0, 1, 2], "direct": [1, 2], "rbft": [1, 2], "probe": [1, 2],
    }  # fmt: skip
    assert comparison["rungs"][-1]["left_out"] == {name: WHY.format(0, 8) for name in ("direct", "rbft")}
    assert f"left out: direct, rbft - {WHY.format(0, 8)}" in capsys.readouterr().out
    assert "direct lacks draw 0, so each pair is compared" in comparison["sentence"]
    assert Run.last.places[-1] == Place(1, 8), "the report shows clips of a draw that is compared"
    read = read_results(tmp_path / "out/results.jsonl")
    assert read["rungs"][-1]["left_out"] == comparison["rungs"][-1]["left_out"]
    assert read["sentence"] == comparison["sentence"]


def test_a_part_whose_draws_are_all_lost_is_done_all_the_same(start: Any) -> None:
    assert start(unlucky=(1,), words=("--seeds", "2", "--part", "2/2")) == {"rungs": []}


def test_a_part_leaves_it_out_too(start: Any) -> None:
    done = start(4, words=("--seeds", "2", "--part", "2/2"))  # draw 1
    assert [rung["shots"] for rung in done["rungs"]] == [2, 8]
