"""Full fine-tuning of bf16 weights needs fp32 copies: who has them trains, who has not is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rbft_trl import check, compare, plan, sft
from rbft_trl.compare_config import CompareArguments
from rbft_trl.data.jsonl import read_json
from rbft_trl.engines import check_full_precision
from rbft_trl.errors import UserError
from rbft_trl.model.loading import load_base
from rbft_trl.recipe import parse_recipe
from tests.helpers import REPOSITORY, base_arguments, toy_recipe
from tests.launching import COMPILES, cpu_twin, launch

RATE, STEPS = 1e-5, 24
FULL: dict[str, Any] = {"use_peft": False, "lora_r": ..., "lora_alpha": ..., "lora_dropout": ..., "shots": 3}
FULL |= {"dtype": "bfloat16", "bf16": True, "learning_rate": RATE, "lr_scheduler_type": "constant", "warmup_steps": 0}
FULL |= {"max_steps": STEPS, "eval_strategy": "no", "load_best_model_at_end": False, "save_strategy": "no"}
FULL |= {"save_steps": ..., "eval_steps": ..., "save_total_limit": ..., "validate_by_score": False}
FULL |= {"per_device_train_batch_size": 2}


def moved(run: Path, base: Path) -> float:
    """Mean change of the weights of at least 0.02, in learning rates: AdamW moves each by at most one per step."""
    before, after = (dict(load_base(base_arguments(f), device="cpu").named_parameters()) for f in (base, run))
    pairs = [(before[name].detach().bfloat16().float(), after[name].detach()) for name in before]
    return torch.cat([(new - old)[old.abs() >= 0.02].abs() for old, new in pairs]).mean().item() / RATE


@pytest.mark.parametrize("rate", [1e-6, 1e-5])
def test_adamw_rounds_small_steps_on_bf16_away(rate: float) -> None:
    start = torch.linspace(0.01, 0.1, 1000)
    weights = [torch.nn.Parameter(start.to(dtype, copy=True)) for dtype in (torch.bfloat16, torch.float32)]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    for _ in range(100):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    low, full = (weight.detach().float() for weight in weights)
    assert (start - full).mean() == pytest.approx(100 * rate, rel=0.01)
    assert (low == start.bfloat16().float()).all(), "not one of 100,000 steps arrived"


@pytest.mark.parametrize(
    ("engine", "dtype", "bf16", "launched", "said"),
    [
        ("one process", "bfloat16", True, None, "dtype is bfloat16 .* under one process .*; write dtype: float32"),
        ("one process", "bfloat16", False, None, "under one process"),
        ("one process", "auto", True, None, "dtype is auto"),
        ("DDP", "bfloat16", True, "bf16", "under DDP"),
        ("FSDP2", "bfloat16", False, "no", "under FSDP2 with mixed_precision no"),
        ("FSDP2", "bfloat16", False, "bf16", None),
        ("FSDP2", "bfloat16", True, "no", None),
        ("ZeRO-2", "bfloat16", True, "bf16", None),
        ("ZeRO-3", "bfloat16", True, "bf16", None),
        ("one process", "float32", True, None, None),
        ("DDP", "float32", False, None, None),
    ],
)
def test_who_has_no_fp32_copy_is_refused(
    engine: str, dtype: str, bf16: bool, launched: str | None, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    if said is None:
        return check_full_precision(engine, dtype=dtype, bf16=bf16)
    with pytest.raises(UserError, match=said):
        check_full_precision(engine, dtype=dtype, bf16=bf16)


def test_one_process_would_train_nothing_and_is_refused_before_it_loads(
    toy_set: tuple, smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **FULL, output_dir=tmp_path / "refused")
    with pytest.raises(UserError, match=r"dtype is bfloat16 but use_peft is false.*accelerate_configs/fsdp2\.yaml"):
        sft.main([recipe])
    assert not (tmp_path / "refused").exists()
    sft.main([recipe, "--dtype", "float32", "--output_dir", str(tmp_path / "float32")])
    assert moved(tmp_path / "float32", smoke_base) > STEPS / 4
    monkeypatch.setattr(plan, "check_full_precision", lambda *_, **__: None)
    sft.main([recipe, "--output_dir", str(tmp_path / "bfloat16")])
    assert moved(tmp_path / "bfloat16", smoke_base) < 0.01


@pytest.mark.parametrize(
    "name", ["fsdp2", *(pytest.param(f"zero{n}", marks=[pytest.mark.slow, COMPILES]) for n in (2, 3))]
)
def test_the_engines_of_the_full_setups_keep_small_steps(
    name: str, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    """As recipes/setups/full_8gpu.yaml and recipes/rbft_paper: bf16 weights under the shipped launch file."""
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **FULL, output_dir=tmp_path / "run")
    config, on_cpu = cpu_twin(tmp_path, name, mixed_precision="bf16"), {"ON_CPU": "1"} if name == "fsdp2" else {}
    launch(tmp_path, config, "sft", recipe, "--per_device_train_batch_size", "1", **on_cpu)
    assert moved(tmp_path / "run", smoke_base) > STEPS / 4


def test_what_the_base_holds_is_what_auto_means(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **FULL | {"max_steps": 1, "dtype": "auto"})
    assert read_json(smoke_base / "config.json")["dtype"] == "float32"
    sft.main([recipe, "--output_dir", str(tmp_path / "run")])


def test_a_check_is_told_the_engine(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **FULL, output_dir=tmp_path / "run")
    out = ["--report_dir", str(tmp_path / "report"), "--gpus", "2"]
    for engine, errors in (("ddp", 1), ("fsdp2", 0), ("zero3", 0)):
        assert check.main([recipe, *out, "--engine", engine]) == errors, engine
    found = read_json(tmp_path / "report/check.json")["findings"]
    assert check.main([recipe, *out]) == 1 and "dtype" not in str(found)


def test_a_comparison_in_one_process_is_refused_before_its_first_stage() -> None:
    words = [str(REPOSITORY / "recipes/compare.yaml"), "--setup", str(REPOSITORY / "recipes/setups/full_8gpu.yaml")]
    with pytest.raises(UserError, match="write dtype: float32"):
        compare.check(*parse_recipe(words, CompareArguments))
    sharded = ["--launch", str(REPOSITORY / "accelerate_configs/fsdp2.yaml")]
    assert "rbft" in compare.check(*parse_recipe([*words, *sharded], CompareArguments))
