"""A training recipe, read and checked: everything that is known of a stage before a model is loaded.

Input: the options of a recipe. Output: a `Plan`, for rbft_trl/sft.py to train and rbft_trl/check.py to show.
"""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from rbft_trl.configs import AdapterArguments, DataArguments, ModelArguments, StageArguments
from rbft_trl.data.task import TaskCard
from rbft_trl.engines import (
    FULL,
    LORA,
    NF4,
    SCORED,
    check_agreement,
    check_full_precision,
    check_work,
    started_engine,
)
from rbft_trl.errors import UserError
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.fetch import find_checkpoint, is_hub_id
from rbft_trl.model.loading import base_fingerprint, check_base, check_scoring_attention, dtype_in_file
from rbft_trl.model.provenance import begins_new_adapter, check_same, check_unseen, read_record
from rbft_trl.model.trainer import check_optimizer
from rbft_trl.stage_rows import balance_weights, check_lengths, check_stage0, training_rows
from rbft_trl.start import Row, Task, open_task
from rbft_trl.training_config import TrainingConfig

OPTIONS = (DataArguments, ModelArguments, AdapterArguments, StageArguments, TrainingConfig)
SECRETS = ("hub_token", "push_to_hub_token")


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
    parent_folder: str | None
    same: dict[str, Any]
    recipe: dict[str, Any]


def make_plan(
    data: DataArguments,
    base: ModelArguments,
    adapters: AdapterArguments,
    stage: StageArguments,
    training: TrainingConfig,
    *,
    engine: str | None = None,
) -> Plan:
    """Reads the data and the parent, and checks that all of it fits.

    Args:
        data, base, adapters, stage, training: The recipe.
        engine (`str`, *optional*): The engine that the recipe is meant for, where this process is not the run itself.

    Raises:
        UserError: for every mistake that can be seen without the weights.
    """
    check_base(base)
    check_options(base, adapters, stage, training, engine=engine)
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
    parent, folder = None, None
    if stage.init != "base":
        folder = Path(stage.init)
        if is_hub_id(stage.init):
            folder = find_checkpoint(stage.init)
            stage.init = f"{stage.init.partition('@')[0]}@{folder.name}"  # the Hub's cache: snapshots/<commit>
        parent = read_parent(folder, task, same, frames_may_differ=stage.frames_may_differ)
    check_stage0(stage, card, same)
    train = training_rows(task, stage)
    if stage.class_balance == "weights":
        train = [row | {"weight": weight} for row, weight in zip(train, balance_weights(train), strict=True)]
    validation = [row | {"target": "label", "text": ""} for row in task.readable("validation")]
    check_validation(training, card, validation)
    if card.is_open:
        check_open(card, stage, training)
    elif validation and training.scores_labels:
        check_scoring_attention(base)
    check_batch(training, len(train), training.world_size)
    resolved = recipe(data, base, adapters, stage, training)
    resolved |= {"rows": task.fingerprint(train + validation), "processes": training.world_size}
    resolved |= {"base": fingerprint, "card": card.fingerprint(), "parent": parent and parent["weights"]}
    collator = task.collator(label_in_prompt=stage.label_in_prompt)
    check_lengths(train + validation, collator, task.manifest, training.max_length)
    return Plan(
        base,
        adapters,
        stage,
        training,
        task,
        collator,
        train,
        validation,
        parent,
        folder and str(folder),
        same,
        resolved,
    )


def check_validation(
    training: TrainingConfig, card: TaskCard, validation: list[Row], *, way_out: str = "set it to no"
) -> None:
    """A training that looks at the validation clips has some.

    Raises:
        UserError: naming the option, the card and the way out.
    """
    if training.eval_strategy != "no" and not validation:
        raise UserError(
            f"eval_strategy is '{training.eval_strategy.value}' but {card.path} has no validation clip; {way_out}"
        )


def check_batch(training: TrainingConfig, rows: int, processes: int, *, way_out: str = "set it to false") -> None:
    """An epoch has a whole batch of all processes, where only whole ones are trained on.

    Raises:
        UserError: naming both numbers and the way out.
    """
    batch = training.per_device_train_batch_size * processes
    if training.dataloader_drop_last and rows < batch:
        raise UserError(
            f"{rows} training rows do not fill one batch of {batch}, and dataloader_drop_last is true; lower "
            f"per_device_train_batch_size or {way_out}"
        )


def check_open(card: TaskCard, stage: StageArguments, training: TrainingConfig) -> None:
    """What needs classes is refused for open answers.

    Raises:
        UserError: naming the key and the way out.
    """
    if stage.class_balance != "none":
        raise UserError(
            f"class_balance is '{stage.class_balance}' but {card.path} has answers of type {card.answer.type}, no "
            "classes; set it to none"
        )
    if training.push_to_hub:
        raise UserError(
            f"push_to_hub is true but {card.path} has answers of type {card.answer.type}, and the card on the Hub is "
            "a classifier's; set it to false"
        )


def check_options(
    base: ModelArguments,
    adapters: AdapterArguments,
    stage: StageArguments,
    training: TrainingConfig,
    *,
    engine: str | None = None,
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
    engine = engine or started_engine(use_cpu=training.use_cpu)
    if not adapters.use_peft:
        check_full_precision(engine, dtype=dtype_in_file(base) or base.dtype, bf16=bool(training.bf16))
    check_work(engine, *work_of(base, adapters, training))
    check_agreement(
        gradient_accumulation_steps=training.gradient_accumulation_steps, max_grad_norm=training.max_grad_norm
    )
    check_push(base, adapters, training)
    check_optimizer(training)
    if training.n_gpu > 1:
        raise UserError(
            f"{training.n_gpu} GPUs are visible to one process; start with accelerate launch, or set "
            "CUDA_VISIBLE_DEVICES=0"
        )


def work_of(base: ModelArguments, adapters: AdapterArguments, training: TrainingConfig) -> tuple[str, ...]:
    """What a training does, as the support matrix of engines.py names it."""
    trained = NF4 if base.load_in_4bit else LORA if adapters.use_peft else FULL
    return (trained, SCORED) if training.scores_labels else (trained,)


def check_push(base: ModelArguments, adapters: AdapterArguments, training: TrainingConfig) -> None:
    """What a push during the run needs, asked for before the run and not after it.

    Raises:
        UserError: without a token, or for an adapter on a local base that has no name on the Hub.
    """
    if not training.push_to_hub:
        return
    local = Path(base.model_name_or_path).exists()
    if local and adapters.use_peft and training.hub_base_id is None:
        raise UserError(
            f"push_to_hub is true but the base '{base.model_name_or_path}' is a local folder, which nobody else has; "
            "name it on the Hub with hub_base_id: user/name, or push merged weights afterwards"
        )
    if not local and training.hub_base_id is not None:
        raise UserError(
            f"hub_base_id is '{training.hub_base_id}' but '{base.model_name_or_path}' is on the Hub; leave it out"
        )
    if get_token() is None:
        raise UserError("push_to_hub is true but there is no token; run `hf auth login`, or set HF_TOKEN")


def read_parent(init: Path, task: Task, same: dict[str, Any], *, frames_may_differ: bool = False) -> dict[str, Any]:
    """The record of the stage that this one starts from, if it fits.

    Raises:
        UserError: if it learned labels already, has another base, labels, frames or adapters, or saw held-out clips.
    """
    parent = read_record(init)
    if parent["target"] == "label":
        raise UserError(f"init '{init}' was trained on labels already; name the folder of a stage 1, or base")
    adapters, trained = same["adapters"], parent["adapters"]["train_parts"]
    if begins_new_adapter(parent, adapters["use_peft"]):
        if same["load_in_4bit"]:
            raise UserError(
                f"load_in_4bit is true but '{init}' holds full weights, and a new adapter goes on bf16 only; set it "
                "to false, or name a stage 1 that was not merged"
            )
        adapters, trained = parent["adapters"], parent["adapters"]["train_parts"]
    elif more := [part for part in adapters["train_parts"] if part not in trained]:
        raise UserError(
            f"train_parts holds '{more[0]}' but '{init}' was trained on {trained}; train it there too, or leave it out"
        )
    wanted = same | {"adapters": adapters | {"train_parts": trained}}
    if frames_may_differ:
        del wanted["frames"]
        if parent["frames"] != same["frames"]:
            warnings.warn(
                f"'{init}' was trained with frames = {parent['frames']}, this stage has {same['frames']}; "
                "taken, since frames_may_differ is true",
                stacklevel=2,
            )
    check_same(parent, init, task.card, **wanted)
    check_unseen(parent, init, task.rows, task.manifest, "validation")
    check_unseen(parent, init, task.rows, task.manifest, "test")
    return parent


def recipe(*groups: Any) -> dict[str, Any]:
    """The resolved recipe: every option of every group as it was used, without secrets."""
    resolved: dict[str, Any] = {}
    for group in groups:
        resolved |= group.to_dict() if isinstance(group, TrainingConfig) else dataclasses.asdict(group)
    return json.loads(json.dumps({k: v for k, v in resolved.items() if k not in SECRETS}, default=str))
