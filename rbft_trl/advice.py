"""What to change in a recipe that does not fit on a GPU, and how N processes keep the global batch.

Input: what a recipe costs, and where it is to run. Output: sentences that say what to write.
"""

import dataclasses
from collections.abc import Callable, Iterator

from rbft_trl.model.cost import GB, Cost
from rbft_trl.model.held import Setting
from rbft_trl.model.meta_step import Clip
from rbft_trl.training_config import TrainingConfig

Change = tuple[str, Setting, list[Clip]]
SMALLER = ("half of num_frames, in every stage", "half of max_pixels, in every stage")


def advice(
    cost: Callable[[Setting, list[Clip]], Cost], now: Cost, changes: Iterator[Change], gigabytes: float
) -> list[str]:
    """What to change, in order, until it fits; each line says what it then needs. Empty if it fits as it is.

    Args:
        cost (`Callable`): Of a setting and the rows of one batch.
        now (`Cost`): As the recipe is.
        changes (`Iterator`): From `training_changes` or `reading_changes`.
        gigabytes (`float`): Memory of one GPU.
    """
    if now.total <= gigabytes * GB:
        return []
    lines = []
    for words, changed, smaller in changes:
        now = cost(changed, smaller)
        lines.append(f"{words}: {now.total / GB:.1f} GB")
        if now.total <= gigabytes * GB:
            return [*lines, f"then it fits on {gigabytes:g} GB"]
    return [*lines, f"even then it does not fit on {gigabytes:g} GB; take a smaller base or a larger GPU"]


def training_changes(
    setting: Setting, batch: list[Clip], *, four_bit: bool = True, scored: bool = False
) -> Iterator[Change]:
    """Changes that keep the global batch, each on top of those before; what costs accuracy comes last.

    Args:
        setting (`Setting`): As the recipe is.
        batch (`list[Clip]`): The rows of one micro-batch.
        four_bit (`bool`, *optional*, defaults to `True`): Whether the base may be advised in 4 bit.
        scored (`bool`, *optional*, defaults to `False`): Whether labels are scored while it trains, which engines that
            share out the weights refuse.
    """
    if not setting.recompute:
        setting = dataclasses.replace(setting, recompute=True)
        yield "activation_checkpointing: true", setting, batch
    while len(batch) > 1:
        own = _smaller_batch(len(batch))
        setting = dataclasses.replace(setting, accumulation=setting.accumulation * len(batch) // own)
        batch = batch[:own]
        words = f"per_device_train_batch_size: {own} with gradient_accumulation_steps: {setting.accumulation}"
        yield f"{words} (the same global batch)", setting, batch
    lora = setting.adapters is not None and setting.adapters.use_peft
    if lora and four_bit and not setting.load_in_4bit and setting.engine in ("ddp", "zero2"):
        setting = dataclasses.replace(setting, load_in_4bit=True)
        yield "load_in_4bit: true, in every stage", setting, batch
    if setting.gpus > 1 and not setting.load_in_4bit and setting.engine in ("ddp", "zero2"):
        setting = dataclasses.replace(setting, engine="fsdp2")
        needs = " with validate_by_score: false" if scored else ""
        yield f"shard the weights (accelerate_configs/fsdp2.yaml){needs}", setting, batch
    yield from _smaller_clips(setting, batch)


def reading_changes(setting: Setting, batch: list[Clip], *, four_bit: bool = True) -> Iterator[Change]:
    """The same for stage 0 and evaluation, where a batch is no step and may be of any size."""
    while len(batch) > 1:
        batch = batch[: _smaller_batch(len(batch))]
        yield f"per_device_batch_size: {len(batch)}", setting, batch
    if four_bit and not setting.load_in_4bit:
        setting = dataclasses.replace(setting, load_in_4bit=True)
        yield "load_in_4bit: true, in every stage", setting, batch
    yield from _smaller_clips(setting, batch)


def keeping_the_batch(training: TrainingConfig, processes: int) -> str | None:
    """What N processes do to the batch that the learning rate was chosen for, and how to keep it; None if it is kept.

    Args:
        training (`TrainingConfig`): Its `global_batch` is that batch; left out, that of one process is.
        processes (`int`): Over all machines.
    """
    size, accumulation = training.train_batch_size, training.gradient_accumulation_steps
    wanted, now = training.global_batch or size * accumulation, size * accumulation * processes
    if now == wanted:
        return None
    many = f"{processes} process{'es' if processes > 1 else ''}"
    said = f"with {many} a step takes {now} rows ({size} x {accumulation} accumulation x {many}), "
    said += f"{'global_batch is' if training.global_batch else 'on one process'} {wanted}; "
    ways = [(own, wanted // (own * processes)) for own in range(size, 0, -1) if wanted % (own * processes) == 0]
    if not ways:
        return f"{said}no split over {processes} keeps {wanted}: choose another number, or a new learning rate"
    own, steps = ways[0]
    change = f"gradient_accumulation_steps: {steps}"
    if own != size:
        change += f" and per_device_train_batch_size: {own}"
    return f"{said}to keep {wanted} write {change}, otherwise choose the learning rate anew"


def _smaller_batch(size: int) -> int:
    """The largest proper divisor: with it accumulation can make up the same batch."""
    return max(own for own in range(1, size) if size % own == 0)


def _smaller_clips(setting: Setting, batch: list[Clip]) -> Iterator[Change]:
    for words in SMALLER:
        grids = [(max(1, t // 2), h, w) if "frames" in words else (t, h, max(2, w // 4 * 2)) for t, h, w in
                 (clip.grid for clip in batch)]  # fmt: skip
        batch = [dataclasses.replace(clip, grid=grid) for clip, grid in zip(batch, grids, strict=True)]
        yield words, setting, batch
