"""One training example as the model will see it: the prompt, which tokens are trained, the frames, the parts trained.

Input: a checked task and a training recipe. Output: what the page of check.py shows; no weights are opened.
"""

import itertools
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from rbft_trl.configs import AdapterArguments, ModelArguments, StageArguments
from rbft_trl.model.collator import IGNORED, ClipCollator
from rbft_trl.model.loading import mark_trained, trained_parts_table
from rbft_trl.start import Row, Task
from rbft_trl.training_config import TrainingConfig


def example_of(task: Task, row: Row, stage: StageArguments) -> dict[str, Any]:
    """The first training example.

    Returns:
        `dict`: `id`, `spans` (`(text, is it trained)`, in order; placeholders of video tokens are counted, not
        repeated), `tokens`, `video_tokens`, `trained_tokens`, and `frames` (uint8 `[T, H, W, 3]`).
    """
    collator = task.collator(label_in_prompt=stage.label_in_prompt)
    batch = collator([row])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    trained = [label != IGNORED for label in labels]
    video = task.processor.video_token_id
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
    config = AutoConfig.from_pretrained(base.model_name_or_path, revision=base.model_revision)
    with torch.device("meta"):
        model = mark_trained(AutoModelForImageTextToText.from_config(config), adapters)
    return trained_parts_table(model)


def budget_of(task: Task, train: list[Row], training: TrainingConfig, stage: StageArguments) -> dict[str, Any]:
    """Batch, steps and tokens of a training recipe; tokens are quantiles (0, 25, 50, 75, 100 %) over training rows."""
    batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    per_epoch = len(train) // batch if training.dataloader_drop_last else -(-len(train) // batch)
    collator = task.collator(label_in_prompt=stage.label_in_prompt)
    shapes = [task.manifest[row["id"]]["shape"] for row in train]
    tokens = collator.count_tokens(train, shapes)
    return {
        "rows": len(train),
        "batch": batch,
        "batch_is": f"{training.train_batch_size} x {training.gradient_accumulation_steps} accumulation x "
        f"{training.world_size} process{'es' if training.world_size > 1 else ''}",
        "steps_per_epoch": per_epoch,
        "steps": training.max_steps if training.max_steps > 0 else round(per_epoch * training.num_train_epochs),
        "tokens": np.quantile(tokens, [0, 0.25, 0.5, 0.75, 1]).round().astype(int).tolist(),
        "max_length": training.max_length,
        "too_long": sum(count > (training.max_length or count) for count in tokens),
    }
