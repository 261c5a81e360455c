"""What check.py advises: changes until it fits, the global batch on N GPUs, and what an engine refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import check, sft
from rbft_trl.advice import advice, keeping_the_batch, reading_changes, training_changes
from rbft_trl.configs import AdapterArguments
from rbft_trl.errors import UserError
from rbft_trl.model.held import Setting
from rbft_trl.model.meta_step import Clip
from rbft_trl.plan import OPTIONS
from rbft_trl.recipe import parse_recipe
from rbft_trl.training_config import TrainingConfig
from tests.helpers import REPOSITORY, toy_recipe
from tests.tiny_families import tiny_base

BATCH = [Clip((2, 8, 8), 60, 5)] * 2


class Fake:
    """A cost of so many GB."""

    def __init__(self, gigabytes: float) -> None:
        self.total = gigabytes * 1e9


def reported(folder: Path, argv: list[str]) -> tuple[int, dict[str, Any]]:
    """The number of errors, and check.json."""
    errors = check.main([*argv, "--report_dir", str(folder / "r")])
    return errors, json.loads((folder / "r/check.json").read_text())


def messages(report: dict[str, Any], kind: str) -> list[str]:
    return [finding["message"] for finding in report["findings"] if finding["kind"] == kind]


def test_changes_keep_the_global_batch_and_end_when_it_fits() -> None:
    setting = Setting(AdapterArguments(), accumulation=4, gpus=2)
    steps = list(training_changes(setting, BATCH * 2))
    assert [words.split(":")[0] for words, *_ in steps][:4] == [
        "activation_checkpointing", "per_device_train_batch_size", "per_device_train_batch_size", "load_in_4bit",
    ]  # fmt: skip
    assert all(len(batch) * changed.accumulation == 16 for _, changed, batch in steps)

    def cost(changed: Setting, batch: list[Clip]) -> Fake:
        return Fake(40 - 10 * changed.recompute - 5 * (len(batch) < 4))

    lines = advice(cost, Fake(40), training_changes(setting, BATCH * 2), 26)
    assert lines[-1] == "then it fits on 26 GB" and len(lines) == 3 and "(the same global batch): 25.0 GB" in lines[1]
    assert advice(cost, Fake(20), training_changes(setting, BATCH), 26) == []
    assert "even then" in advice(cost, Fake(40), training_changes(setting, BATCH), 8)[-1]


@pytest.mark.parametrize(("size", "sizes"), [(9, [3, 1]), (15, [5, 1]), (7, [1]), (12, [6, 3, 1]), (1, [])])
def test_any_batch_can_be_made_smaller(size: int, sizes: list[int]) -> None:
    setting, batch = Setting(AdapterArguments(), recompute=True), BATCH[:1] * size
    steps = [step for step in training_changes(setting, batch) if "per_device" in step[0]]
    assert [len(rows) for *_, rows in steps] == sizes
    assert all(len(rows) * changed.accumulation == size for _, changed, rows in steps)
    assert [len(rows) for words, _, rows in reading_changes(setting, batch) if "per_device" in words] == sizes


def test_what_is_refused_or_not_recommended_is_not_advised() -> None:
    setting = Setting(AdapterArguments(), gpus=4)
    told = [words for words, *_ in training_changes(setting, BATCH, four_bit=False, scored=True)]
    assert not any("4bit" in words for words in told)
    assert "shard the weights (accelerate_configs/fsdp2.yaml) with validate_by_score: false" in told
    told = [words for words, *_ in training_changes(setting, BATCH, four_bit=False)]
    assert "shard the weights (accelerate_configs/fsdp2.yaml)" in told
    assert not any("4bit" in words for words, *_ in reading_changes(setting, BATCH, four_bit=False))


def test_linear_attention_in_4_bit_is_warned_of(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    base = tiny_base("qwen3_5", tmp_path, smoke_base)
    for name in ("direct", "rationales", "eval"):
        changes = {"output_file": tmp_path / "r.jsonl"} if name == "rationales" else {"output_dir": tmp_path / "o"}
        recipe = toy_recipe(name, tmp_path, toy_set[0], base, **changes)
        _, report = reported(tmp_path, [recipe, "--load_in_4bit", "true"])
        (said,) = messages(report, "four_bit")
        assert "linear-attention layers" in said and "load_in_4bit: false" in said
        _, report = reported(tmp_path, [recipe, "--use_cpu", "false", "--gpu_memory", "0.1"])
        assert messages(report, "four_bit") == []
        assert report["memory"]["advice"] and not any("4bit" in line for line in report["memory"]["advice"])


@pytest.mark.parametrize(
    ("name", "engine", "changes", "words"),
    [
        ("direct", "fsdp2", {"load_in_4bit": True}, ["cut packed 4-bit weights", "write validate_by_score: false"]),
        ("direct", "zero3", {}, ["write validate_by_score: false"]),
        ("direct", "zero3", {"validate_by_score": False, "metric_for_best_model": ...}, []),
        ("direct", "zero2", {"load_in_4bit": True}, []),
        ("eval", "fsdp2", {}, ["use multi_gpu.yaml"]),
        ("rationales", "zero3", {}, ["use multi_gpu.yaml"]),
        ("rationales", "zero3", {"server_url": "http://localhost:8000"}, []),
    ],
)
def test_what_an_engine_refuses_is_an_error_and_no_figure_is_told(
    name: str, engine: str, changes: dict, words: list[str], toy_set: tuple, smoke_base: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    recipe = toy_recipe(name, tmp_path, toy_set[0], smoke_base, **changes)
    errors, report = reported(tmp_path, [recipe, "--engine", engine, "--gpus", "2"])
    told = messages(report, "engine")
    assert errors == len(told) == len(words) and all(word in said for word, said in zip(words, told, strict=True))
    if words:
        assert report["memory"] is None and "memory in GB" not in capsys.readouterr().out
    elif "server_url" not in changes:
        assert report["memory"]["rows"]


@pytest.mark.parametrize(
    ("size", "accumulation", "processes", "words"),
    [
        (2, 4, 4, "a step takes 32 rows (2 x 4 accumulation x 4 processes), on one process 8; to keep 8 write "
                  "gradient_accumulation_steps: 1,"),
        (2, 4, 8, "gradient_accumulation_steps: 1 and per_device_train_batch_size: 1"),
        (2, 4, 3, "no split over 3 keeps 8"),
    ],
)  # fmt: skip
def test_more_gpus_change_the_batch_of_a_recipe_that_names_none(
    size: int, accumulation: int, processes: int, words: str, tmp_path: Path
) -> None:
    sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    training = TrainingConfig(output_dir=str(tmp_path), use_cpu=True, **sizes)
    assert words in keeping_the_batch(training, processes)
    assert keeping_the_batch(training, 1) is None


@pytest.mark.parametrize("file", ["stage1.yaml --setup setups/full_8gpu.yaml", "rbft_paper/stage1.yaml"])
def test_recipes_for_8_gpus_are_warned_of_on_fewer(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY / "recipes")
    training = parse_recipe([*file.split(), "--use_cpu", "true"], *OPTIONS)[-1]
    assert "1 x 1 accumulation x 1 process), global_batch is 8; to keep 8 write gradient_accumulation_steps: 8," in (
        keeping_the_batch(training, 1)
    )
    assert "4 processes), global_batch is 8; to keep 8 write gradient_accumulation_steps: 2," in (
        keeping_the_batch(training, 4)
    )
    assert keeping_the_batch(training, 8) is None


def test_every_setup_names_its_batch() -> None:
    for file in (*(REPOSITORY / "recipes/setups").glob("*.yaml"), REPOSITORY / "recipes/rbft_paper/setup.yaml"):
        assert yaml.safe_load(file.read_text())["global_batch"] == 8


def test_another_batch_is_warned_of_before_training(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    changes = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    changes |= {"per_device_train_batch_size": 2, "metric_for_best_model": ...}
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)
    with pytest.warns(UserWarning, match="global_batch is 8; to keep 8 write gradient_accumulation_steps: 4,"):
        sft.main([recipe, "--output_dir", str(tmp_path / "a"), "--global_batch", "8"])
    with pytest.raises(UserError, match="'global_batch' is 0 but must be at least 1"):
        sft.main([recipe, "--output_dir", str(tmp_path / "b"), "--global_batch", "0"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--gpu_memory", "0"], "--gpu_memory is 0 GB but must be a number above 0"),
        (["--gpu_memory", "-24"], "--gpu_memory is -24 GB"),
        (["--gpu_memory", "nan"], "--gpu_memory is nan GB"),
        (["--gpus", "4", "--processes", "4"], "--gpus 4 and --processes 4 are one number; give --gpus alone"),
        (["--gpus", "0"], "--gpus is 0 but must be at least 1"),
        (["--processes", "-1"], "--processes is -1 but must be at least 1"),
        (["--init", "base"], "'recipes/direct.yaml' is to be checked; leave one out .* the key init into the recipe"),
    ],
)
def test_wrong_machines_are_told(argv: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check.main(["recipes/direct.yaml", *argv])
