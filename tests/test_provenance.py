"""A finished part is reused only if everything that it depends on is the same; no test clip was ever trained on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rbft_trl import eval as evaluation
from rbft_trl import sft
from rbft_trl.data.jsonl import write_jsonl
from rbft_trl.errors import UserError
from tests.helpers import toy_recipe

QUICK = {"max_steps": 2, "per_device_train_batch_size": 4, "eval_strategy": "no", "save_strategy": "no"}
QUICK |= {"load_best_model_at_end": False}


@pytest.fixture
def resplit(toy_set: tuple[Path, Path], tmp_path: Path) -> Path:
    """A card over labelled toy clips without a split column, so that `split_seed` deals them."""
    root = toy_set[1]
    lines = [line.split(",") for line in (root / "clips.csv").read_text().splitlines()[1:]]
    rows = [{"id": r[0], "video": r[1], "label": r[2]} for r in lines if r[2]]
    write_jsonl(root / f"{tmp_path.name}.jsonl", rows)
    raw = yaml.safe_load(Path(toy_set[0]).read_text())
    raw["data"] |= {"annotations": f"{tmp_path.name}.jsonl", "validation": 0.2, "test": 0.3, "split_seed": 0}
    card = tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump(raw, sort_keys=False))
    return card


def test_a_new_split_cannot_turn_training_clips_into_test_clips(
    resplit: Path, smoke_base: Path, tmp_path: Path
) -> None:
    changes = QUICK | {"output_dir": tmp_path / "run"}
    sft.main([toy_recipe("direct", tmp_path, resplit, smoke_base, **changes)])
    recipe = toy_recipe("eval", tmp_path, resplit, smoke_base, output_dir=tmp_path / "eval", generate=False)
    assert evaluation.main([recipe, "--checkpoint", str(tmp_path / "run")])["n"] > 0
    resplit.write_text(resplit.read_text().replace("split_seed: 0", "split_seed: 3"))
    with pytest.raises(UserError, match="were used to train"):
        evaluation.main([recipe, "--checkpoint", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda lines: lines[:-1],
            "holds 23 rows of 23 clips, but metrics.json there is of 24; delete '.*eval' and",
        ),
        (lambda lines: [], "holds 0 rows of 0 clips, but"),
        (lambda lines: [*lines[:-1], lines[0]], "holds 24 rows of 23 clips, but"),
        (lambda lines: [*lines[:-1], lines[-1].replace("toy", "boy")], "the data of the recipe differ in clip 'boy"),
        (
            lambda lines: [*lines[:-1], '{"id": "a"}'],
            "holds a row without 'label'; delete '.*eval' and evaluate again",
        ),
        (
            lambda lines: [*lines[:-1], lines[-1][:40]],
            r"predictions\.jsonl:24 is not JSON .*; delete the file and run",
        ),
    ],
)
def test_a_damaged_evaluation_is_not_reused(
    damage: Callable[[list[str]], list[str]], words: str, toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "eval", method="majority")
    evaluation.main([recipe])
    file = tmp_path / "eval/predictions.jsonl"
    file.write_text("".join(f"{line}\n" for line in damage(file.read_text().splitlines())))
    with pytest.raises(UserError, match=words):
        evaluation.main([recipe])


@pytest.mark.parametrize("change", [["--definitions", "true"], ["--dtype", "bfloat16"], ["--label_score", "mean"]])
def test_an_evaluation_is_reused_and_never_replaced_by_another(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, change: list[str]
) -> None:
    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "eval", generate=False)
    first = evaluation.main([recipe])
    assert evaluation.main([recipe]) == first  # reused to the last digit, seconds included
    with pytest.raises(UserError, match=r"holds an evaluation with .* choose another output_dir, or delete it"):
        evaluation.main([recipe, *change])
    (tmp_path / "eval/predictions.jsonl").unlink()
    evaluation.main([recipe, *change])
    assert (tmp_path / "eval/predictions.jsonl").is_file()


def test_stage2_refuses_a_parent_that_learnt_labels_and_a_changed_parent(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    direct = QUICK | {"output_dir": tmp_path / "direct"}
    sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **direct)])
    second = toy_recipe("stage2", tmp_path, toy_set[0], smoke_base, **QUICK, init=tmp_path / "direct")
    with pytest.raises(UserError, match="trained on labels already"):
        sft.main([second, "--output_dir", str(tmp_path / "second")])


def test_every_validation_clip_is_in_the_evaluation_loss(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    changes = QUICK | {"output_dir": tmp_path / "run", "eval_strategy": "steps", "eval_steps": 2}
    record = sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)])  # 16 clips, batches of 64
    assert all("eval_loss" in entry for entry in record["curves"] if "eval_accuracy" in entry)
