"""What a benchmark on an accelerator runs: the stages' own trainers, label scoring and generation, on random pixels.

Input: a row of the table (`Way`) and the recipe of that work. Output: seconds per round. Used by accelerator.py.
"""

import dataclasses
import functools
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, TrainerCallback

from rbft_trl.configs import AdapterArguments, ModelArguments
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import Clip, FrameSettings, resized
from rbft_trl.model import meta_step
from rbft_trl.model.collator import IGNORED, ClipCollator
from rbft_trl.model.families import published_config
from rbft_trl.model.inference import LabelScorer, LabelTrie, prefill, sample
from rbft_trl.model.loading import load_base, load_processor, prepare_for_training
from rbft_trl.model.trainer import LabelTrainer, RationaleTrainer
from rbft_trl.plan import OPTIONS
from rbft_trl.recipe import parse_recipe
from rbft_trl.setups import read_setup

REPOSITORY = Path(__file__).resolve().parents[1]
TOY = REPOSITORY / "toy/base"
BASES = {  # name: (id of the published configuration, folder of recipes, task card)
    "toy": (None, "recipes/toy", "recipes/tasks/toy.yaml"),
    "2b": ("Qwen/Qwen2-VL-2B-Instruct", "recipes", "recipes/tasks/hmdb51.yaml"),
    "7b": ("Qwen/Qwen2-VL-7B-Instruct", "recipes", "recipes/tasks/hmdb51.yaml"),
}
WEIGHTS = ("nf4", "bf16")
ATTENTIONS = {
    "sdpa": "sdpa",
    "flash": "flash_attention_2",
    "split": {"text_config": "sdpa", "vision_config": "flash_attention_2"},
}
WORK = ("stage1", "stage2", "scoring", "generation")
NOTHING = "–"  # where nothing is trained, nothing is recomputed
RECOMPUTE = ("plain", "checkpointing", NOTHING)
WARM_UP = 2  # rounds before the clock starts


@dataclasses.dataclass(frozen=True)
class Way:
    """One row of the table: which base, with which weights and attention, does what; the words of `--only`."""

    base: str
    weights: str
    attention: str
    work: str
    recompute: str

    @property
    def trains(self) -> bool:
        """Whether weights change."""
        return self.work.startswith("stage")


@dataclasses.dataclass
class Load:
    """What one round is given, from the recipe of the work: a step of training, or a batch that is read."""

    collator: ClipCollator
    rows: list[dict[str, Any]]
    clips: tuple[meta_step.Clip, ...]  # sizes of the rows of one micro-batch
    tokens: int  # of one micro-batch, video and text
    micro_batches: int = 1
    trie: LabelTrie | None = None
    decoding: dict[str, Any] = dataclasses.field(default_factory=dict)
    written: int = 0


class RandomClips(ClipCollator):
    """The collator on clips that no file holds: noise of the recipe's size, so that no time goes into decoding."""

    def read_row(self, row: dict[str, Any]) -> Clip:
        """The same noise for every row; the size is what costs."""
        height, width = (56, 56) if self.frames.max_pixels == 3136 else (360, 420)
        return noise(self.frames.num_frames, *resized(height, width, self.frames, factor=self.factor))


@functools.cache
def noise(*shape: int) -> Clip:
    """A clip of random pixels `[T, H, W, 3]`."""
    frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    return Clip(frames, np.arange(shape[0]), 2.0, shape[0])


class Clock(TrainerCallback):
    """When each step of the trainer ended, the device being idle."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self.ends.append(now())


def now() -> float:
    """Seconds, after all that the GPU was given is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def config_of(base: str, collator: ClipCollator) -> PreTrainedConfig:
    """The published sizes, with the numbers that the toy's tokenizer gives to the special tokens."""
    if BASES[base][0] is None:
        return AutoConfig.from_pretrained(TOY)
    config, number = published_config(BASES[base][0]), collator.tokenizer.convert_tokens_to_ids
    for part in (config, config.get_text_config()):
        part.bos_token_id, part.eos_token_id = None, collator.end_id
        part.pad_token_id = collator.tokenizer.pad_token_id
    for name in ("video", "image"):
        setattr(config, f"{name}_token_id", number(f"<|{name}_pad|>"))
    config.vision_start_token_id, config.vision_end_token_id = number("<|vision_start|>"), number("<|vision_end|>")
    return config


def make_base(config: PreTrainedConfig, collator: ClipCollator, folder: Path, device: str) -> Path:
    """Random weights in shards on the disk, so that every row loads them the way a user's base is loaded."""
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="2GB")
    collator.processor.save_pretrained(folder)
    return folder


def load_of(way: Way, clips: int | None, answer: int, new_tokens: int | None) -> Load:
    """What the recipe of this work gives to one round.

    Args:
        way (`Way`): The row.
        clips (`int`, *optional*): Clips per micro-batch instead of the recipe's.
        answer (`int`): Tokens of a rationale in stage 1.
        new_tokens (`int`, *optional*): Tokens of a generated text instead of the recipe's.
    """
    name = {"scoring": "eval", "generation": "rationales"}.get(way.work, way.work)
    folder = REPOSITORY / BASES[way.base][1]
    recipe = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    recipe = read_setup(folder / recipe["setup"]) | recipe
    card = TaskCard.from_yaml(REPOSITORY / BASES[way.base][2])
    frames = FrameSettings(**{key: recipe[key] for key in ("num_frames", "min_pixels", "max_pixels")})
    collator = RandomClips(load_processor(str(TOY)), card, REPOSITORY, frames, definitions=False)
    target = "rationale" if way.work in ("stage1", "generation") else "label"
    text = collator.tokenizer.decode(
        collator.encode("the small red one moves left and stops. " * answer)[: answer - 1]
    )
    row = {"id": "noise", "video": "noise", "label": card.names[0], "target": target, "text": text}
    batch = clips or recipe["per_device_train_batch_size" if way.trains else "per_device_batch_size"]
    rows = [row] * batch
    tensors = collator(rows) if way.trains else collator.prompts(rows, [collator.prompt_text(row)] * batch)
    tokens, trained = tensors["attention_mask"].sum(1), (tensors["labels"] != IGNORED).sum(1) if way.trains else None
    video = (tensors["mm_token_type_ids"] > 0).sum(1)
    sizes = [
        meta_step.Clip(tuple(grid), int(tokens[i] - video[i]), 1 if trained is None else int(trained[i]))
        for i, grid in enumerate(tensors["video_grid_thw"].tolist())
    ]
    micro_batches = recipe.get("gradient_accumulation_steps", 1) if way.trains else 1
    load = Load(collator, rows, tuple(sizes), int(tokens.sum()), micro_batches)
    if way.work == "scoring":
        load.trie = LabelScorer(collator).trie
    if way.work == "generation":
        load.decoding = {key: recipe[key] for key in ("num_samples", "temperature", "top_p", "max_new_tokens")}
        load.decoding["max_new_tokens"] = new_tokens or recipe["max_new_tokens"]
        load.written = load.decoding["num_samples"] * load.decoding["max_new_tokens"]
    return load


def options_of(way: Way, folder: Path, output: str, load: Load, steps: int) -> tuple[Any, ...]:
    """Base, adapters and trainer options: those of the recipe of that stage, but for what the row says."""
    stage = way.work if way.trains else "stage1"
    change = {
        "model_name_or_path": folder, "output_dir": output, "dtype": "bfloat16", "report_to": "none",
        "load_in_4bit": way.weights == "nf4", "activation_checkpointing": way.recompute == "checkpointing",
        "max_steps": steps, "per_device_train_batch_size": len(load.rows), "use_cpu": not torch.cuda.is_available(),
        "eval_strategy": "no", "save_strategy": "no", "logging_strategy": "no", "load_best_model_at_end": False,
        "disable_tqdm": True,
    }  # fmt: skip
    recipe = str(REPOSITORY / BASES[way.base][1] / f"{stage}.yaml")
    argv = [recipe, *(word for key, value in change.items() for word in (f"--{key}", str(value)))]
    _, base, adapters, _, training = parse_recipe(argv, *OPTIONS)
    return dataclasses.replace(base, attn_implementation=ATTENTIONS[way.attention]), adapters, training


def train(load: Load, base: ModelArguments, adapters: AdapterArguments, training: Any) -> list[float]:
    """Seconds of each step of the stage's own trainer; reading batches included."""
    model = prepare_for_training(load_base(base, device=training.device), adapters)
    steps, clock = training.max_steps, Clock()
    trainer = (LabelTrainer if load.rows[0]["target"] == "label" else RationaleTrainer)(
        model=model,
        args=training,
        train_dataset=Dataset.from_list(load.rows * load.micro_batches * steps),
        data_collator=load.collator,
        processing_class=load.collator.processor,
        callbacks=[clock],
    )
    _forget_peak()
    trainer.train()
    return [after - before for before, after in itertools.pairwise(clock.ends)][WARM_UP - 1 :]


def read(load: Load, base: ModelArguments, device: torch.device, rounds: int) -> list[float]:
    """Seconds to score the labels of a batch, or to write its rationales; clips are in memory."""
    model, collator = load_base(base, device=device).eval(), load.collator
    clips = [collator.read_row(row) for row in load.rows]
    scorer, texts = LabelScorer(collator), [collator.prompt_text(row) for row in load.rows]

    def once() -> None:
        if not load.decoding:
            scorer.read(model, load.rows, clips)
            return
        start = prefill(model, collator.prompts(load.rows, texts, clips=clips))
        sample(model, start, end_id=-1, pad_id=collator.tokenizer.pad_token_id, **load.decoding)  # -1: no early end

    _forget_peak()
    marks = [now()]
    for _ in range(WARM_UP + rounds):
        once()
        marks.append(now())
    return [after - before for before, after in itertools.pairwise(marks)][WARM_UP:]


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
