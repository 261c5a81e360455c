"""Training of one stage: stage 1 (rationales), stage 2 (labels) or direct SFT; the recipe says which.

Input: a recipe; for stage 1 rationales.jsonl, for stage 2 the folder of stage 1. Output: a checkpoint with rbft.json.
Command: accelerate launch rbft_trl/sft.py recipes/stage1.yaml
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from datasets import Dataset

from rbft_trl.configs import AdapterArguments, DataArguments, ModelArguments, StageArguments
from rbft_trl.errors import UserError, run_entry
from rbft_trl.model.checkpoints import prepare_output
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.inference import LabelScorer
from rbft_trl.model.loading import (
    base_fingerprint,
    check_model_arguments,
    check_scoring_attention,
    load_base,
    prepare_for_training,
    trainable_parameters,
)
from rbft_trl.model.provenance import (
    check_same,
    check_unseen,
    files_of,
    groups_of,
    read_record,
    weights_fingerprint,
    write_record,
)
from rbft_trl.model.trainer import KeepPresentations, LabelTrainer, RationaleTrainer, VideoSFTTrainer, check_optimizer
from rbft_trl.recipe import parse_recipe
from rbft_trl.stage_rows import balance_weights, check_lengths, check_stage0, training_rows
from rbft_trl.start import Row, Task, open_task
from rbft_trl.training_config import TrainingConfig

SECRETS = ("hub_token", "push_to_hub_token")
OPTIONS = (DataArguments, ModelArguments, AdapterArguments, StageArguments, TrainingConfig)


def main(argv: list[str]) -> dict[str, Any]:
    """Trains one stage; returns its record (rbft.json)."""
    plan = make_plan(*parse_recipe(argv, *OPTIONS))
    training = plan.training
    resume, done = prepare_output(training, plan.recipe)
    if done:
        return read_record(training.output_dir)

    trainer = make_trainer(plan)
    if resume:
        trainer.presentations = json.loads((Path(resume) / KeepPresentations.FILE).read_text())
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.perf_counter() - started
    check_trained(trainer)
    trainer.save_model()
    trainer.save_state()
    if trainer.accelerator.is_main_process:
        write_record(training.output_dir, plan.task.card, make_record(plan, trainer, seconds))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return read_record(training.output_dir)


@dataclasses.dataclass
class Plan:
    """One stage, checked: everything that is known before a model is loaded."""

    base: ModelArguments
    adapters: AdapterArguments
    stage: StageArguments
    training: TrainingConfig
    task: Task
    collator: ClipCollator
    train: list[Row]
    validation: list[Row]
    parent: dict[str, Any] | None
    same: dict[str, Any]
    recipe: dict[str, Any]


def make_plan(
    data: DataArguments,
    base: ModelArguments,
    adapters: AdapterArguments,
    stage: StageArguments,
    training: TrainingConfig,
) -> Plan:
    """Reads the data and the parent, and checks that all of it fits.

    Raises:
        UserError: for every mistake that can be seen without the weights.
    """
    check_model_arguments(base, use_cpu=training.use_cpu)
    check_options(base, adapters, stage, training)
    task = open_task(data, base)
    card = task.card
    fingerprint = base_fingerprint(base.model_name_or_path, base.model_revision)
    same = {"base": fingerprint, "frames": task.frames.to_dict(), "definitions": data.definitions}
    same |= {
        "load_in_4bit": base.load_in_4bit,
        "adapters": dataclasses.asdict(adapters),
        "shots": data.shots,
        "draw": data.draw,
    }
    parent = None if stage.init == "base" else read_parent(stage.init, task, same)
    check_stage0(stage, card, same)
    train = training_rows(task, stage)
    if stage.class_balance == "weights":
        train = [row | {"weight": weight} for row, weight in zip(train, balance_weights(train), strict=True)]
    validation = [row | {"target": "label", "text": ""} for row in task.readable("validation")]
    if training.eval_strategy != "no" and not validation:
        raise UserError(
            f"eval_strategy is '{training.eval_strategy.value}' but {card.path} has no validation clip; set it to no"
        )
    if validation and training.eval_strategy != "no" and training.validate_by_score:
        check_scoring_attention(base)
    batch = training.train_batch_size * training.world_size
    if training.dataloader_drop_last and len(train) < batch:
        raise UserError(
            f"{len(train)} training rows do not fill one batch of {batch}, and dataloader_drop_last is true; "
            "lower per_device_train_batch_size or set it to false"
        )
    resolved = recipe(data, base, adapters, stage, training)
    resolved |= {"rows": task.fingerprint(train + validation), "processes": training.world_size}
    resolved |= {"base": fingerprint, "card": card.fingerprint(), "parent": parent and parent["weights"]}
    collator = task.collator(label_in_prompt=stage.label_in_prompt)
    check_lengths(train + validation, collator, task.manifest, training.max_length)
    return Plan(base, adapters, stage, training, task, collator, train, validation, parent, same, resolved)


def check_options(
    base: ModelArguments, adapters: AdapterArguments, stage: StageArguments, training: TrainingConfig
) -> None:
    """Options that contradict one another.

    Raises:
        UserError: naming both and the way out.
    """
    if base.load_in_4bit and not adapters.use_peft:
        raise UserError("load_in_4bit is true but use_peft is false: 4-bit weights cannot be trained; set one of them")
    for part in ("merger", "vision"):
        if getattr(training, f"learning_rate_{part}") is not None and part not in adapters.train_parts:
            raise UserError(
                f"learning_rate_{part} is set but train_parts {adapters.train_parts} leaves it out; add or drop it"
            )
    if stage.class_balance == "sampler":
        for key, plain in (("data_seed", None), ("train_sampling_strategy", "random")):
            if getattr(training, key) != plain:
                raise UserError(f"'{key}' is set but class_balance: sampler has an order of its own; leave one out")
    check_optimizer(training)
    if training.n_gpu > 1:
        raise UserError(
            f"{training.n_gpu} GPUs are visible to one process; start with accelerate launch, or set "
            "CUDA_VISIBLE_DEVICES=0"
        )


def read_parent(init: str, task: Task, same: dict[str, Any]) -> dict[str, Any]:
    """The record of the stage that this one starts from, if it fits.

    Raises:
        UserError: if it learned labels already, has another base, labels, frames or adapters, or saw held-out clips.
    """
    parent = read_record(init)
    if parent["target"] == "label":
        raise UserError(f"init '{init}' was trained on labels already; name the folder of a stage 1, or base")
    adapters, trained = same["adapters"], parent["adapters"]["train_parts"]
    if more := [part for part in adapters["train_parts"] if part not in trained]:
        raise UserError(
            f"train_parts holds '{more[0]}' but '{init}' was trained on {trained}; train it there too, or leave it out"
        )
    check_same(parent, init, task.card, **same | {"adapters": adapters | {"train_parts": trained}})
    check_unseen(parent, init, task.rows, task.manifest, "validation")
    check_unseen(parent, init, task.rows, task.manifest, "test")
    return parent


def make_trainer(plan: Plan) -> VideoSFTTrainer:
    """Loads the model, from the base or the parent, and gives it to the trainer of this stage."""
    stage, training = plan.stage, plan.training
    set_seed(training.seed)
    start, adapter = plan.base, None
    if plan.parent is not None and plan.adapters.use_peft:
        adapter = stage.init
    elif plan.parent is not None:
        start = dataclasses.replace(plan.base, model_name_or_path=stage.init, model_revision=None)
    model = prepare_for_training(load_base(start, device=training.device), plan.adapters, adapter=adapter)
    trainer = (LabelTrainer if stage.target == "label" else RationaleTrainer)(
        model=model,
        args=training,
        train_dataset=Dataset.from_list(plan.train),
        eval_dataset=Dataset.from_list(plan.validation) if plan.validation else None,
        data_collator=plan.collator,
        processing_class=plan.collator.processor,
    )
    if training.validate_by_score and plan.validation:
        scorer, size = LabelScorer(plan.collator), training.per_device_eval_batch_size
        trainer.score_validation = lambda m, clips: scorer.right(m, clips, batch_size=size)
    if stage.class_balance == "sampler":
        trainer.row_weights = balance_weights(plan.train)
    trainer.add_callback(KeepPresentations(trainer))
    return trainer


def check_trained(trainer: VideoSFTTrainer) -> None:
    """A run that did no step, or whose weights are no numbers, must not become a parent or a result.

    Raises:
        UserError: before anything is recorded.
    """
    if trainer.state.global_step == 0:
        raise UserError("no step was trained; check num_train_epochs, max_steps and gradient_accumulation_steps")
    for _, name, parameter in trainable_parameters(trainer.model):
        if not parameter.isfinite().all():
            raise UserError(f"training diverged: '{name}' holds values that are no numbers; lower the learning rate")


def make_record(plan: Plan, trainer: VideoSFTTrainer, seconds: float) -> dict[str, Any]:
    """What travels with the checkpoint as rbft.json; eval.py and the next stage read it."""
    parent, rows, manifest = plan.parent or {}, plan.task.rows, plan.task.manifest
    seen = {}
    for key, split in (("trained_on", "train"), ("selected_by", "validation")):
        seen[key] = sorted({*groups_of(rows, split), *parent.get(key, [])})
        seen[f"{key}_files"] = sorted({*files_of(rows, manifest, split), *parent.get(f"{key}_files", [])})
    return (
        plan.same
        | seen
        | {
            "labels": plan.task.card.names,
            "model_name_or_path": plan.base.model_name_or_path,
            "target": plan.stage.target,
            "init": parent.get("weights", "base"),
            "steps": trainer.state.global_step,
            "presentations": trainer.presentations,
            "seconds": round(seconds, 2),
            "best_validation": trainer.state.best_metric,
            "curves": trainer.state.log_history,
            "recipe": plan.recipe,
            "weights": weights_fingerprint(plan.training.output_dir),
        }
    )


def recipe(*groups: Any) -> dict[str, Any]:
    """The resolved recipe: every option of every group as it was used, without secrets."""
    resolved: dict[str, Any] = {}
    for group in groups:
        resolved |= group.to_dict() if isinstance(group, TrainingConfig) else dataclasses.asdict(group)
    return json.loads(json.dumps({k: v for k, v in resolved.items() if k not in SECRETS}, default=str))


if __name__ == "__main__":
    run_entry(main)
