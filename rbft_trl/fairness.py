"""What makes a comparison fair, checked before anything runs: equal clips, frames, base, batch, looks and rule.

Input: the options of a comparison. Output: its arms, or one sentence.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rbft_trl import star
from rbft_trl.arms import Arm, Step, read_arms, references
from rbft_trl.cells import COMPARISON, shared
from rbft_trl.compare_cards import check_cards
from rbft_trl.compare_config import RECIPES, CompareArguments
from rbft_trl.configs import AdapterArguments, DataArguments, EvalArguments, ModelArguments, StageArguments
from rbft_trl.errors import UserError
from rbft_trl.launched import check_launch_file
from rbft_trl.options import check_key, check_text, fit, options_of, read_text
from rbft_trl.plan import check_options
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe, words_of
from rbft_trl.references import check_learned, check_references
from rbft_trl.setups import OF_ONE_STAGE
from rbft_trl.star_config import StarArguments
from rbft_trl.texts import check_texts
from rbft_trl.training_config import TrainingConfig

# What last stages must share: the best of more looks at the validation clips is better by luck.
LOOKS = ("eval_strategy", "eval_steps", "load_best_model_at_end")
# What all trainings must share so that a step means the same; rates and parts are each arm's own.
MATCHED = ("per_device_train_batch_size", "gradient_accumulation_steps", "use_peft", "lora_r", "lora_alpha")
MATCHED += ("lora_dropout", "optim")
# What a training may have otherwise than direct SFT, which is then told.
TOLD = ("learning_rate", "learning_rate_merger", "learning_rate_vision", "lr_scheduler_type", "lr_scheduler_kwargs")
TOLD += ("warmup_steps", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "optim_args")
TOLD += ("bf16", "class_balance", "train_sampling_strategy", "data_seed")
LENGTH = ("max_steps", "num_train_epochs", "dataloader_drop_last")
DRAWN = {"draw", "seed", "shots", "task"}  # of the draw, in every step
SET_HERE = {"output_dir", "output_file", "resume_from_checkpoint", "stage2", "launch"}  # by the comparison
SAME_CLIPS = ("task", "shots", "definitions", "num_frames", "fps", "max_frames", "min_pixels", "max_pixels")
SAME_CLIPS += ("min_decodable", "on_bad_clip")
SAME_BASE = ("model_name_or_path", "model_revision", "dtype", "load_in_4bit")
TRAINING = (AdapterArguments, StageArguments, TrainingConfig)
TARGETS = {"stage1": "rationale", "stage2": "label", "direct": "label"}
Training = tuple[str, tuple[Any, ...]]  # the recipe of a step, and its options
GROUPS: dict[str, tuple[type, ...]] = {"rationales": (RationaleArguments,), "sft": TRAINING, "eval": (EvalArguments,)}


def check(args: CompareArguments) -> dict[str, Arm]:
    """Every mistake in the arms and in the recipes of their stages, before the first of them starts.

    Raises:
        UserError: naming the arm or recipe, both values and the way out.
    """
    check_launch_file(args.launch)
    if len(set(args.arms)) < len(args.arms):
        raise UserError(f"arms names an arm twice: {args.arms}; keep one of them")
    arms = read_arms(args.arms, args.arms_folder)
    check_references(arms, dict.fromkeys([*args.arms, *_matched_whole(arms)]))
    if not {"rbft", "direct"} <= set(args.arms):
        raise UserError("arms must hold 'rbft' and 'direct': their difference is the answer; add them")
    if untrained := [name for name in ("rbft", "direct") if not any(step.entry == "sft" for step in arms[name].steps)]:
        raise UserError(f"arm '{untrained[0]}' trains nothing, but its result is the answer; give it a stage")
    if roles := [name for name in ("rbft", "direct") if arms[name].role]:
        raise UserError(
            f"arm '{roles[0]}' has role '{arms[roles[0]].role}', but its result is the answer; leave the role out"
        )
    evaluated = _read(args, args.eval, "eval")
    check_cards(args, evaluated[0].task)
    for key in RECIPES:  # those that no arm uses too: they are named, so they must be right
        entry = key if key in GROUPS else "sft"
        groups = _read(args, getattr(args, key), entry)
        _same(getattr(args, key), groups, args.eval, evaluated)
        if key in TARGETS:
            _needs(getattr(args, key), "target", groups[3].target, TARGETS[key])
    if args.star:
        parse_recipe([args.star], StarArguments)
    _needs(args.eval, "method", evaluated[2].method, "score")
    _needs(args.eval, "split", evaluated[2].split, "test")
    trainings: dict[tuple[str, str], Training] = {}
    for arm in arms.values():
        check_evaluation(args, arm, evaluated)
        for step in arm.steps:
            trainings |= check_step(args, arm, step, evaluated)
    _matched(arms, trainings)
    check_learned(arms, trainings)
    check_trials(args, arms)
    _tell_differences(args.arms, arms, trainings)
    return arms


def check_evaluation(args: CompareArguments, arm: Arm, evaluated: tuple[Any, ...]) -> None:
    """An arm is evaluated on the clips, frames and rule of all others; it may choose its method, and without a
    training, which saw the prompts of all, its definitions."""
    place, checkpoint = f"the evaluation of arm '{arm.name}'", "somewhere" if arm.trained else "null"
    if own := sorted((DRAWN | SET_HERE | {"checkpoint", "unseen_labels"}) & arm.evaluate.keys()):
        raise UserError(f"{place}: '{own[0]}' is set by the comparison; leave it out")
    groups = _read(args, args.eval, "eval", arm.evaluate, given_by=place, checkpoint=checkpoint)
    _same(place, groups, args.eval, evaluated, leave_out=() if arm.trained else ("definitions",))
    for name, wanted in (("frame_order", "original"), ("split", "test"), ("label_score", evaluated[2].label_score)):
        _needs(place, name, getattr(groups[2], name), wanted)
    if arm.trained and groups[2].method not in ("score", "reason"):
        raise UserError(f"{place} has method {groups[2].method}, which looks at no trained model; use score or reason")


def check_trials(args: CompareArguments, arms: dict[str, Arm]) -> None:
    """Every value of `trials` fits the last stage of every trained arm, which chooses on the validation clips.

    Raises:
        UserError: naming the key or the arm.
    """
    tried = {*args.arms, *_matched_whole(arms)}
    for key, values in (args.trials or {}).items():
        _check_tried(key, values)
        for arm in (arm for name, arm in arms.items() if arm.trained and name in tried):
            step = arm.trained
            if step.entry == "star":
                raise UserError(f"trials: arm '{arm.name}' has no single last stage to try values in; leave one out")
            if key in step.settings:
                raise UserError(
                    f"trials has '{key}', which step '{step.name}' of arm '{arm.name}' sets itself; take it out of "
                    "one of them"
                )
            for value in values:
                recipe = str(args.recipe_of(step.recipe))
                place = f"'trials' on arm '{arm.name}'"
                groups = _read(args, recipe, "sft", step.settings | {key: value}, given_by=place)
                if not groups[4].load_best_model_at_end:
                    raise UserError(
                        f"trials: the last stage of arm '{arm.name}' does not look at the validation clips; set "
                        "eval_strategy and load_best_model_at_end in its recipe"
                    )


def _matched_whole(arms: dict[str, Arm]) -> set[str]:
    """Arms whose last stage gives others their steps or operations, so that it is trained too."""
    named = [(step.steps_of or step.flops_of or "").partition("/") for arm in arms.values() for step in arm.steps]
    return {arm for arm, _, step in named if arm and (not step or arms[arm].step(step) == arms[arm].trained)}


def _check_tried(key: str, values: list[Any]) -> None:
    """A key of `trials` is an option that arms may choose differently, and no value stands twice."""
    if key in (*MATCHED, *LOOKS, *LENGTH, *DRAWN, *SAME_CLIPS, *SAME_BASE):
        raise UserError(f"trials has '{key}', which must be the same in all arms; try another key")
    if key in ("setup", *OF_ONE_STAGE):
        raise UserError(f"trials has '{key}', which the comparison and its arms set themselves; try another key")
    check_key(key, known := options_of((DataArguments, ModelArguments, *TRAINING)), "trials")
    words = [words_of({key: value})[1] for value in values]
    read = [fit(read_text(word, known[key], key), known[key], f"trials: '{key}'") for word in words]
    if double := [value for number, value in enumerate(read) if value in read[:number]]:
        raise UserError(f"trials has {double[0]!r} twice among the values of '{key}'; keep one of them")


def check_step(
    args: CompareArguments, arm: Arm, step: Step, evaluated: tuple[Any, ...]
) -> dict[tuple[str, str], Training]:
    """One step of an arm: its recipe with its overrides; returns what it trains."""
    place = f"arm '{arm.name}', step '{step.name}'"
    if drawn := sorted(DRAWN & step.settings.keys()):
        raise UserError(f"{place}: '{drawn[0]}' is the same in all arms of a draw; leave it out")
    if own := sorted(SET_HERE & step.settings.keys()):
        raise UserError(f"{place}: '{own[0]}' is set by the comparison; leave it out")
    if step.entry == "texts":
        check_texts(step.recipe, step.settings, place)
        if step.knows_truth and args.oracle_texts is None:
            raise UserError(f"{place} needs true descriptions; name them as 'oracle_texts', or leave out the arm")
        return {}
    if (recipe := args.recipe_of(step.recipe)) is None:
        raise UserError(
            f"{place} needs the key '{step.recipe}' of the comparison; name its recipe, or leave out the arm"
        )
    if step.entry == "star":
        words = ["--stage2", args.stage2, *words_of(step.settings)]
        (parts,) = parse_recipe([recipe, *shared(args), *words], StarArguments, given_by=place)
        _, data, base = star.check(parts)
        _same(recipe, (data, base), args.eval, evaluated)
        return {(arm.name, step.name): (parts.stage1, _read(args, parts.stage1, "sft"))}
    groups = _read(args, recipe, step.entry, step.settings, given_by=place)
    _same(recipe, groups, args.eval, evaluated)
    if step.entry == "sft" and not references(step.settings.get("init"), arm.name):
        _needs(recipe, "init", groups[3].init, "base")
    file = groups[3].rationales if step.entry == "sft" and "rationales" not in step.settings else None
    if file is not None and not Path(file).is_file():
        raise UserError(
            f"{place}: 'rationales' is '{file}' in {recipe}, which is no file; name a step that makes one, e.g. "
            "rationales: <rationales>"
        )
    if step.entry == "sft" and args.launch is None:
        check_options(*groups[1:])
    return {(arm.name, step.name): (recipe, groups)} if step.entry == "sft" else {}


def _needs(recipe: str, name: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise UserError(f"'{name}' is {value} in {recipe}, but the comparison needs {wanted}; change it")


def _read(
    args: CompareArguments,
    recipe: str,
    entry: str,
    settings: dict[str, Any] | None = None,
    *,
    given_by: str = COMPARISON,
    **more: str | None,
) -> tuple[Any, ...]:
    """The options of a recipe with an arm's overrides; a reference to another step stands for some path."""
    given = (settings or {}) | {key: value for key, value in more.items() if value is not None}
    words = words_of({key: "somewhere" if references(value, "") else value for key, value in given.items()})
    groups = (DataArguments, ModelArguments, *GROUPS[entry])
    check_text(given, options_of(groups), given_by)
    return parse_recipe([recipe, *shared(args), *words], *groups, given_by=given_by)


def _same(
    recipe: str,
    groups: tuple[Any, ...],
    eval_recipe: str,
    evaluated: tuple[Any, ...],
    *,
    leave_out: tuple[str, ...] = (),
) -> None:
    for index, names in ((0, SAME_CLIPS), (1, SAME_BASE)):
        for name in names:
            value = getattr(groups[index], name)
            if name not in leave_out and value != getattr(evaluated[index], name):
                raise UserError(f"'{name}' is {value} in {recipe} and differs in {eval_recipe}")


def _matched(arms: dict[str, Arm], trainings: dict[tuple[str, str], Training]) -> None:
    """All trainings have one batch, one adapter and one optimizer; a stage trains no part that the one before left."""
    first_recipe, first = [found for (arm, _), found in trainings.items() if arm == "rbft"][-1]
    for (name, step_name), (recipe, groups) in trainings.items():
        _needs(recipe, "dataloader_drop_last", groups[4].dataloader_drop_last, True)
        for option in MATCHED:
            value, other = _setting(groups, option), _setting(first, option)
            if value != other:
                raise UserError(
                    f"'{option}' is {value} in {recipe} and {other} in {first_recipe}; steps are only matched if both "
                    "are equal"
                )
        step = arms[name].step(step_name)
        if step == arms[name].trained and step.entry == "sft":
            _looks(recipe, groups, first_recipe, first)
        for parent in references(step.settings.get("init"), name):
            if parent not in trainings:
                continue
            other_recipe, before = trainings[parent]
            if more := sorted(set(groups[2].train_parts) - set(before[2].train_parts)):
                raise UserError(
                    f"train_parts of {recipe} holds '{more[0]}', which {other_recipe} leaves out; make them fit"
                )


def _tell_differences(asked: Iterable[str], arms: dict[str, Arm], trainings: dict[tuple[str, str], Training]) -> None:
    """Warns of each arm that trains with other rates, or shows its rows otherwise, than direct SFT does at last."""
    _, direct = trainings["direct", arms["direct"].trained.name]
    for name in asked:
        found = [
            f"'{key}' is {_said(value)} in step '{step}' and {_said(other)} there"
            for (arm, step), (_, groups) in trainings.items()
            for key in TOLD
            if arm == name and (value := _setting(groups, key)) != (other := _setting(direct, key))
        ]
        if found:
            warnings.warn(f"arm '{name}' does not train as direct SFT does: {'; '.join(found)}", stacklevel=3)


def _said(value: Any) -> str:
    return str(getattr(value, "value", value))


def _looks(recipe: str, groups: tuple[Any, ...], first_recipe: str, first: tuple[Any, ...]) -> None:
    """The last stages of all arms look at the validation clips equally often, or an arm does not look at all.

    Raises:
        UserError: naming the option and both recipes.
    """
    if (how := _setting(groups, "eval_strategy")) == "no":
        return
    share = _setting(groups, "eval_steps")
    if how != "steps" or share is None or share >= 1:
        raise UserError(
            f"{recipe}: with eval_strategy {how} and eval_steps {share} an arm looks at the validation clips the more "
            "often the more steps it has; write eval_strategy: steps, eval_steps: 0.25 and save_steps: 0.25"
        )
    for option in LOOKS:
        if _setting(first, "eval_strategy") != "no" and _setting(groups, option) != _setting(first, option):
            raise UserError(
                f"'{option}' is {_setting(groups, option)} in {recipe} and {_setting(first, option)} in "
                f"{first_recipe}; the best of more looks at the validation clips is better by luck, so make them equal"
            )


def _setting(groups: tuple[Any, ...], name: str) -> Any:
    return next(getattr(group, name) for group in groups if hasattr(group, name))
