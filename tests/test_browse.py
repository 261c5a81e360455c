"""Agreement of what a model writes with what it decides, on a real checkpoint."""

from pathlib import Path

import pytest

from rbft_trl import eval as evaluation
from rbft_trl import sft
from rbft_trl.browse import agreement, mistake_strips
from rbft_trl.classifier import VideoClassifier
from rbft_trl.configs import DataArguments, EvalArguments, ModelArguments
from rbft_trl.data.jsonl import read_jsonl, write_jsonl
from rbft_trl.evidence.report import mistake_view
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
    assert counted["n"] == 12 == sum(counted[key] for key in ("same", "other", "none", "bare"))

    asked: list[str] = []

    def write(self: VideoClassifier, rows: list[dict], clips: list) -> list[str]:
        """In turn: a rationale for the decided label, for another one and for none, and the bare label in two ways."""
        asked.extend(row["id"] for row in rows)
        decided = {p["id"]: p["prediction"] for p in predictions}
        other = {row["id"]: next(n for n in task.card.names if n != decided[row["id"]]) for row in rows}
        forms = ["It moves.\nClassification: {0}", "It moves.\nClassification: {1}", "It moves.", "{0}"]
        forms.append("Classification: {1}")
        return [forms[asked.index(i) % 5].format(decided[i], other[i]) for i in (row["id"] for row in rows)]

    monkeypatch.setattr(VideoClassifier, "rationales", write)
    assert agreement(task, cell, run, most=12) == {"n": 12, "same": 3, "other": 3, "none": 2, "bare": 4}
    assert asked == [p["id"] for p in predictions][::2]
    asked.clear()
    looks = [mistake_view(clip) for clip in mistake_strips(task, cell, run)][: len(asked)]
    kinds = [(look["text"], look["agrees"], look["concludes"] == look["prediction"]) for look in looks[:5]]
    moves = "It moves."
    assert kinds == [
        (moves, True, True),
        (moves, False, False),
        (moves, False, False),
        ("", False, True),
        ("",) + (False,) * 2,
    ]
    asked.clear()
    write_jsonl(file, [p | {"scores": {}} if i else p for i, p in enumerate(predictions)])
    assert agreement(task, cell, run)["n"] == 1
    write_jsonl(file, [p | {"scores": {}} for p in predictions])
    assert agreement(task, cell, run) == {"n": 0, "same": 0, "other": 0, "none": 0, "bare": 0}
