"""Does a recipe fit on a GPU: memory and time at the measured lengths of its rows, and what to change if not.

Input: a checked recipe with its rows. Output: what check.py shows; nothing is loaded (model/cost.py counts).
"""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from rbft_trl.advice import advice, reading_changes, training_changes
from rbft_trl.configs import AdapterArguments, EvalArguments, ModelArguments
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.cost import (
    GB,
    GPUS,
    SIZES,
    Cost,
    base_config,
    meta_model,
    reading_cost,
    training_cost,
)
from rbft_trl.model.families import against_4bit
from rbft_trl.model.held import Setting
from rbft_trl.model.inference import LabelTrie
from rbft_trl.model.meta_step import Clip
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.start import Row
from rbft_trl.training_config import TrainingConfig

ROUGH_ANSWER = 256  # tokens of a rationale, where there is none yet
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


def rough_clips(prompt: str, known: Known, vision: Any, *, answer: int, sequences: int = 1) -> list[Clip]:
    """The sizes of rows where no tokenizer is at hand: a token per three characters of the prompt.

    Args:
        prompt (`str`): Of every row.
        known (`list[dict]`): The manifest's entries of the rows.
        vision (`PreTrainedConfig`): The tower's.
        answer (`int`): Trained tokens.
        sequences (`int`, *optional*, defaults to 1): Per row; 2 where label and rationale are trained jointly.
    """
    text = sequences * (len(rough_ids(prompt)) + answer)
    grids = [_times(_grid(entry["shape"], vision), sequences) for entry in known]
    clips = [Clip(grid, text, max(sequences * answer, 1)) for grid in grids]
    return sorted(clips, key=lambda clip: clip.tokens(vision.spatial_merge_size), reverse=True)


def rough_ids(text: str) -> list[int]:
    """Stand-ins for token ids, one per three characters: alike where texts begin alike, and in every vocabulary."""
    return [zlib.crc32(text[start : start + 3].encode()) % 512 for start in range(0, len(text), 3)]


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
    told = report_of([("off", costs[False]), ("on", costs[True])], machine, setting)
    told |= {"written": "on" if setting.recompute else "off"}
    if setting.device == "cuda":
        steps = -(-len(clips) // (len(batch) * setting.accumulation * machine.gpus))
        told |= times(written, mean_share(clips, batch, config), steps, machine, ("step", "per epoch"))
        ways = training_changes(setting, batch, four_bit=not against_4bit(config), scored=training.scores_labels)
        told["advice"] = advice(cost, written, ways, machine.memory or SIZES[0])
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
        sizes = {k: round(v / GB, 3) for k, v in dataclasses.asdict(cost).items() if k not in ("flops", "moved")}
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
        "time": None,
    }


def fits(cost: Cost, machine: Machine) -> dict[str, bool]:
    """Whether it fits, by size of the card in GB."""
    sizes = SIZES if machine.memory is None else (machine.memory,)
    return {f"{size:g}": cost.total <= size * GB for size in sizes}


def reading_memory(
    base: ModelArguments, how: RationaleArguments | EvalArguments, clips: list[Clip], names: list[list[int]],
    machine: Machine,
) -> dict[str, Any]:  # fmt: skip
    """Memory and time of stage 0 or an evaluation: the batch of the longest prompts, and what is written from it.

    Args:
        base, how: The recipe.
        clips (`list[Clip]`): The sizes of the rows, longest first.
        names (`list[list[int]]`): The tokens of every label.
        machine (`Machine`): Where it is to run.

    Returns:
        `dict`: as `training_memory`; a step is a batch there, and an epoch all rows.
    """
    config = base_config(base.model_name_or_path, base.model_revision)
    setting = Setting(
        None,
        dtype=dtype_of(base, config),
        load_in_4bit=base.load_in_4bit,
        attention=attention_of(base),
        device="cpu" if how.use_cpu else "cuda",
        gpus=machine.gpus,
    )
    stage0 = isinstance(how, RationaleArguments)
    scored = not stage0 and how.method in ("score", "reason", "in_context")
    writes = not stage0 and how.generate and how.method in ("score", "reason", "greedy")
    samples = how.num_samples if stage0 else int(writes)
    model, trie = meta_model(config, setting), LabelTrie.build(names, -1) if scored else None

    def cost(setting: Setting, clips: list[Clip]) -> Cost:
        return reading_cost(model, setting, clips, trie=trie, samples=samples, new_tokens=how.max_new_tokens)

    if not stage0 and how.method == "in_context":  # as one long row per clip
        turns = how.examples() + 1
        clips = [dataclasses.replace(clip, grid=_times(clip.grid, turns), text=turns * clip.text) for clip in clips]
    batch = clips[: how.per_device_batch_size]
    found = cost(setting, batch)
    told = report_of([("no gradients", found)], machine, setting) | {"written": "no gradients"}
    if setting.device == "cuda":
        batches = -(-len(clips) // (len(batch) * machine.gpus))
        told |= times(found, mean_share(clips, batch, config), batches, machine, ("batch", "for all clips"))
        ways = reading_changes(setting, batch, four_bit=not against_4bit(config))
        told["advice"] = advice(cost, found, ways, machine.memory or SIZES[0])
    return told


def mean_share(clips: list[Clip], batch: list[Clip], config: Any) -> float:
    """Of the tokens of a row in those of a row of `batch`, on average."""
    merge = config.vision_config.spatial_merge_size
    mean, longest = (sum(clip.tokens(merge) for clip in some) / len(some) for some in (clips, batch))
    return mean / longest


def times(cost: Cost, share: float, steps: int, machine: Machine, words: tuple[str, str]) -> dict[str, Any]:
    """Seconds of one step and hours of all, at 35 and at 25 % of the GPU's peak, as numbers and as a sentence.

    Args:
        cost (`Cost`): Of a step with the longest rows.
        share (`float`): From `mean_share`.
        steps (`int`): How many there are.
        machine (`Machine`): Whose GPU.
        words (`tuple[str, str]`): What a step and all of them are called.
    """
    each = dataclasses.replace(cost, flops=round(share * cost.flops)).seconds(machine.gpu)
    hours = [steps * seconds / 3600 for seconds in each]
    said = f"{span(*each)} per {words[0]}, {span(*(3600 * h for h in hours))} {words[1]}"
    return {"step_seconds": [*each], "epoch_hours": hours, "time": said}


def span(fast: float, slow: float) -> str:
    """Two durations in seconds, in a unit in which the shorter one is not 0."""
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if fast >= s), ("ms", 1e-3))
    low, high = (f"{value / size:.2g}" if value < 10 * size else f"{value / size:,.0f}" for value in (fast, slow))
    return f"{low} to {high} {unit}"


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
    if memory["time"]:
        peak = f"{GPUS[memory['gpu']][0] / 1e12:.0f} TFLOP/s"
        yield f"time on {memory['gpu']} at 35 to 25 % of its {peak}, not measured: {memory['time']}"
    for line in memory["advice"]:
        yield f"change: {line}"


def memory_here() -> float | None:
    """GB of the GPU that is here, if there is one."""
    return torch.cuda.get_device_properties(0).total_memory / GB if torch.cuda.is_available() else None
