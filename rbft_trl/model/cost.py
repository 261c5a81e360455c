"""What a recipe costs on a GPU: bytes of weights, adapters, gradients, optimizer, activations and logits, and FLOPs.

Input: a model on the meta device, a setting and the sizes of a batch. Output: a `Cost`. Everything is counted on sizes
(meta_step.py); what is assumed instead stands in capitals below.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, TrainingArguments

from rbft_trl.errors import UserError
from rbft_trl.model.families import part_of, published_config
from rbft_trl.model.held import NF4, Setting, held_bytes, weight_bytes
from rbft_trl.model.inference import LabelTrie
from rbft_trl.model.loading import cut_graph_of_frozen_parts, mark_trained
from rbft_trl.model.meta_step import Clip, count_reading, count_training

GB = 1e9
CONTEXT = 1.0 * GB  # assumed: CUDA context, kernels and the work space of cuBLAS, per GPU
FRAGMENTATION = 0.05  # assumed: share of all that comes and goes in a step which the allocator cannot use
UTILISATION = (0.25, 0.35)  # published model-FLOP utilisation of video fine-tuning
GPUS = {  # dense bf16 FLOP/s, memory in GB and its bytes/s, from NVIDIA's data sheets
    "l4": (121e12, 24, 0.3e12),
    "rtx4090": (165e12, 24, 1.008e12),
    "a100-40": (312e12, 40, 1.555e12),
    "l40s": (362e12, 48, 0.864e12),
    "a100": (312e12, 80, 2.039e12),
    "h100": (989e12, 80, 3.35e12),
    "h200": (989e12, 141, 4.8e12),
}
SIZES = (24, 40, 80, 141)  # GB of the cards that people have


@dataclasses.dataclass
class Cost:
    """Bytes on one GPU at the peak of a step, and the work of a step on one GPU.

    Args:
        weights, adapters, gradients, optimizer, activations, logits, inputs, overhead (`float`): Bytes.
        flops (`int`): Of one step (all its micro-batches), recomputation included.
        moved (`float`, *optional*): Bytes read from the GPU's memory while answers are written, token by token.
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
    moved: float = 0.0

    @property
    def live(self) -> float:
        """All bytes that tensors hold at the peak."""
        return sum(dataclasses.astuple(self)[:7])

    @property
    def total(self) -> float:
        """With the context and what fragmentation wastes."""
        return self.live + self.overhead

    def seconds(self, gpu: str) -> tuple[float, float]:
        """Of one step on that GPU, at 35 and at 25 % of its peaks: of operations, and while it writes of memory."""
        peak, _, bandwidth = GPUS[gpu]
        low, high = UTILISATION
        ideal = self.flops / peak + self.moved / bandwidth
        return ideal / high, ideal / low


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
    own = held_bytes(model, setting, training)
    gone = sum(counted.bytes.get(kind, 0) for kind in ("gradients", "inputs", "head"))
    alone = setting.engine == "ddp" and setting.gpus == 1 and setting.accumulation == 1
    return Cost(
        weights=own.weights,
        adapters=own.adapters,
        gradients=float(counted.bytes.get("gradients", 0)) if alone else own.gradients,
        optimizer=own.optimizer,
        activations=counted.peak - gone + own.unpacked,
        logits=counted.bytes.get("head", 0),
        inputs=counted.bytes.get("inputs", 0),
        overhead=_overhead(setting, counted.peak),
        flops=counted.flops * setting.accumulation,
    )


def _overhead(setting: Setting, moving: float) -> float:
    return CONTEXT + FRAGMENTATION * moving if setting.device == "cuda" else 0.0


def reading_cost(
    model: nn.Module,
    setting: Setting,
    clips: Sequence[Clip],
    *,
    trie: LabelTrie | None = None,
    samples: int = 0,
    new_tokens: int = 0,
) -> Cost:
    """The cost of stage 0 or an evaluation: one prefill, then the label scores and `samples` answers from it.

    Args:
        model (`nn.Module`): From `meta_model`.
        setting (`Setting`): Without adapters.
        clips (`Sequence[Clip]`): The rows of one batch.
        trie (`LabelTrie`, *optional*): The labels; left out, nothing is scored.
        samples (`int`, *optional*): Answers per clip; 0 if nothing is written.
        new_tokens (`int`, *optional*): Tokens of an answer, counted as if all were that long.
    """
    masked = setting.attention != "flash_attention_2"
    counted = count_reading(model, clips, trie, device=setting.device, masked=masked)
    base, adapters, unpacked = weight_bytes(model, load_in_4bit=setting.load_in_4bit)
    rows, longest = len(clips), max(_video(model, clip) + clip.text for clip in clips)
    written = rows * samples * new_tokens
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    inside = [p for name, p in model.named_parameters() if part_of(name) == "llm" and p is not head and p is not table]
    numbers = sum(p.numel() for p in inside)
    # the cache as it was and its copies; then logits in fp32, sorted with their places, and two sums for top_p
    copies = counted.cache * samples * (1 + new_tokens / longest)
    writing = max(counted.cache * (1 + samples), copies + rows * samples * head.shape[0] * 32.0)
    peak = max(float(counted.peak - counted.bytes.get("inputs", 0)), writing if samples else 0.0)
    # every token reads all weights of the language model, and on average half of what its answer adds to the cache
    each = numbers * (NF4 if setting.load_in_4bit else inside[0].element_size()) + head.numel() * head.element_size()
    each += counted.cache * samples * (1 + new_tokens / longest / 2)
    return Cost(
        weights=base,
        adapters=adapters,
        gradients=0.0,
        optimizer=0.0,
        activations=peak + unpacked,
        logits=0.0,
        inputs=counted.bytes.get("inputs", 0),
        overhead=_overhead(setting, peak),
        flops=counted.flops + 2 * (numbers + head.numel()) * written,
        moved=each * new_tokens if samples else 0.0,
    )


def _video(model: nn.Module, clip: Clip) -> int:
    t, h, w = clip.grid
    return t * h * w // model.config.vision_config.spatial_merge_size**2
