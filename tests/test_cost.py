"""What check.py says a step needs, against what it was seen to need: real training steps of small models on a CPU.

Measured are the storages of real tensors, followed from their first operation to their end; one test holds that count
against what PyTorch's CPU allocator says it has given out.
"""

import dataclasses
import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import AutoConfig, AutoModelForImageTextToText

from rbft_trl.configs import AdapterArguments
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import FrameSettings
from rbft_trl.model import meta_step
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.cost import Cost, Setting, meta_model, training_cost
from rbft_trl.model.ledger import Ledger
from rbft_trl.model.loading import load_base, load_processor, prepare_for_training
from rbft_trl.model.meta_step import Clip
from rbft_trl.model.trainer import LabelTrainer
from rbft_trl.training_config import TrainingConfig
from tests.helpers import base_arguments

BAND = 0.05  # estimate / measured stays within 1 ± this
TILE = 1024  # columns of TRL's tile of logits; its own 32,768 would outweigh models this small
ROWS = 4
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "wide": {"text_config": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 3}},
    "deep": {"text_config": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 8}},
    "tower": {
        "text_config": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2},
        "vision_config": {"embed_dim": 256, "depth": 6, "mlp_ratio": 4},
    },
}
CPU_KERNELS = {  # what PyTorch's counter leaves out: attention on a CPU, and a product that is added in place
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, out_val=None, **__: (
        sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda _, q, k, v, *__, out_val=None, **___: (
        5 * sdpa_flop_count(q, k, v) // 2
    ),
    torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
}
LLM, ALL = {"lora_r": 8}, {"lora_r": 8, "train_parts": ["llm", "merger", "vision"]}
FULL = {"use_peft": False, "train_parts": ["llm", "merger", "vision"]}
CASES = [  # shape, adapters, 4-bit, bf16, checkpointing
    ("wide", LLM, False, False, False),
    ("wide", LLM, True, True, True),
    ("deep", LLM, False, False, True),
    pytest.param("deep", ALL, False, True, False, marks=pytest.mark.slow),
    pytest.param("tower", ALL, False, False, True, marks=pytest.mark.slow),
    ("tower", FULL, False, False, False),
]


@pytest.fixture(scope="module")
def make_base(smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A base of another shape with random weights, and the tiny base's processor."""
    made: dict[str, Path] = {}

    def make(shape: str) -> Path:
        if shape not in made:
            folder = made[shape] = tmp_path_factory.mktemp("shapes") / shape
            shutil.copytree(smoke_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
            config = AutoConfig.from_pretrained(smoke_base)
            changes = {part: dict(values) for part, values in SHAPES[shape].items()}
            changes.setdefault("vision_config", {})["hidden_size"] = changes["text_config"]["hidden_size"]
            for part, values in changes.items():
                for key, value in values.items():
                    setattr(getattr(config, part), key, value)
            heads = config.text_config.hidden_size // config.text_config.num_attention_heads
            config.text_config.rope_parameters["mrope_section"] = [heads // 8, 3 * heads // 16, 3 * heads // 16]
            config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
            AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
        return made[shape]

    return make


def make_trainer(base: Path, toy_set: tuple, folder: Path, adapters: AdapterArguments, **options: Any) -> LabelTrainer:
    four_bit, bf16 = options.pop("four_bit"), options.pop("bf16")
    card, root = toy_set
    frames = FrameSettings(num_frames=8, min_pixels=112 * 112, max_pixels=112 * 112)
    collator = ClipCollator(load_processor(str(base)), TaskCard.from_yaml(card), root, frames, definitions=True)
    dtype = "bfloat16" if bf16 or four_bit else "float32"
    model = load_base(base_arguments(base, dtype=dtype, load_in_4bit=four_bit), device="cpu")
    row = {"id": "a", "video": "clips/toy00000.mp4", "label": "dorvan", "target": "label", "text": ""}
    training = TrainingConfig(
        output_dir=str(folder), use_cpu=True, bf16=bf16, per_device_train_batch_size=ROWS, max_steps=2,
        gradient_accumulation_steps=2, report_to="none", save_strategy="no", disable_tqdm=True, max_length=None,
        **options,
    )  # fmt: skip
    return LabelTrainer(
        model=prepare_for_training(model, adapters),
        args=training,
        train_dataset=Dataset.from_list([row] * ROWS * 2),
        data_collator=collator,
        processing_class=collator.processor,
    )


def measured_bytes(trainer: LabelTrainer) -> float:
    """The most that real tensors held during two real steps, with what the model held before them."""
    tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
    for parameter in trainer.model.parameters():  # 4-bit weights hold their scales beside them
        if (state := getattr(parameter, "quant_state", None)) is not None:
            tensors += [state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset]
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    with Ledger(tensors) as ledger:
        trainer.train()
    return sum(held.values()) + sum(ledger.at_peak.values())


def clips_of(trainer: LabelTrainer) -> list[Clip]:
    batch = trainer.data_collator([trainer.train_dataset[0]])
    video = int((batch["mm_token_type_ids"] > 0).sum())
    grid = tuple(batch["video_grid_thw"][0].tolist())
    clip = Clip(grid, batch["input_ids"].shape[1] - video, int((batch["labels"] != -100).sum()))
    return [clip] * ROWS


def estimate(trainer: LabelTrainer, base: Path, setting: Setting) -> Cost:
    model = meta_model(AutoConfig.from_pretrained(base), setting)
    return training_cost(model, setting, clips_of(trainer), trainer.args)


@pytest.fixture
def tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE", TILE)
    monkeypatch.setattr(meta_step, "HEAD_COLUMNS", TILE)


@pytest.mark.parametrize(("shape", "changes", "four_bit", "bf16", "recompute"), CASES)
def test_the_estimate_is_what_a_step_is_seen_to_need(
    shape: str, changes: dict, four_bit: bool, bf16: bool, recompute: bool,
    make_base: Any, toy_set: tuple, tmp_path: Path, tile: None,
) -> None:  # fmt: skip
    base, adapters = make_base(shape), AdapterArguments(**changes)
    options = {"four_bit": four_bit, "bf16": bf16, "activation_checkpointing": recompute}
    trainer = make_trainer(base, toy_set, tmp_path, adapters, **options)
    dtype = torch.bfloat16 if bf16 or four_bit else torch.float32
    setting = Setting(adapters, dtype, four_bit, bf16, recompute, accumulation=2, device="cpu")
    said = estimate(trainer, base, setting)
    other = estimate(trainer, base, dataclasses.replace(setting, recompute=not recompute))
    seen = measured_bytes(trainer)
    print(f"{shape} {changes} 4bit {four_bit} bf16 {bf16} ckpt {recompute}: {said.live / 1e6:.1f} MB said, ")
    print(f"{seen / 1e6:.1f} MB measured, ratio {said.live / seen:.3f}; planted error {other.live / seen:.3f}")
    print({k: round(v / 1e6, 2) for k, v in dataclasses.asdict(said).items()})
    assert abs(said.live / seen - 1) < BAND
    assert abs(other.live / seen - 1) > BAND, "checkpointing the other way round must leave the band"


def test_the_count_of_storages_is_what_the_allocator_gave_out(
    make_base: Any, toy_set: tuple, tmp_path: Path, tile: None
) -> None:
    adapters = AdapterArguments(**FULL)
    trainer = make_trainer(make_base("tower"), toy_set, tmp_path, adapters, four_bit=False, bf16=False)
    held = sum(p.untyped_storage().nbytes() for p in trainer.model.parameters())
    gc.collect()  # what earlier tests left is not to be freed inside
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        counted = measured_bytes(trainer) - held
    live = peak = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    print(f"{counted / 1e6:.2f} MB counted, {peak / 1e6:.2f} MB given out")
    assert counted == pytest.approx(peak, rel=0.01)


def test_the_flops_are_those_that_run(make_base: Any, toy_set: tuple, tmp_path: Path) -> None:
    adapters, options = AdapterArguments(lora_r=8), {"four_bit": False, "bf16": False}
    trainer = make_trainer(make_base("wide"), toy_set, tmp_path, adapters, activation_checkpointing=True, **options)
    setting = Setting(adapters, torch.float32, False, False, True, accumulation=2, device="cpu")
    said = estimate(trainer, make_base("wide"), setting).flops
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        trainer.train()
    seen = counter.get_total_flops() / 2  # two steps
    print(f"{said / 1e9:.3f} GFLOPs said, {seen / 1e9:.3f} counted, ratio {said / seen:.4f}")
    assert said == pytest.approx(seen, rel=0.01)
