"""One training example as the model will see it: the prompt, which tokens are trained, the frames, the parts trained.

Input: a checked task and a training recipe. Output: what the page of check.py shows; no weights are opened.
"""

import itertools
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, ProcessorMixin

from rbft_trl.configs import (
    AdapterArguments,
    DataArguments,
    EvalArguments,
    ModelArguments,
    StageArguments,
)
from rbft_trl.data.manifest import Entry
from rbft_trl.data.task import CLIP_PLACE, TaskCard
from rbft_trl.engines import WHOLE
from rbft_trl.errors import UserError
from rbft_trl.memory import ROUGH_ANSWER, Machine, clips_of, reading_memory, rough_clips, rough_ids, training_memory
from rbft_trl.model.collator import IGNORED, ClipCollator
from rbft_trl.model.cost import base_config
from rbft_trl.model.families import against_4bit
from rbft_trl.model.loading import (
    check_base,
    frame_factor,
    load_processor,
    mark_trained,
    trained_parts_table,
)
from rbft_trl.plan import make_plan, work_of
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import Row, Task
from rbft_trl.training_config import TrainingConfig

TRAINING = (AdapterArguments, StageArguments, TrainingConfig)
STARTED = {"zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}  # --engine → its name in rbft_trl/engines.py
KINDS = {"target": TRAINING, "output_file": (RationaleArguments,)}


class Recipe:
    """A recipe of any stage, read and checked.

    Args:
        data (`DataArguments`): What to look at.
        base (`ModelArguments`): The base.
        rest (`tuple`): The other groups of options; three for a recipe that trains.
    """

    def __init__(self, data: DataArguments, base: ModelArguments, *rest: Any) -> None:
        self.data, self.base, self.rest = data, base, rest
        self.trains = len(rest) == len(TRAINING)
        self.lacks: str | None = None  # why there is no processor

    @classmethod
    def read(cls, argv: list[str], raw: dict[str, Any]) -> "Recipe":
        """Reads a recipe of a training, of stage 0 or of an evaluation: its keys tell which.

        Raises:
            UserError: if it is none of these, or wrong.
        """
        if "stage1" in raw or "arms" in raw:
            raise UserError(f"'{argv[0]}' compares recipes; check one of those that it names")
        groups = next((groups for key, groups in KINDS.items() if key in raw), (EvalArguments,))
        recipe = cls(*parse_recipe(argv, DataArguments, ModelArguments, *groups))
        check_base(recipe.base)
        return recipe

    def factor(self) -> int:
        """Both sides of a frame are multiples of this; where the processor is not at hand, as it was published."""
        try:
            return frame_factor(self.processor())
        except UserError as error:
            self.lacks = str(error)
            try:
                vision = base_config(self.base.model_name_or_path, self.base.model_revision).vision_config
            except UserError:
                raise error from None
            return vision.patch_size * vision.spatial_merge_size

    def processor(self) -> ProcessorMixin:
        """The base's."""
        return load_processor(self.base.model_name_or_path, self.base.model_revision)

    def work(self) -> tuple[str, ...]:
        """What it does, as the support matrix of engines.py names it; nothing where a server does it."""
        if not self.trains:
            return () if getattr(self.rest[0], "server_url", None) else (WHOLE,)
        adapters, _, training = self.rest
        return work_of(self.base, adapters, training)

    def against_4bit(self) -> str | None:
        """Why this base should not be in 4 bit, if the recipe wants it there."""
        if not self.base.load_in_4bit:
            return None
        return against_4bit(base_config(self.base.model_name_or_path, self.base.model_revision))

    def memory(
        self, card: TaskCard, rows: list[Row], manifest: dict[str, Entry], machine: Machine
    ) -> dict[str, Any] | None:
        """Memory of stage 0 or an evaluation, or of a training; by rough lengths where the processor is not at hand.
        None where a server writes.

        Args:
            card (`TaskCard`): The card.
            rows (`list[dict]`): All rows that can be read.
            manifest (`dict[str, dict]`): What is known of each clip.
            machine (`Machine`): Where it is to run.
        """
        if getattr(self.rest[0], "server_url", None) or getattr(self.rest[0], "method", None) == "majority":
            return None  # no model here
        split = getattr(self.rest[0], "split", "train")
        own = [r for r in rows if r["split"] == split and (r["label"] is not None or not self.trains)]
        if not own:
            raise UserError(
                f"{card.path}: the {split} split has no clip for this recipe; give it clips, or name another"
            )
        known = [manifest[row["id"]] for row in own]
        vision = base_config(self.base.model_name_or_path, self.base.model_revision).vision_config
        reasons = getattr(self.rest[0], "method", None) == "reason"
        writes = reasons or isinstance(self.rest[0], RationaleArguments)
        if self.lacks:
            prompt = (card.rationale_prompt if writes else card.label_prompt)(definitions=self.data.definitions)
            twice = 2 if self.trains and self.rest[1].target == "joint" else 1
            clips = rough_clips(prompt, known, vision, answer=ROUGH_ANSWER if self.trains else 0, sequences=twice)
            names = [rough_ids(name) for name in card.names]
        else:
            frames, definitions = self.data.frames(), self.data.definitions
            collator = ClipCollator(self.processor(), card, card.data.root, frames, definitions=definitions)
            asked = {"target": "rationale" if writes else "label", "text": ""}
            clips = clips_of(collator, [row | asked for row in own], known, vision)
            names = [collator.encode(name) for name in card.names]
        if self.trains:
            adapters, _, training = self.rest
            return training_memory(self.base, adapters, training, clips, machine)
        return reading_memory(self.base, self.rest[0], clips, names, machine)

    def preview(self, machine: Machine) -> dict[str, Any]:
        """One example, batch and steps, trained parameters by part; all that training would check is checked.

        Raises:
            UserError: for what would stop the run.
        """
        adapters, _, training = self.rest
        plan = make_plan(self.data, self.base, *self.rest, engine=engine_of(machine.engine, machine.gpus))
        vision = base_config(self.base.model_name_or_path, self.base.model_revision).vision_config
        known = [plan.task.manifest[row["id"]] for row in plan.train]
        clips = clips_of(plan.collator, plan.train, known, vision)
        return {
            "example": example_of(plan.collator, plan.train[0]),
            "budget": budget_of(plan.task, plan.collator, plan.train, training, machine.gpus),
            "parts": parts_of(self.base, adapters),
            "memory": training_memory(self.base, adapters, training, clips, machine),
        }

    def prompt_tokens(self, card: TaskCard) -> dict[str, int]:
        """Text tokens of the label prompt and of the rationale prompt, without the clip."""
        tokenizer = self.processor().tokenizer
        asked = {"label": card.label_prompt(definitions=self.data.definitions)}
        asked |= {"rationale": card.rationale_prompt(definitions=self.data.definitions)}
        asked = {kind: text.replace(CLIP_PLACE, "") for kind, text in asked.items()}
        return {kind: len(tokenizer(text, split_special_tokens=True).input_ids) for kind, text in asked.items()}


def engine_of(name: str, processes: int) -> str:
    """The name in engines.py of what --engine asks for."""
    return STARTED.get(name, "DDP" if processes > 1 else "one process")


def example_of(collator: ClipCollator, row: Row) -> dict[str, Any]:
    """The first training example.

    Returns:
        `dict`: `id`, `spans` (`(text, is it trained)`, in order; placeholders of video tokens are counted, not
        repeated), `tokens`, `video_tokens`, `trained_tokens`, and `frames` (uint8 `[T, H, W, 3]`).
    """
    batch = collator([row])
    seen = batch["attention_mask"].bool()  # a joint row has two sequences
    ids, labels = batch["input_ids"][seen].tolist(), batch["labels"][seen].tolist()
    trained = [label != IGNORED for label in labels]
    video = collator.processor.video_token_id
    return {
        "id": row["id"],
        "spans": spans(collator, ids, trained, video),
        "tokens": len(ids),
        "video_tokens": ids.count(video),
        "trained_tokens": sum(trained),
        "frames": collator.read_row(row).frames,
    }


def spans(collator: ClipCollator, ids: list[int], trained: list[bool], video: int) -> list[tuple[str, bool]]:
    """Text pieces that are trained or not; a run of video tokens becomes `⟨n video tokens⟩`."""
    pieces = []
    keys = [(token == video, flag) for token, flag in zip(ids, trained, strict=True)]
    for (is_video, flag), group in itertools.groupby(zip(keys, ids, strict=True), key=lambda pair: pair[0]):
        tokens = [token for _, token in group]
        text = f"⟨{len(tokens)} video tokens⟩" if is_video else collator.tokenizer.decode(tokens)
        pieces.append((text, flag))
    return pieces


def parts_of(base: ModelArguments, adapters: AdapterArguments) -> str:
    """The table of trained parameters by part, from the configuration alone (a model on the meta device)."""
    config = base_config(base.model_name_or_path, base.model_revision)
    with torch.device("meta"):
        model = mark_trained(AutoModelForImageTextToText.from_config(config), adapters)
    return trained_parts_table(model)


def budget_of(
    task: Task, collator: ClipCollator, train: list[Row], training: TrainingConfig, processes: int = 1
) -> dict[str, Any]:
    """Batch, steps and tokens of a training recipe; tokens are quantiles (0, 25, 50, 75, 100 %) over training rows."""
    at_once = training.train_batch_size * processes
    batch = at_once * training.gradient_accumulation_steps
    repeats = processes > 1 and not training.dataloader_drop_last  # accelerate gives all processes full batches
    per_epoch = len(train) // batch if training.dataloader_drop_last else -(-len(train) // batch)
    tokens = collator.count_tokens(train, [task.manifest[row["id"]] for row in train])
    return {
        "rows": len(train),
        "batch": batch,
        "batch_is": f"{training.train_batch_size} x {training.gradient_accumulation_steps} accumulation x "
        f"{processes} process{'es' if processes > 1 else ''}",
        "repeated": -len(train) % at_once if repeats else 0,
        "steps_per_epoch": per_epoch,
        "steps": training.max_steps if training.max_steps > 0 else round(per_epoch * training.num_train_epochs),
        "tokens": np.quantile(tokens, [0, 0.25, 0.5, 0.75, 1]).round().astype(int).tolist(),
        "max_length": training.max_length,
    }
