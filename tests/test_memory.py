"""What check.py says about memory: the table, what to change when it does not fit, and the global batch on N GPUs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from transformers import AutoModelForImageTextToText

from rbft_trl import check
from rbft_trl.configs import AdapterArguments
from rbft_trl.errors import UserError
from rbft_trl.model.cost import base_config, meta_model, training_cost
from rbft_trl.model.held import Setting, _whole_at_once, held_bytes, optimizer_bytes, weight_bytes
from rbft_trl.model.loading import mark_trained
from rbft_trl.model.meta_step import Clip
from tests.helpers import toy_recipe

BASE = "Qwen/Qwen2-VL-2B-Instruct"
BATCH = [Clip((2, 8, 8), 60, 5)] * 2


def published(**changes: object) -> tuple[torch.nn.Module, Setting]:
    setting = Setting(AdapterArguments(), **changes)
    return meta_model(base_config(BASE), setting), setting


def test_weights_in_4_bit_take_what_they_are_known_to_take() -> None:
    model, _ = published()
    whole, adapters, none = weight_bytes(model, load_in_4bit=False)
    packed, same, unpacked = weight_bytes(model, load_in_4bit=True)
    assert whole == pytest.approx(2 * 2_208_985_600, rel=1e-4) and none == 0  # parameters of the published model
    linear = 28 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960)
    assert whole - packed == pytest.approx(linear * (2 - 4.127 / 8), rel=1e-3)
    assert adapters == same > 0 and unpacked == 2 * 1536 * 8960


def test_engines_share_what_they_share() -> None:
    model, setting = published(accumulation=2)
    one = training_cost(model, setting, BATCH)
    costs = {
        engine: training_cost(model, Setting(AdapterArguments(), accumulation=2, gpus=4, engine=engine), BATCH)
        for engine in ("ddp", "zero2", "fsdp2")
    }
    assert costs["ddp"].weights == one.weights and costs["ddp"].gradients == 2 * one.gradients
    assert costs["zero2"].weights == one.weights and costs["zero2"].gradients == one.gradients / 4
    assert costs["fsdp2"].weights < one.weights / 2 and costs["fsdp2"].optimizer == one.optimizer / 4
    assert one.seconds("h200")[0] < one.seconds("a100")[0] < one.seconds("a100")[1]


def test_fsdp2_trains_fp32_copies_of_bf16_weights() -> None:
    """16 bytes per number over the GPUs, where one GPU without sharding holds 8."""
    full = AdapterArguments(use_peft=False, train_parts=["llm", "merger", "vision"])
    model = meta_model(base_config(BASE), Setting(full))
    numbers = sum(p.numel() for p in model.parameters())
    alone = held_bytes(model, Setting(full))
    assert alone.weights + alone.gradients + alone.optimizer == pytest.approx(8 * numbers, rel=1e-6)
    eight, sixteen, waiting = (
        held_bytes(model, Setting(full, engine="fsdp2", gpus=gpus, accumulation=accumulation))
        for gpus, accumulation in ((8, 1), (16, 1), (8, 2))
    )
    freed = sum(getattr(eight, k) - getattr(sixteen, k) for k in ("weights", "gradients", "optimizer"))
    assert freed == pytest.approx(16 * numbers / 16, rel=1e-6)  # what the whole layers take cancels out
    assert eight.optimizer == pytest.approx(8 * numbers / 8)
    assert waiting.gradients - eight.gradients == pytest.approx((2 - 4 / 8) * numbers)  # whole until the last batch
    plain = held_bytes(model, Setting(full, engine="fsdp2", gpus=8, autocast=False))
    assert plain.optimizer == eight.optimizer / 2


def test_accelerate_holds_what_is_estimated_under_fsdp2(smoke_base: Path) -> None:
    """accelerate's own `fsdp2_prepare_model` and a step of AdamW, in one process over gloo."""
    model = AutoModelForImageTextToText.from_pretrained(smoke_base, dtype=torch.bfloat16)
    full = Setting(AdapterArguments(use_peft=False, train_parts=["llm", "merger", "vision"]), engine="fsdp2")
    said = held_bytes(mark_trained(model, full.adapters), full)
    layer, head = (sum(map(torch.Tensor.numel, unit)) for unit in _whole_at_once(model)[1:])
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
        plugin.cpu_ram_efficient_loading = False
        plugin.set_mixed_precision("bf16")
        accelerator = SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="bf16", is_main_process=False
        )
        sharded = fsdp2_prepare_model(accelerator, model)
        optimizer = torch.optim.AdamW(sharded.parameters())
        sharded(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
        for parameter in sharded.parameters():  # the tower saw no clip
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()
        parts = [p.to_local() for p in sharded.parameters()]
        gradients = [p.grad.to_local() for p in sharded.parameters()]
        states = [t.to_local() for state in optimizer.state.values() for t in state.values() if t.ndim]
        held = {
            k: sum(t.numel() * t.element_size() for t in v)
            for k, v in zip("wgs", (parts, gradients, states), strict=True)
        }
    finally:
        torch.distributed.destroy_process_group()
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    assert said.weights == held["w"] + buffers + 2 * (2 * layer + head)
    assert said.gradients == held["g"] + 2 * 2 * max(layer, head)
    assert said.optimizer == pytest.approx(held["s"], rel=1e-4)  # and the numbers of steps


@pytest.mark.parametrize(
    ("optim", "each"),
    [("adamw_torch", 8), ("adamw_torch_fused", 8), ("adamw_8bit", 2.03), ("paged_adamw_32bit", 8), ("sgd", 0)],
)
def test_optimizers_hold_what_they_hold(optim: str, each: float, tmp_path: Path) -> None:
    from rbft_trl.training_config import TrainingConfig

    training = TrainingConfig(output_dir=str(tmp_path), use_cpu=True, optim=optim)
    trained = [torch.nn.Parameter(torch.empty(64, 128, device="meta"))]
    assert optimizer_bytes(trained, training) / trained[0].numel() == pytest.approx(each, rel=0.01, abs=0.01)


def test_check_shows_memory_and_warns(
    toy_set: tuple, smoke_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = toy_recipe(
        "direct", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "o", use_cpu=False, bf16=False
    )
    argv = [recipe, "--report_dir", str(tmp_path / "r"), "--gpus", "2", "--gpu", "a100", "--gpu_memory", "0.5"]
    assert check.main(argv) == 0
    report, page = json.loads((tmp_path / "r/check.json").read_text()), (tmp_path / "r/check.html").read_text()
    assert ("warning", "global_batch") in {(f["level"], f["kind"]) for f in report["findings"]}
    off, on = report["memory"]["rows"]
    assert off["checkpointing"] == "off" and off["activations"] > on["activations"] > 0
    assert off["fits"] == {"0.5": False} and "even then it does not fit" in report["memory"]["advice"][-1]
    assert "<h2>Memory</h2>" in page and "on a100" in page
    printed = capsys.readouterr().out
    assert "memory in GB per GPU, 2 x, ddp" in printed and "change: activation_checkpointing: true" in printed


@pytest.mark.parametrize("name", ["rationales", "eval"])
def test_stage_0_and_evaluation_have_a_cache_and_no_gradients(
    name: str, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(name, tmp_path, toy_set[0], smoke_base)
    assert check.main([recipe, "--report_dir", str(tmp_path / "r")]) == 0
    (row,) = json.loads((tmp_path / "r/check.json").read_text())["memory"]["rows"]
    assert row["gradients"] == row["optimizer"] == 0 < row["activations"] and row["weights"] > 0


def test_a_published_base_that_is_not_here_is_told_roughly(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "o")
    argv = [recipe, "--report_dir", str(tmp_path / "r"), "--model_name_or_path", BASE]
    assert check.main(argv) == 1
    report = json.loads((tmp_path / "r/check.json").read_text())
    (finding,) = [f for f in report["findings"] if f["level"] == "error"]
    assert "no processor could be loaded" in finding["message"] and "published patch sizes" in finding["message"]
    assert report["memory"]["rows"][0]["weights"] == pytest.approx(8.8, abs=0.3)  # 2.2 billion weights in fp32
    with pytest.raises(UserError, match="no processor could be loaded from 'nobody/knows'"):
        check.main([*argv[:-1], "nobody/knows"])
