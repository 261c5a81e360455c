"""What a checkpoint was trained on is known by the contents of files, and its adapter and base by their contents."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from rbft_trl import compare, sft
from rbft_trl import eval as evaluation
from rbft_trl.compare_config import CompareArguments
from rbft_trl.errors import UserError
from rbft_trl.model.inference import LabelScorer
from rbft_trl.model.loading import base_fingerprint, check_base
from rbft_trl.model.provenance import read_record
from rbft_trl.recipe import parse_recipe
from tests.helpers import REPOSITORY, base_arguments, toy_recipe
from tests.test_training import QUICK


@pytest.fixture(scope="module")
def run(toy_set: tuple, smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaks")
    sft.main([toy_recipe("direct", folder, toy_set[0], smoke_base, output_dir=folder / "run", **QUICK)])
    return folder / "run"


def test_renamed_groups_and_ids_do_not_hide_training_clips(
    run: Path, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(toy_set[1], tmp_path / "clips"))
    with (root / "clips.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    swapped = {"train": "test", "test": "train"}
    with (root / "clips.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for row in rows:
            if row["label"]:
                other = {"id": f"x{row['id']}", "group": f"x{row['group']}"}
                writer.writerow(row | other | {"split": swapped.get(row["split"], row["split"])})
    raw = yaml.safe_load(Path(toy_set[0]).read_text())
    raw["data"]["root"] = str(root)
    card = tmp_path / "toy.yaml"
    card.write_text(yaml.safe_dump(raw, sort_keys=False))
    recipe = toy_recipe("eval", tmp_path, card, smoke_base, checkpoint=run, output_dir=tmp_path / "eval")
    with pytest.raises(UserError, match=r"\d+ files of the test split were used to train"):
        evaluation.main([recipe])


def test_an_adapter_that_was_altered_is_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    config = json.loads((copy / "adapter_config.json").read_text())
    assert read_record(copy)["weights"] == read_record(run)["weights"]
    (copy / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "elsewhere"}))
    assert read_record(copy)["weights"] == read_record(run)["weights"]
    (copy / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 320}))
    with pytest.raises(UserError, match="are not those that were trained"):
        read_record(copy)


def test_a_base_that_differs_in_the_middle_is_another_one(smoke_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(smoke_base, tmp_path / "base"))
    data = bytearray((base / "model.safetensors").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(byte ^ 255 for byte in data[middle : middle + 8])
    (base / "model.safetensors").write_bytes(data)
    assert base_fingerprint(str(base)) != base_fingerprint(str(smoke_base))


def test_fp16_does_not_come_in_by_auto(smoke_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(smoke_base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    check_base(base_arguments(base))
    with pytest.raises(UserError, match=r"dtype is auto and .* holds float16"):
        check_base(base_arguments(base, dtype="auto"))
    with pytest.raises(UserError, match=r"model_revision is 'abc' but .* is a folder"):
        check_base(base_arguments(base, model_revision="abc"))


def test_the_best_checkpoint_is_the_one_that_is_kept(
    toy_set: tuple, smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is best at step 2 of 4, by a scorer that says so; the saved weights must be those of step 2."""
    shares: Iterator[float] = iter([0.25, 0.75, 0.5, 0.25])

    def right(self: LabelScorer, model: Any, rows: list[dict], **how: Any) -> list[tuple[str, bool]]:
        share = next(shares)
        return [(row["id"], i < share * len(rows)) for i, row in enumerate(rows)]

    monkeypatch.setattr(LabelScorer, "right", right)
    changes = {"output_dir": tmp_path / "run", "max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 1}
    changes |= {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_total_limit": ...}
    record = sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)])
    kept, best, last = (
        load_file(tmp_path / "run" / place / "adapter_model.safetensors")
        for place in ("", "checkpoint-2", "checkpoint-4")
    )
    assert record["best_validation"] == 0.75 and record["steps"] == 4
    assert all((kept[name] == best[name]).all() for name in kept)
    assert not all((kept[name] == last[name]).all() for name in kept)


def test_the_gpu_recipes_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    (args,) = parse_recipe(["recipes/compare.yaml"], CompareArguments)
    compare.check(args)
