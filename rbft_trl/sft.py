"""Training of one stage: stage 1 (rationales), stage 2 (labels) or direct SFT; the recipe says which.

Input: a recipe; for stage 1 rationales.jsonl, for stage 2 the folder of stage 1. Output: a checkpoint with rbft.json.
Command: accelerate launch rbft_trl/sft.py recipes/stage1.yaml
"""

import dataclasses
import functools
import time
import warnings
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import set_seed
from datasets import Dataset

from rbft_trl.advice import keeping_the_batch
from rbft_trl.data.jsonl import check_folder, read_json
from rbft_trl.engines import started_engine
from rbft_trl.errors import UserError, run_entry
from rbft_trl.hub.in_run import PushInRun, PushSaves
from rbft_trl.model.answerer import Answerer
from rbft_trl.model.checkpoints import prepare_output
from rbft_trl.model.fetch import commit_of
from rbft_trl.model.inference import LabelScorer
from rbft_trl.model.lineage import lineage, rationale_facts
from rbft_trl.model.loading import check_model_arguments, load_base, prepare_for_training, trainable_parameters
from rbft_trl.model.provenance import (
    begins_new_adapter,
    files_of,
    groups_of,
    order_targets,
    read_record,
    under_adapter,
    weights_fingerprint,
    write_record,
)
from rbft_trl.model.shards import not_finite
from rbft_trl.model.stop import SetEpoch, StopAtStep, ending, readers_told
from rbft_trl.model.trainer import PROGRESS_FILE, JointTrainer, LabelTrainer, RationaleTrainer, Scorer, VideoSFTTrainer
from rbft_trl.model.whole import room_told
from rbft_trl.plan import OPTIONS, Plan, make_plan
from rbft_trl.recipe import parse_recipe
from rbft_trl.stage_rows import balance_weights
from rbft_trl.stopping import listening


def main(argv: list[str]) -> dict[str, Any]:
    """Trains one stage; returns its record (rbft.json)."""
    data, base, adapters, stage, training = parse_recipe(argv, *OPTIONS)
    check_folder(training.output_dir)
    check_model_arguments(base, use_cpu=training.use_cpu)
    said = keeping_the_batch(training, training.world_size) if training.global_batch else None
    if said and training.process_index == 0:
        warnings.warn(said, stacklevel=2)
    plan = make_plan(data, base, adapters, stage, training)
    resume, done = prepare_output(training, plan.recipe)
    push = PushInRun(plan) if training.push_to_hub else None
    training.push_to_hub = False  # Trainer's own push sends training_args.bin, local paths and another card
    if done:
        if push:
            push.at_end()
        PartialState().destroy_process_group()
        return read_record(training.output_dir)

    trainer = make_trainer(plan)
    if resume:
        progress = read_json(Path(resume) / PROGRESS_FILE)
        trainer.presentations, trainer.seconds_before = progress["presentations"], progress["seconds"]
    with ending(trainer.accelerator), listening():
        train(plan, trainer, resume, push)
    if push and trainer.is_world_process_zero():  # after the other processes have left: nobody waits for it
        push.at_end()
    return read_record(training.output_dir)


def train(plan: Plan, trainer: VideoSFTTrainer, resume: str | None, push: PushInRun | None) -> None:
    """Trains, checks what came out, and saves it; the record comes last: where it stands, the stage is complete."""
    trainer.started = time.perf_counter()
    if push and plan.training.hub_strategy == "every_save":
        trainer.add_callback(PushSaves(push, lambda folder: make_record(plan, trainer, trainer.seconds, folder)))
    with readers_told():
        trainer.train(resume_from_checkpoint=resume)
    seconds = trainer.seconds
    check_trained(trainer)
    with room_told(Path(trainer.args.output_dir), "the trained weights"):
        trainer.save_model()
        trainer.save_state()
        if trainer.accelerator.is_main_process:
            folder = trainer.args.output_dir
            order_targets(folder)
            write_record(folder, plan.task.card, make_record(plan, trainer, seconds, folder))


def make_trainer(plan: Plan) -> VideoSFTTrainer:
    """Loads the model, from the base or the parent, and gives it to the trainer of this stage."""
    stage, training = plan.stage, plan.training
    set_seed(training.seed)
    start, adapter = plan.base, None
    if plan.parent is not None and plan.parent["adapters"]["use_peft"]:
        start, adapter = under_adapter(plan.parent, plan.base), plan.parent_folder
    elif plan.parent is not None:
        start = dataclasses.replace(plan.base, model_name_or_path=plan.parent_folder, model_revision=None)
    model = prepare_for_training(load_base(start, device=training.device), plan.adapters, adapter=adapter)
    trainer = {"label": LabelTrainer, "joint": JointTrainer}.get(stage.target, RationaleTrainer)(
        model=model,
        args=training,
        train_dataset=Dataset.from_list(plan.train),
        eval_dataset=Dataset.from_list(plan.validation) if plan.validation else None,
        data_collator=plan.collator,
        processing_class=plan.collator.processor,
    )
    if training.validate_by_score and plan.validation:
        trainer.score_validation = validation_scorer(plan)
    if stage.class_balance == "sampler":
        trainer.row_weights = balance_weights(plan.train)
    trainer.add_callback(SetEpoch())
    trainer.add_callback(StopAtStep(trainer.accelerator))
    return trainer


def validation_scorer(plan: Plan) -> Scorer:
    """Which validation clips are right, decided as the stage's result will be."""
    size = plan.training.per_device_eval_batch_size
    if plan.task.card.is_open:
        return functools.partial(Answerer(plan.collator).right, batch_size=size)
    reasons_first = plan.stage.target == "rationale_label"
    return functools.partial(LabelScorer(plan.collator).right, batch_size=size, reasons_first=reasons_first)


def check_trained(trainer: VideoSFTTrainer) -> None:
    """A run that did no step, or whose weights are no numbers, must not become a parent or a result.

    Raises:
        UserError: before anything is recorded.
    """
    if trainer.state.global_step == 0:
        raise UserError("no step was trained; check num_train_epochs, max_steps and gradient_accumulation_steps")
    if bad := not_finite([(name, parameter) for _, name, parameter in trainable_parameters(trainer.model)]):
        raise UserError(f"training diverged: '{bad[0]}' holds values that are no numbers; lower the learning rate")


def make_record(plan: Plan, trainer: VideoSFTTrainer, seconds: float, folder: str | Path) -> dict[str, Any]:
    """What travels with the checkpoint in `folder` as rbft.json; eval.py and the next stage read it."""
    parent, rows, manifest = plan.parent or {}, plan.task.rows, plan.task.manifest
    on, engine = parent.get("adapter_on"), started_engine(use_cpu=plan.training.use_cpu)
    if plan.parent and begins_new_adapter(plan.parent, plan.adapters.use_peft):
        on = {"folder": plan.parent_folder, "weights": plan.parent["weights"]}
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
            "base_commit": commit_of(plan.base.model_name_or_path, plan.base.model_revision),
            "target": plan.stage.target,
            "uses_text": any(row["context"] for row in plan.train),
            "init": parent.get("weights", "base"),
            "adapter_on": on,
            "parents": lineage(plan.parent, plan.stage.init),
            "rationales": rationale_facts(plan.stage.rationales),
            "data": plan.task.facts(),
            "steps": trainer.state.global_step,
            "presentations": trainer.presentations,
            "tokens": int(trainer.state.num_input_tokens_seen),
            "flops": None if engine == "ZeRO-3" else trainer.state.total_flos,  # parameters count as empty there
            "seconds": round(seconds, 2),
            "best_validation": trainer.state.best_metric,
            "curves": trainer.state.log_history,
            "recipe": plan.recipe,
            "weights": weights_fingerprint(folder),
        }
    )


if __name__ == "__main__":
    run_entry(main)
