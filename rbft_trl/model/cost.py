"""What a recipe costs on a GPU: bytes of weights, adapters, gradients, optimizer, activations and logits, and FLOPs.

Input: a model on the meta device, a setting and the sizes of a batch. Output: a `Cost`. Everything is counted on sizes
(meta_step.py); what is assumed instead stands in capitals below.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, TrainingArguments
from trl import SFTTrainer

from rbft_trl.configs import AdapterArguments
from rbft_trl.errors import UserError
from rbft_trl.model.families import part_of, published_config
from rbft_trl.model.loading import cut_graph_of_frozen_parts, mark_trained
from rbft_trl.model.meta_step import Clip, Counted, count_prefill, count_training

GB = 1e9
CONTEXT = 1.0 * GB  # assumed: CUDA context, kernels and the work space of cuBLAS, per GPU
FRAGMENTATION = 0.05  # assumed: share of all that comes and goes in a step which the allocator cannot use
UTILISATION = (0.25, 0.35)  # published model-FLOP utilisation of video fine-tuning
GPUS = {  # dense bf16 FLOP/s and memory in GB, from NVIDIA's data sheets
    "l4": (121e12, 24),
    "rtx4090": (165e12, 24),
    "a100-40": (312e12, 40),
    "l40s": (362e12, 48),
    "a100": (312e12, 80),
    "h100": (989e12, 80),
    "h200": (989e12, 141),
}
SIZES = (24, 40, 80, 141)  # GB of the cards that people have
ENGINES = ("ddp", "zero2", "zero3", "fsdp2")
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
class Cost:
    """Bytes on one GPU at the peak of a step, and the work of a step on one GPU.

    Args:
        weights, adapters, gradients, optimizer, activations, logits, inputs, overhead (`float`): Bytes.
        flops (`int`): Of one step (all its micro-batches), recomputation included.
    """

    weights: float
    adapters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    inputs: float
    overhead: float
    flops: int

    @property
    def live(self) -> float:
        """All bytes that tensors hold at the peak."""
        return sum(dataclasses.astuple(self)[:7])

    @property
    def total(self) -> float:
        """With the context and what fragmentation wastes."""
        return self.live + self.overhead

    def seconds(self, gpu: str) -> tuple[float, float]:
        """Of one step on that GPU, at 35 and at 25 % of its peak."""
        low, high = UTILISATION
        return self.flops / (GPUS[gpu][0] * high), self.flops / (GPUS[gpu][0] * low)


def base_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a base: from its folder or the Hub, or where the Hub is not there, as it was published."""
    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        try:
            return published_config(name)
        except UserError as unknown:
            said = str(error).strip().splitlines()[0]
            raise UserError(f"no configuration could be loaded from '{name}': {said}; {unknown}") from error


def meta_model(config: PreTrainedConfig, setting: Setting) -> nn.Module:
    """The model of a configuration on the meta device, as it is trained (or plain, without adapters)."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=setting.dtype, attn_implementation="eager" if setting.attention == "eager" else "sdpa"
        )
        if setting.adapters is not None:
            model = mark_trained(model, setting.adapters)
    if setting.adapters is not None:
        cut_graph_of_frozen_parts(model)
    if setting.load_in_4bit:  # TRL trains adapters of 4-bit weights in bf16
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    return model


def training_cost(
    model: nn.Module, setting: Setting, clips: Sequence[Clip], training: TrainingArguments | None = None
) -> Cost:
    """The cost of a training step.

    Args:
        model (`nn.Module`): From `meta_model`.
        setting (`Setting`): See there.
        clips (`Sequence[Clip]`): The rows of one micro-batch; the longest rows for the peak.
        training (`TrainingArguments`, *optional*): Names the optimizer; AdamW without it.
    """
    counted = count_training(
        model,
        clips,
        device=setting.device,
        autocast=setting.autocast,
        recompute=setting.recompute,
        held=setting.accumulation,
        accumulated=setting.accumulation > 1,
        masked=setting.attention != "flash_attention_2",
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    states = optimizer_bytes(trained, training)
    base, adapters, unpacked = weight_bytes(model, load_in_4bit=setting.load_in_4bit)
    return _shared(model, setting, counted, base, adapters, unpacked, states)


def _shared(
    model: nn.Module, setting: Setting, counted: Counted, base: float, adapters: float, unpacked: float, states: float
) -> Cost:
    """What of it lies on one GPU under the engine."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    gradients, count, engine = float(trained), setting.gpus, setting.engine
    if engine == "ddp" and count > 1:
        gradients *= 2  # DDP's buckets hold a second copy
    if engine.startswith("zero"):  # DeepSpeed trains an fp32 copy of the trained weights
        states = sum(12 * p.numel() for p in model.parameters() if p.requires_grad)
    layer = _largest_layer(model) if engine in ("zero3", "fsdp2") else 0.0
    if engine != "ddp":
        gradients, states = gradients / count, states / count
    if engine in ("zero3", "fsdp2"):
        base, adapters = base / count + 2 * layer, adapters / count  # this layer and the next are whole
    held = counted.bytes.get("gradients", 0)
    moving = counted.peak - held - counted.bytes.get("inputs", 0) - counted.bytes.get("head", 0)
    return Cost(
        weights=base,
        adapters=adapters,
        gradients=gradients if setting.accumulation > 1 or engine != "ddp" or count > 1 else float(held),
        optimizer=states,
        activations=moving + unpacked,
        logits=counted.bytes.get("head", 0),
        inputs=counted.bytes.get("inputs", 0),
        overhead=_overhead(setting, counted.peak),
        flops=counted.flops * setting.accumulation,
    )


def _overhead(setting: Setting, moving: float) -> float:
    return CONTEXT + FRAGMENTATION * moving if setting.device == "cuda" else 0.0


def _largest_layer(model: nn.Module) -> float:
    layers = [m for m in model.modules() if type(m).__name__ in (getattr(model, "_no_split_modules", None) or ())]
    return max((sum(p.numel() * p.element_size() for p in m.parameters()) for m in layers), default=0.0)


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


def reading_cost(
    model: nn.Module, setting: Setting, clips: Sequence[Clip], *, samples: int, new_tokens: int, nodes: int
) -> Cost:
    """The cost of stage 0 or an evaluation: one prefill, then `samples` answers or `nodes` of the label trie from it.

    Args:
        model (`nn.Module`): From `meta_model`.
        setting (`Setting`): Without adapters.
        clips (`Sequence[Clip]`): The rows of one batch.
        samples (`int`): Answers per clip; 0 if nothing is written.
        new_tokens (`int`): Longest answer.
        nodes (`int`): Tokens of the label trie; 0 if nothing is scored.
    """
    counted = count_prefill(model, clips, device=setting.device, masked=setting.attention != "flash_attention_2")
    base, adapters, unpacked = weight_bytes(model, load_in_4bit=setting.load_in_4bit)
    vocabulary, rows = model.config.get_text_config().vocab_size, len(clips)
    longest = max(_video(model, clip) + clip.text for clip in clips)
    first = float(counted.peak - counted.bytes.get("inputs", 0))
    wide = model.get_input_embeddings().weight.element_size() + 8  # the logits, in fp32, and their softmax
    scoring = counted.cache * (1 + nodes / longest) + rows * nodes * vocabulary * wide
    copies = counted.cache * samples * (1 + new_tokens / longest)
    # the cache as it was and its copies; then logits in fp32, sorted with their places, and two sums for top_p
    writing = max(counted.cache * (1 + samples), copies + rows * max(samples, 1) * vocabulary * 32.0)
    peak = max(first, scoring, writing if samples else 0.0)
    return Cost(
        weights=base,
        adapters=adapters,
        gradients=0.0,
        optimizer=0.0,
        activations=peak + unpacked,
        logits=0.0,
        inputs=counted.bytes.get("inputs", 0),
        overhead=_overhead(setting, peak),
        flops=counted.flops,
    )


def _video(model: nn.Module, clip: Clip) -> int:
    t, h, w = clip.grid
    return t * h * w // model.config.vision_config.spatial_merge_size**2
