"""Does a recipe fit on a GPU: memory and time at the measured lengths of its rows, and what to change if not.

Input: a checked recipe with its rows. Output: what check.py shows; nothing is loaded (model/cost.py counts).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from rbft_trl.configs import AdapterArguments, EvalArguments, ModelArguments
from rbft_trl.data.task import TaskCard
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.cost import (
    GB,
    GPUS,
    SIZES,
    Cost,
    Setting,
    base_config,
    meta_model,
    reading_cost,
    training_cost,
)
from rbft_trl.model.inference import LabelTrie
from rbft_trl.model.meta_step import Clip
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.start import Row
from rbft_trl.training_config import TrainingConfig

ROUGH_ANSWER = 256
Known = Sequence[dict[str, Any]]  # entries of the manifest


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where a recipe is to run.

    Args:
        gpus (`int`): Number of GPUs, one process each.
        engine (`str`): ddp, zero2, zero3 or fsdp2.
        gpu (`str`): Name in `GPUS`, for the time.
        memory (`float`, *optional*): GB of one GPU; left out: the sizes that people have.
    """

    gpus: int = 1
    engine: str = "ddp"
    gpu: str = "h100"
    memory: float | None = None


def clips_of(collator: ClipCollator, rows: list[Row], known: Known, vision: Any) -> list[Clip]:
    """The sizes of every row, longest first; the two sequences of a joint row as one of twice the longer."""
    clips = []
    for row, entry, tokens in zip(rows, known, collator.count_tokens(rows, known), strict=True):
        grid = _grid(entry["shape"], vision)
        video = Clip(grid, 0).tokens(vision.spatial_merge_size)
        parts = collator.parts(row)
        trained = sum(len(collator.encode(collator.answer_text(part))) + 1 for part in parts)
        clips.append(Clip(_times(grid, len(parts)), len(parts) * (tokens - video), trained))
    return sorted(clips, key=lambda clip: clip.tokens(vision.spatial_merge_size), reverse=True)


def rough_clips(
    card: TaskCard, rows: list[Row], known: Known, vision: Any, *, definitions: bool, sequences: int = 1
) -> list[Clip]:
    """The sizes of rows where no tokenizer is at hand: a token per three characters, 256 tokens for a rationale."""
    text = sequences * (len(card.label_prompt(definitions=definitions)) // 3 + ROUGH_ANSWER)
    grids = [_times(_grid(entry["shape"], vision), sequences) for _, entry in zip(rows, known, strict=True)]
    clips = [Clip(grid, text, ROUGH_ANSWER * sequences) for grid in grids]
    return sorted(clips, key=lambda clip: clip.tokens(vision.spatial_merge_size), reverse=True)


def _grid(shape: Sequence[int], vision: Any) -> tuple[int, int, int]:
    frames, height, width = shape
    return -(-frames // vision.temporal_patch_size), height // vision.patch_size, width // vision.patch_size


def _times(grid: tuple[int, int, int], sequences: int) -> tuple[int, int, int]:
    return sequences * grid[0], *grid[1:]


def training_memory(
    base: ModelArguments, adapters: AdapterArguments, training: TrainingConfig, clips: list[Clip], machine: Machine
) -> dict[str, Any]:
    """Memory and time of a training recipe, with activation checkpointing off and on.

    Args:
        base, adapters, training: The recipe.
        clips (`list[Clip]`): The sizes of its rows, longest first.
        machine (`Machine`): Where it is to run.

    Returns:
        `dict`: `rows` (one per way of checkpointing, GB), `written` (which of them the recipe says), `advice`,
        `step_seconds` and `epoch_hours` (at 35 and 25 % of the GPU's peak), `device`, `gpu`, `gpus`, `engine`.
    """
    config = base_config(base.model_name_or_path, base.model_revision)
    setting = Setting(
        adapters,
        dtype=dtype_of(base, config),
        load_in_4bit=base.load_in_4bit,
        autocast=not training.use_cpu or bool(training.bf16),
        recompute=bool(training.activation_checkpointing),
        accumulation=training.gradient_accumulation_steps,
        gpus=machine.gpus,
        engine=machine.engine,
        attention=attention_of(base),
        device="cpu" if training.use_cpu else "cuda",
    )
    model = meta_model(config, setting)

    def cost(setting: Setting, clips: list[Clip]) -> Cost:
        return training_cost(model, setting, clips, training)

    batch = clips[: training.train_batch_size]
    costs = {on: cost(dataclasses.replace(setting, recompute=on), batch) for on in (False, True)}
    written = costs[setting.recompute]
    merge = config.vision_config.spatial_merge_size
    longest = sum(clip.tokens(merge) for clip in batch) / len(batch)
    share = sum(clip.tokens(merge) for clip in clips) / len(clips) / longest  # of the mean row in the longest
    steps = -(-len(clips) // (len(batch) * setting.accumulation * machine.gpus))
    seconds = [round(share * each, 3) for each in written.seconds(machine.gpu)]
    told = report_of([("off", costs[False]), ("on", costs[True])], machine, setting)
    told |= {"written": "on" if setting.recompute else "off", "longest_row": longest}
    if setting.device == "cuda":
        told |= {"step_seconds": seconds, "epoch_hours": [round(steps * each / 3600, 3) for each in seconds]}
        told["advice"] = advice(cost, setting, batch, written, machine)
    return told


def dtype_of(base: ModelArguments, config: Any) -> torch.dtype:
    """The dtype of the weights."""
    if base.dtype == "auto":
        return getattr(config, "dtype", None) or torch.bfloat16
    return getattr(torch, base.dtype)


def attention_of(base: ModelArguments) -> str:
    """The attention implementation of the language model."""
    asked = base.attn_implementation
    return (asked.get("text_config") if isinstance(asked, dict) else asked) or "sdpa"


def report_of(costs: list[tuple[str, Cost]], machine: Machine, setting: Setting) -> dict[str, Any]:
    """The table in GB, and which cards it fits on."""
    rows = []
    for name, cost in costs:
        sizes = {k: round(v / GB, 3) for k, v in dataclasses.asdict(cost).items() if k != "flops"}
        rows.append(
            {"checkpointing": name} | sizes | {"total": round(cost.total / GB, 3), "fits": fits(cost, machine)}
        )
    return {
        "device": setting.device,
        "gpus": machine.gpus,
        "engine": machine.engine,
        "gpu": machine.gpu,
        "rows": rows,
        "advice": [],
        "step_seconds": None,
        "epoch_hours": None,
    }


def fits(cost: Cost, machine: Machine) -> dict[str, bool]:
    """Whether it fits, by size of the card in GB."""
    sizes = SIZES if machine.memory is None else (machine.memory,)
    return {f"{size:g}": cost.total <= size * GB for size in sizes}


def advice(cost: Any, setting: Setting, batch: list[Clip], now: Cost, machine: Machine) -> list[str]:
    """What to change, in order, until it fits; each line says what it then needs. Empty if it fits as it is."""
    size = machine.memory or SIZES[0]
    if now.total <= size * GB:
        return []
    lines = []
    for words, changed, smaller in changes(setting, batch):
        now = cost(changed, smaller)
        lines.append(f"{words}: {now.total / GB:.1f} GB")
        if now.total <= size * GB:
            return [*lines, f"then it fits on {size:g} GB"]
    return [*lines, f"even then it does not fit on {size:g} GB; take a smaller base or a larger GPU"]


def changes(setting: Setting, batch: list[Clip]) -> Iterator[tuple[str, Setting, list[Clip]]]:
    """Changes that keep the global batch, each on top of those before; what costs accuracy comes last."""
    if not setting.recompute:
        setting = dataclasses.replace(setting, recompute=True)
        yield "activation_checkpointing: true", setting, batch
    while len(batch) > 1 and len(batch) % 2 == 0:
        batch, setting = (
            batch[: len(batch) // 2],
            dataclasses.replace(setting, accumulation=2 * setting.accumulation),
        )
        words = f"per_device_train_batch_size: {len(batch)} with gradient_accumulation_steps: {setting.accumulation}"
        yield f"{words} (the same global batch)", setting, batch
    lora = setting.adapters is not None and setting.adapters.use_peft
    if lora and not setting.load_in_4bit and setting.engine in ("ddp", "zero2"):
        setting = dataclasses.replace(setting, load_in_4bit=True)
        yield "load_in_4bit: true", setting, batch
    if setting.gpus > 1 and not setting.load_in_4bit and setting.engine in ("ddp", "zero2"):
        setting = dataclasses.replace(setting, engine="fsdp2")
        yield "shard the weights (accelerate_configs/fsdp2.yaml)", setting, batch
    for words in ("half of num_frames, in every stage", "half of max_pixels, in every stage"):
        batch = [dataclasses.replace(clip, grid=_smaller(clip.grid, words)) for clip in batch]
        yield words, setting, batch


def _smaller(grid: tuple[int, int, int], words: str) -> tuple[int, int, int]:
    t, h, w = grid
    return (max(1, t // 2), h, w) if "frames" in words else (t, h, max(2, w // 4 * 2))


def reading_memory(
    base: ModelArguments, how: RationaleArguments | EvalArguments, collator: ClipCollator, rows: list[Row],
    known: Known, machine: Machine,
) -> dict[str, Any]:  # fmt: skip
    """Memory of stage 0 or an evaluation: the batch of the longest prompts, its cache, and what is written from it."""
    config = base_config(base.model_name_or_path, base.model_revision)
    stage0 = isinstance(how, RationaleArguments)
    asked = [
        row | {"target": "rationale" if stage0 or how.method == "reason" else "label", "text": ""} for row in rows
    ]
    clips = clips_of(collator, asked, known, config.vision_config)[: how.per_device_batch_size]
    if not stage0 and how.method == "in_context":  # as one long row per clip
        turns = how.examples() + 1
        clips = [dataclasses.replace(clip, grid=_times(clip.grid, turns), text=turns * clip.text) for clip in clips]
    adapters: AdapterArguments | None = None
    setting = Setting(
        adapters,
        dtype=dtype_of(base, config),
        load_in_4bit=base.load_in_4bit,
        attention=attention_of(base),
        device="cpu" if how.use_cpu else "cuda",
        gpus=machine.gpus,
    )
    names = [collator.encode(name) for name in collator.card.names]
    scored = not stage0 and how.method in ("score", "reason", "in_context")
    cost = reading_cost(
        meta_model(config, setting),
        setting,
        clips,
        samples=how.num_samples if stage0 else int(how.generate and how.method in ("score", "greedy")),
        new_tokens=how.max_new_tokens,
        nodes=len(LabelTrie.build(names, collator.end_id).tokens) if scored else 0,
    )
    return report_of([("no gradients", cost)], machine, setting) | {"written": "no gradients"}


def keeping_the_batch(size: int, accumulation: int, processes: int) -> str | None:
    """What N processes do to the global batch of a recipe that was written for one, and how to keep it."""
    if processes == 1:
        return None
    before = size * accumulation
    ways = [(own, before // (own * processes)) for own in range(size, 0, -1) if before % (own * processes) == 0]
    said = f"with {processes} processes a step takes {before * processes} rows, on one {before}; "
    if not ways:
        return f"{said}no split over {processes} keeps {before}: choose another number, or a new learning rate"
    own, steps = ways[0]
    change = f"gradient_accumulation_steps: {steps}"
    if own != size:
        change += f" and per_device_train_batch_size: {own}"
    return f"{said}to keep {before} write {change}, otherwise choose the learning rate anew"


def lines_of(memory: dict[str, Any]) -> Iterator[str]:
    """The table as it is printed."""
    parts = ("weights", "adapters", "gradients", "optimizer", "activations", "logits", "inputs", "overhead", "total")
    where = "on the CPU" if memory["device"] == "cpu" else f"per GPU, {memory['gpus']} x, {memory['engine']}"
    yield f"memory in GB {where} (counted on the longest rows, not measured):"
    yield f"{'checkpointing':14}" + "".join(f"{part:>12}" for part in parts)
    for row in memory["rows"]:
        mark = " *" if row["checkpointing"] == memory["written"] and len(memory["rows"]) > 1 else ""
        yield f"{row['checkpointing'] + mark:14}" + "".join(f"{row[part]:12.2f}" for part in parts)
        if memory["device"] == "cuda":
            yield " " * 14 + ", ".join(f"{gb} GB: {'fits' if ok else 'NO'}" for gb, ok in row["fits"].items())
    if len(memory["rows"]) > 1:
        yield "* as the recipe says"
    if memory["step_seconds"]:
        (fast, slow), (few, many) = memory["step_seconds"], memory["epoch_hours"]
        yield (
            f"time on {memory['gpu']} at 35 to 25 % of its {GPUS[memory['gpu']][0] / 1e12:.0f} TFLOP/s, not measured: "
            f"{fast:.2f} to {slow:.2f} s per step, {few:.2g} to {many:.2g} h per epoch"
        )
    for line in memory["advice"]:
        yield f"change: {line}"


def memory_here() -> float | None:
    """GB of the GPU that is here, if there is one."""
    return torch.cuda.get_device_properties(0).total_memory / GB if torch.cuda.is_available() else None
