"""Agreement of what a model writes with what it decides, on a real checkpoint."""

from pathlib import Path

import pytest

from rbft_trl import eval as evaluation
from rbft_trl import sft
from rbft_trl.browse import agreement
from rbft_trl.classifier import VideoClassifier
from rbft_trl.configs import DataArguments, EvalArguments, ModelArguments
from rbft_trl.data.jsonl import read_jsonl, write_jsonl
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import open_task
from tests.helpers import toy_recipe
from tests.test_training import QUICK


def test_agreement_is_counted_on_clips_taken_evenly(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, run = toy_set[0], tmp_path / "run"
    sft.main([toy_recipe("direct", tmp_path, card, smoke_base, output_dir=run, **QUICK | {"max_steps": 1})])
    recipe = toy_recipe("eval", tmp_path, card, smoke_base, output_dir=tmp_path / "e", checkpoint=run, generate=False)
    evaluation.main([recipe])
    data, base, _ = parse_recipe([recipe], DataArguments, ModelArguments, EvalArguments)
    task, file = open_task(data, base), tmp_path / "e/predictions.jsonl"
    cell, predictions = {"predictions": str(file)}, sorted(read_jsonl(file), key=lambda p: p["id"])

    counted = agreement(task, cell, run, most=12)
    assert counted["n"] == 12 == counted["same"] + counted["other"] + counted["none"]

    asked: list[str] = []

    def write(self: VideoClassifier, rows: list[dict], clips: list) -> list[str]:
        """The decided label, another label and no label in turn, so that the counts are known."""
        asked.extend(row["id"] for row in rows)
        decided = {p["id"]: p["prediction"] for p in predictions}
        other = {row["id"]: next(n for n in task.card.names if n != decided[row["id"]]) for row in rows}
        endings = [decided, other, dict.fromkeys(decided, "")]
        return [f"It moves.\nClassification: {endings[asked.index(r['id']) % 3][r['id']]}" for r in rows]

    monkeypatch.setattr(VideoClassifier, "rationales", write)
    assert agreement(task, cell, run, most=12) == {"n": 12, "same": 4, "other": 4, "none": 4}
    assert asked == [p["id"] for p in predictions][::2]
    asked.clear()
    write_jsonl(file, [p | {"scores": {}} if i else p for i, p in enumerate(predictions)])
    assert agreement(task, cell, run)["n"] == 1
    write_jsonl(file, [p | {"scores": {}} for p in predictions])
    assert agreement(task, cell, run) == {"n": 0, "same": 0, "other": 0, "none": 0}
