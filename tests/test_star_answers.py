"""The runs of Video-STaR on open answers: every model of the way is evaluated, finished runs are kept."""

from pathlib import Path
from typing import Any

import pytest

from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import UserError
from toy import evidence, star_answers

CYCLE = {"clips": 8, "generated": 2, "rationalised": 3, "dropped": 3, "reasons": {}}
TOLD = {"final": "f", "stopped": "no rise", "cost": {"seconds": 5.0}}
TOLD |= {"cycles": [CYCLE | {"cycle": 0, "trained": {"steps": 3}}, CYCLE | {"cycle": 1, "trained": None}]}


def test_each_model_is_evaluated_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked: list[str] = []

    def score(argv: list[str]) -> dict[str, Any]:
        asked.append(argv[argv.index("--checkpoint") + 1])
        return {"n": 400, "accuracy": 0.25, "accuracy_interval": [0.2, 0.3], "constant": 0.1, "reasons": {}}

    monkeypatch.setattr(star_answers, "KEPT", tmp_path / "results/star_answers.jsonl")
    monkeypatch.setattr(star_answers, "OUT", tmp_path)
    monkeypatch.setattr(star_answers.star, "main", lambda argv: TOLD)
    monkeypatch.setattr(star_answers.sft, "main", lambda argv: {})
    monkeypatch.setattr(star_answers.evaluation, "main", score)
    monkeypatch.setattr(star_answers, "read_record", lambda folder: {"steps": 9})
    monkeypatch.setattr(star_answers.answers, "main", lambda argv: None)
    monkeypatch.setattr(star_answers.open_base, "main", lambda argv: None)
    for _ in range(2):  # the second finds everything
        star_answers.main(["--kinds", "number", "--seeds", "1"])
    out = tmp_path / "star_answers/number0"
    assert asked == ["null", "f", str(out / "direct"), str(out / "star/cycle0/model")]
    (row,) = read_jsonl(star_answers.KEPT)
    assert row["cycles"][1] == {"cycle": 1, "clips": 8, "generated": 2, "rationalised": 3, "dropped": 3}
    line = "| number | 0 | 2, 3, 3; 2, 3, 3 | 25.0 (20.0-30.0) | 25.0 | 25.0 (20.0-30.0) | 25.0 (20.0-30.0) | 10.0 |"
    assert line in capsys.readouterr().out
    monkeypatch.setattr(star_answers, "settings_of", lambda kind: "another")
    with pytest.raises(UserError, match="the run of 'number', seed 0 was made with other recipes"):
        star_answers.main(["--kinds", "number", "--seeds", "2"])
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "results")
    evidence.main(["--tables"])
    assert line in capsys.readouterr().out


def test_tables_say_that_they_were_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    evidence.main(["--tables"])
    assert "## Video-STaR on answers that are no classes\n\nnot measured" in capsys.readouterr().out
