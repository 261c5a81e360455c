"""What lies on one GPU through a whole step: weights, adapters, gradients and optimizer states, under each engine.

Input: a model on the meta device and a setting. Output: bytes. What comes and goes is in cost.py.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from trl import SFTTrainer

from rbft_trl.configs import AdapterArguments
from rbft_trl.model.families import part_of

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes per weight: 4 bits, one byte per block of 64, fp32 per 256 blocks
EIGHT_BIT = 1 + 4 / 256  # bytes per number of an 8-bit optimizer state, in blocks of 256
SMALL = 4096  # bitsandbytes keeps the states of smaller tensors in fp32


@dataclasses.dataclass(frozen=True)
class Setting:
    """What of a recipe decides its cost.

    Args:
        adapters (`AdapterArguments`): What is trained.
        dtype (`torch.dtype`): Of the weights that are not in 4 bit.
        load_in_4bit (`bool`): NF4 in the language model.
        autocast (`bool`): The trainer's `bf16`.
        recompute (`bool`): `activation_checkpointing`.
        accumulation (`int`): Micro-batches per step.
        gpus (`int`): Number of processes, one GPU each.
        engine (`str`): ddp (whole model on each), zero2 (optimizer and gradients sharded), zero3 or fsdp2 (all).
        attention (`str`): sdpa, eager or flash_attention_2 in the language model.
        device (`str`): Whose kernels: cuda, or cpu.
    """

    adapters: AdapterArguments | None
    dtype: torch.dtype = torch.bfloat16
    load_in_4bit: bool = False
    autocast: bool = True
    recompute: bool = False
    accumulation: int = 1
    gpus: int = 1
    engine: str = "ddp"
    attention: str = "sdpa"
    device: str = "cuda"


@dataclasses.dataclass
class Held:
    """Bytes on one GPU.

    Args:
        weights (`float`): Of the base; where it is sharded, with what is whole at a time.
        adapters (`float`): LoRA.
        gradients (`float`): When all are there.
        optimizer (`float`): Its states.
        unpacked (`float`): The largest 4-bit layer, unpacked to bf16.
    """

    weights: float
    adapters: float
    gradients: float
    optimizer: float
    unpacked: float


def held_bytes(model: nn.Module, setting: Setting, training: TrainingArguments | None = None) -> Held:
    """What of a training lies on one GPU under the engine of `setting`.

    Args:
        model (`nn.Module`): From `meta_model`.
        setting (`Setting`): See there.
        training (`TrainingArguments`, *optional*): Names the optimizer; AdamW without it.
    """
    if setting.engine == "fsdp2":
        return _under_fsdp2(model, setting, training)
    trained = [p for p in model.parameters() if p.requires_grad]
    base, adapters, unpacked = weight_bytes(model, load_in_4bit=setting.load_in_4bit)
    gradients, states = _bytes(trained), optimizer_bytes(trained, training)
    if setting.engine == "ddp":  # its buckets hold a second copy of the gradients
        return Held(base, adapters, gradients * (2 if setting.gpus > 1 else 1), states, unpacked)
    states = 12.0 * _numbers(trained)  # DeepSpeed trains an fp32 copy of the trained weights
    gradients, states = gradients / setting.gpus, states / setting.gpus
    if setting.engine == "zero3":
        base, adapters = base / setting.gpus + sum(map(_bytes, _whole_at_once(model))), adapters / setting.gpus
    return Held(base, adapters, gradients, states, unpacked)


def _under_fsdp2(model: nn.Module, setting: Setting, training: TrainingArguments | None) -> Held:
    """Under mixed precision accelerate turns what is trained into fp32 before it shards it, so that parts of fp32
    weights, gradients and moments are held: 16 bytes per number with AdamW, over the processes (accelerate 1.15,
    `fsdp2_prepare_model` in utils/fsdp_utils.py). Layers are gathered and gradients summed in bf16 (`param_dtype` and
    `reduce_dtype`, `set_mixed_precision` in utils/dataclasses.py).

    With accumulation the gradients of all but the last micro-batch stay whole, in bf16 (`Accelerator.no_sync`).
    """
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    width = 4 if setting.autocast else None  # bytes of a trained number in its part; None: as it is
    moved = 2 if setting.autocast else None  # and of any number that is gathered, or a gradient before it is summed
    base = adapters = 0.0
    for name, parameter in model.named_parameters():
        size = parameter.numel() * ((id(parameter) in trained and width) or parameter.element_size())
        base, adapters = (base, adapters + size) if ".lora_" in name else (base + size, adapters)
    units = _whole_at_once(model)
    base = base / setting.gpus + sum(_bytes(unit, moved) for unit in units)
    base += sum(b.numel() * b.element_size() for b in model.buffers())  # not sharded
    parts = [torch.empty(p.shape, dtype=torch.float32 if width else p.dtype, device="meta")
             for p in model.parameters() if id(p) in trained]  # fmt: skip
    gradients = _bytes(parts) / setting.gpus
    if setting.accumulation > 1:
        gradients = max(gradients, _bytes(parts, moved))
    # a layer's gradients are whole until they are summed, from a copy
    gradients += 2 * max(_bytes([p for p in unit if id(p) in trained], moved) for unit in units)
    return Held(base, adapters / setting.gpus, gradients, optimizer_bytes(parts, training) / setting.gpus, 0.0)


def _whole_at_once(model: nn.Module) -> list[list[nn.Parameter]]:
    """What a sharding engine holds whole at a time: the largest layer, the next one, and the head."""
    names = getattr(model, "_no_split_modules", None) or ()
    layers = [list(m.parameters()) for m in model.modules() if type(m).__name__ in names]
    largest = max(layers, key=_numbers)
    return [largest, largest, list(model.get_output_embeddings().parameters())]


def _numbers(parameters: Sequence[torch.Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def _bytes(parameters: Sequence[torch.Tensor], each: int | None = None) -> float:
    """In `each` bytes per number, or as they are."""
    return float(sum(p.numel() * (each or p.element_size()) for p in parameters))


def weight_bytes(model: nn.Module, *, load_in_4bit: bool) -> tuple[float, float, float]:
    """Bytes of the base and of its adapters, and of the largest 4-bit layer while it is unpacked to bf16."""
    head = model.get_output_embeddings().weight
    packed: set[int] = set()
    if load_in_4bit:  # bitsandbytes takes every linear layer but those of the tower and the head
        packed = {
            id(module.weight)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and part_of(name) == "llm" and ".lora_" not in name
        } - {id(head)}
    base = adapters = unpacked = 0.0
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            adapters += parameter.numel() * parameter.element_size()
        elif id(parameter) in packed:
            base += parameter.numel() * NF4
            unpacked = max(unpacked, parameter.numel() * 2.0)
        else:
            base += parameter.numel() * parameter.element_size()
    return base + sum(b.numel() * b.element_size() for b in model.buffers()), adapters, unpacked


def optimizer_bytes(trained: Sequence[torch.Tensor], training: TrainingArguments | None = None) -> float:
    """Bytes of the optimizer's states: by its first step on tensors without contents, or by what 8 bits take.

    Paged states of bitsandbytes may leave the GPU when it is full; they are counted as if they stayed.
    """
    if training is None:
        return float(sum(2 * p.numel() * p.element_size() for p in trained))
    name = str(getattr(training.optim, "value", training.optim))
    kind, options = SFTTrainer.get_optimizer_cls_and_kwargs(training)
    if kind.__module__.startswith("bitsandbytes"):
        states = 1 if "lion" in name or "rmsprop" in name else 2
        each = EIGHT_BIT if "8bit" in name else 4.0
        return sum(states * p.numel() * (each if p.numel() >= SMALL else 4.0) for p in trained)
    options = {key: value for key, value in options.items() if key not in ("params", "fused")}
    copies = [nn.Parameter(torch.empty_like(p, device="meta")) for p in trained]
    for copy in copies:
        copy.grad = torch.empty_like(copy)
    optimizer = kind(copies, **options)
    optimizer.step()
    return float(sum(_sizes(state) for state in optimizer.state.values()))


def _sizes(state: dict[str, Any]) -> int:
    return sum(t.numel() * t.element_size() for t in state.values() if isinstance(t, torch.Tensor))
